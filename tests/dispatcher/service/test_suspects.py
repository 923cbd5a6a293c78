"""A job that lost several workers runs alone, whatever becomes of the lease that memory holds."""

from __future__ import annotations

import asyncio

from ailurus.protocol.states import JobState
from tests.dispatcher.helpers import bench, job, run
from tests.rig.waiting import eventually

S = JobState


async def suspect(b):
    """A worker with a job that three workers were lost with, and a job that waits."""
    (id_,) = await b.submit(job("suspect", max_attempts=9))
    for _ in range(3):
        worker = await b.worker()
        await worker.beat(*await worker.acquire())
        await lose(b, id_)
    worker = await b.worker()
    (got,) = await worker.acquire(request="r")
    await b.submit(job("other"))
    assert (got.job_id, got.attempt_nr) == (id_, 4)
    return worker, got


async def lose(b, id_):
    await b.forward(31)
    await b.forward(31)  # on a shared store the leader looks twice
    assert await b.state(id_) is S.ACTIVATED


async def is_alone(b, worker, got):
    lease = b.service.state.leases.of(got.job_id)
    assert (lease.owner, lease.alone) == ("alice", True)
    assert await worker.acquire() == []


async def test_nothing_runs_beside_a_suspect_job_whose_answer_was_lost(b):
    worker, got = await suspect(b)
    await worker.beat(got)
    begun = b.service.state.leases.of(got.job_id).begun
    assert [one.attempt_nr for one in await worker.acquire(request="r")] == [4]
    assert b.service.state.leases.of(got.job_id).begun == begun
    await is_alone(b, worker, got)


async def test_nothing_runs_beside_a_suspect_job_that_memory_takes_up_again(b):
    worker, got = await suspect(b)
    b.service.state.leases.drop(got.job_id)
    await worker.beat(got)
    await is_alone(b, worker, got)


async def test_nothing_runs_beside_a_suspect_job_whose_worker_comes_back(b):
    worker, got = await suspect(b)
    await worker.beat(got)
    await lose(b, got.job_id)
    await worker.beat(got)
    assert await b.state(got.job_id) is S.RUNNING
    await is_alone(b, worker, got)


async def test_a_job_is_no_suspect_for_a_worker_that_came_back(b):
    (id_,) = await b.submit(job("few", max_attempts=9))
    for _ in range(2):
        worker = await b.worker()
        await worker.beat(*await worker.acquire())
        await lose(b, id_)
    worker = await b.worker()
    (got,) = await worker.acquire()
    await lose(b, id_)
    await worker.beat(got)
    assert not b.service.state.leases.of(id_).alone


def test_nothing_runs_beside_a_suspect_job_after_a_restart(place):
    async def before():
        async with bench(place) as b:
            return await suspect(b)

    worker, got = asyncio.run(before())

    async def after(b):
        worker.service = b.service
        await is_alone(b, worker, got)

    run(after, place)


def test_nothing_runs_beside_a_suspect_job_at_another_dispatcher(postgres_server):
    database = postgres_server.database()

    async def test(one, two):
        worker, got = await suspect(one)
        await eventually(lambda: two.service.state.leases.of(got.job_id))
        await eventually(lambda: worker.id in two.service.state.live)
        worker.service = two.service
        await is_alone(two, worker, got)

    async def main():
        async with bench(database) as one, bench(database) as two:
            await asyncio.wait_for(test(one, two), 30)

    asyncio.run(main())
