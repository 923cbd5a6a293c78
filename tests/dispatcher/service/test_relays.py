"""What a relay says for its workers, on a real store."""

from __future__ import annotations

import asyncio
import time

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending, Phase
from dispatcher.auth.caller import Caller
from dispatcher.service.peers import FLUSH_S
from tests.dispatcher.helpers import ALICE, BIG, EDGE, Worker, new_id, run
from tests.rig.waiting import eventually

S = JobState
RELAY = Caller(subject="relay", scopes=frozenset({Scope.RELAY}), site="here")
OUTAGE_S = 3600.0


async def planned(b, index: int = 0, outage_s: float | None = OUTAGE_S) -> Worker:
    """A worker of site `here`, planned by its edge."""
    welcome = await b.service.edges.hello(m.Hello(site="here", instance="e", slots=()), EDGE)
    intent = m.NewIntent(
        site="here", epoch=welcome.epoch, intent="t", queue="q", count=index + 1,
        deadline=time.time() + 900, outage_s=outage_s,
    )  # fmt: skip
    await b.service.edges.intent(intent, EDGE)
    caller = Caller(
        subject="bootstrap", scopes=frozenset({Scope.BOOTSTRAP}), intent="t", index=index,
        epoch=welcome.epoch, queue="q", site="here",
    )  # fmt: skip
    ask = m.Register(instance=f"i{index}", queue="q", total=BIG)
    return Worker(b.service, await b.service.registration.register(ask, caller), "q")


def asks(*workers: Worker, request: str = "", wait_s: float = 0.0) -> m.RelayAcquire:
    return m.RelayAcquire(
        site="here",
        wait_s=wait_s,
        asks=tuple(
            m.RelayedAcquire(
                worker_id=one.id, ask=m.Acquire(request_id=request or new_id(), room=BIG)
            )
            for one in workers
        ),
    )


def beats(worker: Worker, *jobs, state: JobState = S.RUNNING) -> m.RelayBeat:
    updates = tuple(
        m.Update(job_id=j.job_id, attempt_nr=j.attempt_nr, state=state, since=0.0) for j in jobs
    )
    beat = m.Beat(jobs=updates, room=BIG)
    return m.RelayBeat(site="here", beats=(m.RelayedBeat(worker_id=worker.id, beat=beat),))


def test_a_lease_behind_a_relay_outlives_an_outage_and_no_longer(tmp_path):
    async def test(b):
        near, far = await b.worker(), await planned(b)
        one, two = await b.submit(), await b.submit()
        await near.acquire()
        answer = await b.service.relays.relay_acquire(asks(far), RELAY)
        assert len(answer.workers[0].got.jobs) == 1
        await b.forward(OUTAGE_S / 2)
        assert sorted([await b.state(one[0]), await b.state(two[0])]) == [S.ACTIVATED, S.SENT]
        await b.forward(OUTAGE_S)
        assert [await b.state(one[0]), await b.state(two[0])] == [S.ACTIVATED] * 2

    run(test, tmp_path)


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_that_ended_is_forgotten_whole(place, busy):
    """Its edge says that it ended; the dispatcher knew how long it may be silent behind its
    relay."""

    async def test(b):
        workers = [await planned(b, index) for index in range(3)]
        if busy:
            await b.submit()
            await b.service.relays.relay_acquire(asks(*workers), RELAY)
        ended = tuple(
            m.WorkerObservation(intent="t", index=index, phase=Phase.ENDED, ending=Ending.DONE)
            for index in range(3)
        )
        await b.service.edges.workers_news(
            m.WorkerObservations(site="here", epoch=1, workers=ended), EDGE
        )
        assert not b.service.state.live
        assert not b.service.state.relay_silence_s

    run(test, place)


def test_a_worker_that_says_goodbye_keeps_its_length_while_it_holds_a_job(place):
    async def test(b):
        worker = await planned(b)
        (one,) = await b.submit()
        got = (await b.service.relays.relay_acquire(asks(worker), RELAY)).workers[0].got
        await b.service.relays.relay_tell(beats(worker, *got.jobs), RELAY)
        await worker.service.workers.bye(m.Bye(ending=Ending.DONE), worker.caller)
        await b.forward(OUTAGE_S / 2)
        assert await b.state(one) is S.RUNNING
        for _ in range(2):  # on a shared store the leader looks twice
            await b.forward(OUTAGE_S + 1)
        assert await b.state(one) is S.ACTIVATED
        await b.forward(FLUSH_S)
        assert not b.service.state.relay_silence_s

    run(test, place)


