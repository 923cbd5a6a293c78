"""Updates and questions of PanDA's clients about jobs, by PanDA's rules of attempts.

An attempt in a PanDA client's hands has no report key: the caller's token stands for it, and an
update counts only for the attempt that is current. Only attempts that such a client acquired can be
updated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ailurus.protocol.job import JobSpec
from ailurus.protocol.panda_update import JobUpdate
from ailurus.protocol.states import AT_WORK, BY_REPORT, FINAL, REPORTED, STAGES, STOPPED, JobState
from dispatcher.memory.leases import OF_PANDA, Lease, OfPanda
from dispatcher.ports import Ahead, Tx
from dispatcher.rules import attempts, records, retention, specs, views, worker_records
from dispatcher.rules.attempts import WorkerAttempt
from dispatcher.service import Service
from dispatcher.service.notices import PandaAttempt
from dispatcher.service.panda import outside, reports
from dispatcher.service.panda.acquire import LEASE_S, mark_seen
from dispatcher.service.panda.identity import Identity

REGISTERED_S = 5.0
"""For this long a job that has ended is shown as `holding`. A PanDA server shows that until its Adder
has registered the outputs; we register them before we answer, and its clients expect that state."""
# The kind of record in the store: the error that the worker of an attempt ended with.
WORKER_ERROR = "worker said"
TOBEKILLED = "tobekilled"
ALREADY_DONE = "alreadydone"
# Any other state of an update is staging out.
_STAGES = {state.value: state for state in AT_WORK}
_NUMBER = re.compile(r"\d+\.*\d+")
_decode = msgspec.json.Decoder(JobSpec).decode
_encode = msgspec.json.Encoder().encode


async def update(service: Service, identity: Identity, sent: JobUpdate) -> str | None:
    """Apply an update; returns the command for the pilot, if there is one."""
    if sent.job_id is None or sent.job_id < 0:
        return TOBEKILLED
    lease = service.state.leases.of(sent.job_id)
    if lease is None or not _holds(service, identity, lease, sent.attempt_nr):
        return await _update_unleased(service, identity, sent, sent.job_id)
    if _of_another_batch_job(lease.panda.batch_id, sent.batch_id):
        return TOBEKILLED
    _renew(service, lease, sent)
    if sent.stdout and (lease.tail_wanted or lease.panda.debug):
        await service.peers.tail_came(lease, sent.stdout)
    if sent.state in BY_REPORT:
        return await _conclude(service, sent, lease.job_id, lease.attempt_nr)
    state = _STAGES.get(sent.state, JobState.HOLDING)
    # An update that a later one overtook undoes nothing.
    if STAGES.index(state) <= STAGES.index(lease.state):
        state = lease.state
    batch_id = sent.batch_id[:200] or lease.panda.batch_id
    await _record(service, lease, state, replace(lease.panda, batch_id=batch_id))
    return command(lease)


async def _record(service: Service, lease: Lease, state: JobState, known: OfPanda) -> None:
    """Store what is new of an attempt, and send it to the other dispatchers."""
    moves, differs = state is not lease.state, known != lease.panda
    if not (moves or differs):
        return
    text = _encode(known).decode()
    record = {"kind": OF_PANDA, "owner": "", "name": f"{lease.job_id}.{lease.attempt_nr}"}

    def change(tx: Tx) -> None:
        if moves:
            _mark(service, tx, lease, state)
        if differs:
            tx.run("fact.put", **record, at=service.state.now(), data=text)

    await service.store.write(change, Ahead([lease.job_id]))
    lease.state, lease.panda = state, known
    if differs:
        await service.peers.send(PandaAttempt(job_ids=(lease.job_id,), text=text))


def _holds(service: Service, identity: Identity, lease: Lease, attempt_nr: int | None) -> bool:
    live = service.state.live.get(lease.worker_id)
    return (
        lease.worker_id in service.state.panda_silence_s
        and attempt_nr in (None, lease.attempt_nr)
        and (identity.production or (live is not None and identity.serves(live.queue)))
    )


def _of_another_batch_job(known: str, reported: str) -> bool:
    """Whether two batch jobs claim the same attempt. Numbers may differ: one is then the
    array's."""
    both = bool(known and reported and known != reported)
    return both and not (_NUMBER.fullmatch(known) or _NUMBER.fullmatch(reported))


def _renew(service: Service, lease: Lease, sent: JobUpdate) -> None:
    renew(service, lease)
    if (used := reports.usage(sent)) is not None:
        lease.sample(service.state.now(), used)


def renew(service: Service, lease: Lease) -> None:
    """Renew the lease of an attempt and the last-seen time of its worker."""
    service.state.leases.renew(lease, service.state.awake.now + LEASE_S, service.state.now())
    if live := service.state.live.get(lease.worker_id):
        mark_seen(service, lease.worker_id, live.site, live.host)


def _mark(service: Service, tx: Tx, lease: Lease, state: JobState) -> None:
    now = service.state.now()
    attempts.mark(
        tx,
        WorkerAttempt(lease.job_id, lease.attempt_nr, lease.worker_id, state, since=now),
        now=now,
    )


