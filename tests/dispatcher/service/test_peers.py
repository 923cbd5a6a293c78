"""Two dispatchers on one database: whichever is asked, the answer is the same."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.api import LogQuery, NoQuery, SamplesQuery, TailQuery
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from dispatcher.accounts.rates import Limiter, Rates, TooMuch
from dispatcher.ports import Unavailable
from dispatcher.refusal import Rejected
from dispatcher.rules.worker_records import find_site
from tests.dispatcher.helpers import ALICE, BIG, EDGE, Worker, bench, job, request, run
from tests.rig.waiting import eventually

S = JobState


@pytest.fixture
def database(postgres_server):
    return postgres_server.database()


def run_two(test, database, **settings):
    async def main():
        async with bench(database, **settings) as one, bench(database, **settings) as two:
            await asyncio.wait_for(test(one, two), 50)

    asyncio.run(main())


async def forward(seconds, *benches):
    """Let time pass for several dispatchers, each of which sees all the while that the others
    live."""
    for _ in range(seconds):
        for one in benches:
            await one.forward(1)


def at(two, worker) -> Worker:
    """The same worker, talking to another dispatcher."""
    return Worker(
        two.service, m.Registered(worker_id=worker.id, token="", heartbeat_s=1, lease_s=1), "q"
    )


def test_a_job_is_acquired_here_beaten_there_and_reported_here(database):
    async def test(one, two):
        (id_,) = await one.submit()
        worker = await one.worker()
        (got,) = await at(two, worker).acquire()
        await eventually(lambda: one.service.state.leases.of(id_))
        assert not (await worker.beat(got)).commands
        await eventually(lambda: two.service.state.leases.of(id_).state is S.RUNNING)
        assert await at(two, worker).report(got) == "accepted"
        assert await worker.report(got) == "accepted"  # again, for the answer was lost
        assert await one.state(id_) is S.FINISHED
        await eventually(lambda: not one.service.state.leases.of(id_))

    run_two(test, database)


def test_a_waiting_worker_is_woken_by_a_submission_to_another_dispatcher(database):
    async def test(one, two):
        worker = await one.worker()
        waiting = asyncio.create_task(worker.acquire(wait_s=20.0))
        await eventually(lambda: one.service.hub.waiting("q"))
        await two.submit()
        async with asyncio.timeout(2):
            assert len(await waiting) == 1

    run_two(test, database)


def test_a_row_that_was_read_before_a_fail_over_does_not_undo_it(database):
    async def test(one, two):
        await one.service.edges.hello(m.Hello(site="here", instance="e1", slots=()), EDGE)
        before = await one.service.store.read(lambda tx: find_site(tx, "here"))
        await one.forward(121)
        new = await one.service.edges.hello(m.Hello(site="here", instance="e2", slots=()), EDGE)
        one.service.state.know_site(before)
        assert one.service.state.sites["here"].epoch == new.epoch == 2

    run_two(test, database)


def test_no_job_is_leased_twice_and_none_is_left_when_both_hand_out(database):
    async def test(one, two):
        ids = await one.submit(*(job(f"j{i}", cores=1 + i % 3) for i in range(300)))
        workers = [await side.worker() for side in (one, two) for _ in range(4)]
        got = []

        async def drain(worker):
            while jobs := await worker.acquire(count=3, wait_s=2.5):
                got.extend(one.job_id for one in jobs)
                await asyncio.gather(*(worker.report(one) for one in jobs))
                if len(got) == len(ids):
                    break

        await asyncio.gather(*(drain(worker) for worker in workers))
        assert sorted(got) == sorted(ids)
        states = (await two.service.figures.overview(None, ALICE)).states
        assert {state: n for state, n in states.items() if n} == {S.FINISHED: 300}

    run_two(test, database)


def test_a_worker_that_another_dispatcher_hears_keeps_its_lease(database):
    async def test(one, two):
        await one.submit()
        worker = await two.worker()
        (got,) = await worker.acquire()
        await eventually(
            lambda: one.service.state.leases.of(got.job_id) and worker.id in one.service.state.live
        )
        assert one.service.peers.leads
        for _ in range(3):
            await worker.beat(got)
            await forward(16, two, one)  # of a lease of 30 s; the rest is for a slow machine
        assert await one.state(got.job_id) is S.RUNNING
        await forward(62, two, one)
        assert await two.state(got.job_id) is S.ACTIVATED

    run_two(test, database)


def test_an_attempt_that_no_pilot_knows_of_is_lost_though_its_worker_speaks(database):
    async def test(one, two):
        await one.submit(job("a"), job("b"))
        worker = await two.worker()
        known, lost = await worker.acquire(2)
        await eventually(
            lambda: one.service.state.leases.of(lost.job_id) and worker.id in one.service.state.live
        )
        for _ in range(4):
            await worker.beat(known)
            await forward(20, two, one)
        assert await two.state(known.job_id) is S.RUNNING
        assert await two.state(lost.job_id) is S.ACTIVATED

    run_two(test, database)


def test_the_next_leads_when_the_first_is_gone_and_gives_every_lease_its_full_length(database):
    async def test(one, two):
        await one.submit()
        worker = await one.worker()
        (got,) = await worker.acquire()
        await eventually(lambda: two.service.state.leases.of(got.job_id))
        assert one.service.peers.leads
        assert not two.service.peers.leads
        for task in one.service.loops._tasks:  # as if it had been killed
            task.cancel()
        await two.forward(29)
        await eventually(lambda: two.service.peers.leads, 10)
        await two.forward(25)
        assert await two.state(got.job_id) is S.SENT
        await two.forward(10)
        assert await two.state(got.job_id) is S.ACTIVATED

    run_two(test, database)


def test_cancel_soft_kill_tail_and_looks_reach_a_pilot_of_another_dispatcher(database):
    async def test(one, two):
        hard, soft = await one.submit(job("a"), job("b"))
        worker = await two.worker()
        jobs = await worker.acquire(2)
        await worker.beat(*jobs)
        await eventually(
            lambda: one.service.state.leases.of(soft) and one.service.state.leases.of(hard)
        )
        await one.service.users.cancel(m.Cancel(job_ids=(soft,), soft=True), ALICE)
        await one.service.users.cancel(m.Cancel(job_ids=(hard,)), ALICE)
        await eventually(
            lambda: (
                two.service.state.leases.of(soft).soft_kill
                and not two.service.state.leases.of(hard)
            )
        )
        actions = {(c.job_id, c.action) for c in (await worker.beat(*jobs)).commands}
        assert actions == {(hard, m.Action.KILL), (soft, m.Action.SOFT_KILL)}

        tail = asyncio.create_task(
            one.service.users.tail(TailQuery(file="log", wait_s=30.0), ALICE, job_id=soft)
        )
        look = asyncio.create_task(one.service.users.log(LogQuery(wait_s=30.0), ALICE, job_id=soft))
        await eventually(lambda: two.service.state.leases.of(soft).tail_wanted == "log")
        await eventually(lambda: two.service.state.leases.of(soft).log_wanted)
        (held,) = (one for one in jobs if one.job_id == soft)
        update = m.Update(
            job_id=soft, attempt_nr=1, state=S.RUNNING, since=0.0, tail="the end",
            usage=m.Usage(cpu_s=2.0, wall_s=3.0, rss_kb=4),
        )  # fmt: skip
        await two.service.heartbeats.beat(m.Beat(jobs=(update,), room=BIG), worker.caller)
        assert (await tail).text == "the end"
        piece = m.LogPiece(
            job_id=soft, attempt_nr=held.attempt_nr, stream="stdout", offset=0, text="hi"
        )
        await two.service.workers.log_pieces(m.LogPieces(pieces=(piece,)), worker.caller)
        assert (await look).text == "hi"

        curve = ()
        async with asyncio.timeout(3):
            while not curve:
                await one.service.users.show(NoQuery(), ALICE, job_id=soft)
                curve = (
                    await one.service.users.samples(SamplesQuery(), ALICE, job_id=soft)
                ).samples
        assert curve[0].usage.cpu_s == 2.0

    run_two(test, database)


def test_how_far_files_are_is_seen_at_the_dispatcher_that_their_pilot_does_not_talk_to(database):
    async def test(one, two):
        (job_id,) = await one.submit()
        worker = await two.worker()
        (got,) = await worker.acquire()

        async def beat(state, staging):
            update = m.Update(
                job_id=got.job_id, attempt_nr=1, state=state, since=0.0, staging=staging
            )
            await two.service.heartbeats.beat(m.Beat(jobs=(update,), room=BIG), worker.caller)

        async def seen():
            detail = await one.service.users.show(NoQuery(), ALICE, job_id=job_id)
            return detail.attempts[-1].staging

        moving = m.Staging(files=2, done=1, moved_bytes=5, total_bytes=9, seconds=1.0)
        await beat(S.STARTING, moving)
        shown = None
        async with asyncio.timeout(3):
            while shown != moving:
                shown = await seen()
        await beat(S.RUNNING, None)
        assert await seen() is None

    run_two(test, database)


def test_a_site_is_leased_to_one_edge_whichever_dispatcher_it_asks(database):
    def hello(instance):
        room = Room(cores=8, memory_mb=1000, disk_mb=1000)
        slots = (m.SlotShape(name="std", queue="q", room=room),)
        return m.Hello(site="here", instance=instance, slots=slots, online=True)

    async def test(one, two):
        first = await one.service.edges.hello(hello("e1"), EDGE)
        with pytest.raises(Rejected, match="another edge"):
            await two.service.edges.hello(hello("e2"), EDGE)
        assert (await two.service.edges.hello(hello("e1"), EDGE)).epoch == first.epoch
        await two.service.edges.demand(m.DemandRequest(site="here", epoch=first.epoch), EDGE)
        await forward(121, one, two)
        second = await two.service.edges.hello(hello("e2"), EDGE)
        assert second.epoch == first.epoch + 1
        await eventually(lambda: one.service.state.sites["here"].epoch == second.epoch)
        with pytest.raises(Rejected, match="is over"):
            await one.service.edges.demand(m.DemandRequest(site="here", epoch=first.epoch), EDGE)
        with pytest.raises(Rejected, match="another edge"):
            await one.service.edges.hello(hello("e1"), EDGE)

    run_two(test, database)


def test_a_site_whose_dispatcher_has_no_pilot_keeps_its_edge_at_the_others(database):
    def hello(instance):
        return m.Hello(site="here", instance=instance, slots=())

    async def test(one, two):
        first = await one.service.edges.hello(hello("e1"), EDGE)
        for _ in range(2):
            await forward(90, one, two)
            await one.service.edges.demand(m.DemandRequest(site="here", epoch=first.epoch), EDGE)
            await forward(11, one, two)
        (site,) = (await two.service.figures.overview(None, ALICE)).sites
        assert site.heard
        with pytest.raises(Rejected, match="another edge"):
            await two.service.edges.hello(hello("e2"), EDGE)

    run_two(test, database)


def test_a_submission_sent_to_both_is_one(database):
    many = [job(f"j{i}") for i in range(2500)]

    async def sent(side):
        while True:
            try:
                return await side.submit(*many, request="bulk")
            except Unavailable:  # the other is storing it: as a client would, again
                await asyncio.sleep(0.05)

    async def test(one, two):
        first, second = await asyncio.gather(sent(one), sent(two))
        assert first == second
        assert (await one.service.figures.overview(None, ALICE)).states[S.ACTIVATED] == 2500
        more, others = await asyncio.gather(one.submit(*many[:5]), two.submit(*many[:5]))
        assert not set(more) & set(others)

    run_two(test, database)


def test_what_a_process_that_is_gone_did_not_finish_to_store_is_forgotten(database):
    from dispatcher.rules import submission

    async def test(one, two):
        def half(tx):
            submission.begin(tx, request("half"), 5, process=one.service.peers.name, now=1.0)

        await one.service.store.write(half)
        with pytest.raises(Unavailable):
            await two.submit(request="half")
        for task in one.service.loops._tasks:
            task.cancel()
        await eventually(lambda: two.service.peers.leads, 10)
        async with asyncio.timeout(5):
            while True:
                try:
                    assert len(await two.submit(request="half")) == 1
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)

    run_two(test, database)


def test_a_node_that_fails_jobs_of_both_dispatchers_is_excluded_at_both_and_after_a_restart(
    database,
):
    async def test(one, two):
        await one.submit(*(job(f"j{i}") for i in range(20)))
        good = [await side.worker(host=f"good{n}", site="s") for n, side in enumerate((one, two))]
        for worker in good:
            for got in await worker.acquire(count=3):
                await worker.report(got)
        hole = await one.worker(host="hole", site="s")
        for nr, side in enumerate((one, two, one)):
            (got,) = await at(side, hole).acquire()
            await at(side, hole).report(got, finished=False, transient=True, code=1344)
            if nr < 2:  # what one has heard, the other hears
                other = (two, one)[nr % 2].service.state.hosts
                await eventually(
                    lambda other=other, nr=nr: len(other._last.get(("s", "hole"), ())) == nr + 1
                )
        for side in (one, two):
            hosts, now = side.service.state.hosts, side.service.state.now()
            await eventually(lambda hosts=hosts, now=now: hosts.excluded(("s", "hole"), now))
            ask = m.Acquire(request_id="more", room=BIG)
            assert not (await side.service.workers.acquire(ask, hole.caller)).jobs
        async with bench(database) as third:
            assert (
                "do better elsewhere" in third.service.state.hosts.of_site("s", now)["hole"].reason
            )

    run_two(test, database)


def test_h7_two_dispatchers_give_a_user_little_more_than_one(database):
    rates = Rates(per_s=10.0, held=8)

    async def test(one, two):
        sides = [one.service.state, two.service.state]
        for side in sides:
            side.limiter = Limiter(rates, clock=lambda: 100.0)  # nothing is earned meanwhile
        for _ in range(50):
            sides[0].limiter.ask("alice")
        sides[0].limiter.ask("bob")  # too little to be told
        with sides[0].limiter.holding("alice"), sides[0].limiter.holding("alice"):
            await one.forward(1)
            await eventually(lambda: sides[1].limiter._account("alice").left == 50.0)
            assert sides[1].limiter._account("bob").left == 100.0
            with contextlib.ExitStack() as stack:
                for _ in range(6):  # of eight; two wait at the other dispatcher
                    stack.enter_context(sides[1].limiter.holding("alice"))
                with pytest.raises(TooMuch):
                    stack.enter_context(sides[1].limiter.holding("alice"))
        await one.forward(1)
        await eventually(lambda: not sides[1].limiter._held_elsewhere("alice"))
        assert sides[0].limiter._account("alice").left == 50.0  # its own word does not count twice

    run_two(test, database)


@pytest.mark.parametrize("letters", ['"\\é\n', '"'])
def test_h7_what_is_told_of_rates_fits_a_notice_whatever_users_are_called(database, letters):
    async def test(one, two):
        one.service.state.limiter = limiter = Limiter(Rates(per_s=1.0, held=10), clock=lambda: 0.0)
        with contextlib.ExitStack() as stack:
            for nr in range(40):
                user = f"iam:{nr}" + letters * 70
                limiter.ask(user)
                stack.enter_context(limiter.holding(user))
            await one.forward(1)

    run_two(test, database)


def test_a_row_of_a_site_that_is_read_late_makes_no_later_one_look_new(tmp_path):
    async def test(b):
        await b.service.edges.hello(m.Hello(site="here", instance="e", slots=()), EDGE)
        late = await b.service.store.read(lambda tx: find_site(tx, "here"))
        state, lease = b.service.state, b.service.state.sites["here"]
        heard = lease.heard = late.heard + 5.0
        state.know_site(late)
        await b.forward(30)
        state.know_site(replace(late, heard=heard))  # as it was written meanwhile
        assert (state.sites["here"].heard, state.sites["here"].until) == (heard, lease.until)

    run(test, tmp_path)
