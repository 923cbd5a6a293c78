"""What becomes of jobs that ended long ago: each is one document, found by its id, out of the way.

On PostgreSQL the documents lie in a partition a month, which an operator can detach and drop.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from dispatcher.ports import Row, Tx
from dispatcher.rules import records, specs, views

SLICE = 50  # jobs moved in one commit
EVENTS = 2000  # events and submissions forgotten in one commit
_encode = msgspec.json.Encoder().encode
_detail = msgspec.json.Decoder(m.JobDetail).decode


def detail(tx: Tx, row: Row) -> m.JobDetail:
    """All about one job; `row` is that of `job.row`."""
    job_id = row[0]
    made = tx.one("retry.made", new_id=job_id)
    later = tx.one("retry.of", job_id=job_id)
    return m.JobDetail(
        row=views.job(row),
        spec=specs.specification(tx, job_id, row[1]),
        attempts=tuple(views.attempt(one) for one in tx.all("attempt.of_job", job_id=job_id)),
        files=tuple(views.file(one) for one in tx.all("file.of_job", job_id=job_id)),
        parents=tuple(one[0] for one in tx.all("parent.states", child=job_id)),
        children=tuple(one[0] for one in tx.all("parent.children", parent=job_id, most=1000)),
        activated=row[12],
        retry_of=made[0] if made else None,
        retry_by=made[1] if made else "",
        retried_as=later[0] if later else None,
    )


def kept(tx: Tx, job_id: int) -> m.JobDetail | None:
    """A job that was moved."""
    row = tx.one("old.get", job_id=job_id)
    if row is None:
        return None
    later = tx.one("retry.of", job_id=job_id)
    return replace(_detail(row[0]), retried_as=later[0] if later else None)


def states_of(tx: Tx, job_ids: Sequence[int]) -> dict[int, tuple[JobState, str]]:
    """State and owner of each of the jobs that is there, moved or not."""
    rows = tx.all("job.states_of", ids=_encode(job_ids).decode())
    found = {job_id: (JobState(state), owner) for job_id, state, owner in rows}
    missing = [job_id for job_id in job_ids if job_id not in found]
    for job_id, state, owner, whole in (
        tx.all("old.states_of", ids=_encode(missing).decode()) if missing else ()
    ):
        if whole is None:
            found[job_id] = JobState(state), owner
        else:
            row = _detail(whole).row
            found[job_id] = row.state, row.user
    return found


def tidy(tx: Tx, *, before: float) -> bool:
    """Move some jobs that ended before, forget some events that old. Whether there may be more.

    A job stays while a child of it is not final: the child's inputs may be its outputs.
    """
    due = tx.all("old.due", before=before, most=SLICE)
    if due:
        _move(tx, [row[0] for row in due])
    events = tx.all("event.trim", before=before, most=EVENTS)
    tx.run("request.trim", before=before)
    return len(due) == SLICE or len(events) == EVENTS


def _move(tx: Tx, job_ids: list[int]) -> None:
    for job_id in job_ids:
        row, job = tx.one("job.row", job_id=job_id), records.find_job(tx, job_id)
        if row is None or job is None:
            continue
        whole = detail(tx, row)
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
    ids = _encode(job_ids).decode()
    tx.run("failure.less", ids=ids)
    for what in ("log", "file", "attempt", "body", "parent", "sized", "job"):
        tx.run(f"old.drop_{what}", ids=ids)
