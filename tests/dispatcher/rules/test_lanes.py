"""However many sizes of jobs one user submits, an acquire looks at a bounded number of them."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.protocol import messages as m
from ailurus.protocol.panda_acquire import JobRequest
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.states import JobState
from dispatcher.rules import lanes
from dispatcher.service.panda import acquire as panda
from dispatcher.store.sqlite import SqliteTx
from tests.dispatcher.helpers import ALICE, BIG, BOB, EDGE, bench, job, run

S = JobState
pytestmark = pytest.mark.field("A8")


def sizes(n: int, **more):
    """Jobs of so many sizes."""
    return [job(f"j{nr}", memory_mb=250 * (nr + 1), **more) for nr in range(n)]


@pytest.fixture
def asked(monkeypatch):
    """How often a statement was asked."""
    seen = Counter()
    for name in ("one", "all"):
        whole = getattr(SqliteTx, name)

        def counted(tx, query, whole=whole, **values):
            seen[query] += 1
            return whole(tx, query, **values)

        monkeypatch.setattr(SqliteTx, name, counted)
    return seen


def test_an_acquire_costs_the_same_whatever_the_number_of_sizes(tmp_path, asked):
    async def test(b):
        costs = []
        await b.submit(job("theirs", queue="q2"), caller=BOB)
        for nr in range(2):
            await b.submit(*sizes(300, queue="", walltime_s=60 * (nr + 1)), request=f"r{nr}")
            worker = await b.worker("q2", total=Room(cores=1, memory_mb=100_000, disk_mb=9000))
            asked.clear()
            (got,) = await worker.acquire()
            await worker.report(got)
            costs.append(sum(asked.values()))
        assert costs[1] <= costs[0] + 2 < 3 * lanes.MOST
        rows = await b.service.store.read(lambda tx: tx.all("counter.ready", queue="q2"))
        assert len(rows) <= lanes.MOST + 2

    run(test, tmp_path)


async def test_each_job_is_given_room_of_its_own_size(b, monkeypatch):
    monkeypatch.setattr(lanes, "MOST", 3)

    ids = await b.submit(*sizes(12))
    small = await b.worker(total=Room(cores=16, memory_mb=2000, disk_mb=90_000))
    got = await small.acquire(12, room=Room(cores=16, memory_mb=2000, disk_mb=90_000))
    assert [one.job_id for one in got] == ids[:3]  # 250 + 500 + 750, and no 1000 beside them
    again = await small.acquire(12, room=Room(cores=1, memory_mb=1750, disk_mb=9000))
    assert [one.job_id for one in again] == ids[3:4]
    big = await b.worker()
    got = await big.acquire(12)
    assert [one.job_id for one in got] == ids[4:]


async def test_a_request_repeated_takes_the_same_room_again(b, monkeypatch):
    monkeypatch.setattr(lanes, "MOST", 1)

    await b.submit(*sizes(4))
    worker = await b.worker()
    first = await worker.acquire(4, request="r")
    assert [one.job_id for one in await worker.acquire(4, request="r")] == [
        one.job_id for one in first
    ]
    room = b.service.state.live[worker.id].room
    assert room.memory_mb == BIG.memory_mb - 250 * (1 + 2 + 3 + 4)


async def test_what_fits_nobody_holds_up_only_the_lane_it_is_in(b, monkeypatch):
    monkeypatch.setattr(lanes, "MOST", 2)
    monkeypatch.setattr(lanes, "LOOKED_AT", 5)

    await b.submit(*(job(f"w{nr}", cores=100 + nr, priority=9) for nr in range(20)))
    (hers,) = await b.submit(job("small"))
    (theirs,) = await b.submit(job("theirs", memory_mb=4000), caller=BOB)
    worker = await b.worker()
    assert [one.job_id for one in await worker.acquire()] == [theirs]
    assert await b.state(hers) is S.ACTIVATED


async def test_many_submissions_at_once_have_no_more_lanes_together(b, monkeypatch):
    monkeypatch.setattr(lanes, "MOST", 3)

    (parent,) = await b.submit(job("parent", queue="q2"))
    await asyncio.gather(
        *(
            b.submit(*(job(f"j{nr}", cores=at + nr, depends_on=(parent,)) for nr in range(5)))
            for at in range(1, 60, 5)
        )
    )
    rows = await b.service.store.read(lambda tx: tx.all("counter.all"))
    assert len([row for row in rows if row[2] == S.PENDING]) == 3 + 1
    assert sum(row[3] for row in rows if row[2] == S.PENDING) == 60


async def test_sizes_that_are_done_make_room_for_others(b, monkeypatch):
    monkeypatch.setattr(lanes, "MOST", 3)
    monkeypatch.setattr(lanes, "NEW_S", 0.0)

    async def shown() -> int:
        rows = await b.service.store.read(lambda tx: tx.all("counter.ready", queue="q"))
        return len(rows)

    await b.submit(*sizes(3))
    worker = await b.worker()
    for got in await worker.acquire(3):
        await worker.report(got)
    await b.submit(*(job(f"k{nr}", cores=nr + 2) for nr in range(3)))
    assert await shown() == 3
    await b.submit(*(job(f"l{nr}", cores=nr + 5) for nr in range(3)))
    assert await shown() == 4


async def test_an_edge_is_told_of_the_sizes_that_are_next(b, monkeypatch):
    monkeypatch.setattr(lanes, "MOST", 2)

    await b.submit(*sizes(5), *sizes(1))
    slot = m.SlotShape(name="s", queue="q", room=BIG)
    welcome = await b.service.edges.hello(m.Hello(site="here", instance="e", slots=(slot,)), EDGE)
    demand = await b.service.edges.demand(m.DemandRequest(site="here", epoch=welcome.epoch), EDGE)
    told = {one.shape.memory_mb: one.jobs for one in demand.shapes}
    assert told == {250: 2, 500: 1, 750: 1, 1000: 1, 1250: 1}


def test_a_panda_pilot_gets_those_that_suit_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "MOST", 1)

    async def test(b):
        await b.submit(job("a", memory_mb=8000), job("b", memory_mb=9000), job("c", cores=8))
        ask = panda.Acquisition(
            request=JobRequest(site="q", node="n", resource_type="SCORE", count=9)
        )
        assert await panda.acquire(b.service, ask) == []
        ask = panda.Acquisition(
            request=JobRequest(site="q", node="n", resource_type="MCORE", count=9)
        )
        (got,) = await panda.acquire(b.service, ask)
        assert got["coreCount"] == 8

    run(test, tmp_path)


shapes = st.builds(
    Shape,
    cores=st.integers(1, 4),
    memory_mb=st.integers(1, 8).map(lambda n: 250 * n),
    disk_mb=st.just(1000),
)
rooms = st.builds(
    Room, cores=st.integers(0, 8), memory_mb=st.integers(0, 4000), disk_mb=st.just(10_000)
)


@settings(max_examples=25)
@given(st.lists(shapes, min_size=1, max_size=30), st.lists(rooms, max_size=6), st.integers(1, 4))
def test_no_worker_gets_more_than_its_room_and_every_job_gets_its_turn(wanted, offered, most):
    async def main(folder: Path) -> None:
        async with bench(folder) as b:
            jobs = [
                job(f"j{nr}", cores=one.cores, memory_mb=one.memory_mb, disk_mb=one.disk_mb)
                for nr, one in enumerate(wanted)
            ]
            ids = await b.submit(*jobs)
            size = dict(zip(ids, wanted, strict=True))
            worker, done = await b.worker(), []
            for room in [*offered, *[BIG] * len(wanted)]:
                got = await worker.acquire(30, room=room)
                assert sum(size[one.job_id].cores for one in got) <= room.cores
                assert sum(size[one.job_id].memory_mb for one in got) <= room.memory_mb
                for one in got:
                    await worker.report(one)
                    done.append(one.job_id)
            assert sorted(done) == ids
            assert (await b.service.users.show(None, ALICE, job_id=ids[0])).row.state is S.FINISHED

    before, lanes.MOST = lanes.MOST, most
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(Path(folder)))
    finally:
        lanes.MOST = before
