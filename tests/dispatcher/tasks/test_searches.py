"""Steps whose points a planner says: a client or a job; whatever it answers."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.task import TaskState, Verb
from dispatcher.refusal import Rejected
from dispatcher.rules import uploads
from dispatcher.tasks import records
from tests.dispatcher.helpers import ALICE, BOB
from tests.dispatcher.tasks.searching import SPACE, Searches, planned, search
from tests.dispatcher.tasks.test_tasks import step


@pytest.fixture(autouse=True)
def _by_hand(by_hand):
    """Nothing is done but what a test asks for."""


# --- a client plans ---


async def test_a_client_adds_points_and_reads_their_losses(b):
    t = Searches(b)
    task = await t.submit(search(first=[{"x": 0.5}]))
    assert await t.work(task) == [{"x": 0.5}]
    assert (await t.add(task, 0.5, 0.25)).added == 1
    # The same again: an answer may have been lost.
    assert await t.add(task, 0.5, 0.25) == m.PointsAdded(added=0, items=2)
    assert await t.work(task) == [{"x": 0.25}]
    items = (await t.items(task)).points
    assert [(one.item, one.state, one.loss) for one in items] == [
        ({"x": 0.5}, "finished", 0.0625),
        ({"x": 0.25}, "finished", 0.0),
    ]
    row = await t.row(task)
    assert row.state is TaskState.RUNNING
    assert row.steps[0].best == m.Best(nr=1, item={"x": 0.25}, loss=0.0)
    assert (
        'the least loss is 0, at {"x":0.25}, 2 of at most 20 points are asked for, points come'
        in row.steps[0].sentence
    )
    await t.add(task, end=True)
    assert (await t.settled(task)).state is TaskState.FINISHED
    with pytest.raises(Rejected, match="takes no more points"):
        await t.add(task, 0.75)


async def test_what_is_read_of_a_task_again_and_again_has_one_of_the_first_points(b):
    t = Searches(b)
    task = await t.submit(search(first=[{"x": 0.5}, {"x": 1.0}, {"x": 2.0}]))
    (kept,) = (await t.tasks.task(api.TaskQuery(task_id=task), ALICE)).task.steps
    assert kept.over.ask.first == ({"x": 0.5},)
    assert await t.work(task) == [{"x": 0.5}, {"x": 1.0}, {"x": 2.0}]


async def test_no_commit_reads_what_a_search_has_already(b, monkeypatch):
    """Of ten thousand long points that takes a second, for which everybody's commits would wait."""
    t = Searches(b)
    task = await t.submit(search(max=2000))
    await t.add(task, *range(999))
    read: list[int] = []
    decode = records._items

    def counted(body):
        found = decode(body)
        if not threading.current_thread().name.startswith("read"):
            read.append(len(found))
        return found

    monkeypatch.setattr(records, "_items", counted)
    assert await t.add(task, 7, 8) == m.PointsAdded(added=0, items=999)
    assert await t.add(task, 7, 0.5) == m.PointsAdded(added=1, items=1000)
    assert sum(read) == 0


