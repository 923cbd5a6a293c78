"""Leases that run out are found when they do, though not all are looked at each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.states import JobState
from dispatcher.leases import Lease, Leases

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
