"""Jobs that kill pilots, and nodes that fail jobs: neither takes the others with it."""

from __future__ import annotations

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.errors import Code
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending, Phase
from dispatcher.auth.caller import Caller
from dispatcher.memory.black_holes import IN_A_ROW, Hosts, Verdict
from tests.dispatcher.helpers import ALICE, BOB, EDGE, job, run

S = JobState


async def die(bench, worker):
    """The worker is silent for ever; the others are not."""
    bench.service.state.live[worker.id].until = bench.service.state.awake.now - 1
    for lease in bench.service.state.leases.of_worker(worker.id):
        bench.service.state.leases.hold(lease, bench.service.state.awake.now - 1)
    await bench.forward(0)


def test_r8_a_poison_job_stops_after_its_attempts_and_takes_no_other_with_it(place):
    """Sixteen slots a pilot; each pilot that gets the poison dies with all that it has."""

    async def test(b):
        (poison,) = await b.submit(job("poison", priority=9))
        good = await b.submit(*(job(f"g{i}") for i in range(40)))
        killed = 0
        for _ in range(40):
            worker = await b.worker(host="n1")
            while got := await worker.acquire(count=16):
                if any(one.job_id == poison for one in got):
                    await die(b, worker)
                    killed += 1
                    break
                for one in got:
                    assert await worker.report(one) == "accepted"
            else:
                break
        assert killed == 5  # max_attempts, on the only node there is
        assert await b.state(poison) is S.FAILED
        assert {await b.state(one) for one in good} == {S.FINISHED}

    run(test, place)


def test_r8_a_job_is_kept_from_a_node_where_it_lost_its_worker_while_another_could_run_it(place):
    async def test(b):
        (poison,) = await b.submit(job("poison"))
        first = await b.worker(host="n1")
        await first.acquire()
        await die(b, first)
        again = await b.worker(host="n1")
        assert await again.acquire() != []  # there is no other node
        await die(b, again)
        (behind,) = await b.submit(job("behind"))
        here, there = await b.worker(host="n1"), await b.worker(host="n2")
        assert [one.job_id for one in await here.acquire()] == [behind]
        assert [one.job_id for one in await there.acquire()] == [poison]

    run(test, place)


@pytest.mark.parametrize(("ending", "left"), [(Ending.PREEMPTED, True), (Ending.FAILED, False)])
def test_r8_preemption_costs_no_attempt_and_a_dead_worker_does(place, ending, left):
    async def test(b):
        (one,) = await b.submit(job("one", max_attempts=2))
        welcome = await b.service.edges.hello(m.Hello(site="here", instance="e", slots=()), EDGE)
        for n in range(4):
            ask = m.NewIntent(
                site="here", epoch=welcome.epoch, intent=f"i{n}", queue="q", count=1, deadline=4e9
            )
            await b.service.edges.intent(ask, EDGE)
            boot = Caller(
                subject="b",
                scopes=frozenset({Scope.BOOTSTRAP}),
                intent=f"i{n}",
                queue="q",
                site="here",
                epoch=welcome.epoch,
            )
            register = m.Register(
                instance=f"p{n}", queue="q", total=Room(cores=1, memory_mb=4000, disk_mb=9000)
            )
            registered = await b.service.registration.register(register, boot)
            worker = Caller(
                subject="w",
                scopes=frozenset({Scope.WORKER}),
                worker_id=registered.worker_id,
                queue="q",
            )
            acquire = m.Acquire(request_id="r", room=register.total)
            got = (await b.service.workers.acquire(acquire, worker)).jobs
            assert bool(got) is (left or n < 2)
            news = m.WorkerObservation(intent=f"i{n}", index=0, phase=Phase.ENDED, ending=ending)
            await b.service.edges.workers_news(
                m.WorkerObservations(site="here", epoch=welcome.epoch, workers=(news,)), EDGE
            )
        assert await b.state(one) is (S.ACTIVATED if left else S.FAILED)

    run(test, place)


def test_r9_a_black_hole_node_is_found_within_three_jobs_excluded_and_reported(place):
    async def test(b):
        await b.submit(*(job(f"j{i}", max_attempts=2) for i in range(20)))
        good = [await b.worker(host=f"n{i}", site="here") for i in range(3)]
        hole = await b.worker(host="hole", site="here")
        for worker in good:
            (one,) = await worker.acquire()
            await worker.report(one)
        eaten = 0
        while got := await hole.acquire():
            eaten += 1
            await hole.report(
                got[0], finished=False, code=Code.CONTAINER_FAILED, diagnosis="no libm"
            )
        assert eaten == IN_A_ROW
        answer = await b.service.workers.acquire(
            m.Acquire(request_id="x", room=Room(cores=1)), hole.caller
        )
        assert answer.drain
        events = await b.service.store.read(lambda tx: tx.all("event.after", after=0, most=1000))
        assert sum(row[2] == "host" for row in events) == 1
        welcome = await b.service.edges.hello(m.Hello(site="here", instance="e", slots=()), EDGE)
        demand = await b.service.edges.demand(
            m.DemandRequest(site="here", epoch=welcome.epoch), EDGE
        )
        assert demand.excluded[0].host == "hole"
        assert "no libm" in demand.excluded[0].reason
        next_pilot = await b.worker(host="hole", site="here")
        assert await next_pilot.acquire() == []  # the next one there gets nothing either
        for worker in good:
            while got := await worker.acquire():
                await worker.report(got[0])
        states = (await b.service.figures.overview(None, ALICE)).states
        assert states[S.FINISHED] == 20

    run(test, place)