async def test_points_that_two_add_at_once_come_once(b):
    t = Searches(b)
    task = await t.submit(search())
    both = await asyncio.gather(t.add(task, 1, 2), t.add(task, 2, 3), t.add(task, 3, 1))
    assert sorted(one.added for one in both) == [0, 1, 2]
    assert sorted(one.item["x"] for one in (await t.items(task)).points) == [1, 2, 3]


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_points_are_their_owners_affair_and_no_more_than_the_search_has(b):
    t = Searches(b)
    task = await t.submit(search(max=2))
    with pytest.raises(Rejected, match="there is no task"):
        await t.add(task, 0.1, by=BOB)
    with pytest.raises(Rejected, match="3 points, of 2"):
        await t.add(task, 0.1, 0.2, 0.3)
    long = m.AddPoints(task_id=task, step="s", points=({"x": "x" * 4096},))
    with pytest.raises(Rejected, match="at most 4096"):
        await t.tasks.add_points(long, ALICE)
    with pytest.raises(Rejected, match="no step 'z'"):
        await t.tasks.add_points(m.AddPoints(task_id=task, step="z"), ALICE)
    assert (await t.add(task, 0.1, 0.2)).items == 2
    await t.work(task)
    assert (await t.row(task)).state is TaskState.FINISHED


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_points_come_in_pages_also_those_that_wait(b):
    t = Searches(b)
    task = await t.submit(search(first=[{"x": 1}, {"x": 2}]), step("z", {"list": [1]}))
    await t.settled(task)
    await t.add(task, 3, 4, 5)
    page = await t.items(task, limit=3)
    assert [(one.item["x"], one.state) for one in page.points] == [
        (1, "open"),
        (2, "open"),
        (3, "waiting"),
    ]
    assert page.next == 2
    page = await t.items(task, after=2)
    assert ([one.nr for one in page.points], page.next) == ([3, 4], None)
    assert (await t.items(task, after=2**62)).points == ()
    with pytest.raises(Rejected, match="is no search") as refused:
        await t.tasks.points(api.PointsQuery(task_id=task, step="z"), ALICE)
    assert refused.value.remedy == "s"


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("", "its result is no mapping with a `loss`"),
        ("[1]", "its result is no mapping with a `loss`"),
        ('{"loss": "low"}', "its result has no number as `loss`"),
        ('{"loss": true}', "its result has no number as `loss`"),
        (f'{{"loss": 1{"0" * 400}}}', "the loss of its result is not finite"),
        ('{"status": 3, "loss": 1, "message": "no beam"}', "its result has status 3: no beam"),
    ],
)
async def test_a_point_without_a_loss_has_failed(b, result, why):
    t = Searches(b)
    t.loss = lambda point: result
    task = await t.submit(search(first=[{"x": 1}], max=1))
    await t.work(task)
    row = await t.row(task)
    assert row.state is TaskState.FAILED
    assert f"item 1 has failed: {why}" in row.steps[0].sentence
    t.loss = lambda point: '{"loss": 2}'
    await t.steer(task, Verb.RETRY)
    await t.work(task)
    row = await t.row(task)
    assert (row.state, row.steps[0].best.loss) == (TaskState.FINISHED, 2)


# --- a job plans ---


