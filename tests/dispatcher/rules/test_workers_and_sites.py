"""Workers and sites as the queue sees them: registration, restarts, drains, turns of users."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.api import JobsQuery, Scope, WorkersQuery
from ailurus.protocol.hardware import GpuModel, Hardware
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending, Phase
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from tests.dispatcher.helpers import ALICE, BIG, BOB, EDGE, bench, job, run
from tests.rig.waiting import eventually

S = JobState
CAROL = Caller(subject="carol", scopes=ALICE.scopes)


def test_a_restarted_dispatcher_knows_all_and_gives_every_lease_its_full_length(place):
    async def before():
        async with bench(place) as b:
            await b.submit(job("a"), job("b"))
            worker = await b.worker()
            (got,) = await worker.acquire()
            await b.forward(29)
            return worker, got

    worker, got = asyncio.run(before())

    async def after(b):
        worker.service = b.service
        await b.forward(29)
        assert await b.state(got.job_id) is S.SENT
        await worker.beat(got)
        assert await worker.report(got) == "accepted"
        assert [j.job_id for j in await worker.acquire()] == [got.job_id + 1]

    run(after, place)


async def test_a_job_that_no_queue_can_run_is_refused_with_the_field(b):
    slot = m.SlotShape(name="std", queue="q", room=Room(cores=4, memory_mb=9000, disk_mb=9000))
    await b.service.edges.hello(m.Hello(site="here", instance="e1", slots=(slot,)), EDGE)
    with pytest.raises(Rejected) as refused:
        await b.submit(job(cores=64))
    assert refused.value.field == "jobs[0].cores"
    assert "64 cores are asked for, the largest slot of its queues has 4" in refused.value.title


async def test_why_tells_never_from_not_now(b):
    one, two = await b.submit(job("a", cores=12), job("b", cores=12))
    why = await b.service.users.why(None, ALICE, job_id=one)
    assert (why.verdict, "No pilot serves queue q" in why.sentence) == ("later", True)
    worker = await b.worker()
    (got,) = await worker.acquire()
    await b.service.heartbeats.beat(
        m.Beat(room=Room(cores=4, memory_mb=9000, disk_mb=9000)), worker.caller
    )
    why = await b.service.users.why(None, ALICE, job_id=two)
    assert why.blockers == ("1 pilots: it needs 12 cores, has 4",)
    assert (await b.service.users.why(None, ALICE, job_id=got.job_id)).verdict == "runs"


async def test_a_second_edge_of_a_site_is_refused_until_the_first_is_silent(b):
    first = await b.service.edges.hello(m.Hello(site="here", instance="e1", slots=()), EDGE)
    with pytest.raises(Rejected, match="another edge"):
        await b.service.edges.hello(m.Hello(site="here", instance="e2", slots=()), EDGE)
    await b.forward(121)
    second = await b.service.edges.hello(m.Hello(site="here", instance="e2", slots=()), EDGE)
    assert second.epoch == first.epoch + 1
    with pytest.raises(Rejected, match="is over"):
        await b.service.edges.demand(m.DemandRequest(site="here", epoch=first.epoch), EDGE)


async def test_a_worker_registers_once_with_its_bootstrap_token(b):
    welcome = await b.service.edges.hello(m.Hello(site="here", instance="e1", slots=()), EDGE)
    ask = m.NewIntent(
        site="here", epoch=welcome.epoch, intent="i1", queue="q", count=1, deadline=4e9
    )
    assert len((await b.service.edges.intent(ask, EDGE)).tokens) == 1
    boot = Caller(
        subject="b", scopes=frozenset({Scope.BOOTSTRAP}), intent="i1", queue="q", site="here",
        epoch=welcome.epoch,
    )  # fmt: skip
    me = m.Register(instance="me", queue="q", total=BIG)
    first = await b.service.registration.register(me, boot)
    assert (await b.service.registration.register(me, boot)).worker_id == first.worker_id
    with pytest.raises(Rejected, match="another pilot"):
        await b.service.registration.register(
            m.Register(instance="other", queue="q", total=BIG), boot
        )


@pytest.mark.parametrize("vouched", [True, False])
async def test_r2_after_a_fail_over_only_workers_that_an_edge_has_seen_register(b, vouched):
    """A worker that its edge submitted after it had lost the site is a stray, and takes no job."""
    old = await b.service.edges.hello(m.Hello(site="here", instance="e1", slots=()), EDGE)
    ask = m.NewIntent(site="here", epoch=old.epoch, intent="i1", queue="q", count=1, deadline=4e9)
    await b.service.edges.intent(ask, EDGE)
    await b.forward(121)
    new = await b.service.edges.hello(m.Hello(site="here", instance="e2", slots=()), EDGE)
    boot = Caller(
        subject="b", scopes=frozenset({Scope.BOOTSTRAP}), intent="i1", queue="q", site="here",
        epoch=old.epoch,
    )  # fmt: skip
    me = m.Register(instance="me", queue="q", total=BIG)
    if not vouched:
        with pytest.raises(Rejected, match="another edge has taken site here"):
            await b.service.registration.register(me, boot)
        return
    news = m.WorkerObservation(intent="i1", index=0, phase=Phase.QUEUED)
    told = m.WorkerObservations(site="here", epoch=new.epoch, workers=(news,))
    await b.service.edges.workers_news(told, EDGE)
    assert (await b.service.registration.register(me, boot)).worker_id


async def test_the_end_of_a_worker_seen_by_its_edge_frees_its_jobs_at_once(b):
    from tests.dispatcher.helpers import Worker

    (one,) = await b.submit()
    welcome = await b.service.edges.hello(m.Hello(site="here", instance="e1", slots=()), EDGE)
    ask = m.NewIntent(
        site="here", epoch=welcome.epoch, intent="i1", queue="q", count=1, deadline=4e9
    )
    await b.service.edges.intent(ask, EDGE)
    boot = Caller(
        subject="b", scopes=frozenset({Scope.BOOTSTRAP}), intent="i1", queue="q", site="here",
        epoch=welcome.epoch,
    )  # fmt: skip
    me = m.Register(instance="me", queue="q", total=BIG)
    worker = Worker(b.service, await b.service.registration.register(me, boot), "q")
    await worker.acquire()
    news = m.WorkerObservation(intent="i1", index=0, phase=Phase.ENDED, ending=Ending.NODE_FAIL)
    told = m.WorkerObservations(site="here", epoch=welcome.epoch, workers=(news,))
    await b.service.edges.workers_news(told, EDGE)
    assert await b.state(one) is S.ACTIVATED


async def test_what_a_worker_never_began_goes_to_others_when_it_says_goodbye(b):
    begun, unbegun = await b.submit(job("a"), job("b"))
    worker = await b.worker()
    first, _ = await worker.acquire(count=2)
    await worker.beat(first, state=S.RUNNING)
    await b.service.workers.bye(m.Bye(ending=Ending.DONE), worker.caller)
    assert await b.state(unbegun) is S.ACTIVATED
    assert await b.state(begun) is S.RUNNING  # its report may be on its way, from the spool
    other = await b.worker()
    (again,) = await other.acquire(count=2)
    assert (again.job_id, again.attempt_nr) == (unbegun, 2)


async def test_a_worker_that_says_it_drains_is_given_nothing_more(b):
    worker = await b.worker()
    waiting = asyncio.create_task(worker.acquire(wait_s=20.0))
    await eventually(lambda: b.service.hub.waiting("q"))
    await b.service.heartbeats.beat(m.Beat(room=BIG, draining=True), worker.caller)
    assert await asyncio.wait_for(waiting, 5) == []
    await b.submit()
    assert await worker.acquire() == []


async def test_what_is_leased_is_no_longer_free(b):
    await b.submit(*(job(f"j{n}", cores=4, memory_mb=4000) for n in range(3)))
    worker = await b.worker()
    await worker.acquire(count=2)
    heard = b.service.state.live[worker.id]
    assert (heard.room.cores, heard.room.memory_mb) == (8, 64_000 - 2 * 4000)
    ask = m.Acquire(request_id="next", room=BIG, ahead=True)  # staged in while both run
    assert (await b.service.workers.acquire(ask, worker.caller)).jobs
    assert heard.room.cores == 8
    await b.submit(job("wide", cores=16))
    assert await worker.acquire()  # it says that it has room: so it had, and has none now
    assert heard.room.cores == 0


AHEAD = m.Acquire(request_id="next", room=BIG, ahead=True)


@pytest.mark.parametrize("before", ["it asks", "it asks again"])
async def test_nobody_stages_in_ahead_what_another_worker_could_begin(b, before):
    busy, idle = await b.worker(), await b.worker()
    if before == "it asks again":
        assert await idle.acquire() == []
    first, second, third = await b.submit(*(job(f"j{n}", cores=16) for n in range(3)))
    assert [one.job_id for one in await busy.acquire()] == [first]
    assert (await b.service.workers.acquire(AHEAD, busy.caller)).jobs == ()
    assert [one.job_id for one in await idle.acquire()] == [second]
    (ahead,) = (await b.service.workers.acquire(AHEAD, busy.caller)).jobs
    assert ahead.job_id == third


async def test_a_worker_that_has_ended_or_has_too_little_room_keeps_nobody_from_staging_in(b):
    busy, gone, small = await b.worker(), await b.worker(), await b.worker()
    await b.submit(job("one", cores=16), job("two", cores=16))
    assert await busy.acquire()
    await b.service.workers.bye(m.Bye(ending=Ending.DONE), gone.caller)
    assert await small.acquire(room=Room(cores=1, memory_mb=1000, disk_mb=1000)) == []
    assert (await b.service.workers.acquire(AHEAD, busy.caller)).jobs


async def test_a_job_wakes_whoever_has_room_before_whoever_will_have_some(b):
    busy, idle = await b.worker(), await b.worker()
    early = asyncio.create_task(b.service.workers.acquire(replace(AHEAD, wait_s=20.0), busy.caller))
    waiting = asyncio.create_task(idle.acquire(wait_s=20.0))
    await eventually(lambda: b.service.hub.waiting("q"))
    await b.submit()
    assert await asyncio.wait_for(waiting, 5)
    assert not early.done()
    early.cancel()


async def test_jobs_are_listed_by_name_or_by_how_it_begins_and_a_star_is_any(b):
    await b.submit(job("mc_1"), job("mc_2"), job("data"))
    for name, found in (("data", 1), ("mc_*", 2), ("mc_", 0), ("*", 3), ("", 3)):
        for state in ("", "activated"):
            page = await b.service.users.jobs(JobsQuery(name=name, state=state), ALICE)
            assert len(page.jobs) == found, name


@pytest.mark.settings(shares={"carol": 3.0})
async def test_users_take_turns_however_much_one_of_them_has_submitted(b):
    async def order(b, worker, n):
        jobs = [one.job_id for _ in range(n) for one in await worker.acquire()]
        owners = {}
        for user in (ALICE, BOB, CAROL):
            rows = (await b.service.users.jobs(JobsQuery(), user)).jobs
            owners |= {row.job_id: row.user[0] for row in rows}
        return "".join(owners[one] for one in jobs)

    await b.submit(*(job(f"j{i}") for i in range(60)))
    worker = await b.worker()
    assert await order(b, worker, 10) == "a" * 10
    await b.submit(*(job(f"j{i}") for i in range(5)), caller=BOB)
    assert await order(b, worker, 12) == "aabababababa"
    await b.submit(*(job(f"j{i}", cores=2) for i in range(4)), caller=BOB)
    await b.submit(*(job(f"j{i}") for i in range(40)), caller=CAROL)
    taken = await order(b, worker, 24)
    share = {user: taken.count(user) for user in "abc"}  # b's jobs take two turns each
    assert share == {"a": 6, "b": 2, "c": 16}, taken  # of c's, three make one
    await b.submit(job("urgent", priority=1), caller=BOB)
    assert await order(b, worker, 1) == "b"


async def test_what_kind_of_machine_a_worker_has_is_shown(b):
    hardware = Hardware(
        arch="x86-64-v3",
        gpus=(GpuModel(count=2, vendor="nvidia", model="NVIDIA H200", memory_mb=144_384),),
        driver="570.86.15",
        cuda="12.8",
    )
    pilot = Caller(subject="p", scopes=frozenset({Scope.PILOT}))
    me = m.Register(instance="me", queue="q", total=BIG, hardware=hardware)
    told = (await b.service.registration.register(me, pilot)).worker_id
    older = m.Register(instance="older", queue="q", total=BIG)
    silent = (await b.service.registration.register(older, pilot)).worker_id
    rows = (await b.service.figures.workers(WorkersQuery(), ALICE)).workers
    assert {row.worker_id: row.hardware for row in rows} == {told: hardware, silent: None}
