"""How attempts go on and end: by what their workers report, by time, and by the hand of a user.

An attempt is the pair of a job's id and a number. Each function here moves the job first
(`transitions.py`), whose answer says whether the rest applies. No other module runs a statement
that writes an attempt's state; `ATTEMPT_TABLE` of `ailurus/protocol/states.py` has all changes, and
a test holds both.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol import states
from ailurus.protocol.errors import TAKEN_AWAY, Code
from ailurus.protocol.results import NoResult, canonical
from ailurus.protocol.states import (
    FINAL,
    REACHED,
    REFUSED,
    REPORTED,
    WITH_WORKER,
    AttemptChange,
    AttemptState,
    JobState,
    Refusal,
    attempt_after,
)
from ailurus.protocol.worker import Ending
from dispatcher.ports import Tx
from dispatcher.rules import (
    accounting,
    dependencies,
    item_records,
    item_verdicts,
    records,
    registrations,
    transitions,
)
from dispatcher.rules.records import AttemptRecord, JobRecord

log = Log("queue")
_encode = msgspec.json.Encoder().encode
# Workers lost while they had a job: it may be what kills them.
SUSPECT = 3
_END_OF_ATTEMPT: dict[str, object] = {
    "exit_code": None,
    "host": "",
    "runtime": "",
    "diagnosis": "",
    "remedy": "",
    "timing": None,
    "stderr_tail": "",
    "result": "",
    "curve": None,
    "held": None,
}


class WorkerAttempt(Struct, frozen=True):
    """An attempt, and the worker that says, or is taken, to have it."""

    job_id: int
    attempt_nr: int
    worker_id: int
    state: JobState = JobState.SENT
    since: float = 0.0
    """When the attempt came into `state`, in seconds since 1970."""
    held: m.Held | None = None
    """What it holds; None: unknown, or nothing yet."""


class OpenAttempt(Struct, frozen=True):
    """An attempt that has not ended, with all that its lease takes from the store."""

    job_id: int
    attempt_nr: int
    worker_id: int
    state: JobState
    owner: str
    alone: bool
    """Its job is suspect: nothing else runs beside it."""


def open_attempts(tx: Tx) -> list[OpenAttempt]:
    """The attempts that have not ended."""
    return [
        OpenAttempt(
            one.job_id,
            one.attempt_nr,
            one.worker_id,
            JobState(one.state),
            one.owner,
            is_suspect(tx, one.job_id, one.attempt_nr),
        )
        for one in records.open_attempts(tx)
    ]


def find_open(tx: Tx, job_id: int) -> OpenAttempt | None:
    """The attempt of a job that has not ended."""
    job = records.find_job(tx, job_id)
    if job is None or job.worker_id is None or job.state not in WITH_WORKER:
        return None
    alone = is_suspect(tx, job_id, job.attempt_nr)
    return OpenAttempt(job_id, job.attempt_nr, job.worker_id, job.state, job.owner, alone)


def is_suspect(tx: Tx, job_id: int, attempt_nr: int) -> bool:
    """Whether a job in that attempt has lost so many workers that it may be what kills them."""
    # Most jobs have too few attempts: nothing is read for them.
    return attempt_nr > SUSPECT and sum(tried_on(tx, job_id).values()) >= SUSPECT


def begin(tx: Tx, job: JobRecord, worker_id: int, *, request_id: str, now: float) -> None:
    """Add the attempt that a lease of a job has begun. `request_id`: of the request that gets
    it."""
    tx.run(
        "attempt.add",
        job_id=job.job_id,
        attempt_nr=job.attempt_nr,
        worker_id=worker_id,
        request=request_id,
        now=now,
    )


def mark(tx: Tx, attempt: WorkerAttempt, *, now: float) -> bool:
    """Note how far a worker says that an attempt of its has come. A report that does not apply
    changes nothing. Whether anything was written, and with it that the worker lives."""
    job = records.find_job(tx, attempt.job_id)
    # A report about one job harms no other.
    if job is None or job.worker_id != attempt.worker_id:
        return False
    after = transitions.advance(tx, job, attempt.state, attempt.attempt_nr, now=now)
    if isinstance(after, Refusal) or after.state is job.state:
        return False
    change = REACHED[AttemptState(attempt.state)]
    since = min(attempt.since, now)
    key = (job.job_id, job.attempt_nr)
    before, held = AttemptState(job.state), _encoded(attempt.held)
    _write(tx, "attempt.mark", key, before, change, since=since, now=now, held=held)
    return True


def conclude(
    tx: Tx, report: m.Report, *, curve: str | None, registers: bool, now: float
) -> Refusal | None:
    """Take the final report of an attempt. None: it counts, also when it comes a second time.
    `curve`: the samples of its heartbeats, encoded. `registers`: whether there is a catalogue of
    data. Raises NoSuchJob."""
    # First, because this waits for a change that reports the same job now.
    job = records.get_job(tx, report.job_id)
    attempt = records.find_attempt(tx, report.job_id, report.attempt_nr)
    if attempt is None:
        return Refusal.BAD_ATTEMPT
    if attempt.state in REPORTED:
        return None
    blameless = report.code in TAKEN_AWAY
    verdict = item_verdicts.judge(tx, job, report) if job.items else item_verdicts.Judged(report)
    report = verdict.report
    after = transitions.conclude(
        tx,
        job,
        report,
        blameless=blameless,
        progressed=verdict.progressed,
        last=verdict.last,
        now=now,
    )
    if isinstance(after, Refusal):
        if (change := REFUSED.get(after)) is not None:
            _end(tx, job, attempt, report.attempt_nr, change, now, report.code, report.usage)
        return after
    _end(
        tx,
        job,
        attempt,
        report.attempt_nr,
        AttemptChange.FINISH if report.finished else AttemptChange.FAIL,
        now,
        report.code,
        report.usage,
        exit_code=report.exit_code,
        host=report.host,
        runtime=report.runtime,
        diagnosis=report.diagnosis,
        remedy=report.remedy,
        timing=_encode(report.timing).decode(),
        stderr_tail=report.stderr_tail,
        result=_result(report),
        curve=curve,
        held=_encoded(report.held),
    )
    if verdict.keeps is not None:
        item_records.put(tx, verdict.keeps)
    if report.files:
        tx.many(
            "file.add",
            ({"job_id": report.job_id, **msgspec.structs.asdict(file)} for file in report.files),
        )
        registrations.note(tx, job, report, registers=registers, now=now)
    _settle(tx, job, after, report.attempt_nr, now=now)
    return None


def expire(
    tx: Tx,
    attempt: WorkerAttempt,
    *,
    reason: str,
    code: int,
    now: float,
    ending: Ending | None = None,
) -> None:
    """End an attempt whose worker is gone: another one follows, though its own report may still
    win.

    A preemption is not the job's fault. A failed node is not either, until it becomes a habit: then
    it may be the job that fails them.
    """
    job = records.find_job(tx, attempt.job_id)
    if job is None or job.worker_id != attempt.worker_id:
        # Nothing to try again; the leases of other jobs expire all the same.
        return
    blameless = ending is Ending.PREEMPTED or (
        ending is Ending.NODE_FAIL and sum(tried_on(tx, attempt.job_id).values()) < SUSPECT
    )
    lost = m.Report(
        job_id=attempt.job_id,
        attempt_nr=attempt.attempt_nr,
        report_key="-",
        finished=False,
        transient=True,
        code=code,
        diagnosis=reason,
    )
    progressed = bool(job.items) and item_verdicts.judge(tx, job, lost).progressed
    after = transitions.conclude(tx, job, lost, blameless=blameless, progressed=progressed, now=now)
    if isinstance(after, Refusal):
        return
    _end_current(tx, job, AttemptChange.LOSE, now, code=code, diagnosis=reason)
    _settle(tx, job, after, attempt.attempt_nr, now=now)


def resume(tx: Tx, attempt: WorkerAttempt, *, now: float) -> bool:
    """Let an attempt that was lost go on, if its worker says that it still has it and no newer
    attempt has begun. Whether it is that worker's now."""
    job, stored = records.find_job(tx, attempt.job_id), find_lost(tx, attempt)
    if job is None or stored is None:
        return False
    if isinstance(states.resume(job, attempt.attempt_nr), Refusal):
        return False
    # First, as this attempt counts no longer among those that lost a worker.
    key = (attempt.job_id, attempt.attempt_nr)
    accounting.unbook(tx, stored)
    _write(tx, "attempt.resume", key, AttemptState.LOST, AttemptChange.RESUME, now=now)
    alone = is_suspect(tx, attempt.job_id, attempt.attempt_nr)
    transitions.resume(tx, job, attempt.attempt_nr, attempt.worker_id, alone=alone, now=now)
    mark(tx, attempt, now=now)
    return True


