"""What becomes of jobs that ended long ago: each is one document, found by its id, out of the way.

On PostgreSQL the documents lie in a partition a month, which an operator can detach and drop.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from dispatcher.ports import Tx
from dispatcher.rules import item_lists, item_views, records, specs, submission_records, views
from dispatcher.rules.views import StoredJob

# Jobs moved in one commit.
SLICE = 50
# Events and submissions forgotten in one commit.
EVENTS = 2000
_encode = msgspec.json.Encoder().encode
_detail = msgspec.json.Decoder(m.JobDetail).decode


def detail(tx: Tx, job: StoredJob) -> m.JobDetail:
    """All about one job."""
    job_id = job.row.job_id
    children = tx.all("parent.children", parent=job_id, most=1000)
    retry_of, retry_by, _ = tx.one("retry.made", new_id=job_id) or (None, "", None)
    found = submission_records.of_job(tx, job_id)
    return m.JobDetail(
        row=job.row,
        submission=None if found is None else found.first,
        spec=replace(
            specs.specification(tx, job_id, job.row.name), labels=records.labels(tx, job_id)
        ),
        attempts=tuple(views.attempts(tx, job_id)),
        files=tuple(views.files(tx, job_id)),
        parents=tuple(parent for parent, _ in records.parents(tx, job_id)),
        children=tuple(child for (child,) in children),
        activated=job.activated,
        retry_of=retry_of,
        retry_by=retry_by,
        retried_as=records.find_retry(tx, job_id),
        items=item_views.find_counts(tx, job_id),
    )


def kept(tx: Tx, job_id: int) -> m.JobDetail | None:
    """A job that was moved."""
    document: bytes | None = records.value(tx.one("old.get", job_id=job_id), None)
    if document is None:
        return None
    return replace(_detail(document), retried_as=records.find_retry(tx, job_id))


def states_of(tx: Tx, job_ids: Sequence[int]) -> dict[int, tuple[JobState, str]]:
    """State and owner of each of the jobs that is there, moved or not."""
    rows = tx.all("job.states_of", ids=_encode(job_ids).decode())
    found = {job_id: (JobState(state), owner) for job_id, state, owner in rows}
    missing = [job_id for job_id in job_ids if job_id not in found]
    for old in records.old_jobs(tx, missing) if missing else ():
        if old.detail is None:
            found[old.job_id] = JobState(old.state), old.owner
        else:
            row = _detail(old.detail).row
            found[old.job_id] = row.state, row.user
    return found


def tidy(tx: Tx, *, before: float) -> bool:
    """Move some jobs that ended before, forget some events that old. Whether there may be more.

    A job stays while a child of it is not final: the child's inputs may be its outputs.
    """
    due = tx.all("old.due", before=before, most=SLICE)
    if due:
        _move(tx, [job_id for (job_id,) in due])
    events = tx.all("event.trim", before=before, most=EVENTS)
    tx.run("request.trim", before=before)
    tx.run("tally.trim")
    tx.run("reached.trim", before=before)
    tx.run("action.trim", before=before)
    return len(due) == SLICE or len(events) == EVENTS


def _move(tx: Tx, job_ids: list[int]) -> None:
    for job_id in job_ids:
        stored, job = views.find_job(tx, job_id), records.find_job(tx, job_id)
        if stored is None or job is None:
            continue
        whole = detail(tx, stored)
        tx.one("old.partition", at=whole.row.changed)
        tx.run(
            "old.add",
            job_id=job_id,
            ended=whole.row.changed,
            detail=_encode(whole),
            state=whole.row.state,
            owner=whole.row.user,
        )
        tx.count(job.queue, job.shape_id, job.state, -1, job.owner)
        if job.items:
            item_lists.leave(tx, job_id)
    ids = _encode(job_ids).decode()
    tx.run("failure.less", ids=ids)
    tx.run("registration.drop", ids=ids)
    for what in ("log", "file", "attempt", "body", "label", "parent", "sized", "tail", "job"):
        tx.run(f"old.drop_{what}", ids=ids)
