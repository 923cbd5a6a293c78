"""What users look at while a job runs: it is seen when it comes, not when their patience ends."""

from __future__ import annotations

import asyncio

from ailurus.protocol import messages as m
from ailurus.protocol.api import LogQuery, TailQuery
from ailurus.protocol.states import JobState
from tests.dispatcher.helpers import ALICE, BIG, run
from tests.rig.waiting import eventually


def test_the_end_of_a_file_that_comes_during_a_look_is_told_at_once(tmp_path, monkeypatch):
    async def test(one):
        (job_id,) = await one.submit()
        worker = await one.worker()
        await worker.acquire()
        update = m.Update(
            job_id=job_id, attempt_nr=1, state=JobState.RUNNING, since=0.0, tail="the end"
        )

        async def too_early(*_):
            # As a read of the store that began before the pilot's answer.
            monkeypatch.undo()
            await one.service.heartbeats.beat(m.Beat(jobs=(update,), room=BIG), worker.caller)

        monkeypatch.setattr(one.service.users, "_tail_of", too_early)
        async with asyncio.timeout(5):
            tail = await one.service.users.tail(
                TailQuery(file="log", wait_s=30.0), ALICE, job_id=job_id
            )
        assert tail.text == "the end"

    run(test, tmp_path)


def test_a_look_that_ends_leaves_nothing_in_memory(tmp_path):
    async def test(one):
        (job_id,) = await one.submit()
        users, arrivals = one.service.users, one.service.state._arrivals
        await users.log(LogQuery(wait_s=0.01), ALICE, job_id=job_id)
        assert not arrivals
        gone = asyncio.create_task(users.log(LogQuery(wait_s=30.0), ALICE, job_id=job_id))
        await eventually(lambda: arrivals)
        gone.cancel()
        await asyncio.wait({gone})
        assert not arrivals

    run(test, tmp_path)
