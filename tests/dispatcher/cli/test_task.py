"""Tasks from the command line."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ailurus.protocol.messages import StepRow, TaskDetail, TaskRow
from ailurus.protocol.task import Task, TaskState, Verb
from dispatcher.cli import task as task_verb
from dispatcher.cli.task import VERBS
from tests.rig.waiting import until

TASK = """\
task: cli
steps:
  - name: one
    over: {range: {from: 1, to: 4}}
    job: {command: "./one {item}", outputs: [o], queue: nobody}
  - name: two
    over: {outputs: one}
    by: all
    job:
      command: cat {items}
      inputs: ["{items}"]
      queue: nobody
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(TASK)
    return path


def test_a_task_is_submitted_shown_and_steered(run, file):
    assert run("task", "submit", "--dry-run", str(file)).out == "task cli is good: 2 steps\n"
    task_id = run("task", "submit", str(file)).out.strip()
    assert f"task\t{task_id}\n" in run("task", "show", task_id).out
    detail = json.loads(run("task", "show", task_id, "--json").out)
    assert [step["name"] for step in detail["row"]["steps"]] == ["one", "two"]
    assert run("task", "pause", task_id).out == f"task {task_id} is paused\n"
    why = run("task", "why", task_id)
    assert f"task {task_id} is paused" in why.out
    assert f"→ dispatcher task resume {task_id}" in why.out
    assert run("task", "resume", task_id).out == f"task {task_id} is running\n"
    assert "nothing of task" in run("task", "retry", task_id).err
    assert run("task", "cancel", task_id).out == f"task {task_id} is cancelled\n"
    assert run("task", "wait", task_id).code == 1
    listed = json.loads(run("task", "list", "--json", "--state", "cancelled").out)
    assert int(task_id) in {row["task_id"] for row in listed["tasks"]}
    assert f"\n{task_id}\tcli\tcancelled\t" in run("task", "list").out


def test_why_says_where_the_reason_of_failures_is_found(run, monkeypatch):
    step = StepRow("one", 4, True, 0, 0, 1, 3, 4, 0, "3 have failed")
    row = TaskRow(7, "cli", "admin", TaskState.FAILED, 0.0, 0.0, (step,))
    detail = TaskDetail(row, Task(task="cli", steps=()))
    monkeypatch.setattr(task_verb, "connect", lambda _: SimpleNamespace(task=lambda _: detail))
    why = run("task", "why", "7").out
    assert "→ dispatcher jobs label:task=7 state:failed" in why
    assert "→ dispatcher task retry 7" in why


def test_jobs_of_a_task_are_found_by_its_label(run, file):
    task_id = run("task", "submit", str(file)).out.strip()

    def names() -> list[str]:
        listed = json.loads(run("jobs", f"label:task={task_id}", "--json").out)
        return sorted(row["name"] for row in listed["jobs"])

    assert until(names) == [f"cli.one.{nr}" for nr in range(4)]
    run("task", "cancel", task_id)


def test_a_mistake_is_told_with_its_line(run, file):
    file.write_text(TASK.replace("inputs:", "imputs:"))
    ran = run("task", "submit", "--dry-run", str(file))
    assert ran.code == 65
    assert f"{file}:11: steps[1].job.imputs: no such field" in ran.err
    file.write_text(TASK.replace("by: all", "copies: 3"))
    assert f"{file}:8: steps[1].copies: not yet" in run("task", "submit", str(file)).err


SEARCH = """\
task: cli
steps:
  - name: one
    over:
      ask:
        by: client
        max: 4
        first: [{x: 1}]
    job: {command: "./one {item.x}", result: out.json, queue: nobody}
"""


def test_a_search_is_shown_point_by_point(run, file):
    file.write_text(SEARCH)
    task_id = run("task", "submit", str(file)).out.strip()
    assert "\none\t1\t4\t0\t-\t-\n" in run("task", "show", task_id).out
    assert "1 of at most 4 points are asked for" in run("task", "why", task_id).out
    assert until(lambda: '\t-\t{"x": 1}' in run("task", "points", task_id, "--step", "one").out)
    (line,) = run("task", "points", task_id, "--json").out.splitlines()
    assert (json.loads(line)["item"], json.loads(line)["nr"]) == ({"x": 1}, 0)
    assert "no step 'two'" in run("task", "points", task_id, "--step", "two").err
    run("task", "cancel", task_id)


def test_a_mistake_in_a_search_is_told_with_its_line(run, file):
    for good, bad, told in (
        ("max: 4", "max: 0", "7: steps[0].over.ask.max"),
        ("max: 4", "prune: yes", "7: steps[0].over.ask.prune: not yet"),
        ("max: 4", "maxx: 4", "7: steps[0].over.ask.maxx: no such field (did you mean `max`?)"),
        ("[{x: 1}]", "[{x: 1}, {x: 1}]", "8: steps[0].over.ask.first: a point stands there twice"),
        ("result: out.json, ", "", "9: steps[0].job.result: a search reads"),
    ):
        file.write_text(SEARCH.replace(good, bad))
        ran = run("task", "submit", "--dry-run", str(file))
        assert (ran.code, f"{file}:{told}" in ran.err) == (65, True), ran.err


@pytest.mark.parametrize("words", [("show",), ("show", "x"), ("list", "--state", "odd")])
def test_wrong_words_are_named(run, words):
    assert run("task", *words).code == 64


def test_a_task_that_is_not_there_is_named(run):
    ran = run("task", "show", "999999")
    assert (ran.code, "there is no task 999999" in ran.err) == (66, True)


def test_every_verb_is_a_word_here():
    assert set(Verb) < set(VERBS)
