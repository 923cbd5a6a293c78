"""What an ended job means for those that depend on it: a slice of children a commit."""

from __future__ import annotations

from ailurus.protocol.errors import Code
from ailurus.protocol.states import JobState, Refusal
from dispatcher.events import ChildrenDue
from dispatcher.ports import Tx
from dispatcher.rules import records, transitions
from dispatcher.rules.records import JobRecord

# Children informed in one commit: a wide fan-out must not hold up every heartbeat.
SLICE = 500
# Children informed in the commit that ends their parent.
AT_ONCE = 8


def ended(tx: Tx, job: JobRecord, *, now: float) -> None:
    """Inform the children of a job that has just ended; the rest of them is left to `unfold`."""
    if tx.one("unfolding.add", job_id=job.job_id) is None:
        # No job depends on it.
        return
    if _inform(tx, job.job_id, job.state, job.name, AT_ONCE, now) < AT_ONCE:
        tx.run("unfolding.done", job_id=job.job_id)
    if tx.one("unfolding.any", most=1):
        tx.tell(ChildrenDue(), at=now, job_id=job.job_id)


def unfold(tx: Tx, *, now: float) -> bool:
    """Inform one more slice of children of ended jobs. Whether there may be more."""
    left = SLICE
    for job_id, state, name in tx.all("unfolding.any", most=SLICE):
        informed = _inform(tx, job_id, JobState(state), name, left, now)
        if informed < left:
            tx.run("unfolding.done", job_id=job_id)
        left -= informed
        if left <= 0:
            return True
    return tx.one("unfolding.any", most=1) is not None


def fail(tx: Tx, job: JobRecord, *, code: int, diagnosis: str, now: float) -> None:
    """Fail a job that can never run. Its own children follow in their turn."""
    after = transitions.abandon(tx, job, code=code, diagnosis=diagnosis, now=now)
    if not isinstance(after, Refusal):
        tx.run("unfolding.add", job_id=job.job_id)
    elif after is Refusal.ILLEGAL:
        # it may never come to be, and does not know all its children yet: it fails when it is there
        tx.run("job.doom", job_id=job.job_id, code=code, diagnosis=diagnosis)


def _inform(tx: Tx, job_id: int, state: JobState, name: str, most: int, now: float) -> int:
    """Inform up to `most` children that do not know yet. How many there were."""
    children = [child for (child,) in tx.all("parent.tell", parent=job_id, most=most)]
    if children and state is JobState.FINISHED:
        transitions.activate(tx, records.parent_finished(tx, children), now=now)
        return len(children)
    diagnosis = f"depends on job {job_id} ({name}), which is {state}"
    for child in children:
        if (job := records.find_job(tx, child)) is not None:
            fail(tx, job, code=Code.PARENT_FAILED, diagnosis=diagnosis, now=now)
    return len(children)
