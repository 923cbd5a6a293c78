"""A worker's lanes: what its pilot told, and what is known of one that tells nothing."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import NoQuery, SamplesQuery, Scope, TimelineQuery, WorkerTimelineQuery
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.messages.usage import NodeUsage
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from tests.dispatcher.helpers import ALICE, BIG, BOB, bench, job, run

BOSS = Caller(subject="boss", scopes=frozenset({Scope.READ, Scope.ADMIN}))


def held(began: float, ended: float = 0.0, *nodes: str) -> m.Held:
    slots = tuple(m.HeldSlot(node=node, cores=2, gpus=("G0",)) for node in nodes or ("",))
    return m.Held(slots=slots, began=began, ended=ended)


async def look(b, worker, caller=ALICE, **query) -> m.Timeline:
    ask = WorkerTimelineQuery(worker_id=worker.id, **query)
    return await b.service.timelines.worker_timeline(ask, caller)


async def beat(worker, occupancy, *updates: m.Update) -> None:
    await worker.service.heartbeats.beat(
        m.Beat(jobs=updates, room=BIG, occupancy=occupancy), worker.caller
    )


OCCUPANCY = m.Occupancy(
    nodes=(m.NodeSize(name="n1", cores=4, gpus=2, joined=5.0), m.NodeSize(name="n2", cores=4)),
    since=5.0,
    until=25.0,
    busy_core_s=60.0,
    idle_core_s={"nothing": 100.0},
)


def test_a_job_is_drawn_on_a_node_for_as_long_as_it_had_it(place):
    async def test(b):
        worker = await b.worker()
        now = b.service.state.now()
        await b.submit(job("a"))
        (one,) = await worker.acquire(1)
        slots = (
            m.HeldSlot(node="n1", cores=2),
            m.HeldSlot(node="n2", cores=2, ended=now - 6),
            m.HeldSlot(node="n2", cores=2, began=now - 3),
        )
        await worker.report(one, held=m.Held(slots=slots, began=now - 9, ended=now))
        seen = await look(b, worker, begin=now - 10, end=now + 10, parts=20)
        assert [
            (node.name, [(round(bar.begin - now), round(bar.end - now)) for bar in node.bars])
            for node in seen.nodes
            if node.bars
        ] == [("n1", [(-9, 0)]), ("n2", [(-9, -6), (-3, 0)])]

    run(test, place)


def test_a_worker_shows_what_ran_on_which_of_its_nodes_after_its_end_too(place):
    async def test(b):
        worker = await b.worker()
        now = b.service.state.now()
        running, ended = await b.submit(job("a"), job("b"))
        first, second = await worker.acquire(2)
        update = m.Update(
            job_id=running,
            attempt_nr=1,
            state=JobState.RUNNING,
            since=now,
            held=held(now, 0.0, "n1", "n2"),
        )
        await beat(worker, OCCUPANCY, update)
        await worker.report(second, held=held(now - 5, now - 1, "n2"))
        seen = await look(b, worker, begin=now - 10, end=now + 10, parts=20)
        assert [(node.name, node.cores, node.gpus) for node in seen.nodes] == [
            ("n1", 4, ("G0", "")),
            ("n2", 4, ("G0",)),
        ]
        bars = [[(bar.job_id, bar.state, bar.cores) for bar in node.bars] for node in seen.nodes]
        assert bars == [
            [(running, "running", ((0, 2),))],
            [(ended, "finished", ((0, 2),)), (running, "running", ((0, 2),))],
        ]
        assert (seen.runs, seen.drawn, seen.cut) == (3, True, False)
        assert (seen.busy_core_s, seen.idle_core_s) == (60.0, {"nothing": 100.0})
        assert seen.worker.worker_id == worker.id
        await worker.report(first)
        last = m.Occupancy(nodes=OCCUPANCY.nodes, busy_core_s=70.0)
        await b.service.workers.bye(m.Bye(ending=Ending.DONE, occupancy=last), worker.caller)
        seen = await look(b, worker)
        assert (seen.worker.ending, seen.busy_core_s, seen.runs) == (Ending.DONE, 70.0, 3)

    run(test, place)


def test_what_a_worker_told_is_there_after_the_dispatcher_was_down(tmp_path):
    async def first() -> int:
        async with bench(tmp_path) as b:
            worker = await b.worker()
            await beat(worker, OCCUPANCY)
            return worker.id

    async def second(worker_id: int) -> None:
        async with bench(tmp_path) as b:
            ask = WorkerTimelineQuery(worker_id=worker_id)
            seen = await b.service.timelines.worker_timeline(ask, ALICE)
            assert seen.busy_core_s == 60.0
            assert [node.name for node in seen.nodes] == ["n1", "n2"]

    worker_id = asyncio.run(first())
    asyncio.run(second(worker_id))


def test_of_an_older_pilot_is_shown_what_the_states_tell(place):
    async def test(b):
        worker = await b.worker()
        await b.submit(job("a", cores=3))
        [one] = await worker.acquire()
        await worker.beat(one)
        seen = await look(b, worker)
        [node] = seen.nodes
        assert [bar.cores for bar in node.bars] == [((0, 3),)]
        assert node.cores == BIG.cores
        assert (seen.busy_core_s, seen.idle_core_s) == (None, {})

    run(test, place)


def test_jobs_of_others_have_neither_number_nor_name(place):
    async def test(b):
        worker = await b.worker()
        await b.submit(job("secret"), caller=ALICE)
        [one] = await worker.acquire()
        await worker.beat(one)
        for caller, names in ((ALICE, ["secret"]), (BOB, [""]), (BOSS, ["secret"])):
            seen = await look(b, worker, caller)
            bars = [bar for node in seen.nodes for bar in node.bars]
            assert [bar.name for bar in bars] == names
            assert all((bar.job_id == 0) == (not bar.name) for bar in bars)

    run(test, place)


def test_payloads_of_a_job_lie_on_their_nodes(place):
    async def test(b):
        job_id = await b.carrying(3)
        worker = await b.worker()
        [one] = await worker.acquire()
        await worker.exchange(one, count=3)
        ended = m.ItemEnd(
            index=0, attempt=1, outcome=ItemOutcome.FINISHED, started=10.0, ended=12.0, host="n1"
        )
        begun = m.ItemBegun(index=1, attempt=1, at=11.0, host="n1", slot="1")
        await worker.exchange(one, ended=(ended,), begun=(begun,))
        ask = TimelineQuery(begin=10.0, end=20.0, parts=10)
        seen = await b.service.timelines.job_timeline(ask, ALICE, job_id=job_id)
        [node] = seen.nodes
        assert [(bar.item, bar.state, bar.cores) for bar in node.bars] == [
            (0, "finished", ((0, 1),)),
            (1, "running", ((1, 1),)),
        ]
        assert (node.name, node.cores, node.used[:3]) == ("n1", 2, (1.0, 2.0, 1.0))

    run(test, place)


def test_a_payload_has_as_many_lanes_as_it_asks_for_cores(place):
    async def test(b):
        specs = (ItemSpec(cores=3), ItemSpec(), ItemSpec(cores=2))
        await b.service.items.add_items(m.AddItems(list="wide", first=0, items=specs), ALICE)
        (job_id,) = await b.submit(job(cores=8, payloads=Payloads(list="wide", count=3)))
        worker = await b.worker()
        [one] = await worker.acquire()
        await worker.exchange(one, count=3)
        begun = tuple(m.ItemBegun(index=nr, attempt=1, at=11.0 + nr, host="n1") for nr in range(3))
        await worker.exchange(one, begun=begun)
        seen = await b.service.timelines.job_timeline(TimelineQuery(), ALICE, job_id=job_id)
        [node] = seen.nodes
        assert [bar.cores for bar in node.bars] == [((0, 3),), ((3, 1),), ((4, 2),)]

    run(test, place)


def test_a_worker_that_never_was_is_not_shown(place):
    async def test(b):
        ask = WorkerTimelineQuery(worker_id=99)
        with pytest.raises(Rejected) as refused:
            await b.service.timelines.worker_timeline(ask, ALICE)
        assert refused.value.status == 404

    run(test, place)


@pytest.mark.parametrize("time", ["inf", "-1", "1e300"])
def test_a_time_is_one_that_a_clock_can_show(time: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"end": time}, TimelineQuery, strict=False)


def test_what_jobs_use_on_each_node_is_shown_while_they_run(place):
    """Whosever they are: it is of the node."""

    async def test(b):
        worker = await b.worker(host="n0")
        await b.submit(job("wide"))
        await b.submit(job("narrow"), caller=BOB)
        jobs = await worker.acquire(2)
        nodes = (
            NodeUsage(node="n1", cpu_s=2.0, rss_kb=10, processes=1),
            NodeUsage(node="n2", cpu_s=3.0, rss_kb=20, processes=2),
        )
        usages = (m.Usage(cpu_s=5.0, nodes=nodes), m.Usage(cpu_s=0.5, rss_kb=4))
        await beat(
            worker,
            None,
            *(
                m.Update(
                    job_id=one.job_id,
                    attempt_nr=one.attempt_nr,
                    state=JobState.RUNNING,
                    since=0.0,
                    usage=usage,
                )
                for one, usage in zip(jobs, usages, strict=True)
            ),
        )
        seen = await look(b, worker)
        assert seen.used == (NodeUsage(node="n0", cpu_s=0.5, rss_kb=4), *nodes)
        detail = await b.service.users.show(NoQuery(), ALICE, job_id=jobs[0].job_id)
        assert detail.attempts[-1].usage.nodes == nodes
        # Not of each point of the curve.
        ask = SamplesQuery()
        curve = (await b.service.users.samples(ask, ALICE, job_id=jobs[0].job_id)).samples
        assert [one.usage for one in curve] == [m.Usage(cpu_s=5.0)]
        for one in jobs:
            await worker.report(one)
        assert (await look(b, worker)).used == ()

    run(test, place)


def test_another_dispatcher_shows_what_is_used_on_each_node_too(postgres_server):
    async def test():
        url = postgres_server.database()
        async with bench(url) as one, bench(url) as other:
            worker = await one.worker(host="n0")
            await one.submit(job("a"))
            (got,) = await worker.acquire(1)
            usage = m.Usage(nodes=(NodeUsage(node="n1", cpu_s=2.0),))
            update = m.Update(
                job_id=got.job_id,
                attempt_nr=got.attempt_nr,
                state=JobState.RUNNING,
                since=0.0,
                usage=usage,
            )
            await beat(worker, None, update)
            used: tuple[NodeUsage, ...] = ()
            while not used:
                used = (await look(other, worker)).used
            assert used == usage.nodes

    asyncio.run(asyncio.wait_for(test(), 60))
