"""The life of a job: one table of changes, and pure functions that look their answers up in it.

A job is `defined` while its submission is being stored. Then it waits for the jobs that it depends
on (`pending`), or is ready (`activated`). It is leased to a worker (`sent`), stages in
(`starting`), runs, stages out (`holding`), and ends. A failed or lost attempt puts the same job
back to `activated`, and the next lease has the next attempt number. Each attempt may end; the job
ends once.

`TABLE` is the program. Nothing else says which state follows which: the functions below add what is
required of the attempt, and `dispatcher/rules/transitions.py`, the only place where a job changes
state, writes what they return. `ATTEMPT_TABLE` is the same for an attempt, which
`dispatcher/rules/attempts.py` moves. `docs/states.md` is drawn from both, and a test compares them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace


class JobState(StrEnum):
    """A job's state (PanDA jobStatus).

    No job of ours is ever `assigned`, `merging`, `transferring` or `closed`: nothing in the table
    leads there. The words are here because PanDA's clients and users know them: they filter lists
    by them, count jobs in them, and rely on `closed` being final.
    """

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
FIRST = S.DEFINED
"""The state of a new job."""
FINAL = frozenset({S.FINISHED, S.FAILED, S.CANCELLED, S.CLOSED})
UNUSED = frozenset({S.ASSIGNED, S.MERGING, S.TRANSFERRING, S.CLOSED})
"""States that only PanDA's own jobs have, see `JobState`."""
STAGES = (S.SENT, S.STARTING, S.RUNNING, S.HOLDING)
"""What an attempt goes through, in this order; it may leave out any but the first."""
WITH_WORKER = frozenset(STAGES)
"""States in which a worker holds a lease on the job."""
AT_WORK = WITH_WORKER - {S.SENT, S.HOLDING}
"""States in which a worker has begun with the job and does not stage out yet."""
TO_BE_SERVED = WITH_WORKER | {S.ACTIVATED}
"""States for which there must be a worker."""
OPEN = frozenset(S) - FINAL
"""States of a job that has not ended."""
UNSUCCESSFUL = FINAL - {S.FINISHED}
"""Ends in which a job leaves no result."""
PARTS = {
    "waiting": frozenset({S.DEFINED, S.PENDING, S.ASSIGNED, S.ACTIVATED}),
    "running": WITH_WORKER | {S.MERGING, S.TRANSFERRING},
    "finished": frozenset({S.FINISHED}),
    "failed": frozenset({S.FAILED}),
    "cancelled": frozenset({S.CANCELLED, S.CLOSED}),
}
"""How far the jobs of a submission are, in words of five."""
PART = {state: part for part, states in PARTS.items() for state in states}
BY_REPORT = frozenset({S.FINISHED, S.FAILED})
"""Ends that the report of an attempt brings about."""
STOPPED = FINAL - BY_REPORT
"""All other ends."""


class Change(StrEnum):
    """What can happen to a job."""

    BLOCK = "block"
    ACTIVATE = "activate"
    LEASE = "lease"
    START = "start"
    RUN = "run"
    HOLD = "hold"
    RETRY = "retry"
    RELEASE = "release"
    RESUME = "resume"
    FINISH = "finish"
    FAIL = "fail"
    ABANDON = "abandon"
    CANCEL = "cancel"
    SET_ASIDE = "set aside"


class Step(Struct, frozen=True):
    """Where a change leads, and from which states."""

    to: JobState
    start: frozenset[JobState]
    when: str


