"""`dispatcher submissions` and `dispatcher submission`, against a real dispatcher."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol import messages as m
from dispatcher.cli import exits
from dispatcher.cli.submissions import SIGNS, WIDTH, bar
from tests.dispatcher.cli.conftest import ids

SWEEP = "name: '{name}{{i}}'\ncommand: x\nqueue: {name}\nsweep: {{i: {{from: 1, to: 5}}}}\n"
COUNTS = st.integers(0, 100_000)


def row(**parts: int) -> m.SubmissionRow:
    return m.SubmissionRow(
        submission=1, jobs=sum(parts.values()), user="u", by="u", name="n", made=0.0, ended=False,
        parts=m.Parts(**parts),
    )  # fmt: skip


@given(st.fixed_dictionaries(dict.fromkeys(SIGNS, COUNTS)))
def test_a_bar_has_one_width_and_a_sign_for_each_part_that_has_jobs(parts):
    shown = bar(row(**parts))
    if any(parts.values()):
        assert len(shown) == WIDTH + 2
        assert set(shown[1:-1]) == {SIGNS[one] for one, n in parts.items() if n}


def test_it_has_a_name_and_labels_and_is_listed(run, jobfile):
    jobs = ids(
        run("submit", jobfile(SWEEP.format(name="named")), "--name", "mine", "--label", "a=b")
    )
    listed = run("submissions", "--name", "mine")
    assert listed.out.splitlines()[1].split("\t")[:5] == [
        jobs[0], "mine", "admin", "5", f"[{'.' * WIDTH}]",
    ]  # fmt: skip
    found = json.loads(run("submissions", "--label", "a=b", "--json").out)["submissions"]
    assert [(one["submission"], one["labels"]) for one in found] == [(int(jobs[0]), {"a": "b"})]
    shown = run("submission", "show", jobs[3])
    assert f"submission\t{jobs[0]} mine\n" in shown.out
    assert f"jobs\t5 ({jobs[0]}-{jobs[-1]})\n" in shown.out
    assert f"submission\t{jobs[0]}\n" in run("show", jobs[2]).out


def test_it_is_cancelled_as_one_after_a_yes(run, jobfile):
    jobs = ids(run("submit", jobfile(SWEEP.format(name="gone"))))
    asked = run("submission", "cancel", jobs[0])
    assert (asked.code, "this would cancel 5 jobs" in asked.err) == (exits.USAGE, True)
    assert run("submission", "cancel", jobs[0], "--yes").out.count("cancelled") == 5
    waited = run("submission", "wait", jobs[0], "--json")
    assert waited.code == 1
    assert json.loads(waited.out)["row"]["parts"]["cancelled"] == 5


def test_all_of_it_is_restarted_and_the_new_one_says_of_what(run, jobfile):
    jobs = ids(run("submit", jobfile(SWEEP.format(name="again")), "--name", "flow"))
    refused = run("submission", "retry", jobs[0], "--all")
    assert (refused.code, "have not ended" in refused.err) == (exits.TRY_AGAIN, True)
    run("submission", "cancel", jobs[0], "--yes")
    nothing = run("submission", "retry", jobs[0])
    assert "nothing is to be tried again" in nothing.err
    new = run("submission", "retry", jobs[0], "--all", "--request-id", "all-again").out.strip()
    assert (
        run("submission", "retry", jobs[0], "--all", "--request-id", "all-again").out.strip() == new
    )
    shown = run("submission", "show", new).out
    assert f"retry of\t{jobs[0]}\n" in shown
    assert f"submission\t{new} flow\n" in shown
    assert f"retried as\t{new}\n" in run("submission", "show", jobs[0]).out


@pytest.mark.parametrize("label", ["a", "=b", "--x"])
def test_a_label_without_a_value_is_wrong_usage(run, jobfile, label):
    said = run("submit", jobfile(SWEEP.format(name="l")), f"--label={label}")
    assert (said.code, "KEY=VALUE" in said.err) == (exits.USAGE, True)


def test_what_is_not_there_is_said(run):
    assert run("submission", "show", "999999999").code == exits.NO_INPUT


def test_a_wait_ends_at_its_time(run, jobfile):
    jobs = ids(run("submit", jobfile(SWEEP.format(name="waits"))))
    waited = run("submission", "wait", jobs[0], "--timeout", "0.2s")
    assert waited.code in (exits.TRY_AGAIN, exits.NEVER)
