"""How a cancellation of many jobs is undone: those that waited are submitted again.

A job ends once, so what is brought back is a new try of each, with its owner and what it waits for.
Which jobs these are, is written by the commit that cancels them, and is kept for `UNDO_S`. With
them come back those that failed unstarted because they waited for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ailurus.protocol.states import JobState
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import action_records, handling, records, submission_records
from dispatcher.rules.records import JobRecord

UNDO_S = 900.0
"""So long after its end an action can be undone."""
# Jobs that come back with those of one slice, at most.
MOST_CHILDREN = 2000
# Rows that are forgotten in one commit.
SLICE = 1000


def waits(job: JobRecord) -> bool:
    """Whether a job can be brought back if it is cancelled now. One that its user holds would
    begin: it stays cancelled."""
    return job.state in handling.WAITING and not handling.is_held(job) and not job.task_id


def note(tx: Tx, action_id: int, waited: Sequence[int]) -> None:
    """Write down which jobs an action has cancelled that waited."""
    tx.many("undo.add", ({"action_id": action_id, "job_id": one} for one in waited))


def reach(tx: Tx, action_id: int, job_ids: Sequence[int]) -> None:
    """Count jobs that an action has reached, ascending, under their submissions."""
    counts: dict[int, int] = {}
    first = end = 0
    for job_id in job_ids:
        if job_id >= end:
            found = submission_records.of_job(tx, job_id)
            first, end = (
                (0, job_id + 1) if found is None else (found.first, found.first + found.jobs)
            )
        if first:
            counts[first] = counts.get(first, 0) + 1
    tx.many(
        "reached.more",
        [{"first": one, "action_id": action_id, "jobs": n} for one, n in counts.items()],
    )


def cancelled(tx: Tx, action_id: int, owns: Callable[[str], bool], now: float) -> int:
    """How many jobs are brought back if an action is undone. Raises Rejected."""
    found = action_records.get(tx, action_id)
    if found is None or not owns(found.owner):
        raise Rejected(
            404,
            f"there is no action {action_id}",
            field="action",
            remedy="`dispatcher cancel` names it, and so does the page of a submission",
        )
    if found.verb != "cancel":
        raise _refused(f"action {action_id} is no cancellation but a {found.verb}", "")
    if found.ended is None:
        raise _refused(f"action {action_id} is still under way", "ask again when it has ended")
    if now > found.ended + UNDO_S:
        raise _refused(
            f"action {action_id} ended more than {UNDO_S / 60:.0f} minutes ago",
            "dispatcher retry --query 'state:cancelled …' submits again what you name",
        )
    if not found.undo:
        raise _refused(
            f"none of the jobs that action {action_id} cancelled had waited",
            "what ran is submitted again by `dispatcher retry ID`",
        )
    return found.undo


def following(tx: Tx, action_id: int, after: int, most: int) -> list[int]:
    """The next jobs that can be brought back."""
    found = tx.all("undo.next", action_id=action_id, after=after, most=most)
    return [job_id for (job_id,) in found]


def with_children(tx: Tx, job_ids: Sequence[int]) -> tuple[list[int], bool]:
    """Jobs, and those that failed unstarted because they waited for one of them, ascending; and
    whether some of these are left out, for there are too many."""
    found = dict.fromkeys(job_ids)
    # One that has been moved away meanwhile has no children that are here.
    left = [one for one in job_ids if records.find_job(tx, one) is not None]
    most = len(found) + MOST_CHILDREN
    while left:
        parent = records.get_job(tx, left.pop())
        for (child,) in tx.all("parent.children", parent=parent.job_id, most=MOST_CHILDREN):
            if child in found or not _failed_unstarted(tx, child, parent.owner):
                continue
            if len(found) >= most:
                return sorted(found), True
            found[child] = None
            left.append(child)
    return sorted(found), False


def _failed_unstarted(tx: Tx, job_id: int, owner: str) -> bool:
    job = records.find_job(tx, job_id)
    if job is None or job.owner != owner:
        return False
    return job.state is JobState.FAILED and not job.attempt_nr


def tidy(tx: Tx, *, now: float) -> bool:
    """Forget some jobs that can no longer be brought back. Whether there may be more."""
    action_id = records.value(tx.one("undo.due", before=now - UNDO_S), 0)
    if not action_id:
        return False
    ids = following(tx, action_id, 0, SLICE)
    if ids:
        tx.run("undo.drop", action_id=action_id, last=ids[-1])
    if len(ids) < SLICE:
        tx.run("undo.over", action_id=action_id)
    return True


def _refused(title: str, remedy: str) -> Rejected:
    return Rejected(409, title, field="action", remedy=remedy)
