"""Task files: what they say, and what is refused, with the field."""

from __future__ import annotations

import msgspec
import pytest

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.task import Task
from ailurus.protocol.task_file import task_from
from ailurus.protocol.task_jobs import DEEPEST, job_of

JOB = {"command": "true"}
LIST = {"list": [1, 2, 3]}


def step(name: str = "a", over: object = LIST, job: object = JOB, **more: object) -> dict:
    return {"name": name, "over": over, "job": job, **more}


def task(*steps: object, **more: object) -> Task:
    return task_from({"task": "t", "steps": list(steps), **more}, "/home/ada")


def first(job: dict, *items: object, by: int = 1):
    made = task(step(over={"list": list(items)}, job=job, by=by))
    return job_of(made, 0, 4, items)


def test_a_task_is_the_same_after_it_has_travelled():
    one = task(step(over={"range": {"from": 1, "to": 9}}), step("b", {"outputs": "a"}, by="all"))
    assert msgspec.json.decode(msgspec.json.encode(one), type=Task) == one


def test_items_stand_where_texts_name_them():
    job = {
        "command": "run {item} --nr {index} ${item}",
        "inputs": [{"name": "in", "url": "file:///data/{item}"}],
        "environment": {"ITEM": "{item}"},
    }
    made = first(job, "a;b")
    assert made.command == "run 'a;b' --nr 4 ${item}"
    assert made.inputs[0].url == "file:///data/a;b"
    assert made.environment == {"ITEM": "a;b"}
    assert made.name == "t.a.4"
    assert made.labels == {"task": "0", "step": "a"}


def test_a_script_keeps_its_braces():
    script = "#!/usr/bin/python3\nprint(f'{item}')\n"
    assert first({"script": script}, 1).script == script


def test_an_entry_items_becomes_one_for_each():
    files = [
        {"name": "1.x", "url": "file:///s/1.x", "size": 3},
        {"name": "2.x", "url": "http://h/2"},
    ]
    made = first({"command": "cat {items}", "inputs": ["{items}", "./more"]}, *files, by=2)
    assert [file.url for file in made.inputs] == [
        "file:///s/1.x",
        "http://h/2",
        "file:///home/ada/more",
    ]
    assert made.command == "cat 1.x 2.x"


def test_a_value_of_an_item_has_its_name():
    assert (
        first({"command": "run {item.m} {item.on}"}, {"m": 0.5, "on": True}).command
        == "run 0.5 true"
    )


@pytest.mark.parametrize(
    "job",
    [
        {"command": "{items}" * 4},
        {"command": "true", "inputs": ["{items}"]},
        {"command": "true", "environment": {"A": "{items}", "B": "{items}" * 4}},
    ],
)
def test_what_a_job_is_filled_with_has_a_bound(job):
    # That of the first item alone would do.
    with pytest.raises(AilurusError, match="longer than 16,777,216 characters"):
        first(job, "/x", *["/" + "x" * 60_000] * 300, by=301)


def test_a_template_is_not_deep_without_bound():
    deep: object = 1
    for _ in range(DEEPEST):
        deep = {"a": [deep]}
    with pytest.raises(AilurusError, match="within each other"):
        task(step(job={"command": "true", "launcher_options": deep}))


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ([], "task: expected a task"),
        ({"task": "t"}, "steps: missing"),
        ({"task": "t", "steps": [], "code": "."}, "code: not yet"),
        ({"task": "t", "steps": [step(copies=2)]}, "steps[0].copies: not yet"),
        (
            {"task": "t", "steps": [step(over={"dataset": "x"})]},
            "steps[0].over.dataset: 'x' has no scope",
        ),
        ({"task": "t", "steps": [step(gate={"at": "noon"})]}, "steps[0].gate.at: not yet"),
        ({"task": "t", "steps": [step(by={"bytes": 3})]}, "steps[0].by: only files have bytes"),
        (
            {"task": "t", "steps": [step(job={**JOB, "payloads": []})]},
            "steps[0].job.payloads: only jobs that lease",
        ),
        ({"task": "t", "steps": [step(frm=1)]}, "steps[0].frm: no such field"),
        ({"task": "t", "steps": [step(over={})]}, "steps[0].over: a step is over one thing"),
        ({"task": "t", "steps": [step(), step()]}, "steps[1].name: two steps are called 'a'"),
        (
            {"task": "t", "steps": [step(over={"outputs": "b"}), step("b")]},
            "steps[0].over.outputs: no step before is called 'b'",
        ),
        (
            {"task": "t", "steps": [step(), step("b", gate={"after": "a most"})]},
            "steps[1].gate.after: 'most' is no share",
        ),
        (
            {"task": "t", "steps": [step(failed={"goal": 4})]},
            "steps[0].failed.goal: 4 payloads are to finish, and there are 3",
        ),
        (
            {"task": "t", "steps": [step(over={"range": {"from": 1, "to": 10**9}})]},
            "steps[0].over.range: 1000000000 items",
        ),
        (
            {"task": "t", "steps": [step(over={"range": {"from": 1, "to": 20_000}}, by="all")]},
            "steps[0].by: 20000 items in one job",
        ),
        (
            {"task": "t", "steps": [step(job={"comand": "x"})]},
            "steps[0].job.comand: no such field",
        ),
        (
            {"task": "t", "steps": [step(job={**JOB, "depends_on": [1]})]},
            "steps[0].job.depends_on: a task's job has none",
        ),
        (
            {"task": "t", "steps": [step(job={"command": "{item}"}, by=2)]},
            "steps[0].job.command: its jobs take several items each",
        ),
        (
            {"task": "t", "steps": [step(job={"command": "{item.x}"})]},
            "steps[0].job.command: an item is no mapping, and has no `x`",
        ),
        (
            {"task": "t", "steps": [step(job={**JOB, "labels": {"task": "7"}})]},
            "steps[0].job.labels.task: each job of a task has it by itself",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_field(tree, said):
    with pytest.raises(AilurusError) as refused:
        task_from(tree)
    assert str(refused.value).startswith(said), str(refused.value)
    assert refused.value.remedy