def release(tx: Tx, attempt: WorkerAttempt, *, now: float) -> bool:
    """Take back a job that its worker has not started. Whether the worker has it no more: an
    attempt that has begun is not taken back, and stays its worker's."""
    job = records.find_job(tx, attempt.job_id)
    if job is None or job.worker_id != attempt.worker_id or job.attempt_nr != attempt.attempt_nr:
        return True
    if isinstance(transitions.release(tx, job, attempt.attempt_nr, now=now), Refusal):
        return job.state not in WITH_WORKER
    _end_current(tx, job, AttemptChange.RELEASE, now)
    return True


def cancel(tx: Tx, *, job_id: int, by: str, now: float) -> bool:
    """Cancel a job for the user `by`. Whether it was not final yet. Raises NoSuchJob."""
    job = records.get_job(tx, job_id)
    after = transitions.cancel(tx, job, by, now=now)
    if isinstance(after, Refusal):
        return False
    if job.state in WITH_WORKER:
        _end_current(tx, job, AttemptChange.CANCEL, now, diagnosis=f"cancelled by {by}")
    dependencies.ended(tx, after, now=now)
    return True


def fail_unfit(tx: Tx, *, job_id: int, why: str, now: float) -> None:
    """Fail a job that no worker can be given: its diagnosis says why, and no other job waits behind
    it. Raises NoSuchJob."""
    job = records.get_job(tx, job_id)
    diagnosis = f"it cannot be handed out: {why}"[:2000]
    code = Code.NOT_HANDED_OUT
    after = transitions.abandon(tx, job, code=code, diagnosis=diagnosis, now=now)
    if isinstance(after, Refusal):
        return
    if job.state in WITH_WORKER:
        _end_current(tx, job, AttemptChange.FAIL, now, code=code, diagnosis=diagnosis)
    dependencies.ended(tx, after, now=now)
    log.error("job_not_handed_out", job_id=job_id, user=job.owner, reason=why[:2000])