async def _update_unleased(
    service: Service, identity: Identity, sent: JobUpdate, job_id: int
) -> str | None:
    """Answer an update of an attempt without a lease: it has ended, was lost, or never was."""

    def judge(tx: Tx) -> tuple[int, str | None]:
        """The attempt to conclude after all, or 0 and the answer."""
        job = records.find_job(tx, job_id)
        attempt = records.find_attempt(tx, job_id, job.attempt_nr) if job else None
        place = worker_records.find_place(tx, attempt.worker_id) if attempt else None
        if job is None or place is None or place.lease_s is None:
            return 0, TOBEKILLED
        if not identity.serves(place.queue):
            return 0, TOBEKILLED
        if sent.attempt_nr not in (None, job.attempt_nr):
            return 0, TOBEKILLED
        if job.state in FINAL:
            stored = views.find_job(tx, job_id)
            since = service.state.now() - stored.row.changed if stored else 0.0
            return 0, _answer_after_end(job.state, sent.state, since=since)
        return (job.attempt_nr, None) if sent.state == "finished" else (0, TOBEKILLED)

    attempt_nr, answer = await service.store.read(judge)
    return await _conclude(service, sent, job_id, attempt_nr) if attempt_nr else answer


def _answer_after_end(state: str, reported: str, *, since: float) -> str | None:
    """The answer to an update of a job that ended `since` seconds ago, as a PanDA server gives it
    while the outputs are being registered, and after that."""
    if reported in BY_REPORT:
        return ALREADY_DONE
    if state in BY_REPORT and since < REGISTERED_S:
        return None
    return ALREADY_DONE if state == JobState.FAILED else TOBEKILLED


async def _conclude(service: Service, sent: JobUpdate, job_id: int, attempt_nr: int) -> str | None:
    lease = service.state.leases.of(job_id)
    curve = _encode(lease.curve).decode() if lease is not None and lease.curve else None

    def change(tx: Tx) -> bool:
        attempt = records.find_attempt(tx, job_id, attempt_nr)
        if attempt is None or attempt.state in REPORTED:
            return False
        spec = specs.specification(tx, job_id, "job")
        key = {"owner": "", "name": f"{job_id}.{attempt_nr}"}
        error = worker_records.find_fact(tx, WORKER_ERROR, **key)
        where = outside.of(tx, job_id, attempt_nr)
        outside.forget(tx, job_id, attempt_nr)
        for kind in (WORKER_ERROR, OF_PANDA):
            tx.run("fact.drop", kind=kind, **key)
        given = reports.HandedOut(job_id, attempt_nr, spec, service.state.mark, where)
        report = reports.report(
            sent, given, now=service.state.now(), worker=error.data if error else ""
        )
        refusal = attempts.conclude(
            tx,
            report,
            curve=curve,
            registers=service.state.registers,
            now=service.state.now(),
        )
        return refusal is None

    if not await service.store.write(change, Ahead([job_id], attempts=True)):
        return ALREADY_DONE
    if sent.state == "finished":
        service.state.leases.drop(job_id)
    else:
        service.state.leases.drop_attempt(job_id, attempt_nr)
    service.state.log_arrived(job_id)
    return None


async def states(
    service: Service, identity: Identity, job_ids: Sequence[int]
) -> list[tuple[int, str, int]]:
    """Id, state and attempt of jobs, in order. Unknown: state is blank."""

    def look(tx: Tx) -> list[tuple[int, str, int]]:
        found = []
        for job_id in job_ids:
            stored = views.find_job(tx, job_id)
            old = retention.kept(tx, job_id) if stored is None else None
            one = stored or old
            if one is None or not identity.sees(one.row.user, one.row.queue):
                found.append((job_id, "", 0))
                continue
            row = one.row
            new = row.state in BY_REPORT and service.state.now() - row.changed < REGISTERED_S
            state = JobState.HOLDING if new and old is None else row.state
            found.append((job_id, str(state), row.attempt_nr))
        return found

    return await service.store.read(look)


async def states_and_commands(
    service: Service, identity: Identity, job_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """The state of each job, and the command that its pilot would get: Harvester reads both."""
    answers: list[dict[str, Any]] = []
    for job_id, state, _ in await states(service, identity, job_ids):
        lease = service.state.leases.of(job_id)
        if not state:
            answers.append({"status": "unknown", "command": TOBEKILLED})
        elif state in STOPPED:
            answers.append({"status": state, "command": TOBEKILLED})
        else:
            answers.append({"status": state, "command": command(lease) if lease else None})
    return answers


def command(lease: Lease) -> str | None:
    """The command for a pilot that holds a job: one word, which Harvester compares whole.

    Only commands that `tests/real/test_pilot3.py` gives to a real one: a `tail FILE` in an answer
    to a running job ends Pilot 3's logger, and the payload with it. `debug` brings the end of
    stdout as well.
    """
    if lease.soft_kill:
        return "softkill"
    return "debug" if lease.tail_wanted or lease.panda.debug else None


async def set_debug(service: Service, identity: Identity, job_id: int, *, mode: bool) -> bool:
    """Make a pilot send the end of its output, or stop that. False: no such job runs here."""
    lease = service.state.leases.of(job_id)
    if lease is None or not _holds(service, identity, lease, None):
        return False
    await _record(service, lease, lease.state, replace(lease.panda, debug=mode))
    return True
