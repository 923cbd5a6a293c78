"""What becomes of jobs that ended long ago: each is one document, found by its id, out of the way.

On PostgreSQL the documents lie in a partition a month, which an operator can detach and drop.
"""

from __future__ import annotations

import msgspec

from ailurus.protocol import messages as m
from dispatcher import queue, views
from dispatcher.ports import Row, Tx

SLICE = 50  # jobs moved in one commit
EVENTS = 2000  # events and submissions forgotten in one commit
_encode = msgspec.json.Encoder().encode
_detail = msgspec.json.Decoder(m.JobDetail).decode


def detail(tx: Tx, row: Row) -> m.JobDetail:
    """All about one job; `row` is that of `job.row`."""
    job_id = row[0]
    return m.JobDetail(
        row=views.job(row),
        spec=queue.specification(tx, job_id, row[1]),
        attempts=tuple(views.attempt(one) for one in tx.all("attempt.of_job", job_id=job_id)),
        files=tuple(views.file(one) for one in tx.all("file.of_job", job_id=job_id)),
        parents=tuple(one[0] for one in tx.all("parent.states", child=job_id)),
        children=tuple(one[0] for one in tx.all("parent.children", parent=job_id, most=1000)),
        activated=row[12],
    )


def kept(tx: Tx, job_id: int) -> m.JobDetail | None:
    """A job that was moved."""
    row = tx.one("old.get", job_id=job_id)
    return _detail(row[0]) if row is not None else None


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
        row, standing = tx.one("job.row", job_id=job_id), tx.one("job.standing", job_id=job_id)
        if row is None or standing is None:
            continue
        whole = detail(tx, row)
        tx.one("old.partition", at=whole.row.changed)
        tx.run("old.add", job_id=job_id, ended=whole.row.changed, detail=_encode(whole))
        tx.count(standing[4], standing[5], standing[0], -1)
    ids = _encode(job_ids).decode()
    for what in ("log", "file", "attempt", "body", "parent", "job"):
        tx.run(f"old.drop_{what}", ids=ids)