def test_r9_jobs_that_fail_everywhere_exclude_no_node(place):
    async def test(b):
        await b.submit(*(job(f"bad{i}") for i in range(60)))
        workers = [await b.worker(host=f"n{i}", site="here") for i in range(3)]
        for _ in range(20):
            for worker in workers:
                (one,) = await worker.acquire()
                await worker.report(one, finished=False, code=Code.PAYLOAD_FAILED)
        assert not b.service.state.hosts.of_site("here", b.service.state.now())

    run(test, place)


@pytest.mark.field("A22")
@pytest.mark.parametrize("owners", [(ALICE,), (ALICE, BOB)], ids=["one user", "two"])
def test_one_users_failures_take_no_node_from_the_others(place, owners):
    async def test(b):
        for one in owners:
            await b.submit(*(job(f"j{nr}", max_attempts=2) for nr in range(8)), caller=one)
        good, bad = await b.worker(host="n1", site="here"), await b.worker(host="n2", site="here")
        third = await b.worker(host="n3", site="here")
        for worker in (good, third) * 2:
            (got,) = await worker.acquire()
            await worker.report(got)
        for _ in range(IN_A_ROW + 1):  # they end as they like on this node, and well elsewhere
            for got in await bad.acquire():
                await bad.report(got, finished=False, code=Code.PAYLOAD_FAILED, exit_code=1)
        excluded = b.service.state.hosts.of_site("here", b.service.state.now())
        assert set(excluded) == ({"n2"} if len(owners) > 1 else set())

    run(test, place)


@pytest.mark.field("A22")
@pytest.mark.parametrize(
    ("owners", "lacks", "excluded"),
    [("aaa", "000", False), ("aaa", "110", False), ("aaa", "111", True), ("aab", "000", True)],
)
def test_a_node_is_judged_by_two_owners_or_by_what_it_lacks(owners, lacks, excluded):
    hosts = Hosts()
    for owner in "ab":
        for nr in range(5):
            hosts.count(Verdict(("s", "fine"), owner, 100 + nr, good=True, lasted_s=1.0, at=0.0))
    for nr, (owner, lack) in enumerate(zip(owners, lacks, strict=True)):
        hosts.count(
            Verdict(("s", "h"), owner, nr, good=False, lasted_s=1.0, at=0.0, lacks=lack == "1")
        )
    assert hosts.judge(("s", "h"), runs_elsewhere=False, known_nodes=6, now=1.0) is excluded


def verdict(host, n, *, good=False, lasted_s=1.0, at=0.0):
    owner = "alice" if n % 2 else "bob"
    return Verdict(("s", host), owner, n, good=good, lasted_s=lasted_s, at=at)


def test_r9_the_same_job_again_long_jobs_and_a_success_raise_no_suspicion():
    hosts = Hosts()
    assert not any(hosts.count(verdict("h", 7)) for _ in range(9))
    assert not any(hosts.count(verdict("i", n, lasted_s=3000)) for n in range(9))
    assert not any(hosts.count(verdict("j", n, good=n % 3 == 0)) for n in range(9))


def test_r9_an_exclusion_ends_and_never_takes_a_third_of_a_site():
    hosts = Hosts()
    for n in range(9):
        hosts.count(verdict("fine", 100 + n, good=True))
    out = []
    for host in "abcde":
        assert [hosts.count(verdict(host, n)) for n in range(3)][-1]
        out.append(hosts.judge(("s", host), runs_elsewhere=True, known_nodes=6, now=1.0))
    assert sum(out) == 2
    assert len(hosts.of_site("s", 2.0)) == 2
    assert not hosts.of_site("s", 4000.0)


def test_r9_an_exclusion_that_is_over_leaves_room_for_another():
    hosts = Hosts()
    for at, host in ((0.0, "a"), (4000.0, "b")):
        for n in range(9):
            hosts.count(verdict("fine", 100 + n, good=True, at=at))
        assert [hosts.count(verdict(host, n, at=at)) for n in range(3)][-1]
        assert hosts.judge(("s", host), runs_elsewhere=True, known_nodes=3, now=at + 1)