def test_a_restarted_dispatcher_still_knows_who_is_behind_a_relay(tmp_path):
    async def before(b):
        worker = await planned(b)
        await b.submit()
        await b.service.relays.relay_acquire(asks(worker), RELAY)

    async def after(b):
        await b.forward(OUTAGE_S / 2)
        assert await b.state(1) is S.SENT

    run(before, tmp_path)
    run(after, tmp_path)


def test_an_acquire_repeated_by_the_relay_gets_what_it_got(tmp_path):
    async def test(b):
        worker = await planned(b)
        await b.submit()
        first = await b.service.relays.relay_acquire(asks(worker, request="once"), RELAY)
        again = await b.service.relays.relay_acquire(asks(worker, request="once"), RELAY)
        assert first == again
        assert len(first.workers[0].got.jobs) == 1

    run(test, tmp_path)


def test_the_first_job_answers_all_and_wakes_one(tmp_path):
    async def test(b):
        workers = [await planned(b, index) for index in range(3)]
        began = time.monotonic()
        held = asyncio.create_task(b.service.relays.relay_acquire(asks(*workers, wait_s=20), RELAY))
        await eventually(lambda: b.service.hub.waiting("q"))
        await b.submit()
        answer = await held
        assert time.monotonic() - began < 5
        assert sum(len(one.got.jobs) for one in answer.workers if one.got) == 1

    run(test, tmp_path)


def test_beats_renew_mark_and_bring_commands(tmp_path):
    async def test(b):
        worker = await planned(b)
        (job,) = await b.submit()
        got = await b.service.relays.relay_acquire(asks(worker), RELAY)
        (assigned,) = got.workers[0].got.jobs
        await b.service.relays.relay_tell(beats(worker, assigned), RELAY)
        assert await b.state(job) is S.RUNNING
        await b.service.users.cancel(m.Cancel(job_ids=(job,)), ALICE)
        told = await b.service.relays.relay_tell(beats(worker, assigned), RELAY)
        assert [one.action for one in told.workers[0].told.commands] == [m.Action.KILL]

    run(test, tmp_path)


def test_a_worker_that_the_relay_lost_gives_its_job_to_another_at_once(tmp_path):
    async def test(b):
        worker = await planned(b)
        (job,) = await b.submit()
        got = await b.service.relays.relay_acquire(asks(worker), RELAY)
        (one,) = got.workers[0].got.jobs
        held = m.AttemptKey(job_id=one.job_id, attempt_nr=one.attempt_nr)
        bye = m.RelayedBye(worker_id=worker.id, bye=m.Bye(ending=Ending.LOST))
        tell = m.RelayBeat(site="here", lost=(held,), byes=(bye,))
        await b.service.relays.relay_tell(tell, RELAY)
        await b.service.relays.relay_tell(tell, RELAY)  # its answer was lost
        assert await b.state(job) is S.ACTIVATED
        assert await worker.report(one) == "accepted"  # and its own report may still win

    run(test, tmp_path)


def test_t5_a_relay_speaks_for_its_own_site_only(tmp_path):
    async def test(b):
        stranger = await b.worker(site="there")
        (job,) = await b.submit()
        (one,) = await stranger.acquire()
        told = await b.service.relays.relay_tell(beats(stranger, one), RELAY)
        assert told.workers[0].told is None
        held = m.AttemptKey(job_id=one.job_id, attempt_nr=one.attempt_nr)
        release = m.RelayedRelease(worker_id=stranger.id, release=m.Release(jobs=(held,)))
        bye = m.RelayedBye(worker_id=stranger.id, bye=m.Bye(ending=Ending.DONE))
        tell = m.RelayBeat(site="here", lost=(held,), releases=(release,), byes=(bye,))
        await b.service.relays.relay_tell(tell, RELAY)
        assert await b.state(job) is S.SENT
        got = await b.service.relays.relay_acquire(asks(stranger), RELAY)
        assert got.workers[0].got is None

    run(test, tmp_path)