C = Change
TABLE: dict[Change, Step] = {
    C.BLOCK: Step(
        S.PENDING,
        frozenset({S.DEFINED}),
        "its submission is complete, and jobs that it depends on have not finished",
    ),
    C.ACTIVATE: Step(
        S.ACTIVATED,
        frozenset({S.DEFINED, S.PENDING}),
        "its submission is complete, all jobs that it depends on have finished, and nobody holds it",
    ),
    C.SET_ASIDE: Step(S.PENDING, frozenset({S.ACTIVATED}), "its user holds it"),
    C.LEASE: Step(S.SENT, frozenset({S.ACTIVATED}), "a worker gets it: a new attempt begins"),
    C.START: Step(S.STARTING, frozenset({S.SENT}), "its worker says that it stages in"),
    C.RUN: Step(S.RUNNING, frozenset({S.SENT, S.STARTING}), "its worker says that it runs"),
    C.HOLD: Step(
        S.HOLDING,
        frozenset({S.SENT, S.STARTING, S.RUNNING}),
        "its worker says that it stages out",
    ),
    C.RETRY: Step(
        S.ACTIVATED, WITH_WORKER, "its attempt failed or was lost, and another one is allowed"
    ),
    C.RELEASE: Step(
        S.ACTIVATED, frozenset({S.SENT, S.STARTING}), "its worker gives it back unstarted"
    ),
    C.RESUME: Step(
        S.SENT,
        frozenset({S.ACTIVATED}),
        "the worker of its lost attempt is back, and no newer attempt has begun",
    ),
    C.FINISH: Step(
        S.FINISHED,
        WITH_WORKER | {S.PENDING, S.ACTIVATED},
        "an attempt has finished, were it one that had been given up",
    ),
    C.FAIL: Step(S.FAILED, WITH_WORKER, "its attempt failed or was lost, and was the last one"),
    C.ABANDON: Step(
        S.FAILED,
        WITH_WORKER | {S.PENDING, S.ACTIVATED},
        "it can never run: a job that it depends on has not finished, or no pilot can be given it",
    ),
    C.CANCEL: Step(S.CANCELLED, WITH_WORKER | {S.PENDING, S.ACTIVATED}, "its owner cancels it"),
}
NEXT: dict[JobState, frozenset[JobState]] = {
    state: frozenset(step.to for step in TABLE.values() if state in step.start)
    for state in S
    if state not in UNUSED
}
"""What each state may become."""

_STAGE = {S.STARTING: C.START, S.RUNNING: C.RUN, S.HOLDING: C.HOLD}


class Refusal(StrEnum):
    """Why a change does not apply. An answer, not an accident: reports come twice and late."""

    # The job has ended: whoever still runs it stops.
    ALREADY_DONE = "alreadydone"
    # Another attempt has taken over.
    BAD_ATTEMPT = "badattemptnr"
    # The lease is another worker's.
    NOT_YOURS = "notyours"
    # No such step from here.
    ILLEGAL = "illegal"


class ReportOutcome(StrEnum):
    """What becomes of a final report, as `ReportVerdict.verdict` says it: it counts, or why not."""

    ACCEPTED = "accepted"
    # The report key is not that attempt's, or there is no such attempt.
    BAD_KEY = "badkey"
    ALREADY_DONE = Refusal.ALREADY_DONE.value
    BAD_ATTEMPT = Refusal.BAD_ATTEMPT.value
    NOT_YOURS = Refusal.NOT_YOURS.value
    ILLEGAL = Refusal.ILLEGAL.value


class RegistrationState(StrEnum):
    """How far an output is that a catalogue of data is to know, as `FileRecord.registration` says
    it."""

    DUE = "due"
    DONE = "done"
    REFUSED = "refused"


class Outlook(StrEnum):
    """What comes of a job as things are, as `Why.verdict` says it."""

    # A worker has it.
    RUNS = "runs"
    # It has ended.
    DONE = "done"
    # Nothing is in its way.
    NOW = "now"
    # Something is in its way that may pass.
    LATER = "later"
    # Nothing that is here now can ever run it.
    NEVER = "never"


class AttemptState(StrEnum):
    """An attempt's state. While a worker has it, it is in the state of its job."""

    SENT = S.SENT.value
    STARTING = S.STARTING.value
    RUNNING = S.RUNNING.value
    HOLDING = S.HOLDING.value
    FINISHED = S.FINISHED.value
    FAILED = S.FAILED.value
    LOST = "lost"
    RELEASED = "released"
    CANCELLED = S.CANCELLED.value
    OVERTAKEN = "overtaken"
    # The same words as the refusals of the report, which users have read in lists since the start.
    ALREADY_DONE = Refusal.ALREADY_DONE.value
    BAD_ATTEMPT = Refusal.BAD_ATTEMPT.value


