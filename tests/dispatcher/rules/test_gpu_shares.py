"""Jobs that need a share of a GPU go to workers whose site lets jobs share one, on both stores."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.api import JobsQuery, NoQuery
from ailurus.protocol.job import shape_of
from ailurus.protocol.machine import EachGpu
from dispatcher.refusal import Rejected
from dispatcher.rules import records
from dispatcher.rules.queue import ANYTHING
from dispatcher.rules.why import Offer, short_of, waiting
from tests.dispatcher.helpers import ALICE, BIG, EDGE, job, run
from tests.dispatcher.rules.test_machines import GPUS
from tests.rig.waiting import eventually

WHOLE = replace(BIG, gpus=2)
SHARED = replace(WHOLE, gpu_share=25)


def half(name: str = "half", share: int = 50, **fields):
    return job(name, gpus=1, gpu_share=share, **fields)


async def why(b, job_id):
    return await b.service.users.why(NoQuery(), ALICE, job_id=job_id)


async def test_a_share_goes_where_one_is_free_on_a_single_device(b):
    """Nor is it ever a pilot's that does not know of shares: its room tells none."""
    ids = await b.submit(*(half(f"h{nr}") for nr in range(4)), half("most", 90))
    assert not await (await b.worker(total=WHOLE)).acquire(9, WHOLE)
    worker = await b.worker(total=SHARED)
    # Parts of two devices do not add up.
    assert not await worker.acquire(9, replace(SHARED, gpus=0, gpu_parts=(40, 40)))
    got = await worker.acquire(9, replace(SHARED, gpus=1, gpu_parts=(60,)))
    assert [one.job_id for one in got] == ids[:3]
    (got,) = await worker.acquire(9, replace(SHARED, gpus=1))
    assert got.job_id == ids[3]
    (got,) = await worker.acquire(9, replace(SHARED, gpus=1))
    assert got.job_id == ids[4]


async def test_a_site_says_how_many_share_a_device(b):
    await b.submit(*(half(f"h{nr}", 10) for nr in range(20)))
    worker = await b.worker(total=SHARED)
    room = replace(SHARED, cores=99, memory_mb=10**6, disk_mb=10**6)
    assert len(await worker.acquire(20, room)) == 8


async def test_a_share_and_a_kind_of_machine_are_both_looked_at(b):
    (one,) = await b.submit(half(each_gpu=EachGpu(model=("A100",))))
    assert not await (await b.worker(total=SHARED)).acquire(1, SHARED)
    assert not await (await b.worker(total=WHOLE, hardware=GPUS)).acquire(1, WHOLE)
    (got,) = await (await b.worker(total=SHARED, hardware=GPUS)).acquire(1, SHARED)
    assert got.job_id == one


def test_a_dispatcher_that_starts_anew_knows_the_shares(place):
    async def before(b):
        await b.submit(*(half(f"h{share}", share, memory_mb=1000) for share in (10, 90)))
        # More sizes than a user has lanes.
        await b.submit(*(half(f"m{nr}", 90, memory_mb=250 * (nr + 1)) for nr in range(40)))

    async def after(b):
        worker = await b.worker(total=SHARED)
        room = replace(SHARED, gpus=0, gpu_parts=(25,))
        (got,) = await worker.acquire(99, room)
        assert b'"gpu_share":10' in bytes(got.spec)
        room = replace(SHARED, gpus=99, cores=99, memory_mb=10**6, disk_mb=10**6)
        assert len(await worker.acquire(99, room)) == 41

    run(before, place)
    run(after, place)


def test_to_a_version_before_this_one_such_a_job_fits_nowhere(tmp_path):
    """It reads what is beneath 10^7 of a shape's nodes as they stand."""

    async def test(b):
        await b.submit(half(share=10), half("b", 90, each_gpu=EachGpu(cuda="12")))
        await b.submit(*(half(f"m{nr}", memory_mb=250 * (nr + 1)) for nr in range(40)))
        known = await b.service.store.read(records.shapes)
        assert {shape.nodes for shape in known.values()} == {1}

    run(test, tmp_path)
    with closing(sqlite3.connect(tmp_path / "queue.db")) as store:
        tables = ("select nodes % 10000000 from shape", "select nodes % 10000000 from sized")
        nodes = [n for one in tables for (n,) in store.execute(one) if n > 1]
    assert len(nodes) >= 42
    assert min(nodes) > ANYTHING.nodes


async def test_why_and_submit_tell_that_no_site_lets_jobs_share(b):
    (one,) = await b.submit(half())
    await b.worker(total=WHOLE)
    told = await why(b, one)
    assert told.verdict == "never"
    assert (
        "0.5 of a GPU is asked for, and no slot of its queues lets jobs share one" in told.sentence
    )
    assert told.blockers == ("worker 1: needs 0.5 of a GPU, lets no jobs share one",)
    assert "share: 2" in told.remedy
    with pytest.raises(Rejected) as caught:
        await b.submit(half("other"))
    assert caught.value.field == "jobs[0].gpus"
    slot = m.SlotShape(name="s", queue="q", room=SHARED)
    await b.service.edges.hello(m.Hello(site="here", instance="e", slots=(slot,)), EDGE)
    assert (await why(b, one)).verdict == "later"
    demand = await b.service.edges.demand(m.DemandRequest(site="here", epoch=1), EDGE)
    assert [(ask.shape.gpus, ask.shape.gpu_share) for ask in demand.shapes] == [(1, 50)]


def test_why_tells_how_much_of_a_device_is_free():
    free = replace(SHARED, gpus=0, gpu_parts=(40, 25))
    assert short_of(shape_of(half()), free) == "needs 0.5 of a GPU, has 0.4 of a GPU"
    assert short_of(shape_of(half(share=40)), free) == ""
    assert short_of(shape_of(half()), BIG) == "needs 0.5 of a GPU, has none"


async def test_why_tells_that_a_slot_has_too_small_a_part_of_a_gpu(b):
    slot = m.SlotShape(name="s", queue="q", room=replace(SHARED, gpus=0, gpu_parts=(30,)))
    await b.service.edges.hello(m.Hello(site="here", instance="e", slots=(slot,)), EDGE)
    with pytest.raises(Rejected) as caught:
        await b.submit(half())
    assert "0.5 of a GPU is asked for, and a slot of its queues has 0.3 of a GPU at most" in (
        caught.value.title
    )
    await b.submit(half(share=30))


async def test_why_tells_that_panda_pilots_get_no_share(b):
    await b.submit(half())
    (row,) = (await b.service.users.jobs(JobsQuery(), ALICE)).jobs
    told = waiting(row, half(), shape_of(half()), [Offer(name="p", total=BIG, foreign=True)], 0)
    assert "they get no job that needs a share of a GPU" in told.sentence


def test_waiting_workers_are_woken_for_a_share_if_they_have_one(place):
    async def test(b):
        unfit, fit = await b.worker(total=WHOLE), await b.worker(total=SHARED)
        await b.submit(half("known"))
        await fit.acquire(1, SHARED)
        waits = [asyncio.create_task(unfit.acquire(1, WHOLE, wait_s=20))]
        waits.append(asyncio.create_task(fit.acquire(1, SHARED, wait_s=20)))
        await eventually(lambda: b.service.state.hub.waiting("q") == 2)
        await b.submit(half())
        assert len(await waits[1]) == 1
        assert not waits[0].done()
        waits[0].cancel()

    run(test, place)
