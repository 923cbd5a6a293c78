"""Searches: what is refused of them, with the field, and the forms of iDDS, unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ailurus.protocol import search
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.search import Dimension
from ailurus.protocol.task_file import task_from
from ailurus.protocol.task_jobs import job_of, planner_of

RECORDED = Path(__file__).parents[1] / "recorded/idds/hpo-request.json"
SPACE = {"x": {"method": "uniform", "dimension": {"low": 0, "high": 1}}}
JOB = {"command": "try {item}", "result": "output.json"}


def task(evaluate: dict | None = None, **ask: object):
    asked = {"by": "client", "max": 9, "space": SPACE, **ask}
    steps = [{"name": "s", "over": {"ask": asked}, "job": evaluate or JOB}]
    return task_from({"task": "t", "steps": steps}, "/home/ada")


def space(method: str, **dimension: object) -> dict:
    return {"space": {"x": {"method": method, "dimension": dimension}}}


@pytest.mark.parametrize(
    ("ask", "field", "why"),
    [
        ({"by": "luck"}, "by", "Invalid enum value 'luck'"),
        ({"max": 0}, "max", ">= 1"),
        ({"max": 10_001}, "max", "<= 10000"),
        ({"prune": True}, "prune", "not yet"),
        ({"intermediate": "log"}, "intermediate", "not yet"),
        ({"space": {}}, "space", "no point to begin with"),
        ({"by": "job"}, "job", "the planner `job` has a job"),
        ({"job": {"command": "plan"}}, "job", "the planner `job` has a job"),
        ({"by": "optuna", "space": {}, "first": [{"x": 1}]}, "space", "Optuna needs a space"),
        ({"by": "optuna", **space("normal", mu=0)}, "space.x.method", "knows no 'normal'"),
        ({"by": "optuna", **space("uniform", low=1, high=1)}, "space.x.dimension", "no bounds"),
        ({"by": "optuna", **space("loguniform", low=0, high=1)}, "space.x.dimension", "no bounds"),
        ({"by": "optuna", **space("uniformint", low=0.5, high=1)}, "space.x.dimension", "bounds"),
        ({"by": "optuna", **space("uniform", low=True, high=2)}, "space.x.dimension", "no bounds"),
        ({"by": "optuna", **space("uniform", low="a", high="b")}, "space.x.dimension", "bounds"),
        ({"by": "optuna", **space("categorical", low=1)}, "space.x.dimension", "no categories"),
        ({"first": [{"x": 1}, {"x": 1}]}, "first", "twice"),
        ({"first": [{"x": n} for n in range(10)]}, "first", "10 points to begin with, of 9"),
        ({"first": [{"x": 1}, {"y": 1}]}, "first[1]", "none of the space: x, y"),
        ({"first": [{"x": "x" * 4090}]}, "first[0]", "of at most 4096"),
        ({"by": "job", "job": {"comand": "plan"}}, "job.comand", "no such field"),
        ({"by": "job", "job": {"command": "p", "result": "a"}}, "job.result", "next.json"),
    ],
)
def test_what_no_search_can_be_is_refused_with_its_field(ask, field, why):
    with pytest.raises(AilurusError) as refused:
        task(**ask)
    assert refused.value.field == f"steps[0].over.ask.{field}"
    assert why in refused.value.message


def test_a_search_without_a_result_or_with_jobs_of_many_points_is_refused():
    with pytest.raises(AilurusError, match="loss from the result"):
        task({"command": "try"})
    steps = [{"name": "s", "over": {"ask": {"by": "client", "max": 9, "space": SPACE}}, "by": 2}]
    with pytest.raises(AilurusError, match="a job of its own"):
        task_from({"task": "t", "steps": [{**steps[0], "job": JOB}]})
    leased = {**steps[0], "by": 1, "pull": 2, "job": {**JOB, "payloads": {"arguments": ["{item}"]}}}
    with pytest.raises(AilurusError, match="points are not leased"):
        task_from({"task": "t", "steps": [leased]})


def test_a_point_stands_where_texts_name_it():
    point = {"rate": 0.5, "kind": "a b"}
    made = task({**JOB, "command": "try {item} {item.rate} {item.kind}"}, space={}, first=[point])
    assert job_of(made, 0, 0, [point]).command == ("""try '{"rate":0.5,"kind":"a b"}' 0.5 'a b'""")


def test_the_request_of_phpo_is_a_search_as_it_stands():
    """As panda-client 2.2.0 sent it: space, words and numbers are iDDS's."""
    asked = json.loads(RECORDED.read_text("utf-8"))
    command = f"{asked['executable']} {asked['arguments']}"
    made = task(
        {"command": "bash ./exec_in_container.sh", "result": asked["output_json"]},
        by="job",
        max=asked["max_points"],
        batch=asked["num_points_per_generation"],
        ahead=asked["min_unevaluated_points"],
        space=asked["opt_space"],
        job={"command": command},
    )
    job = planner_of(made, 0, 0, 7, wanted=2, points=("0" * 64, 100))
    assert job.command == (
        'docker run --rm -v "$(pwd)":/HPOiDDS ghcr.io/steer /bin/bash -c "hpogrid generate '
        "--n_point=2 --max_point=6 --infile=/HPOiDDS/points.json  --outfile=/HPOiDDS/next.json "
        '-l nevergrad"'
    )
    assert job.result == "next.json"
    assert [(file.name, file.size) for file in job.inputs] == [("points.json", 100)]
    for one in made.steps[0].over.ask.space.values():
        assert isinstance(one, Dimension)


def test_a_steering_file_is_idds():
    ask = task().steps[0].over.ask
    said = search.question([({"x": 0.5}, 0.25), ({"x": 1}, None)], ask.space)
    assert json.loads(said) == {
        "points": [[{"x": 0.5}, 0.25], [{"x": 1}, None]],
        "opt_space": SPACE,
    }
    assert search.points_from('[{"x": 0.125}]', ask.space, 1) == [{"x": 0.125}]
    assert search.points_from("[]", ask.space, 1) == []
    assert search.loss_of('{"status": 0, "loss": 0.5, "message": ""}') == (0.5, "")
    assert search.loss_of('{"status": 1, "message": "no memory"}') == (
        None,
        "its result has status 1: no memory",
    )
