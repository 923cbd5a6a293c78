"""Jobs that need a kind of machine go to workers that told of one, on both stores."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.api import NoQuery, WorkersQuery
from ailurus.protocol.hardware import GpuModel, Hardware
from ailurus.protocol.machine import EachGpu, machine_of, met
from ailurus.protocol.resources import Room
from dispatcher.memory.waiting import Hub
from dispatcher.refusal import Rejected
from dispatcher.rules import lanes, records
from dispatcher.rules.queue import ANYTHING
from tests.dispatcher.helpers import ALICE, BIG, EDGE, bench, job, run
from tests.rig.waiting import eventually

A100 = GpuModel(count=4, vendor="nvidia", model="NVIDIA A100-SXM4-40GB", memory_mb=40_960)
OLD, NEW = Hardware(arch="x86-64-v2"), Hardware(arch="x86-64-v4")
GPUS = Hardware(arch="x86-64-v3", gpus=(A100,), cuda="12.4")
LACKS = "needs GPUs a100, has none"
ROOM = replace(BIG, gpus=4)
HUGE = Room(cores=1000, memory_mb=10**6, disk_mb=10**6, gpus=1000)
ARCHS = ((), ("x86_64",), ("x86_64-v3", "arm64"), ("x86-64-v4",), ("aarch64", "x86-64-v3"))
EACH = (None, None, EachGpu(model=("A100",)), EachGpu(memory_mb=50_000), EachGpu(cuda="12.4"))


_NODES = ("select nodes from shape", "select nodes from sized")


def v3(name: str = "v3", **fields):
    return job(name, arch=("x86_64-v3",), **fields)


def on_a100(name: str = "a100", **fields):
    return job(name, gpus=1, each_gpu=EachGpu(model=("A100",), cuda="12.0"), **fields)


async def test_a_job_goes_to_a_machine_that_is_as_it_wants(b):
    wanting, picky = await b.submit(v3(), on_a100())
    for hardware in (None, OLD):
        assert not await (await b.worker(total=ROOM, hardware=hardware)).acquire(2, ROOM)
    (got,) = await (await b.worker(total=ROOM, hardware=NEW)).acquire(2, ROOM)
    assert got.job_id == wanting
    (got,) = await (await b.worker(total=ROOM, hardware=GPUS)).acquire(2, ROOM)
    assert got.job_id == picky


@pytest.mark.parametrize("seed", range(3))
async def test_each_worker_gets_what_its_machine_can_run_and_all_of_it(b, seed):
    """Whatever jobs want and machines are, in queues, groups of equal jobs and mixed ones."""
    chance = random.Random(seed)
    wanted = [
        (chance.choice(ARCHS), chance.choice(EACH), chance.choice((500, 1000))) for _ in range(50)
    ]
    ids = await b.submit(
        *(
            job(f"j{nr}", arch=arch, each_gpu=each, gpus=int(each is not None), memory_mb=memory_mb)
            for nr, (arch, each, memory_mb) in enumerate(wanted)
        )
    )
    waiting = {
        one: machine_of(arch, each) for one, (arch, each, _) in zip(ids, wanted, strict=True)
    }
    for _ in range(4):
        hardware = chance.choice([None, OLD, NEW, GPUS, replace(GPUS, arch="aarch64", cuda="")])
        worker = await b.worker(total=HUGE, hardware=hardware)
        got = {one.job_id for one in await worker.acquire(100, HUGE)}
        assert got == {one for one, text in waiting.items() if met(text, hardware)}
        waiting = {one: text for one, text in waiting.items() if one not in got}


async def test_it_waits_behind_nobody_whose_machine_is_away(b):
    await b.submit(*(v3(f"v3-{nr}", priority=9) for nr in range(3)))
    (plain,) = await b.submit(job("plain"))
    (got,) = await (await b.worker(hardware=OLD)).acquire()
    assert got.job_id == plain


@pytest.mark.parametrize("hardware", [OLD, None])
async def test_only_a_worker_that_could_take_it_is_woken(b, hardware):
    unfit, fit = await b.worker(hardware=hardware), await b.worker(hardware=NEW)
    waits = [asyncio.create_task(one.acquire(wait_s=20)) for one in (unfit, fit)]
    await eventually(lambda: b.service.state.hub.waiting("q") == 2)
    await b.submit(v3("first"))
    # Only with the first job its shape is known, and whoever waits is woken to look.
    assert len(await waits[1]) == 1
    waits[1] = asyncio.create_task(fit.acquire(wait_s=20))
    await eventually(lambda: b.service.state.hub.waiting("q") == 2)
    await b.submit(v3("second"))
    assert len(await waits[1]) == 1
    assert not waits[0].done()
    await b.submit(job("plain"))
    assert len(await waits[0]) == 1


async def test_jobs_of_more_kinds_than_there_are_lanes_find_their_machines(b):
    count = lanes.MOST + 8
    await b.submit(*(on_a100(f"j{nr}", memory_mb=250 * (nr + 1)) for nr in range(count // 2)))
    await b.submit(*(v3(f"k{nr}", memory_mb=250 * (nr + 1)) for nr in range(count)))
    worker = await b.worker(total=ROOM, hardware=NEW)
    got = await worker.acquire(count, replace(ROOM, cores=1000, memory_mb=10**6, disk_mb=10**6))
    assert Counter(b"A100" in bytes(one.spec) for one in got) == {False: count}
    gpus = await b.worker(total=ROOM, hardware=GPUS)
    roomy = replace(ROOM, gpus=99, cores=99, memory_mb=10**6, disk_mb=10**6)
    rest = await gpus.acquire(count, roomy)
    assert len(rest) == count // 2


def test_a_dispatcher_that_starts_anew_knows_what_jobs_and_workers_are(place):
    """What is in the store is all that it has."""

    async def before(b):
        await b.submit(v3(), on_a100())

    async def after(b):
        (got,) = await (await b.worker(hardware=NEW)).acquire(2, ROOM)
        assert b"x86_64-v3" in bytes(got.spec)

    run(before, place)
    run(after, place)


def test_to_a_version_before_this_one_such_a_job_fits_nowhere(tmp_path):
    """It reads the columns of a shape as they stand."""

    async def test(b):
        await b.submit(v3(), on_a100(), *(v3(memory_mb=250 * (nr + 1)) for nr in range(40)))
        known = await b.service.store.read(records.shapes)
        assert {shape.nodes for shape in known.values()} == {1}

    run(test, tmp_path)
    with closing(sqlite3.connect(tmp_path / "queue.db")) as store:
        nodes = [n for one in _NODES for (n,) in store.execute(one) if n > 1]
    assert len(nodes) >= 41
    assert min(nodes) > ANYTHING.nodes


async def why(b, job_id):
    return await b.service.users.why(NoQuery(), ALICE, job_id=job_id)


async def test_why_tells_what_no_machine_has_and_what_they_have(b):
    wanting, picky, huge = await b.submit(
        v3(), on_a100(), job("huge", gpus=1, each_gpu=EachGpu(memory_mb=80_000))
    )
    await b.worker(total=ROOM, hardware=OLD)
    told = await why(b, wanting)
    assert told.verdict == "never"
    assert "x86-64-v3 is asked for, there is x86-64-v2" in told.sentence
    assert "`arch`" in told.remedy
    assert "GPUs a100 is asked for, there is none" in (await why(b, picky)).sentence
    await b.worker(total=ROOM, hardware=GPUS)
    verdicts = [(await why(b, one)).verdict for one in (wanting, picky, huge)]
    assert verdicts == ["now", "now", "never"]
    told = await why(b, huge)
    assert "GPUs of 80000 MB is asked for, there is 40960 MB or none" in told.sentence
    assert any("has 40960 MB" in blocker for blocker in told.blockers)
    with pytest.raises(Rejected) as caught:
        await b.submit(job("other", gpus=1, each_gpu=EachGpu(model=("H200",))))
    assert caught.value.field == "jobs[0].gpus.model"
    assert "NVIDIA A100-SXM4-40GB" in caught.value.title


async def test_why_tells_that_pilots_do_not_tell(b):
    (one,) = await b.submit(v3())
    await b.worker()
    told = await why(b, one)
    assert (told.verdict, "no pilot tells" in told.sentence) == ("never", True)


async def test_an_edge_is_asked_for_what_its_slots_might_have(b):
    """Of a slot no machine is known: that is not impossible."""
    slot = m.SlotShape(name="s", queue="q", room=ROOM)
    await b.service.edges.hello(m.Hello(site="here", instance="e", slots=(slot,)), EDGE)
    (one,) = await b.submit(on_a100())
    demand = await b.service.edges.demand(m.DemandRequest(site="here", epoch=1), EDGE)
    assert [ask.shape.machine for ask in demand.shapes] == [
        machine_of([], EachGpu(model=("a100",), cuda="12.0"))
    ]
    assert (await why(b, one)).verdict == "later"
    await b.worker(total=ROOM, hardware=OLD)
    told = await why(b, one)
    assert (told.verdict, told.blockers) == ("later", (f"worker 1: {LACKS}",))


async def test_what_a_site_file_says_of_a_slot_is_believed_before_a_pilot_is_there(b):
    slot = m.SlotShape(name="s", queue="q", room=ROOM, hardware=GPUS)
    await b.service.edges.hello(m.Hello(site="here", instance="e", slots=(slot,)), EDGE)
    (one,) = await b.submit(on_a100())
    assert (await why(b, one)).verdict == "later"
    with pytest.raises(Rejected) as caught:
        await b.submit(job("v4", arch=("x86_64-v4",)))
    assert caught.value.field == "jobs[0].arch"
    assert "x86-64-v4 is asked for, there is x86-64-v3" in caught.value.title


def test_two_dispatchers_know_the_machines_that_the_other_met_first(postgres_server):
    async def test():
        url = postgres_server.database()
        async with bench(url) as one, bench(url) as other:
            await asyncio.gather(one.submit(v3()), other.submit(v3("v3b")))
            await one.submit(on_a100())
            (worker, gpus) = await other.worker(hardware=NEW), await one.worker(hardware=GPUS)
            assert len(await worker.acquire(9)) == 2
            assert len(await gpus.acquire(9, ROOM)) == 1

    asyncio.run(asyncio.wait_for(test(), 60))


@given(
    st.lists(st.sampled_from([None, OLD, NEW, GPUS]), min_size=1, max_size=6),
    st.sampled_from([v3(), on_a100(), job()]),
)
def test_who_waits_is_woken_if_the_machine_is_right(waiting, spec):
    from ailurus.protocol.job import shape_of

    async def test():
        shape = shape_of(spec)
        hub = Hub({7: shape})
        waiters = [hub.expect_job("q", ROOM, hardware=one) for one in waiting]
        hub.ready("q", 7, 1)
        woken = [one.hardware for one in waiters if one.woken.done()]
        suited = [
            one
            for one in waiting
            if spec.name == "job" or one == GPUS or (one == NEW and spec.arch)
        ]
        assert woken == suited[:1]

    asyncio.run(test())


async def test_a_head_tells_what_its_nodes_have_in_common_when_they_have_come(b):
    """It registers before they are there."""
    worker = await b.worker(hardware=NEW)
    await b.submit(v3())
    ask = m.Acquire(request_id="one", room=BIG, hardware=OLD)
    assert not (await b.service.workers.acquire(ask, worker.caller)).jobs
    (row,) = (await b.service.figures.workers(WorkersQuery(), ALICE)).workers
    assert row.hardware == OLD
    ask = m.Acquire(request_id="two", room=BIG, hardware=GPUS)
    assert len((await b.service.workers.acquire(ask, worker.caller)).jobs) == 1


def test_a_room_of_a_relay_is_no_machine(tmp_path):
    """A worker behind a relay has what its pilot told."""

    async def test(b):
        worker = await b.worker(site="far", hardware=NEW)
        await b.submit(v3())
        ask = m.Acquire(request_id="relay-0", room=Room(cores=1, memory_mb=4000, disk_mb=4000))
        got = await b.service.relays.relay_acquire(
            m.RelayAcquire(
                site="far", asks=(m.RelayedAcquire(worker_id=worker.id, ask=ask),), wait_s=0.0
            ),
            EDGE,
        )
        assert len(got.workers[0].got.jobs) == 1

    run(test, tmp_path)
