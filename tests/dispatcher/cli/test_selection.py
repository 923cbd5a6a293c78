"""`cancel` and `retry`: which jobs they mean, by number, range and filter."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.cli import exits, selection
from dispatcher.cli.selection import AT_ONCE, span
from tests.dispatcher.cli.conftest import ids

SWEEP = "name: '{name}{{i}}'\ncommand: x\nqueue: {name}\nsweep: {{i: {{from: 1, to: 5}}}}\n"


def states(run, queue: str) -> set[str]:
    listed = json.loads(run("jobs", "--queue", queue, "--json").out)
    return {job["state"] for job in listed["jobs"]}


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_range_has_both_its_ends_and_is_never_endless(first, last):
    try:
        found = span(f"{first}-{last}")
    except ArgumentTypeError:
        assert not 0 <= last - first < AT_ONCE
    else:
        assert (found[0], found[-1]) == (first, last)


@pytest.mark.parametrize("text", ["", "-", "3-", "-3", "3-4-5", "a", "3-a", "1-100001", "²"])
def test_what_is_no_range_is_wrong_usage(run, text):
    assert run("cancel", "--", text).code == exits.USAGE


def test_a_range_is_cancelled_and_retried(run, jobfile):
    jobs = ids(run("submit", jobfile(SWEEP.format(name="range"))))
    assert run("cancel", f"{jobs[1]}-{jobs[3]}").out.count("cancelled") == 3
    assert states(run, "range") == {"activated", "cancelled"}
    again = run("retry", f"{jobs[1]}-{jobs[3]}").out.splitlines()[1:]
    assert [line.split("\t")[0] for line in again] == jobs[1:4]


def test_a_filter_means_what_is_not_final_and_wants_a_yes(run, jobfile):
    jobs = ids(run("submit", jobfile(SWEEP.format(name="filtered"))))
    run("cancel", jobs[0])
    asked = run("cancel", "--name", "filtered*")
    assert (asked.code, "this would cancel 4 jobs" in asked.err) == (exits.USAGE, True)
    seen = run("cancel", "--name", "filtered*", "--dry-run")
    assert [line.split("\t")[0] for line in seen.out.splitlines()[1:]] == jobs[:0:-1]
    assert states(run, "filtered") == {"activated", "cancelled"}
    done = run("cancel", "--name", "filtered*", "--yes", "--json")
    assert json.loads(done.out)["cancelled"] == [int(job) for job in jobs[1:]]
    assert run("cancel", "--name", "filtered*", "--yes").code == exits.NO_INPUT


@pytest.mark.parametrize(
    ("said", "after"), [("y\n", "cancelled"), ("\n", "activated"), ("", "activated")]
)
def test_at_a_terminal_it_asks_with_their_number(run, jobfile, monkeypatch, said, after):
    name = f"asked{len(said)}"
    ids(run("submit", jobfile(SWEEP.format(name=name))))
    monkeypatch.setattr(sys, "stdin", Terminal(said))
    ran = run("cancel", "--queue", name)
    assert (ran.code, "cancel 5 jobs? [y/N]" in ran.err) == (0, True)
    assert states(run, name) == {after}


def test_retry_by_a_filter_leaves_alone_what_a_user_cancelled(run, jobfile):
    ids(run("submit", jobfile(SWEEP.format(name="gone"))))
    run("cancel", "--queue", "gone", "--yes")
    assert run("retry", "--queue", "gone", "--yes").code == exits.NO_INPUT
    assert run("retry", "--queue", "gone", "--state", "cancelled", "--yes").code == 0
    assert states(run, "gone") == {"activated", "cancelled"}


def test_a_dry_run_of_numbers_lists_them_for_programs_too(run):
    assert run("cancel", "3-4", "--dry-run").out == "job\n3\n4\n"
    listed = run("cancel", "3-4", "--dry-run", "--json").out.splitlines()
    assert [json.loads(line) for line in listed] == [{"job_id": 3}, {"job_id": 4}]


@pytest.mark.parametrize("words", [(), ("1", "--queue", "x"), ("--yes",)])
def test_neither_nothing_nor_both_ways_say_which(run, words):
    ran = run("cancel", *words)
    assert (ran.code, "which jobs to cancel" in ran.err) == (exits.USAGE, True)


@pytest.mark.parametrize("blank", [("--name", ""), ("--state", ","), ("--user", " ")])
def test_a_blank_filter_widens_nothing(run, jobfile, blank):
    """As a script makes one of a variable that is not set."""
    queue = f"blank{blank[0]}"
    ids(run("submit", jobfile(SWEEP.format(name=queue))))
    ran = run("cancel", "--queue", queue, *blank, "--yes")
    assert (ran.code, f"{blank[0]} is blank" in ran.err) == (exits.USAGE, True)
    assert states(run, queue) == {"activated"}


def test_nobody_is_told_to_leave_a_blank_query_out(run):
    ran = run("cancel", "--query", " ", "--yes")
    assert (ran.code, "say which jobs to cancel" in ran.err) == (exits.USAGE, True)


def test_more_jobs_than_a_list_has_are_all_meant(run, jobfile, monkeypatch):
    ids(run("submit", jobfile(SWEEP.format(name="manyfold"))))
    monkeypatch.setattr(selection, "AT_ONCE", 3)
    assert "the newest 3 of 5 jobs" in run("cancel", "--queue", "manyfold", "--dry-run").err
    assert "this would cancel 5 jobs" in run("cancel", "--queue", "manyfold").err
    assert run("cancel", "--queue", "manyfold", "--yes").out.count("cancelled") == 5
    assert states(run, "manyfold") == {"cancelled"}


def test_jobs_that_wait_are_held_released_moved_and_put_first(run, jobfile):
    jobs = ids(run("submit", jobfile(SWEEP.format(name="line"))))
    assert run("hold", f"{jobs[0]}-{jobs[1]}").out.count("held") == 2
    assert "is held" in run("why", jobs[0]).out
    assert run("release", "--query", "queue:line", "--yes").out.count("released") == 2
    asked = run("priority", "7", "--query", "queue:line")
    assert (asked.code, "this would priority" in asked.err) == (exits.USAGE, False)
    assert run("priority", "-7", jobs[0]).out == f"job\tresult\n{jobs[0]}\tpriority -7\n"
    assert run("move", "line2", "--query", "queue:line priority<0", "--yes").code == 0
    shown = json.loads(run("show", jobs[0], "--json").out)
    assert (shown["row"]["queue"], shown["row"]["priority"]) == ("line2", -7)
    told = run("events", "--job", jobs[0]).out
    assert [verb for verb in ("hold", "release", "priority", "move") if f'"{verb}"' in told] == [
        "hold", "release", "priority", "move",
    ]  # fmt: skip


def test_one_language_lists_exports_and_chooses(run, jobfile):
    text = SWEEP.format(name="spoken") + "labels: {campaign: 'mc{i}'}\n"
    jobs = ids(run("submit", jobfile(text)))
    query = "queue:spoken (label:campaign=mc1,mc2 or name:spoken3)"
    listed = json.loads(run("jobs", *query.split(), "--json").out)
    assert [str(job["job_id"]) for job in listed["jobs"]] == jobs[2::-1]
    assert len(run("jobs", "--query", query, "--csv").out.splitlines()) == 4
    assert run("cancel", "--query", query, "--yes").out.count("cancelled") == 3
    assert run("cancel", "--query", query, "--yes").code == exits.NO_INPUT
    assert run("retry", "--query", f"{query} state:cancelled", "--yes").code == 0
    assert json.loads(run("show", jobs[0], "--json").out)["spec"]["labels"] == {"campaign": "mc1"}
    assert len(json.loads(run("jobs", query, "age<1h", "--json").out)["jobs"]) == 6


def test_a_query_that_cannot_be_read_says_where_and_what_helps(run):
    ran = run("jobs", "state:faild")
    assert (ran.code, "at character 1" in ran.err, "`failed`" in ran.err) == (65, True, True)
    assert run("jobs", "a", "--query", "b").code == exits.USAGE


def test_what_was_cancelled_by_mistake_is_brought_back(run, jobfile):
    jobs = ids(run("submit", jobfile(SWEEP.format(name="mistaken"))))
    done = run("cancel", f"{jobs[0]}-{jobs[4]}")
    assert "5 of them waited" in done.err
    action = done.err.rpartition("dispatcher undo ")[2].strip()
    back = [line.split("\t") for line in run("undo", action).out.splitlines()[1:]]
    assert [old for old, _ in back] == jobs
    assert states(run, "mistaken") == {"cancelled", "activated"}
    shown = run("show", jobs[0]).out
    assert (f"cancel\t{action}" in shown, f"retry as {back[0][1]}" in shown) == (True, True)
    submission = run("submission", "show", jobs[0]).out
    assert f"undo of 5 jobs by admin (action {int(action) + 1})" in submission
    assert f"cancel of 5 jobs by admin (action {action})" in submission
    assert run("undo", "99999").code == exits.NO_INPUT
