"""Leases that run out are found when they do, though not all are looked at each time."""

from __future__ import annotations

from unittest.mock import AsyncMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from dispatcher.memory.leases import Lease, Leases
from dispatcher.ports import Unavailable
from tests.dispatcher.helpers import run

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "renew", "hold", "drop", "pass"]),
        st.integers(1, 4),  # the job
        st.integers(0, 20),  # seconds
    )
)


@given(STEPS)
def test_what_has_run_out_is_found_whatever_came_before(steps):
    leases, now = Leases(), 0.0
    for step, job_id, seconds in steps:
        lease, until = leases.of(job_id), now + seconds
        if step == "pass":
            now = until
        elif step == "add":
            leases.add(Lease(job_id, 1, 1, JobState.SENT, until))
        elif step == "drop":
            leases.drop(job_id)
        elif lease is not None and step == "renew":
            leases.renew(lease, until, 0.0)
        elif lease is not None:
            leases.hold(lease, until)
        late = {one.job_id for one in leases.all() if one.until < now}
        assert {one.job_id for one in leases.expired(now)} == late


# --- no attempt without a lease -------------------------------------------------------------------


def released(*jobs: m.RawAssignment) -> m.Release:
    return m.Release(
        jobs=tuple(m.AttemptKey(job_id=one.job_id, attempt_nr=one.attempt_nr) for one in jobs)
    )


@pytest.mark.parametrize("how", ["release", "bye", "full disk"])
def test_what_a_worker_has_begun_is_tried_again_when_it_is_gone_whatever_it_gave_back(
    place, how, monkeypatch
):
    """A lease that is dropped while the attempt goes on never runs out: the job was `running` for
    ever."""

    async def test(b):
        worker, (job_id,) = await b.worker(), await b.submit()
        (got,) = await worker.acquire()
        if how == "full disk":
            refuses = AsyncMock(side_effect=Unavailable("disk full"))
            with monkeypatch.context() as patch:
                patch.setattr(b.service.store, "write", refuses)
                with pytest.raises(Unavailable):
                    await b.service.workers.release(released(got), worker.caller)
        else:
            await worker.beat(got)
            b.service.state.leases.of(
                job_id
            ).state = JobState.SENT  # a word of its own came between
        if how == "release":
            await b.service.workers.release(released(got, got), worker.caller)
        elif how == "bye":
            await b.service.workers.bye(m.Bye(ending="done"), worker.caller)
        await b.forward(31)
        await b.forward(31)  # the store may have heard of it a moment later than memory
        assert await b.state(job_id) == JobState.ACTIVATED
        (again,) = await (await b.worker()).acquire()
        assert again.attempt_nr == 2

    run(test, place)


def test_what_was_given_back_unbegun_is_another_workers_at_once(tmp_path):
    async def test(b):
        worker, other = await b.worker(), await b.worker()
        (job_id,) = await b.submit()
        (got,) = await worker.acquire()
        await b.service.workers.release(released(got, got), worker.caller)
        assert await b.state(job_id) == JobState.ACTIVATED
        (again,) = await other.acquire()
        await b.service.workers.release(released(got), worker.caller)
        assert b.service.state.leases.of(job_id).worker_id == other.id
        assert await other.report(again) == "accepted"

    run(test, tmp_path)


def test_a_report_that_comes_again_takes_no_lease_from_the_next_attempt(place):
    async def test(b):
        first, second = await b.worker(), await b.worker()
        (job_id,) = await b.submit()
        (got,) = await first.acquire()
        assert await first.report(got, finished=False, transient=True) == "accepted"
        (again,) = await second.acquire()
        assert await first.report(got, finished=False, transient=True) == "accepted"
        assert b.service.state.leases.held(second.id, job_id, again.attempt_nr) is not None
        await b.forward(31)
        await b.forward(31)
        assert await b.state(job_id) == JobState.ACTIVATED

    run(test, place)


@pytest.mark.parametrize("alone", [False, True])
def test_a_worker_is_alone_with_a_job_as_long_as_it_holds_it(alone):
    leases = Leases()
    leases.add(Lease(1, 1, 7, JobState.SENT, 1.0, alone=alone))
    leases.add(Lease(2, 1, 8, JobState.SENT, 1.0))
    assert [leases.alone(worker) for worker in (7, 8, 9)] == [alone, False, False]
    assert [leases.busy(worker) for worker in (7, 8, 9)] == [True, True, False]
    leases.add(Lease(1, 2, 8, JobState.SENT, 1.0))  # begun anew elsewhere
    assert not leases.alone(7)
    assert not leases.alone(8)
    assert not leases.busy(7)
