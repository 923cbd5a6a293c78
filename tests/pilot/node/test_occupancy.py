"""What became of the core-seconds of a pilot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import Assignment
from ailurus.protocol.messages.occupancy import IdleReason, NodeSize
from ailurus.protocol.resources import Resources
from pilot.attempt import Attempt
from pilot.node.occupancy import Account, Cores, reasons
from pilot.node.slots import Slots
from tests.pilot.fakes import FakeClock

R = IdleReason
some_cores = st.builds(
    Cores,
    *([st.integers(0, 9)] * 5),
    blocked=st.booleans(),
    draining=st.booleans(),
)


@given(st.lists(st.tuples(st.integers(0, 5), some_cores), max_size=20), st.floats(0, 100))
def test_what_was_busy_and_what_was_idle_are_all_core_seconds(
    turns: list[tuple[int, Cores]], unused_core_s: float
) -> None:
    now, before, whole = 100.0, Cores(), 0.0
    account = Account(now)
    for seconds, cores in turns:
        now += seconds
        whole += seconds * (before.busy + before.free + before.lost)
        account.turn(now, cores)
        before = cores
    told = account.told(0.0, now, unused_core_s)
    assert told.busy_core_s + sum(told.idle_core_s.values()) == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize(
    ("cores", "why"),
    [
        (Cores(busy=4, free=4), {R.NOTHING: 4}),
        (Cores(free=4, coming=3), {R.STAGING_IN: 3, R.NOTHING: 1}),
        (Cores(free=4, coming=9, leaving=2), {R.STAGING_IN: 4}),
        (Cores(free=4, coming=1, blocked=True, leaving=2), {R.STAGING_IN: 1, R.WIDE: 3}),
        (Cores(free=4, leaving=1, draining=True), {R.STAGING_OUT: 1, R.DRAINING: 3}),
        (Cores(free=4, lost=8), {R.LOST: 8, R.NOTHING: 4}),
        (Cores(busy=4), {}),
    ],
)
def test_each_idle_core_has_one_reason(cores: Cores, why: dict[IdleReason, int]) -> None:
    assert reasons(cores) == why


def attempt(job_id: int, **fields: object) -> Attempt:
    spec = JobSpec(name="j", command="true", memory_mb=1, disk_mb=1, **fields)  # type: ignore[arg-type]
    return Attempt(
        Assignment(job_id=job_id, attempt_nr=1, report_key="k", spec=spec), lambda _: None
    )


def test_slots_count_a_jobs_way_through_them() -> None:
    clock = FakeClock()
    slots = Slots(Resources(cores=4, memory_mb=1000, disk_mb=1000), clock=clock)
    job = attempt(1, cores=3)
    clock.forward(1)
    slots.expect(job)
    clock.forward(2)
    with slots.placed(job) as placement:
        clock.forward(10)
        assert job.held is not None
        assert [(slot.node, slot.cores) for slot in job.held.slots] == [("", 3)]
        assert job.held.ended == 0
    assert len(placement) == 1
    assert job.held.ended - job.held.began == pytest.approx(10)
    clock.forward(5)
    slots.gone(job)
    slots.drain()
    clock.forward(1)
    told = slots.occupancy()
    assert told.nodes == (NodeSize(cores=4, joined=told.since),)
    assert told.busy_core_s == 30
    assert told.idle_core_s == {
        R.NOTHING: 1 * 4 + 2 * 1 + 10 * 1 + 5 * 1,
        R.STAGING_IN: 2 * 3,
        R.STAGING_OUT: 5 * 3,
        R.DRAINING: 1 * 4,
    }


def test_a_lost_node_is_idle_until_it_comes_again() -> None:
    clock = FakeClock()
    slots = Slots(clock=clock)
    each = Resources(cores=2, memory_mb=1000, disk_mb=1000)
    for name in ("a", "b"):
        slots.join(name, each)
    clock.forward(1)
    slots.leave("b")
    clock.forward(3)
    told = slots.occupancy()
    assert [(node.name, node.left > 0) for node in told.nodes] == [("a", False), ("b", True)]
    assert told.idle_core_s == {R.NOTHING: 4 + 6, R.LOST: 6}
    slots.join("b", each)
    clock.forward(1)
    assert slots.occupancy().idle_core_s == {R.NOTHING: 4 + 6 + 4, R.LOST: 6}


def test_a_job_of_payloads_says_what_none_of_them_had() -> None:
    clock = FakeClock()
    slots = Slots(Resources(cores=2, memory_mb=1000, disk_mb=1000), clock=clock)
    job = attempt(1, cores=2)
    with slots.placed(job):
        clock.forward(10)
        job.unused_core_s = 6.0
    told = slots.occupancy()
    assert (told.busy_core_s, told.idle_core_s) == (14.0, {R.PAYLOADS: 6.0})