def find_lost(tx: Tx, attempt: WorkerAttempt) -> AttemptRecord | None:
    """An attempt, if it is that worker's and was given up when the worker was taken for lost."""
    stored = records.find_attempt(tx, attempt.job_id, attempt.attempt_nr)
    if stored is None or stored.worker_id != attempt.worker_id:
        return None
    return stored if stored.state is AttemptState.LOST else None


def tried_on(tx: Tx, job_id: int) -> dict[str, int]:
    """The nodes on which attempts of a job failed, and how many workers were lost there while they
    had it (one that was preempted does not count)."""
    tried: dict[str, int] = {}
    for host, lost in tx.all("attempt.tried_on", job_id=job_id, lost=int(Code.LOST_HEARTBEAT)):
        tried[host] = tried.get(host, 0) + bool(lost)
    return tried


def _encoded(told: m.Usage | m.Held | None) -> str | None:
    return None if told is None else _encode(told).decode()


def _result(report: m.Report) -> str:
    """The result document of a report; none where that is no such document, whoever made it."""
    try:
        return canonical(report.result.encode()) if report.result else ""
    except (NoResult, UnicodeError) as error:
        log.warning("result_refused", job_id=report.job_id, why=str(error))
        return ""


def _settle(tx: Tx, before: JobRecord, after: JobRecord, attempt_nr: int, *, now: float) -> None:
    """Do what follows from the end of a job by the end of an attempt: stop a newer attempt, and
    inform the jobs that depend on it."""
    if after.state not in FINAL:
        return
    if before.attempt_nr != attempt_nr and before.state in WITH_WORKER:
        diagnosis = "an earlier attempt finished first"
        _end_current(tx, before, AttemptChange.OVERTAKE, now, diagnosis=diagnosis)
    dependencies.ended(tx, after, now=now)


def _end_current(
    tx: Tx, before: JobRecord, change: AttemptChange, now: float, code: int = 0, diagnosis: str = ""
) -> None:
    """End the attempt that a worker has of a job; `before`: the job before it moved."""
    attempt = records.find_attempt(tx, before.job_id, before.attempt_nr)
    if attempt is not None:
        _end(tx, before, attempt, before.attempt_nr, change, now, code, diagnosis=diagnosis)


def _end(
    tx: Tx,
    job: JobRecord,
    attempt: AttemptRecord,
    attempt_nr: int,
    change: AttemptChange,
    now: float,
    code: int = 0,
    usage: m.Usage | None = None,
    **data: object,
) -> None:
    """End an attempt, with what its report said, and sum up what it took. One that has ended
    stays as it is."""
    state = attempt_after(attempt.state, change)
    if state is None:
        return
    booked = accounting.book(tx, job, attempt, state, code=code, usage=usage, now=now)
    columns = {**_END_OF_ATTEMPT, **data, "booked": booked, "usage": _encoded(usage)}
    key = (job.job_id, attempt_nr)
    _write(tx, "attempt.end", key, attempt.state, change, **columns, ended=now, code=code)


def _write(
    tx: Tx,
    statement: str,
    key: tuple[int, int],
    before: AttemptState,
    change: AttemptChange,
    **values: object,
) -> None:
    """Write what the table says of a change. One that it has not changes nothing: an end is
    final."""
    after = attempt_after(before, change)
    if after is not None:
        tx.run(statement, job_id=key[0], attempt_nr=key[1], state=after, **values)
