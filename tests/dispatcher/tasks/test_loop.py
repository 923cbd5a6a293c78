"""Tasks are brought forward when something happens to them, and by a dispatcher that starts."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.task import TaskState, Verb
from ailurus.protocol.task_file import task_from
from dispatcher.service import tasks as service
from dispatcher.tasks.advance import advance
from tests.dispatcher.helpers import ALICE, bench, new_id

JOB = {"command": "true", "queue": "q", "outputs": ["out"]}
STEPS = [
    {"name": "one", "over": {"range": {"from": 1, "to": 5}}, "job": JOB},
    {"name": "two", "over": {"outputs": "one"}, "job": JOB},
]


async def submit(b) -> int:
    ask = m.SubmitTask(request_id=new_id(), task=task_from({"task": "t", "steps": STEPS}))
    return (await b.service.tasks.submit_task(ask, ALICE)).task_id


async def row(b, task_id: int) -> m.TaskRow:
    return (await b.service.tasks.task(api.TaskQuery(task_id=task_id), ALICE)).row


async def test_jobs_are_made_and_their_ends_are_heard(b):
    task = await submit(b)
    worker = await b.worker()
    for _ in range(10):
        (one,) = await worker.acquire(wait_s=5.0)
        file = m.DoneFile(name="out", url=f"file:///{one.job_id}", size=1, adler32="0" * 8)
        await worker.report(one, files=(file,))
    while (await row(b, task)).state is not TaskState.FINISHED:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_dispatcher_that_starts_goes_on_with_tasks(place):
    async with bench(place) as b:
        task = await submit(b)
    async with bench(place) as b:
        worker = await b.worker()
        assert len([await worker.acquire(wait_s=5.0) for _ in range(5)]) == 5
        assert (await row(b, task)).steps[0].open == 5


async def test_a_bug_stops_one_task_and_tells_its_user_until_it_goes_on(b, monkeypatch):
    def broken(tx, task_id, *args, **values):
        if task_id == 1:
            raise ZeroDivisionError
        return advance(tx, task_id, *args, **values)

    with monkeypatch.context() as bug:
        bug.setattr(service, "advance", broken)
        task, other = await submit(b), await submit(b)
        worker = await b.worker()
        for _ in range(5):
            await worker.acquire(wait_s=5.0)
        assert (await row(b, other)).steps[0].open == 5
        stopped = await row(b, task)
    assert stopped.state is TaskState.PAUSED
    assert stopped.reason.startswith("a bug of the dispatcher stopped it")
    await b.service.tasks.steer_task(m.SteerTask(task_id=task, verb=Verb.RESUME), ALICE)
    await worker.acquire(wait_s=5.0)
    resumed = await row(b, task)
    assert (resumed.state, resumed.reason) == (TaskState.RUNNING, "")


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
async def test_a_task_goes_on_at_another_dispatcher_when_the_one_that_led_ends(place, monkeypatch):
    monkeypatch.setattr(service, "LOOK_S", 0.1)
    async with AsyncExitStack() as first:
        await first.enter_async_context(bench(place))
        async with bench(place) as b:
            task = await submit(b)
            worker = await b.worker()
            for nr in range(10):
                (one,) = await worker.acquire(wait_s=20.0)
                if nr == 2:
                    await first.aclose()
                file = m.DoneFile(name="out", url=f"file:///{one.job_id}", size=1, adler32="0" * 8)
                await worker.report(one, files=(file,))
            while (await row(b, task)).state is not TaskState.FINISHED:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_an_end_that_an_earlier_version_did_not_note_is_found_in_time(b, monkeypatch):
    monkeypatch.setattr(service, "LOOK_S", 0.05)
    task = await submit(b)
    worker = await b.worker()
    (one,) = await worker.acquire(wait_s=5.0)
    await worker.report(one, finished=False, code=1305)
    unit = {"task_id": task, "step": 0, "first": 0, "tries": 1, "reason": ""}
    await b.service.store.write(
        lambda tx: tx.run("unit.put", **unit, job_id=one.job_id, state="open", loss=None)
    )
    monkeypatch.setattr(service, "CATCH_UP_S", 0.0)

    async def noted() -> bool:
        rows = await b.service.store.read(lambda tx: tx.all("unit.open", task_id=task, most=9))
        return (one.job_id,) not in rows

    while not await noted():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
