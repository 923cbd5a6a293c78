"""Pilots that were taken for lost and speak again, and dispatchers that begin anew under them."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope, WorkersQuery
from ailurus.protocol.resources import Room
from ailurus.protocol.states import FINAL, JobState, Progress, Refusal, resume
from ailurus.protocol.worker import Ending
from ailurus.wire.retry import LONGEST_BACKOFF_S
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from dispatcher.service.state import WorkerEnd, end_worker
from tests.dispatcher.helpers import ALICE, BIG, Worker, bench, job, run
from tests.rig.waiting import eventually

S = JobState


async def row(one, worker) -> m.WorkerRow:
    rows = (await one.service.figures.workers(WorkersQuery(ended=True), ALICE)).workers
    return next(row for row in rows if row.worker_id == worker.id)


@pytest.mark.field("H1")
def test_who_comes_back_is_what_the_store_knows_of_it_and_that_is_said(place):
    async def test(one):
        total = Room(cores=8, memory_mb=16_000, disk_mb=10_000)
        worker = await one.worker(total=total, host="n1", site="here")
        await one.forward(31)
        assert (await row(one, worker)).ending == "lost"
        await worker.beat()
        assert [offer.total for offer in one.service.state.offers("q")] == [total]
        back = await row(one, worker)
        assert (back.total, back.host, back.site, back.phase) == (total, "n1", "here", "active")
        assert "came back" in back.diagnosis
        assert [event.data["back"] for event in await one.told() if "back" in event.data] == [True]

    run(test, place)


@pytest.mark.field("H1")
def test_who_was_draining_and_comes_back_is_still_draining(tmp_path):
    async def test(one):
        worker = await one.worker()
        await one.service.store.write(
            lambda tx: tx.run("worker.drain", worker_id=worker.id, site="")
        )
        await one.forward(31)
        assert (await worker.beat()).drain

    run(test, tmp_path)


@pytest.mark.field("H1")
def test_a_worker_that_has_ended_otherwise_does_not_come_back(place):
    async def test(one):
        worker = await one.worker()
        await one.service.workers.bye(m.Bye(ending="done", diagnosis=""), worker.caller)
        with pytest.raises(Rejected) as refused:
            await worker.beat()
        assert refused.value.status == 410

    run(test, place)


@pytest.mark.field("H4")
@pytest.mark.parametrize("state", [S.SENT, S.STARTING, S.RUNNING, S.HOLDING])
def test_a_lost_attempt_that_nobody_has_begun_anew_goes_on(place, state):
    async def test(one):
        (job,) = await one.submit()
        worker = await one.worker()
        (got,) = await worker.acquire()
        await worker.beat(got)
        await one.forward(31)
        await one.forward(31)  # on a shared store the leader looks twice
        assert await one.state(job) is S.ACTIVATED
        assert not (await worker.beat(got, state=state)).commands
        assert await one.state(job) is state
        assert (await row(one, worker)).jobs == (job,)
        assert await (await one.worker()).acquire() == []  # nobody runs it twice
        await one.forward(25)
        await worker.beat(got, state=state)
        await one.forward(25)  # it is renewed as any other
        assert await one.state(job) is state
        assert await worker.report(got) == "accepted"
        detail = await one.service.users.show(None, ALICE, job_id=job)
        assert [(attempt.attempt_nr, attempt.state) for attempt in detail.attempts] == [
            (1, "finished")
        ]

    run(test, place)


@pytest.mark.field("H1", "H4")
def test_a_worker_that_is_silent_gets_nothing_by_an_acquire_that_it_left_waiting(place):
    """A stopped pilot's request is held: its own lost job must not be leased to it a second
    time."""

    async def test(one):
        (job,) = await one.submit()
        worker = await one.worker()
        (got,) = await worker.acquire()
        waiting = asyncio.create_task(worker.acquire(wait_s=20.0))
        await eventually(lambda: one.service.hub.waiting("q"))
        await one.forward(31)
        assert await one.state(job) is S.ACTIVATED
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert await one.state(job) is S.ACTIVATED
        waiting.cancel()
        assert await worker.acquire() == []  # it asks anew before it has said what it has
        assert not (await worker.beat(got)).commands
        assert await one.state(job) is S.RUNNING
        assert one.service.state.leases.of(job).attempt_nr == 1

    run(test, place)


@pytest.mark.field("H1", "H4")
def test_a_worker_that_comes_back_with_nothing_gets_jobs_again(place):
    async def test(one):
        (job,) = await one.submit()
        worker = await one.worker()
        await worker.acquire()
        await one.forward(31)
        waiting = asyncio.create_task(worker.acquire(wait_s=20.0))
        await eventually(lambda: one.service.hub.waiting("q"))
        (other,) = await one.submit()
        (at_once,) = await asyncio.wait_for(waiting, 5)  # of others' jobs it gets what it asks for
        assert at_once.job_id == other
        waiting = asyncio.create_task(worker.acquire(wait_s=20.0))
        await eventually(lambda: one.service.hub.waiting("q"))
        await worker.beat(at_once)  # what it lost it has no more
        (again,) = await asyncio.wait_for(waiting, 5)
        assert (again.job_id, again.attempt_nr) == (job, 2)

    run(test, place)


@pytest.mark.field("H4")
def test_a_lost_attempt_that_was_begun_anew_is_shown_where_it_runs_and_the_newer_one_holds(place):
    async def test(one):
        (job,) = await one.submit()
        first, second = await one.worker(), await one.worker()
        (old,) = await first.acquire()
        await one.forward(31)
        (new,) = await second.acquire()
        assert not (await first.beat(old)).commands  # its report may still win
        assert (await row(one, first)).jobs == (job,)
        assert (await row(one, second)).jobs == (job,)
        assert one.service.state.leases.of(job).attempt_nr == new.attempt_nr == 2
        assert await second.report(new) == "accepted"
        assert [one.action for one in (await first.beat(old)).commands] == ["kill"]
        await first.beat()
        assert (await row(one, first)).jobs == ()

    run(test, place)


async def ends_late(one, worker, got, when):
    """Let a lease run out, whose worker beats beside the commit that ends it."""
    await one.forward(29)
    store = one.service.state.store
    write = store.write

    async def slow(change, *ahead):
        if when == "before":
            await worker.beat(got)
        answer = await write(change, *ahead)
        if when == "after":
            await worker.beat(got)
        return answer

    store.write = slow
    await one.forward(2)
    store.write = write


@pytest.mark.field("H4")
def test_a_lease_that_is_renewed_while_its_end_waits_for_the_disk_holds(tmp_path):
    async def test(one):
        (id_,) = await one.submit(job(max_attempts=1))
        worker = await one.worker()
        (got,) = await worker.acquire()
        await worker.beat(got)
        await ends_late(one, worker, got, "before")
        assert await one.state(id_) is S.RUNNING
        assert not (await worker.beat(got)).commands
        assert await worker.report(got) == "accepted"

    run(test, tmp_path)


@pytest.mark.field("H4")
@pytest.mark.parametrize(("attempts", "state"), [(1, S.FAILED), (2, S.RUNNING)])
def test_a_lease_that_is_renewed_when_the_store_has_ended_it_is_what_the_store_says(
    tmp_path, attempts, state
):
    async def test(one):
        (id_,) = await one.submit(job(max_attempts=attempts))
        worker = await one.worker()
        (got,) = await worker.acquire()
        await worker.beat(got)
        await ends_late(one, worker, got, "after")
        stops = [command.action for command in (await worker.beat(got)).commands]
        assert stops == [m.Action.KILL] * (state is S.FAILED)
        assert await one.state(id_) is state
        assert (await row(one, worker)).phase == "active"

    run(test, tmp_path)


@pytest.mark.field("H4")
def test_an_attempt_of_another_worker_is_not_taken_by_naming_it(place):
    async def test(one):
        (job,) = await one.submit()
        worker, thief = await one.worker(), await one.worker()
        (got,) = await worker.acquire()
        await one.forward(31)
        assert [one.action for one in (await thief.beat(got)).commands] == ["kill"]
        assert await one.state(job) is S.ACTIVATED

    run(test, place)


@pytest.mark.field("H4")
def test_what_the_store_knows_as_a_workers_memory_takes_up(place):
    async def test(one):
        (job,) = await one.submit()
        worker = await one.worker()
        (got,) = await worker.acquire()
        one.service.state.leases.drop(job)
        assert not (await worker.beat(got)).commands
        assert one.service.state.leases.held(worker.id, job, 1)

    run(test, place)


@pytest.mark.field("H4")
def test_the_first_lease_after_a_start_is_longer_than_a_pilots_longest_pause(tmp_path):
    async def test() -> None:
        url = f"sqlite:///{tmp_path / 'queue.db'}"
        async with bench(url, heartbeat_s=0.5) as one:
            (job,) = await one.submit()
            worker = await one.worker()
            (got,) = await worker.acquire()
        async with bench(url, heartbeat_s=0.5) as two:
            await two.forward(LONGEST_BACKOFF_S + 10)
            assert await two.state(job) is S.SENT
            again = Worker(
                two.service,
                m.Registered(worker_id=worker.id, token="", heartbeat_s=1, lease_s=1),
                "q",
            )
            assert not (await again.beat(got)).commands
            assert two.service.state.offers("q")[0].total == BIG
            await two.forward(2)  # from here on it has its own length
            assert await two.state(job) is S.ACTIVATED

    asyncio.run(test())


@pytest.mark.field("H4")
def test_only_the_current_attempt_of_a_job_that_waits_is_resumed():
    for state in S:
        job = Progress(state=state, attempt_nr=2, max_attempts=5, retry_all=False)
        if state in FINAL:
            assert resume(job, 2) is Refusal.ALREADY_DONE
        elif state is S.ACTIVATED:
            assert resume(job, 2) == replace(job, state=S.SENT)
            assert resume(job, 1) is Refusal.BAD_ATTEMPT
        else:
            assert resume(job, 2) is Refusal.BAD_ATTEMPT


PILOT = Caller(subject="ops", scopes=frozenset({Scope.PILOT}))
PLANNED = Caller(
    subject="b", scopes=frozenset({Scope.BOOTSTRAP}), site="here", queue="q", intent="i", epoch=1
)


async def registers(one, caller, instance="p"):
    ask = m.Register(instance=instance, queue="q", total=BIG, host="n1")
    return Worker(one.service, await one.service.registration.register(ask, caller), "q")


@pytest.mark.parametrize("caller", [PILOT, PLANNED], ids=["by hand", "of an edge"])
def test_who_was_lost_and_registers_again_is_alive_for_all_and_gets_nothing_it_may_have(
    place, caller
):
    async def test(one):
        await one.service.store.write(
            lambda tx: tx.one(
                "worker.plan", site="here", queue="q", intent="i", idx=0, deadline=None
            )
        )
        worker = await registers(one, caller)
        await one.submit()
        (got,) = await worker.acquire()
        await worker.beat(got)
        await one.forward(31)
        assert (await row(one, worker)).ending == "lost"
        again = await registers(one, caller)
        assert again.id == worker.id
        assert (await row(one, worker)).phase == "active"
        assert not await again.acquire()
        assert not (await again.beat(got)).commands
        assert await again.report(got) == "accepted"

    run(test, place)


def test_who_said_goodbye_does_not_register_again(place):
    async def test(one):
        worker = await registers(one, PILOT)
        await one.service.workers.bye(m.Bye(ending="done"), worker.caller)
        with pytest.raises(Rejected) as refused:
            await registers(one, PILOT)
        assert refused.value.status == 410

    run(test, place)


def test_who_is_to_drain_and_registers_again_still_is(place):
    async def test(one):
        worker = await registers(one, PILOT)
        await one.service.store.write(
            lambda tx: tx.run("worker.drain", worker_id=worker.id, site="")
        )
        await registers(one, PILOT)
        assert (await worker.beat()).drain

    run(test, place)


def test_a_worker_that_ends_just_after_it_registered_is_not_left_in_memory(tmp_path):
    async def test(one):
        (worker_id,) = await one.service.store.write(
            lambda tx: tx.one(
                "worker.plan", site="here", queue="q", intent="i", idx=0, deadline=None
            )
        )

        async def ends():
            state = one.service.state
            end = WorkerEnd(ending=Ending.DONE)
            await state.store.write(lambda tx: end_worker(tx, worker_id, end, now=state.now()))
            state.forget_worker(worker_id)

        await asyncio.gather(registers(one, PLANNED), ends())
        assert worker_id not in one.service.state.live

    run(test, tmp_path / "store.sqlite")
