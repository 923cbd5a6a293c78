"""`dispatcher feedback`: what users say of Ailurus, and how operators read it."""

from __future__ import annotations

import csv
import io
import json

import pytest

from dispatcher.cli import exits


def test_what_is_said_is_listed_exported_and_runs_nothing_in_a_spreadsheet(run):
    assert run("feedback", "5", "the", "reason", "was", "clear", "--about", "why 12").code == 0
    assert run("feedback", ":(", '=HYPERLINK("http://evil","x")').code == 0
    rows = json.loads(run("feedback", "list", "--json").out)["feedback"][-2:]
    assert [(one["mood"], one["about"]) for one in rows] == [(5, "why 12"), (2, "")]
    table = list(csv.DictReader(io.StringIO(run("feedback", "list", "--csv").out)))[-2:]
    assert table[0]["text"] == "the reason was clear"
    assert table[0]["at"].endswith("Z")
    assert table[1]["text"] == '\'=HYPERLINK("http://evil","x")'
    assert ":))" in run("feedback", "list").out


@pytest.mark.parametrize("words", [["6"], ["good"], ["list", "of"]])
def test_what_is_no_mood_is_told_with_what_is(run, words):
    ran = run("feedback", *words)
    assert ran.code == exits.USAGE
    assert "1 is worst, 5 is best" in ran.err


def test_a_text_that_is_too_long_is_told_so(run):
    ran = run("feedback", "3", "x" * 1001)
    assert (ran.code, "at most 1000" in ran.err) == (exits.USAGE, True)
