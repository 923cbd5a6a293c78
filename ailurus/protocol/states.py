"""The life of a job, in PanDA's words, as one table and pure functions over it.

A job waits for its parents (`pending`), becomes ready (`activated`; `defined` and `assigned` are
passed through by PanDA's brokerage, which we do not have), is handed to a worker (`sent`), stages
in (`starting`), runs, stages out (`holding`), and ends. A lost or failed attempt puts the same job
back to `activated` with the next attempt number. Each attempt may end; the job ends once.

Nothing else in the suite changes a state: the dispatcher stores what these functions return.
`docs/states.md` is drawn from `NEXT` and a test walks it.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace


class JobState(StrEnum):
    """A job's state (PanDA jobStatus)."""

    PENDING = "pending"
    DEFINED = "defined"
    ASSIGNED = "assigned"
    ACTIVATED = "activated"
    SENT = "sent"
    STARTING = "starting"
    RUNNING = "running"
    HOLDING = "holding"
    MERGING = "merging"
    TRANSFERRING = "transferring"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CLOSED = "closed"


S = JobState
FINAL = frozenset({S.FINISHED, S.FAILED, S.CANCELLED, S.CLOSED})
WITH_WORKER = frozenset({S.SENT, S.STARTING, S.RUNNING, S.HOLDING})
"""States in which a worker holds a lease on the job."""

_END = frozenset({S.FINISHED, S.FAILED, S.CANCELLED})
NEXT: dict[JobState, frozenset[JobState]] = {
    S.PENDING: frozenset({S.DEFINED, S.ACTIVATED, S.FAILED, S.CANCELLED, S.CLOSED}),
    S.DEFINED: frozenset({S.ASSIGNED, S.ACTIVATED, S.CANCELLED, S.CLOSED}),
    S.ASSIGNED: frozenset({S.ACTIVATED, S.CANCELLED, S.CLOSED}),
    S.ACTIVATED: frozenset({S.SENT, S.CLOSED}) | _END,
    S.SENT: frozenset({S.STARTING, S.RUNNING, S.HOLDING, S.ACTIVATED}) | _END,
    S.STARTING: frozenset({S.RUNNING, S.HOLDING, S.ACTIVATED}) | _END,
    S.RUNNING: frozenset({S.HOLDING, S.ACTIVATED}) | _END,
    S.HOLDING: frozenset({S.MERGING, S.TRANSFERRING, S.ACTIVATED}) | _END,
    S.MERGING: frozenset({S.TRANSFERRING}) | _END,
    S.TRANSFERRING: _END,
    S.FINISHED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
    S.CLOSED: frozenset(),
}


class Refusal(StrEnum):
    """Why an update does not apply. An answer, not an accident: reports come twice and late."""

    ALREADY_DONE = "alreadydone"  # the job has ended: whoever still runs it stops
    BAD_ATTEMPT = "badattemptnr"  # another attempt has taken over
    NOT_YOURS = "notyours"  # the lease is another worker's
    ILLEGAL = "illegal"  # no such step from here


class Standing(Struct, frozen=True, kw_only=True):
    """The part of a job that decides what may happen to it."""

    state: JobState
    attempt_nr: int = 0  # the attempt that is running or was last handed out; the first is 1
    max_attempts: int = 5
    retry_all: bool = False  # whether a failure of the payload itself is tried again


def lease(job: Standing) -> Standing | Refusal:
    """The job handed to a worker: a new attempt begins."""
    if job.state is not S.ACTIVATED:
        return Refusal.ALREADY_DONE if job.state in FINAL else Refusal.ILLEGAL
    return replace(job, state=S.SENT, attempt_nr=job.attempt_nr + 1)


def advance(job: Standing, state: JobState, attempt_nr: int) -> Standing | Refusal:
    """The job after a worker said that its attempt is in `state`, which is not a final one.

    The same word twice is no step back, and words that overtook each other do not undo anything.
    """
    if job.state in FINAL:
        return Refusal.ALREADY_DONE
    if attempt_nr != job.attempt_nr or job.state not in WITH_WORKER:
        return Refusal.BAD_ATTEMPT
    if state == job.state or job.state in NEXT.get(state, frozenset()) - {S.ACTIVATED}:
        return job
    if state not in NEXT[job.state] or state not in WITH_WORKER:
        return Refusal.ILLEGAL
    return replace(job, state=state)


FORGIVEN = 20
"""Attempts up to which it is not held against a job that its worker was taken away."""


def conclude(
    job: Standing, *, finished: bool, transient: bool, attempt_nr: int, blameless: bool = False
) -> Standing | Refusal:
    """The job after the final report of an attempt. `blameless`: the site ended it, by preemption say,
    and the job is given another attempt for it.

    The first attempt that finished wins, even one whose lease had been given away; a failure counts
    only for the attempt that is current. A failed attempt is followed by another one while
    `max_attempts` allows and the failure is of a kind worth trying again.
    """
    if job.state in FINAL:
        return Refusal.ALREADY_DONE
    if not 1 <= attempt_nr <= job.attempt_nr:
        return Refusal.BAD_ATTEMPT
    if finished:
        return replace(job, state=S.FINISHED)
    if attempt_nr != job.attempt_nr or job.state not in WITH_WORKER:
        return Refusal.BAD_ATTEMPT
    if blameless and attempt_nr < FORGIVEN:
        return replace(job, state=S.ACTIVATED, max_attempts=job.max_attempts + 1)
    if (transient or job.retry_all) and attempt_nr < job.max_attempts:
        return replace(job, state=S.ACTIVATED)
    return replace(job, state=S.FAILED)


def release(job: Standing, attempt_nr: int) -> Standing | Refusal:
    """The job given back unstarted by the worker it was sent to: not counted as an attempt.

    Its number is not used again, so that nothing late can be taken for the next attempt's.
    """
    if job.state in FINAL:
        return Refusal.ALREADY_DONE
    if attempt_nr != job.attempt_nr or job.state not in (S.SENT, S.STARTING):
        return Refusal.BAD_ATTEMPT
    return replace(job, state=S.ACTIVATED, max_attempts=job.max_attempts + 1)


def resume(job: Standing, attempt_nr: int) -> Standing | Refusal:
    """The job back in the hands of a worker that was taken for lost and speaks again: as long as no newer
    attempt has begun, its own is the current one."""
    if job.state in FINAL:
        return Refusal.ALREADY_DONE
    if attempt_nr != job.attempt_nr or job.state is not S.ACTIVATED:
        return Refusal.BAD_ATTEMPT
    return replace(job, state=S.SENT)


def cancel(job: Standing) -> Standing | Refusal:
    """The job cancelled by its owner; a worker that runs it is told to stop. One that is still being
    submitted may never come to be: its submission may be refused."""
    if job.state is S.DEFINED:
        return Refusal.ILLEGAL
    return Refusal.ALREADY_DONE if job.state in FINAL else replace(job, state=S.CANCELLED)
