"""The only place where a job changes state.

Each change asks the table in `ailurus/protocol/states.py` first, and then writes what the table
answered: the row of the job, the counters, and the event. No other module runs a statement that
writes a job's state; a test holds that. Attempts end elsewhere (`attempts.py`), and the jobs that
wait for a job that has ended are informed by its caller (`dependencies.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol import states
from ailurus.protocol.errors import Code
from ailurus.protocol.states import FINAL, PART, Change, JobState, Refusal
from dispatcher.events import StateChanged, Submitted
from dispatcher.ports import Tx
from dispatcher.rules import failures, records
from dispatcher.rules.records import ChildRecord, JobRecord

_encode = msgspec.json.Encoder().encode


def define(tx: Tx, jobs: Sequence[Mapping[str, Any]], *, owner: str) -> None:
    """Store new jobs of an owner, in the state `states.FIRST`; nobody sees them before
    `open_range`."""
    tx.many("job.add", jobs)
    for (queue, shape_id), n in Counter((job["queue"], job["shape_id"]) for job in jobs).items():
        tx.count(queue, shape_id, states.FIRST, n, owner)


def open_range(tx: Tx, first: int, last: int, *, now: float) -> None:
    """Let the jobs of a submission begin: those that wait for no other job are ready."""
    blocked, ready = _defined_as(Change.BLOCK), _defined_as(Change.ACTIVATE)
    groups = records.defined(tx, first, last)
    tx.run("job.open_range", first=first, last=last, blocked=blocked, ready=ready, now=now)
    for group in groups:
        state = blocked if group.blocked else ready
        tx.count(group.queue, group.shape_id, states.FIRST, -group.n, group.owner)
        tx.count(group.queue, group.shape_id, state, group.n, group.owner)
        event = Submitted(
            queue=group.queue,
            shape_id=group.shape_id,
            state=state,
            jobs=group.n,
            first=first,
            last=last,
        )
        tx.tell(event, at=now)


def _defined_as(change: Change) -> JobState:
    state = states.after(states.FIRST, change)
    assert isinstance(state, JobState)  # noqa: S101 -- the table has both
    return state


def activate(tx: Tx, children: Iterable[ChildRecord], *, now: float) -> None:
    """Make those jobs ready that wait for no other job any more."""
    ready = [
        (child, state)
        for child in children
        if child.parents_left == 0
        and isinstance(state := states.after(child.state, Change.ACTIVATE), JobState)
    ]
    if not ready:
        return
    ids = _encode([child.job_id for child, _ in ready]).decode()
    tx.run("job.activate", ids=ids, state=ready[0][1], now=now)
    for child, state in ready:
        event = StateChanged(
            state=state,
            old=child.state,
            queue=child.queue,
            shape_id=child.shape_id,
            attempt_nr=child.attempt_nr,
        )
        _tell(tx, child, event, now=now)


def set_aside(tx: Tx, job: JobRecord, *, now: float) -> JobRecord | Refusal:
    """Take a ready job out of the line of those that wait for workers."""
    return _move(tx, job, states.set_aside(job), None, now=now)


def lease(
    tx: Tx, job: JobRecord, worker_id: int, *, alone: bool, now: float
) -> JobRecord | Refusal:
    """Lease a job to a worker. `alone`: nothing else is to run beside it."""
    after = states.lease(job)
    return _move(tx, job, after, worker_id, now=now, user=job.owner, alone=alone)


def advance(
    tx: Tx, job: JobRecord, state: JobState, attempt_nr: int, *, now: float
) -> JobRecord | Refusal:
    """Move a job on to where its worker says that the attempt is. A report that says nothing new
    writes nothing."""
    return _move(tx, job, states.advance(job, state, attempt_nr), job.worker_id, now=now)


def resume(
    tx: Tx, job: JobRecord, attempt_nr: int, worker_id: int, *, alone: bool, now: float
) -> JobRecord | Refusal:
    """Lease a job again to the worker that was taken for lost with it. `alone`: nothing else is to
    run beside it."""
    after = states.resume(job, attempt_nr)
    return _move(tx, job, after, worker_id, now=now, user=job.owner, alone=alone)


def release(tx: Tx, job: JobRecord, attempt_nr: int, *, now: float) -> JobRecord | Refusal:
    """Take back a job that its worker has not started."""
    return _move(tx, job, states.release(job, attempt_nr), None, now=now)


def conclude(
    tx: Tx,
    job: JobRecord,
    report: m.Report,
    *,
    blameless: bool,
    progressed: bool = False,
    last: bool = False,
    now: float,
) -> JobRecord | Refusal:
    """Put a job where the end of an attempt brings it: to its end, or back to be tried again.
    `blameless`, `progressed` and `last` are as in `states.conclude`."""
    after = states.conclude(
        job,
        finished=report.finished,
        transient=report.transient,
        attempt_nr=report.attempt_nr,
        blameless=blameless,
        progressed=progressed,
        last=last,
    )
    if isinstance(after, Refusal) or after.state not in FINAL:
        return _move(tx, job, after, None, now=now)
    return _end(
        tx, job, after, report.code, report.diagnosis, now=now, attempt_nr=report.attempt_nr
    )


def cancel(tx: Tx, job: JobRecord, by: str, *, now: float) -> JobRecord | Refusal:
    """Cancel a job for the user `by`."""
    after = states.cancel(job)
    return _end(tx, job, after, Code.KILLED_BY_SERVER, f"cancelled by {by}", now=now, by=by)


def abandon(
    tx: Tx, job: JobRecord, *, code: int, diagnosis: str, now: float
) -> JobRecord | Refusal:
    """Fail a job that can never run."""
    return _end(tx, job, states.abandon(job), code, diagnosis, now=now)


def _move(
    tx: Tx,
    before: JobRecord,
    after: JobRecord | Refusal,
    worker_id: int | None,
    *,
    now: float,
    user: str | None = None,
    alone: bool = False,
) -> JobRecord | Refusal:
    """Write a change to a state that is not final. `user` and `alone`: of a lease; other
    dispatchers make theirs of them."""
    if isinstance(after, Refusal) or after.state is before.state:
        return after
    tx.run(
        "job.set_state",
        job_id=before.job_id,
        state=after.state,
        attempt_nr=after.attempt_nr,
        max_attempts=after.max_attempts,
        worker_id=worker_id,
        now=now,
    )
    event = StateChanged(
        state=after.state,
        old=before.state,
        queue=before.queue,
        shape_id=before.shape_id,
        attempt_nr=after.attempt_nr,
        user=user,
        alone=alone,
    )
    _tell(tx, before, event, worker_id, now=now)
    _tally(tx, before, after.state)
    return after


def _end(
    tx: Tx,
    before: JobRecord,
    after: JobRecord | Refusal,
    code: int,
    diagnosis: str,
    *,
    now: float,
    attempt_nr: int | None = None,
    by: str | None = None,
) -> JobRecord | Refusal:
    """Write a change to a final state. `attempt_nr`: whose end it is, unless it is the current
    attempt's; `by`: who wanted it."""
    if isinstance(after, Refusal):
        return after
    code = int(code)
    attempt_nr = before.attempt_nr if attempt_nr is None else attempt_nr
    kind = None
    if after.state is JobState.FAILED:
        kind = failures.note(
            tx,
            owner=before.owner,
            code=code,
            diagnosis=diagnosis,
            worker_id=before.worker_id,
            now=now,
        )
    tx.run(
        "job.end",
        job_id=before.job_id,
        state=after.state,
        code=code,
        diagnosis=diagnosis,
        attempt_nr=attempt_nr,
        kind=kind,
        now=now,
    )
    event = StateChanged(
        state=after.state,
        old=before.state,
        queue=before.queue,
        shape_id=before.shape_id,
        attempt_nr=attempt_nr,
        code=code,
        user=before.owner,
        by=by,
        task_id=before.task_id or None,
    )
    if before.task_id:
        tx.run("unit.end", job_id=before.job_id, state=after.state)
    _tell(tx, before, event, now=now)
    _tally(tx, before, after.state)
    return after


def _tally(tx: Tx, before: JobRecord, state: JobState) -> None:
    """Move the tally of a job's submission, if it has one and the job is in another part of it
    now. A child that becomes ready waits as before."""
    old, new = PART[before.state], PART[state]
    if before.tally is not None and old != new:
        tx.tally(before.tally, old, -1)
        tx.tally(before.tally, new, +1)


def _tell(
    tx: Tx,
    before: JobRecord | ChildRecord,
    event: StateChanged,
    worker_id: int | None = None,
    *,
    now: float,
) -> None:
    """Move the counters, and write the event of a change."""
    tx.count(before.queue, before.shape_id, before.state, -1, before.owner)
    tx.count(before.queue, before.shape_id, event.state, +1, before.owner)
    tx.tell(event, at=now, job_id=before.job_id, worker_id=worker_id)