A = AttemptState
FIRST_OF_ATTEMPT = A.SENT
OPEN_ATTEMPT = frozenset(AttemptState(state) for state in STAGES)
"""States of an attempt that its worker has. All others are ends."""
REPORTED = frozenset(AttemptState(state) for state in BY_REPORT)
"""States of an attempt whose report has been accepted."""
UNSUCCESSFUL_ATTEMPT = frozenset({A.FAILED, A.LOST})
"""Ends of an attempt that may be the fault of its node."""
MAY_COME_BACK = OPEN_ATTEMPT | {A.LOST}
"""States of an attempt whose worker may still report of it."""


class AttemptChange(StrEnum):
    """What can happen to an attempt."""

    START = "start"
    RUN = "run"
    HOLD = "hold"
    FINISH = "finish"
    FAIL = "fail"
    LOSE = "lose"
    RESUME = "resume"
    RELEASE = "release"
    CANCEL = "cancel"
    OVERTAKE = "overtake"
    COME_LATE = "come late"
    COME_SECOND = "come second"


class AttemptStep(Struct, frozen=True):
    """Where a change of an attempt leads, and from which states."""

    to: AttemptState
    start: frozenset[AttemptState]
    when: str


AC = AttemptChange
ATTEMPT_TABLE: dict[AttemptChange, AttemptStep] = {
    AC.START: AttemptStep(A.STARTING, frozenset({A.SENT}), "its worker says that it stages in"),
    AC.RUN: AttemptStep(A.RUNNING, frozenset({A.SENT, A.STARTING}), "its worker says that it runs"),
    AC.HOLD: AttemptStep(
        A.HOLDING,
        frozenset({A.SENT, A.STARTING, A.RUNNING}),
        "its worker says that it stages out",
    ),
    AC.FINISH: AttemptStep(
        A.FINISHED, MAY_COME_BACK, "its report counts: the first that finished wins"
    ),
    AC.FAIL: AttemptStep(
        A.FAILED, OPEN_ATTEMPT, "its report counts, or no pilot can be given its job"
    ),
    AC.LOSE: AttemptStep(A.LOST, OPEN_ATTEMPT, "its worker is gone"),
    AC.RESUME: AttemptStep(
        A.SENT, frozenset({A.LOST}), "its worker is back, and no newer attempt has begun"
    ),
    AC.RELEASE: AttemptStep(
        A.RELEASED, frozenset({A.SENT, A.STARTING}), "its worker gives it back unstarted"
    ),
    AC.CANCEL: AttemptStep(A.CANCELLED, OPEN_ATTEMPT, "its job's owner cancels the job"),
    AC.OVERTAKE: AttemptStep(A.OVERTAKEN, OPEN_ATTEMPT, "an earlier attempt finished first"),
    AC.COME_LATE: AttemptStep(
        A.ALREADY_DONE, MAY_COME_BACK, "its report came when the job had ended"
    ),
    AC.COME_SECOND: AttemptStep(
        A.BAD_ATTEMPT,
        MAY_COME_BACK,
        "its report of a failure came when the attempt had been given up",
    ),
}
REFUSED = {Refusal.ALREADY_DONE: AC.COME_LATE, Refusal.BAD_ATTEMPT: AC.COME_SECOND}
"""How an attempt ends whose report was refused."""
REACHED = {A.STARTING: AC.START, A.RUNNING: AC.RUN, A.HOLDING: AC.HOLD}
"""The change by which an attempt comes into the state that its worker reports."""


def attempt_after(state: AttemptState, change: AttemptChange) -> AttemptState | None:
    """The state that follows `state`; None where the table has no such step."""
    step = ATTEMPT_TABLE[change]
    return step.to if state in step.start else None


class Progress(Struct, frozen=True):
    """The part of a job that decides what may happen to it."""

    state: JobState
    attempt_nr: int
    """The attempt that is running or was leased last; the first is 1."""
    max_attempts: int
    retry_all: bool
    """Whether a failure of the payload itself is tried again."""


P = TypeVar("P", bound=Progress)


def after(state: JobState, change: Change) -> JobState | Refusal:
    """The state that follows `state`, as the table has it."""
    step = TABLE[change]
    if state in step.start:
        return step.to
    return Refusal.ALREADY_DONE if state in FINAL else Refusal.ILLEGAL