async def test_a_job_plans_until_the_search_has_all_points(b):
    t = Searches(b)
    asked = []

    def answer(document):
        asked.append(document)
        return Searches.answer(t, document)

    t.answer = answer
    task = await t.submit(planned())
    while (await t.row(task)).state is TaskState.RUNNING:
        await t.turn(task)
        await t.work(task)
    assert [len(one["points"]) for one in asked] == [0, 3, 6]
    assert asked[1]["points"][2] == [{"x": 2}, 1.75**2]
    assert asked[1]["opt_space"] == SPACE
    row = (await t.row(task)).steps[0]
    assert (row.items, row.finished, row.best.item) == (8, 8, {"x": 0})
    jobs = (await b.service.users.jobs(api.JobsQuery(limit=100), ALICE)).jobs
    plans = [one for one in jobs if "planner" in one.name]
    assert len(plans) == 3
    spec = (await b.service.users.show(None, ALICE, job_id=plans[0].job_id)).spec
    assert spec.command == "plan points.json next.json 2 8"
    assert spec.labels == {"task": str(task), "step": "s"}


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_an_empty_answer_and_one_without_news_end_a_search(b):
    for last in ("[]", '[{"x": 1}]'):
        t = Searches(b)
        answers = iter(['[{"x": 1}]', last])
        t.answer = lambda document, answers=answers: next(answers)
        task = await t.submit(planned())
        for _ in range(4):
            await t.turn(task)
            await t.work(task)
        row = await t.row(task)
        assert (row.state, row.steps[0].items) == (TaskState.FINISHED, 1)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "has left no points that could be read in next.json"),
        ('{"x": 1}', "no list of points"),
        ('[{"x": [1]}]', "no list of points"),
        ('[{"x y": 1}]', "no list of points"),
        ("[{}]", "no list of points"),
        ('[{"x": NaN}]', "has left no points that could be read"),
        ('[{"x": 1e999}]', "has left no points that could be read"),
        (f'[{{"x": 1{"0" * 400}}}]', "no list of points"),
        ("[" * 60_000, "has left no points that could be read"),
        (json.dumps([{"x": one} for one in range(4)]), "4 points, and 3 were asked for"),
        (json.dumps([{"x": one} for one in range(6000)]), "has left no points that could be read"),
        ('[{"x": 1}, {"y": 1}]', "point 2 is none of the space: x, y"),
        ('[{"x": 1, "y": 1}]', "point 1 is none of the space: y"),
        (json.dumps([{"x": "x" * 5000}]), "no list of points"),
        (json.dumps([{"x": "\0" * 1000}]), "of at most 4096"),
    ],
    ids=range(15),
)
async def test_a_planner_that_answers_nonsense_costs_its_task_alone(b, answer, why):
    t = Searches(b)
    t.answer = lambda document: answer
    task, other = await t.submit(planned()), await t.submit(search(first=[{"x": 1}], max=1))
    for _ in range(3):
        assert (await t.row(task)).state is TaskState.RUNNING
        await t.turn(task)
        await t.work(task)
    row = await t.settled(task)
    assert row.state is TaskState.FAILED
    assert row.reason.startswith("step s: the planner has failed 3 times: job ")
    assert why in row.reason
    await t.work(other)
    assert (await t.row(other)).state is TaskState.FINISHED
    # Once it is mended, the search goes on.
    t.answer = lambda document: '[{"x": 0.25}]' if not document["points"] else "[]"
    await t.steer(task, Verb.RETRY)
    for _ in range(4):
        await t.turn(task)
        await t.work(task)
    assert (await t.row(task)).state is TaskState.FINISHED


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_a_job_that_fails_to_plan_is_named(b):
    t = Searches(b)
    task = await t.submit(planned())
    worker = await b.worker()
    await t.turn(task)
    (one,) = await worker.acquire()
    row = (await t.row(task)).steps[0]
    assert f"job {one.job_id} says which come next" in row.sentence
    await worker.report(one, finished=False, code=1305)
    await t.settled(task)
    assert f"dispatcher why {one.job_id}" in (await t.row(task)).steps[0].sentence


async def test_a_cancelled_or_finished_search_leaves_no_job_that_plans(b):
    for verb in ("cancel", "finish"):
        t = Searches(b)
        task = await t.submit(planned())
        await t.turn(task)
        if verb == "cancel":
            await t.tasks.cancel_task(m.CancelTask(task_id=task), ALICE)
        else:
            await t.steer(task, Verb.FINISH)
        row = await t.settled(task)
        assert row.state is (TaskState.CANCELLED if verb == "cancel" else TaskState.FINISHED)
        assert not await (await b.worker()).acquire()


async def test_a_search_stops_at_its_loss_or_when_nothing_gets_better(b):
    t = Searches(b)
    stop = {"loss": 0.01}
    task = await t.submit(search(max=20, first=[{"x": 0.25}, {"x": 0.5}], stop=stop))
    await t.work(task)
    assert (await t.row(task)).state is TaskState.FINISHED
    task = await t.submit(search(max=20, first=[{"x": 0.5}], stop={"unimproved": 2}))
    await t.work(task)
    await t.add(task, 0.75)
    await t.work(task)
    assert (await t.row(task)).state is TaskState.RUNNING
    await t.add(task, 1)
    await t.work(task)
    row = await t.row(task)
    assert (row.state, row.steps[0].best.item) == (TaskState.FINISHED, {"x": 0.5})


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_a_paused_task_asks_nobody(b):
    t = Searches(b)
    task = await t.submit(planned())
    await t.steer(task, Verb.PAUSE)
    await t.turn(task)
    assert not await (await b.worker()).acquire()
    await t.steer(task, Verb.RESUME)
    await t.turn(task)
    assert len(await (await b.worker()).acquire()) == 1


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_points_that_are_too_many_for_a_file_are_said_so(b, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_FILE_BYTES", 10)
    t = Searches(b)
    task = await t.submit(planned())
    await t.turn(task)
    (sentence,) = [step.sentence for step in (await t.row(task)).steps]
    assert "has failed 1 of 3 times: 'points.json' has " in sentence
