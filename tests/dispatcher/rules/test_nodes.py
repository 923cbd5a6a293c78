"""Jobs for workers of several nodes."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec.structs import replace

from ailurus.protocol.resources import Resources, Room
from tests.dispatcher.helpers import BIG, job
from tests.rig.waiting import eventually


async def test_jobs_of_one_answer_are_packed_onto_the_nodes_of_a_worker(b):
    """Two nodes with four cores and one with two, told in groups."""
    four, two = (Resources(cores=n, memory_mb=9000, disk_mb=9000) for n in (4, 2))
    room = Room.over({four: 2, two: 1}, seconds_left=None)
    small = {"memory_mb": 250, "disk_mb": 1000}
    await b.submit(
        job("whole", nodes=3, cores=4, priority=9, **small),
        job("pair", nodes=2, cores=3, priority=8, **small),
        *[job("narrow", cores=2, **small) for _ in range(3)],
        job("single", cores=1, **small),
    )
    worker = await b.worker(total=room)
    got = await worker.acquire(count=10, room=room)
    names = [msgspec.json.decode(one.spec)["name"] for one in got]
    assert names == ["pair", "narrow", "single"]
    assert await worker.acquire(count=10, room=Room(cores=0)) == []


async def test_a_worker_of_several_nodes_is_woken_by_what_fits_on_them(b):
    room = replace(BIG, cores=4, nodes=2)
    await b.submit(job("too many", nodes=3, cores=4))
    worker = await b.worker(total=room)
    waiting = asyncio.create_task(worker.acquire(room=room, wait_s=20))
    await eventually(lambda: b.service.hub.waiting("q"))
    (one,) = await b.submit(job("two", nodes=2, cores=4, memory_mb=9000))
    assert [got.job_id for got in await asyncio.wait_for(waiting, 2)] == [one]