def _changed(job: P, change: Change, **more: int) -> P | Refusal:
    """The job after a change; `more`: what else of it the change moves."""
    state = after(job.state, change)
    return state if isinstance(state, Refusal) else replace(job, state=state, **more)


def lease(job: P) -> P | Refusal:
    """The job leased to a worker: a new attempt begins."""
    return _changed(job, C.LEASE, attempt_nr=job.attempt_nr + 1)


def advance(job: P, state: JobState, attempt_nr: int) -> P | Refusal:
    """The job after its worker reported that the attempt is in `state`, one of `STAGES`.

    A report that comes twice, or after a later one, changes nothing.
    """
    if job.state in FINAL:
        return Refusal.ALREADY_DONE
    if attempt_nr != job.attempt_nr or job.state not in WITH_WORKER:
        return Refusal.BAD_ATTEMPT
    if state not in WITH_WORKER:
        return Refusal.ILLEGAL
    if STAGES.index(state) <= STAGES.index(job.state):
        return job
    return _changed(job, _STAGE[state])


FORGIVEN = 20
"""Attempts up to which it is not held against a job that its worker was taken away."""


def conclude(
    job: P,
    *,
    finished: bool,
    transient: bool,
    attempt_nr: int,
    blameless: bool = False,
    progressed: bool = False,
    last: bool = False,
) -> P | Refusal:
    """The job after the final report of an attempt. `blameless`: the site ended the attempt, by
    preemption say, and the job gets another one for it, and so it does if it `progressed`: items
    of it finished that need not run again. `last`: nothing is left for another attempt.

    The first attempt that finished wins, even one whose lease had expired; a failure counts only
    for the current attempt. A failed attempt is followed by another one while `max_attempts` allows
    and the failure is of a kind worth trying again.
    """
    if job.state in FINAL:
        return Refusal.ALREADY_DONE
    if not 1 <= attempt_nr <= job.attempt_nr:
        return Refusal.BAD_ATTEMPT
    if finished:
        return _changed(job, C.FINISH)
    if attempt_nr != job.attempt_nr or job.state not in WITH_WORKER:
        return Refusal.BAD_ATTEMPT
    if last:
        return _changed(job, C.FAIL)
    if progressed or (blameless and attempt_nr < FORGIVEN):
        return _changed(job, C.RETRY, max_attempts=job.max_attempts + 1)
    if (transient or job.retry_all) and attempt_nr < job.max_attempts:
        return _changed(job, C.RETRY)
    return _changed(job, C.FAIL)


def release(job: P, attempt_nr: int) -> P | Refusal:
    """The job given back unstarted by its worker, which does not count as an attempt.

    Its attempt number is not used again, so that no late report can be taken for the next
    attempt's.
    """
    if job.state in FINAL:
        return Refusal.ALREADY_DONE
    if attempt_nr != job.attempt_nr or job.state not in TABLE[C.RELEASE].start:
        return Refusal.BAD_ATTEMPT
    return _changed(job, C.RELEASE, max_attempts=job.max_attempts + 1)


def resume(job: P, attempt_nr: int) -> P | Refusal:
    """The job leased again to the worker of its lost attempt, which is back: as long as no newer
    attempt has begun, that attempt is the current one."""
    if job.state in FINAL:
        return Refusal.ALREADY_DONE
    if attempt_nr != job.attempt_nr or job.state not in TABLE[C.RESUME].start:
        return Refusal.BAD_ATTEMPT
    return _changed(job, C.RESUME)


def set_aside(job: P) -> P | Refusal:
    """The job held by its user until it is released."""
    return _changed(job, C.SET_ASIDE)


def cancel(job: P) -> P | Refusal:
    """The job cancelled by its owner. One that is still being submitted may never come to be: its
    submission may be refused."""
    return _changed(job, C.CANCEL)


def abandon(job: P) -> P | Refusal:
    """The job failed without an attempt that failed: it can never run. One that is still being
    submitted may never come to be, and fails once it is."""
    return _changed(job, C.ABANDON)
