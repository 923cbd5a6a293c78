"""What is handed to other programs: lists for spreadsheets (H9), completion for shells."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess

import pytest

from ailurus.output import Output
from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from ailurus.wire.client import Client
from ailurus.wire.credentials import fixed_token
from dispatcher.cli import VERBS, main


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(1)", "=cmd|'/c calc'!A1", " =1", "\t=1", "\r=1", "\n=1", "|x", "%x"],
)
def test_h9_a_text_that_a_spreadsheet_would_run_is_only_a_text(text):
    stream = io.StringIO()
    Output(stream=stream).csv(["name"], [[text]])
    (_, row) = csv.reader(io.StringIO(stream.getvalue()))
    assert row[0].startswith("'") or row[0][0] not in "=+-@\t\r\n"


def test_h9_numbers_and_other_texts_stay_as_they_are():
    stream = io.StringIO()
    Output(stream=stream).csv(["a", "b", "c", "d"], [[-1, "a=b", None, 'say "hi", all']])
    assert list(csv.reader(io.StringIO(stream.getvalue())))[1] == ["-1", "a=b", "", 'say "hi", all']


def test_h9_jobs_are_exported_with_what_users_call_themselves_disarmed(run, server):
    scopes = ("compute.create", "compute.read")
    ask = m.NewToken(subject="@SUM", scopes=scopes)
    token = server.client.call("token", ask, answer=m.Token).token
    Client(server.url, fixed_token(token)).submit(
        [JobSpec(name="j", command="true", queue="export")], "formula"
    )
    rows = list(csv.DictReader(io.StringIO(run("jobs", "--csv").out)))
    assert "'@SUM" in [row["user"] for row in rows]
    assert {row["created"][-1] for row in rows} == {"Z"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_verb(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
