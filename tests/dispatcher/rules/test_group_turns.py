"""Turns between groups of users: each gets its share, none starves, and what one leaves others
take."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.api import JobsQuery, NoQuery, Scope
from ailurus.protocol.resources import Room, Shape
from dispatcher.auth.caller import Caller
from dispatcher.rules.group_turns import Turns, group_of
from dispatcher.store.writer import Draft
from tests.dispatcher.helpers import ALICE, BOB, EDGE, job, run

ONE = Shape(cores=1, memory_mb=1, disk_mb=1, gpus=0, nodes=1, walltime_s=1)
BOSS = Caller(subject="boss", scopes=frozenset({Scope.ADMIN}))


def of(user: str, *groups: str) -> Caller:
    return replace(ALICE, subject=user, groups=groups)


def handed_out(turns, waiting, n):
    """The groups of the next `n` jobs, of cores as they wait; each acquire gets one."""
    taken, tx = [], Draft()
    for _ in range(n):
        offers = {
            group: iter([(0, replace(ONE, cores=cores[0]))])
            for group, cores in waiting.items()
            if cores
        }
        if len(offers) < 2:
            (group,) = offers
        else:
            _, shape, group = next(turns.merged("q", offers))
            turns.take(tx, "q", group, shape.cores)
        taken.append((group, waiting[group].pop(0)))
    return taken


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.0]), min_size=2
    ),
    st.lists(st.integers(1, 16), min_size=1, max_size=20),
    st.integers(1, 300),
)
def test_of_what_is_handed_out_no_group_that_waits_is_ever_behind_by_more_than_a_job(
    shares, sizes, n
):
    turns = Turns(shares)
    waiting = {
        group: [sizes[(nr + i) % len(sizes)] for i in range(n)] for nr, group in enumerate(shares)
    }
    got: Counter[str] = Counter()
    for group, cores in handed_out(turns, waiting, n):
        got[group] += cores
        most = max(sizes)
        for one in shares:
            for other in shares:
                apart = got[one] / shares[one] - got[other] / shares[other]
                assert abs(apart) <= most / shares[one] + most / shares[other] + 1e-9


@given(st.integers(1, 200), st.integers(1, 50))
def test_a_group_that_was_idle_neither_waits_nor_is_owed_what_it_did_not_use(before, after):
    turns = Turns({"a": 1.0, "b": 1.0, "c": 2.0})
    waiting = {"a": [1] * 1000, "b": [1] * 1000, "c": []}
    first = Counter(group for group, _ in handed_out(turns, waiting, before))
    assert abs(first["a"] - first["b"]) <= 1  # the share of the idle one goes to the others
    waiting["c"] = [1] * 1000
    then = Counter(group for group, _ in handed_out(turns, waiting, 4 * after))
    assert abs(then["c"] - 2 * after) <= 3


@pytest.mark.parametrize(
    ("names", "group"),
    [
        ((), ""),
        (("/atlas",), "/atlas"),
        (("/cms", "/atlas/production"), "/atlas"),
        (("/atlas/higgs/deep", "/atlas"), "/atlas/higgs"),
        (("/atlasx", "atlas"), ""),
    ],
)
def test_the_group_is_the_first_that_is_configured_or_one_above_it(names, group):
    assert group_of(names, {"/atlas": 1.0, "/atlas/higgs": 1.0}) == group


async def order(b, worker, n, count=1):
    """The users of the next n jobs, by their first letters."""
    jobs = [one.job_id for _ in range(n) for one in await worker.acquire(count=count)]
    rows = (await b.service.users.jobs(JobsQuery(limit=1000), BOSS)).jobs
    users = {row.job_id: row.user[0] for row in rows}
    return "".join(users[one] for one in jobs)


def test_groups_take_turns_by_their_shares_and_within_one_its_users(place):
    async def test(b):
        await b.submit(*(job(f"j{i}") for i in range(100)), caller=of("alice", "atlas"))
        await b.submit(*(job(f"j{i}") for i in range(100)), caller=of("bob", "cms"))
        worker = await b.worker()
        assert Counter(await order(b, worker, 40)) == {"a": 30, "b": 10}
        await b.submit(*(job(f"j{i}") for i in range(20)), caller=of("carol", "cms"))
        await b.submit(*(job(f"j{i}", cores=2) for i in range(20)), caller=of("dave"))
        taken = Counter(await order(b, worker, 44))
        # of 48 cores: atlas has 3 parts of 5, cms one, shared by two; the rest one, of two cores a
        # job
        assert 26 <= taken["a"] <= 31, taken
        assert all(4 <= taken[user] <= 6 for user in "bcd"), taken

    run(test, place, groups={"atlas": 3.0, "cms": 1.0})


def test_turns_hold_within_one_acquire_and_over_shapes_and_queues(place):
    async def test(b):
        mixed = [job(f"j{i}", memory_mb=100 + i % 3, queue="q" if i % 2 else "") for i in range(60)]
        await b.submit(*mixed, caller=of("alice", "atlas"))
        await b.submit(*(job(f"j{i}", memory_mb=7) for i in range(60)), caller=of("bob", "cms"))
        worker = await b.worker()
        taken = await order(b, worker, 3, count=16)
        assert Counter(taken) == {"a": 36, "b": 12}
        assert Counter(taken[:16]) == {"a": 12, "b": 4}

    run(test, place, groups={"atlas": 3.0, "cms": 1.0})


def test_priority_counts_within_a_group_and_not_between_groups(place):
    async def test(b):
        await b.submit(
            *(job(f"j{i}", priority=1000) for i in range(20)), caller=of("alice", "atlas")
        )
        await b.submit(*(job(f"j{i}") for i in range(20)), caller=of("bob", "cms"))
        await b.submit(job("urgent", priority=1), caller=of("carol", "cms"))
        assert sorted(await order(b, await b.worker(), 2)) == ["a", "c"]

    run(test, place, groups={"atlas": 1.0, "cms": 1.0})


def test_a_group_whose_jobs_fit_no_room_leaves_its_turns_to_the_others(place):
    async def test(b):
        await b.submit(*(job(f"j{i}", cores=8) for i in range(9)), caller=of("alice", "atlas"))
        await b.submit(*(job(f"j{i}") for i in range(9)), caller=of("bob", "cms"))
        small = await b.worker()
        room = Room(cores=1, memory_mb=10**6, disk_mb=10**6)
        got = [one for _ in range(9) for one in await small.acquire(room=room)]
        assert len(got) == 9
        assert await order(b, await b.worker(), 1) == "a"

    run(test, place, groups={"atlas": 1.0, "cms": 1.0})


def test_why_queues_and_demand_know_of_groups(place):
    async def test(b):
        (first, *_) = await b.submit(*(job(f"j{i}") for i in range(9)), caller=of("alice", "atlas"))
        await b.submit(*(job(f"j{i}") for i in range(5)), caller=of("bob", "cms"))
        (plain,) = await b.submit(job("plain"), caller=BOB)
        said = (await b.service.users.why(NoQuery(), ALICE, job_id=first)).sentence
        assert "group atlas, with 9 jobs waiting, gets 60% of the turns" in said
        said = (await b.service.users.why(NoQuery(), BOB, job_id=plain)).sentence
        assert "users without a group, with 1 jobs waiting, gets 20% of the turns" in said
        worker = await b.worker()
        await worker.acquire(count=5)
        (row,) = (await b.service.figures.queues(NoQuery(), ALICE)).queues
        shown = {one.name: (one.share, one.waiting, one.handed_out) for one in row.groups}
        assert shown == {"": (1.0, 0, 1), "atlas": (3.0, 6, 3), "cms": (1.0, 4, 1)}
        slot = m.SlotShape(name="s", queue="q", room=Room(cores=4, memory_mb=10**6, disk_mb=10**6))
        hello = m.Hello(site="here", instance="edge", slots=(slot,))
        epoch = (await b.service.edges.hello(hello, EDGE)).epoch
        demand = await b.service.edges.demand(m.DemandRequest(site="here", epoch=epoch), EDGE)
        assert [one.jobs for one in demand.shapes] == [10]

    run(test, place, groups={"atlas": 3.0, "cms": 1.0})


def test_who_is_in_no_known_group_takes_turns_as_before(place):
    async def test(b):
        await b.submit(*(job(f"j{i}") for i in range(9)), caller=of("alice", "lhcb"))
        await b.submit(*(job(f"j{i}") for i in range(9)), caller=of("bob"))
        assert await order(b, await b.worker(), 8) == "aabababa"
        assert not (await b.service.figures.queues(NoQuery(), ALICE)).queues[0].groups

    run(test, place, groups={"atlas": 3.0})


def test_two_dispatchers_hand_out_the_jobs_of_groups_that_the_other_met_first(postgres_server):
    from tests.dispatcher.service.test_peers import at, run_two

    async def test(one, two):
        await one.submit(*(job(f"j{i}") for i in range(40)), caller=of("alice", "atlas"))
        await two.submit(*(job(f"j{i}") for i in range(40)), caller=of("bob", "cms"))
        worker = await one.worker()
        taken = Counter()
        for side in (worker, at(two, worker)):
            taken.update(await order(one, side, 12))
        assert taken == {"a": 18, "b": 6}

    run_two(test, postgres_server.database(), groups={"atlas": 3.0, "cms": 1.0})
