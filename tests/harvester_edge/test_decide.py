"""How many workers: properties first, then the cases of Harvester's own rules as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harvester_edge.decide import (
    BACKOFF_S,
    Breaker,
    Health,
    Limits,
    SlotSeen,
    Snapshot,
    breaker,
    decide,
)

small = st.integers(0, 60)
slots = st.lists(
    st.builds(
        SlotSeen,
        name=st.uuids().map(str),
        wanted=small,
        breaker=st.builds(Breaker, room=st.none() | st.integers(0, 1), reason=st.just("failed")),
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
    paused=words,
    unheard=words,
    unseen=words,
    drain=st.booleans(),
)
all_limits = st.builds(
    Limits,
    total=small,
    queued=small,
    per_cycle=small,
    floor=st.integers(0, 10),
    max_shrink=st.floats(0, 1),
)


@given(snapshots, all_limits)
def test_no_bound_is_ever_exceeded(seen, limits):
    made = decide(seen, limits)
    assert all(count > 0 for count in made.submit.values())
    for bound in made.bounds:
        assert made.count <= max(0, bound.room)
    if made.count:
        assert seen.total + made.count <= limits.total
        assert seen.queued + made.count <= limits.queued
    for slot in seen.slots:
        if slot.breaker.room is not None:
            assert made.submit.get(slot.name, 0) <= slot.breaker.room


@given(snapshots, all_limits)
def test_all_that_the_smallest_bound_allows_is_submitted(seen, limits):
    made = decide(seen, limits)
    assert made.binding in made.bounds
    assert made.binding.why
    assert made.count == max(0, made.binding.room)


@given(snapshots, all_limits, st.data())
def test_more_demand_never_means_fewer_workers(seen, limits, data):
    index = data.draw(st.integers(0, len(seen.slots) - 1))
    more = list(seen.slots)
    more[index] = replace(more[index], wanted=more[index].wanted + data.draw(st.integers(1, 9)))
    grown = replace(seen, slots=tuple(more))
    assert decide(grown, limits).count >= decide(seen, limits).count


@given(snapshots, all_limits)
def test_a_paused_site_submits_nothing(seen, limits):
    made = decide(replace(seen, paused="pause file"), limits)
    assert made.count == 0


@given(snapshots, all_limits)
def test_a_drain_never_exceeds_what_is_active_or_the_share_allowed(seen, limits):
    made = decide(seen, limits)
    assert 0 <= made.drain <= seen.active
    if made.drain and not seen.drain:
        assert made.drain <= limits.max_shrink * seen.total


@given(snapshots, all_limits)
def test_the_same_sight_gives_the_same_decision(seen, limits):
    assert decide(seen, limits) == decide(seen, limits)


def seen(wanted, **counts):
    return Snapshot(slots=(SlotSeen(name="std", wanted=wanted),), **counts)


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
        # what stops everything is said before what would
        (seen(0, unheard="no answer"), Limits(total=0, queued=9, per_cycle=9), 0, "dispatcher"),
    ],
)
def test_the_cases_of_harvester(sight, limits, count, binding):
    made = decide(sight, limits)
    assert (made.count, made.binding.name) == (count, binding)


def test_slots_take_turns():
    two = Snapshot(slots=(SlotSeen(name="a", wanted=10), SlotSeen(name="b", wanted=1)))
    made = decide(two, Limits(total=99, queued=99, per_cycle=4))
    assert made.submit == {"a": 3, "b": 1}


def test_the_breaker_lets_one_probe_through_a_step():
    assert breaker(Health(failures=2, since=0), now=0, starting=0).room is None
    for step, wait in enumerate(BACKOFF_S):
        failed = Health(failures=3 + step, since=1000.0, reason="no such partition")
        assert breaker(failed, now=1000.0 + wait - 1, starting=0).room == 0
        assert breaker(failed, now=1000.0 + wait, starting=0).room == 1
        assert breaker(failed, now=1000.0 + wait, starting=1).room == 0
        assert "no such partition" in breaker(failed, now=1000.0, starting=0).reason
    last = Health(failures=99, since=0.0)
    assert breaker(last, now=BACKOFF_S[-1], starting=0).room == 1
