"""A clock that jumps (R5): nothing is lost, expired or done twice because of it."""

from __future__ import annotations

import asyncio

import pytest

from ailurus.protocol.states import JobState
from dispatcher.memory.leases import AwakeClock
from tests.dispatcher.helpers import ALICE, job, run
from tests.rig.waiting import eventually

HOUR = 3600.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 400 * 24 * HOUR])
def test_r5_no_lease_ends_and_no_job_waits_because_the_clock_jumped(tmp_path, jump):
    async def test(one) -> None:
        begun = one.service.state.now()
        kept, waiting = await one.submit(job("a")), await one.submit(job("b"))
        worker = await one.worker()
        (running,) = await worker.acquire()
        await worker.beat(running)
        one.service.state.now = lambda: begun + jump
        await one.forward(1.0)
        assert await one.state(kept[0]) == JobState.RUNNING
        assert (await worker.beat(running)).commands == ()
        (second,) = await worker.acquire()
        assert second.job_id == waiting[0]
        assert await worker.report(running) == "accepted"
        one.service.state.now = lambda: begun  # and back again
        await one.forward(1.0)
        assert await worker.report(second) == "accepted"
        assert await worker.report(second) == "accepted"  # said again: the same answer
        shown = await one.service.users.show(None, ALICE, job_id=kept[0])
        assert len(shown.attempts) == 1
        seqs = [event.seq for event in await one.told()]
        assert seqs == sorted(seqs)

    run(test, tmp_path)


def test_r5_a_worker_that_falls_silent_is_missed_although_the_clock_stands_still(tmp_path):
    async def test(one) -> None:
        frozen = one.service.state.now()
        one.service.state.now = lambda: frozen
        ids = await one.submit()
        worker = await one.worker()
        await worker.beat(*await worker.acquire())
        await one.forward(one.service.state.lease_s + 1)
        assert await one.state(ids[0]) == JobState.ACTIVATED

    run(test, tmp_path)


def test_r5_who_waits_for_a_job_waits_as_long_as_asked_whatever_the_clock_says(tmp_path):
    async def test(one) -> None:
        worker = await one.worker()
        begun = one.service.state.now()
        waiting = asyncio.create_task(worker.acquire(wait_s=20))
        await eventually(lambda: one.service.hub.waiting("q"))
        one.service.state.now = lambda: begun + HOUR
        assert not waiting.done()
        await one.submit()
        assert len(await waiting) == 1

    run(test, tmp_path)


@pytest.mark.parametrize("away_s", [1.0, 600.0, 86_400.0])
def test_r5_time_asleep_is_no_time_for_leases(away_s):
    clock = AwakeClock(tick_s=0.5)
    clock.tick(100.0)
    assert clock.tick(100.0 + away_s) <= 1.0
