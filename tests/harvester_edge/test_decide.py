"""How many workers: properties first, then the cases of Harvester's own rules as a table."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harvester_edge.decide import (
    BACKOFF_S,
    Bound,
    Breaker,
    Cost,
    Health,
    Limits,
    SlotSeen,
    Snapshot,
    breaker,
    decide,
)

small = st.integers(0, 60)
costs = st.builds(
    Cost,
    cores=st.integers(0, 16),
    memory_mb=st.sampled_from([0, 1000, 4000, 64_000]),
    node_hours=st.sampled_from([0.0, 0.1, 1.0, 24.0]),
    together=st.sampled_from([1, 1, 1, 2, 4]),
)
slots = st.lists(
    st.builds(
        SlotSeen,
        name=st.uuids().map(str),
        wanted=small,
        breaker=st.builds(Breaker, allowed=st.none() | st.integers(0, 1), reason=st.just("failed")),
        allowed=st.none() | st.integers(-5, 20),
        cost=costs,
    ),
    min_size=1,
    max_size=4,
).map(tuple)
words = st.sampled_from(["", "", "", "because"])
snapshots = st.builds(
    Snapshot,
    slots=slots,
    total=small,
    queued=small,
    active=small,
    draining=small,
    cost=st.builds(Cost, cores=small, memory_mb=small, node_hours=st.floats(0, 100)),
    paused=words,
    dispatcher_fault=words,
    listing_fault=words,
    drain=st.booleans(),
)
all_limits = st.builds(
    Limits,
    total=small,
    queued=small,
    per_cycle=small,
    floor=st.integers(0, 10),
    max_shrink=st.floats(0, 1),
    queued_ratio=st.none() | st.floats(0, 2),
    queued_floor=st.integers(0, 9),
    attenuation=st.sampled_from([1.0, 1.5, 3.0]),
    cores=st.none() | small,
    memory_mb=st.none() | st.integers(0, 100_000),
    node_hours=st.none() | st.floats(0, 200),
)


def check_caps(seen, limits, made):
    """No limit is exceeded by what was decided; what was exceeded before is not made worse."""
    assert all(count > 0 for count in made.submit.values())
    for bound in made.bounds:
        assert made.count <= max(0, bound.allowed)
    if made.count:
        assert seen.total + made.count <= limits.total
        assert seen.queued + made.count <= limits.queued
        assert made.count <= limits.per_cycle
        if limits.queued_ratio is not None:
            most = max(limits.queued_floor, limits.queued_ratio * seen.active)
            assert seen.queued + made.count <= most
        for kind in ("cores", "memory_mb", "node_hours"):
            most, used = getattr(limits, kind), getattr(seen.cost, kind)
            asked = sum(getattr(s.cost, kind) * made.submit.get(s.name, 0) for s in seen.slots)
            assert most is None or not asked or used + asked <= most + 1e-6
    for slot in seen.slots:
        assert made.submit.get(slot.name, 0) % slot.cost.together == 0
        for allowed in (slot.breaker.allowed, slot.allowed):
            if allowed is not None:
                assert made.submit.get(slot.name, 0) <= max(0, allowed)


@given(snapshots, all_limits)
def test_no_bound_is_ever_exceeded(seen, limits):
    check_caps(seen, limits, decide(seen, limits))


@given(snapshots, all_limits)
def test_all_that_the_smallest_bound_allows_is_submitted(seen, limits):
    made = decide(seen, limits)
    assert made.binding in made.bounds
    assert made.binding.why
    assert made.count == max(0, made.binding.allowed)


def grown(seen, data):
    """The same sight with more demand for one slot, and which."""
    index = data.draw(st.integers(0, len(seen.slots) - 1))
    more = list(seen.slots)
    more[index] = replace(more[index], wanted=more[index].wanted + data.draw(st.integers(1, 9)))
    return replace(seen, slots=tuple(more)), more[index].name


@given(snapshots, all_limits, st.data())
def test_more_demand_for_a_slot_never_means_fewer_workers_of_it(seen, limits, data):
    more, name = grown(seen, data)
    assert decide(more, limits).submit.get(name, 0) >= decide(seen, limits).submit.get(name, 0)


@given(snapshots, all_limits, st.data())
def test_more_demand_never_means_fewer_workers(seen, limits, data):
    """Where workers cost alike: a big one may take the cores of several small ones."""
    alike = tuple(replace(slot, cost=seen.slots[0].cost) for slot in seen.slots)
    seen = replace(seen, slots=alike)
    more, _ = grown(seen, data)
    assert decide(more, limits).count >= decide(seen, limits).count


@given(snapshots, all_limits)
def test_a_paused_site_submits_nothing(seen, limits):
    made = decide(replace(seen, paused="pause file"), limits)
    assert made.count == 0


@given(snapshots, all_limits)
def test_a_drain_never_exceeds_what_is_active_or_the_share_allowed(seen, limits):
    made = decide(seen, limits)
    assert 0 <= made.drain <= seen.active
    if made.drain and not seen.drain:
        assert made.drain <= limits.max_shrink * (seen.total - seen.draining) + 1e-6


def test_a_bound_is_written_as_the_version_before_reads_it():
    text = msgspec.json.encode(Bound(allowed=3, name="total", why="1 of 4 exist"))
    assert text == b'{"room":3,"name":"total","why":"1 of 4 exist"}'
    assert msgspec.json.decode(text, type=Bound).allowed == 3


@given(st.data(), small, small, all_limits)
def test_however_many_cycles_no_fewer_stay_than_the_limit_says(data, active, queued, limits):
    """Payloads are long: those that drain leave at some time, and the queued ones register."""
    draining, first = 0, active + queued
    wanted = 0
    for _ in range(8):
        total = active + queued + draining
        sight = seen(0, total=total, queued=queued, active=active, draining=draining)
        drain = decide(sight, limits).drain
        active, draining, wanted = active - drain, draining + drain, wanted + drain
        left, came = data.draw(st.integers(0, draining)), data.draw(st.integers(0, queued))
        active, queued, draining = active + came, queued - came, draining - left
        assert active + queued >= min(first, limits.total)
    assert wanted <= limits.max_shrink * first + 1e-6


def test_what_cannot_be_drained_yet_counts_for_the_share_that_needs_a_word():
    """Else a wrong limit would empty a site a few at a time, as the queued workers register."""
    wrong = Limits(total=0, queued=9, per_cycle=9, max_shrink=0.5)
    made = decide(seen(0, total=100, queued=95, active=5), wrong)
    assert made.drain == 0
    assert "to drain 100% of those that stay needs your word" in made.notes[0]


def seen(wanted, each=None, **counts):
    return Snapshot(slots=(SlotSeen(name="std", wanted=wanted, cost=each or Cost()),), **counts)


@pytest.mark.parametrize(
    ("sight", "limits", "count", "binding"),
    [
        # the central status is offline, or a throttler says stop
        (seen(5, paused="offline"), Limits(total=9, queued=9, per_cycle=9), 0, "paused"),
        # enough: queued at its limit; total at its limit
        (seen(5, queued=3, total=5), Limits(total=9, queued=3, per_cycle=9), 0, "queued"),
        (seen(5, total=9), Limits(total=9, queued=9, per_cycle=9), 0, "total"),
        # over the limit, after it was lowered
        (seen(5, total=12), Limits(total=9, queued=9, per_cycle=9), 0, "total"),
        # the target is the queue limit, less what is queued
        (seen(50, queued=3, total=5), Limits(total=99, queued=9, per_cycle=99), 6, "queued"),
        # capped by demand, by the total, by what one cycle may submit
        (seen(2), Limits(total=9, queued=9, per_cycle=9), 2, "demand"),
        (seen(50, total=7), Limits(total=9, queued=9, per_cycle=9), 2, "total"),
        (seen(50), Limits(total=99, queued=99, per_cycle=4), 4, "per_cycle"),
        # no jobs: no pilots, but the floor
        (seen(0), Limits(total=9, queued=9, per_cycle=9), 0, "demand"),
        (seen(0), Limits(total=9, queued=9, per_cycle=9, floor=1), 1, "floor"),
        (seen(0, total=1), Limits(total=9, queued=9, per_cycle=9, floor=1), 0, "demand"),
        (seen(3), Limits(total=9, queued=9, per_cycle=9, floor=1), 3, "demand"),
        # the queued limit follows the running ones, not below its minimum
        (seen(50, active=20), Limits(total=99, queued=99, per_cycle=99, queued_ratio=0.4), 8, "queued_ratio"),
        (seen(50, active=20, queued=6), Limits(total=99, queued=99, per_cycle=99, queued_ratio=0.4), 2, "queued_ratio"),
        (seen(50), Limits(total=99, queued=99, per_cycle=99, queued_ratio=0.4, queued_floor=2), 2, "queued_ratio"),
        (seen(50, active=99), Limits(total=999, queued=5, per_cycle=99, queued_ratio=0.4), 5, "queued"),
        # a part of the demand at once, never less than one
        (seen(50), Limits(total=99, queued=99, per_cycle=99, attenuation=3), 17, "attenuation"),
        (seen(1), Limits(total=99, queued=99, per_cycle=99, attenuation=3), 1, "demand"),
        (seen(0), Limits(total=9, queued=9, per_cycle=9, attenuation=3, floor=2), 2, "floor"),
        # cores and memory that are left, in whole workers
        (seen(9, each=Cost(cores=8), cost=Cost(cores=40)), Limits(total=99, queued=99, per_cycle=99, cores=64), 3, "max_cores"),
        (seen(9, each=Cost(cores=8), cost=Cost(cores=80)), Limits(total=99, queued=99, per_cycle=99, cores=64), 0, "max_cores"),
        (seen(9, each=Cost(memory_mb=4000)), Limits(total=99, queued=99, per_cycle=99, memory_mb=9000), 2, "max_memory"),
        # a budget counts each worker with its whole walltime, so that it is never overdrawn
        (seen(9, each=Cost(node_hours=6), cost=Cost(node_hours=80)), Limits(total=99, queued=99, per_cycle=99, node_hours=95), 2, "budget"),
        # what stops everything is said before what would
        (seen(0, dispatcher_fault="no answer"), Limits(total=0, queued=9, per_cycle=9), 0, "dispatcher"),
    ],
)  # fmt: skip
def test_the_cases_of_harvester(sight, limits, count, binding):
    made = decide(sight, limits)
    assert (made.count, made.binding.name) == (count, binding)


def test_slots_take_turns():
    two = Snapshot(slots=(SlotSeen(name="a", wanted=10), SlotSeen(name="b", wanted=1)))
    made = decide(two, Limits(total=99, queued=99, per_cycle=4))
    assert made.submit == {"a": 3, "b": 1}


def test_a_slot_that_does_not_fit_any_more_leaves_the_rest_to_smaller_ones():
    slots = (
        SlotSeen(name="big", wanted=5, cost=Cost(cores=16)),
        SlotSeen(name="small", wanted=50, cost=Cost(cores=1)),
    )
    made = decide(Snapshot(slots=slots), Limits(total=99, queued=99, per_cycle=99, cores=40))
    assert made.submit == {"big": 2, "small": 8}
    assert made.binding.name == "max_cores"


@pytest.mark.parametrize(
    ("caps", "binding"),
    [
        ({"queued_ratio": 0.1, "queued_floor": 2}, "queued_ratio"),
        ({"cores": 7}, "max_cores"),
        ({"total": 3}, "total"),
        ({"per_cycle": 3}, "per_cycle"),
    ],
)
def test_what_leaves_no_room_for_a_whole_allocation_is_what_binds(caps, binding):
    wide = SlotSeen(name="wide", wanted=8, cost=Cost(cores=2, together=4))
    made = decide(
        Snapshot(slots=(wide,)), Limits(**{"total": 99, "queued": 99, "per_cycle": 99} | caps)
    )
    assert (made.submit, made.binding.name, made.binding.allowed) == ({}, binding, 0)


def test_what_is_too_little_for_an_allocation_goes_to_slots_of_one_node():
    slots = (
        SlotSeen(name="wide", wanted=8, cost=Cost(together=4)),
        SlotSeen(name="one", wanted=1),
    )
    made = decide(Snapshot(slots=slots), Limits(total=99, queued=99, per_cycle=6))
    assert made.submit == {"wide": 4, "one": 1}
    assert made.binding.name == "per_cycle"
    assert "4 of slot wide start together" in made.binding.why


def test_a_floor_is_reached_by_whole_allocations():
    wide = SlotSeen(name="wide", wanted=0, cost=Cost(together=4))
    made = decide(Snapshot(slots=(wide,)), Limits(total=99, queued=99, per_cycle=99, floor=2))
    assert made.submit == {"wide": 4}


def test_a_limit_of_a_slot_is_its_own():
    slots = (SlotSeen(name="a", wanted=9, allowed=2), SlotSeen(name="b", wanted=3))
    made = decide(Snapshot(slots=slots), Limits(total=99, queued=99, per_cycle=99))
    assert made.submit == {"a": 2, "b": 3}
    assert (made.binding.name, made.binding.why) == ("slots", "a: room for 2")


def test_the_breaker_lets_one_probe_through_a_step():
    assert breaker(Health(failures=2, since=0), now=0, starting=0).allowed is None
    for step, wait in enumerate(BACKOFF_S):
        failed = Health(failures=3 + step, since=1000.0, reason="no such partition")
        assert breaker(failed, now=1000.0 + wait - 1, starting=0).allowed == 0
        assert breaker(failed, now=1000.0 + wait, starting=0).allowed == 1
        assert breaker(failed, now=1000.0 + wait, starting=1).allowed == 0
        assert "no such partition" in breaker(failed, now=1000.0, starting=0).reason
    last = Health(failures=99, since=0.0)
    assert breaker(last, now=BACKOFF_S[-1], starting=0).allowed == 1
