"""What PanDA's clients say and ask of jobs. PanDA's rules of attempts hold here.

An attempt in a PanDA client's hands has no report key: the caller's token stands for it, and an update
counts only for the attempt that is current. Only attempts that such a client acquired can be updated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ailurus.protocol.job import JobSpec
from ailurus.protocol.panda_update import JobUpdate
from ailurus.protocol.states import FINAL, STAGES, JobState
from dispatcher.memory.leases import Lease, OfPanda
from dispatcher.panda import reports
from dispatcher.panda.acquire import LEASE_S, hear
from dispatcher.panda.party import Party
from dispatcher.ports import Ahead, Tx
from dispatcher.rules import attempts, records, retention, specs
from dispatcher.rules.attempts import Claim
from dispatcher.service import Service

REGISTERED_S = 5.0
"""For this long a job that has ended is told as `holding`. A PanDA server says so until its Adder has
registered the outputs; we do that before we answer, and its clients expect to see the word."""
ATTEMPT = "attempt"  # the kind of fact: what is known of an attempt, `OfPanda`
WORD = "worker said"  # the kind of fact: the error that a job's worker ended with
TOBEKILLED = "tobekilled"
ALREADY_DONE = "alreadydone"
_WORDS = {"starting": JobState.STARTING, "running": JobState.RUNNING}  # the others: staging out
_ENDED = ("finished", "failed")
_NUMBER = re.compile(r"\d+\.*\d+")
_decode = msgspec.json.Decoder(JobSpec).decode
_encode = msgspec.json.Encoder().encode


async def update(service: Service, party: Party, told: JobUpdate) -> str | None:
    """Take an update; what the pilot is told to do."""
    if told.job_id is None or told.job_id < 0:
        return TOBEKILLED
    lease = service.leases.of(told.job_id)
    if lease is None or not _holds(service, party, lease, told.attempt_nr):
        return await _late(service, party, told, told.job_id)
    if _other(lease.panda.batch_id, told.batch_id):
        return TOBEKILLED
    _renew(service, lease, told)
    if told.stdout and (lease.tail_wanted or lease.panda.debug):
        await service.tail_came(lease, told.stdout)
    if told.state in _ENDED:
        return await _conclude(service, told, lease.job_id, lease.attempt_nr)
    state = _WORDS.get(told.state, JobState.HOLDING)
    if STAGES.index(state) <= STAGES.index(lease.state):  # a word that was overtaken undoes nothing
        state = lease.state
    batch_id = told.batch_id[:200] or lease.panda.batch_id
    await _learn(service, lease, state, replace(lease.panda, batch_id=batch_id))
    return command(lease)


async def _learn(service: Service, lease: Lease, state: JobState, known: OfPanda) -> None:
    """Keep what is new of an attempt, also for the processes beside us."""
    moves, news = state is not lease.state, known != lease.panda
    if not (moves or news):
        return
    text = _encode(known).decode()
    fact = {"kind": ATTEMPT, "owner": "", "name": f"{lease.job_id}.{lease.attempt_nr}"}

    def change(tx: Tx) -> None:
        if moves:
            _mark(service, tx, lease, state)
        if news:
            tx.run("fact.put", **fact, at=service.now(), data=text)

    await service.store.write(change, Ahead([lease.job_id]))
    lease.state, lease.panda = state, known
    if news:
        await service.wish("panda", lease.job_id, text=text)


def _holds(service: Service, party: Party, lease: Lease, attempt_nr: int | None) -> bool:
    heard = service.heard.get(lease.worker_id)
    return (
        lease.worker_id in service.patience
        and attempt_nr in (None, lease.attempt_nr)
        and (party.production or (heard is not None and party.serves(heard.queue)))
    )


def _other(known: str, said: str) -> bool:
    """Whether two batch jobs claim the same attempt. Numbers may differ: one is then the array's."""
    both = bool(known and said and known != said)
    return both and not (_NUMBER.fullmatch(known) or _NUMBER.fullmatch(said))


def _renew(service: Service, lease: Lease, told: JobUpdate) -> None:
    renew(service, lease)
    if (used := reports.usage(told)) is not None:
        lease.sample(service.now(), used)


def renew(service: Service, lease: Lease) -> None:
    """Somebody who may has spoken for an attempt: it and its worker live on."""
    service.leases.renew(lease, service.awake.now + LEASE_S, service.now())
    if heard := service.heard.get(lease.worker_id):
        hear(service, lease.worker_id, heard.site, heard.host)


def _mark(service: Service, tx: Tx, lease: Lease, state: JobState) -> None:
    now = service.now()
    attempts.mark(
        tx, Claim(lease.job_id, lease.attempt_nr, lease.worker_id, state, since=now), now=now
    )


async def _late(service: Service, party: Party, told: JobUpdate, job_id: int) -> str | None:
    """An update of an attempt that nobody holds now: it has ended, was lost, or never was."""

    def judge(tx: Tx) -> tuple[int, str | None]:
        """The attempt to conclude after all, or 0 and the answer."""
        job = records.find_job(tx, job_id)
        attempt = records.find_attempt(tx, job_id, job.attempt_nr) if job else None
        place = tx.one("worker.place", worker_id=attempt.worker_id) if attempt else None
        if job is None or place is None or place[1] is None or not party.serves(place[0]):
            return 0, TOBEKILLED
        if told.attempt_nr not in (None, job.attempt_nr):
            return 0, TOBEKILLED
        if job.state in FINAL:
            row = tx.one("job.row", job_id=job_id)
            since = service.now() - row[8] if row else 0.0
            return 0, _after(job.state, told.state, since=since)
        return (job.attempt_nr, None) if told.state == "finished" else (0, TOBEKILLED)

    attempt_nr, answer = await service.store.read(judge)
    return await _conclude(service, told, job_id, attempt_nr) if attempt_nr else answer


def _after(state: str, said: str, *, since: float) -> str | None:
    """The answer to an update of a job that has ended, as a PanDA server gives it while the outputs are
    being registered, and after that."""
    if said in _ENDED:
        return ALREADY_DONE
    if state in _ENDED and since < REGISTERED_S:
        return None
    return ALREADY_DONE if state == JobState.FAILED else TOBEKILLED


async def _conclude(service: Service, told: JobUpdate, job_id: int, attempt_nr: int) -> str | None:
    lease = service.leases.of(job_id)
    curve = _encode(lease.curve).decode() if lease is not None and lease.curve else None

    def change(tx: Tx) -> bool:
        attempt = records.find_attempt(tx, job_id, attempt_nr)
        if attempt is None or attempt.state in attempts.REPORTED:
            return False
        spec = specs.specification(tx, job_id, "job")
        place = {"owner": "", "name": f"{job_id}.{attempt_nr}"}
        word = tx.one("fact.get", kind=WORD, **place)
        for kind in (WORD, ATTEMPT):
            tx.run("fact.drop", kind=kind, **place)
        news = reports.report(
            told, spec, job_id=job_id, attempt_nr=attempt_nr, now=service.now(),
            worker=word[1] if word else "",
        )  # fmt: skip
        return attempts.conclude(tx, news, curve=curve, now=service.now()) is None

    if not await service.store.write(change, Ahead([job_id], attempts=True)):
        return ALREADY_DONE
    service.leases.drop(job_id)
    service.log_arrived(job_id)
    return None


async def states(
    service: Service, party: Party, job_ids: Sequence[int]
) -> list[tuple[int, str, int]]:
    """Id, state and attempt of jobs, in order. Unknown: state is blank."""

    def look(tx: Tx) -> list[tuple[int, str, int]]:
        found = []
        for job_id in job_ids:
            row = tx.one("job.row", job_id=job_id)
            if row is None and (old := retention.kept(tx, job_id)) is not None:
                seen = party.sees(old.row.user, old.row.queue)
                found.append(
                    (job_id, old.row.state, old.row.attempt_nr) if seen else (job_id, "", 0)
                )
                continue
            if row is None or not party.sees(row[3], row[2]):
                found.append((job_id, "", 0))
                continue
            new = row[4] in _ENDED and service.now() - row[8] < REGISTERED_S
            found.append((job_id, str(JobState.HOLDING) if new else row[4], row[5]))
        return found

    return await service.store.read(look)


async def told_states(
    service: Service, party: Party, job_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """What Harvester asks: the state, and the command that a pilot would be given."""
    answers: list[dict[str, Any]] = []
    for job_id, state, _ in await states(service, party, job_ids):
        lease = service.leases.of(job_id)
        if not state:
            answers.append({"status": "unknown", "command": TOBEKILLED})
        elif state in (JobState.CANCELLED, JobState.CLOSED):
            answers.append({"status": state, "command": TOBEKILLED})
        else:
            answers.append({"status": state, "command": command(lease) if lease else None})
    return answers


def command(lease: Lease) -> str | None:
    """What the back channel says to a pilot that holds a job. One word: Harvester compares it whole.

    Nothing that `tests/real/test_pilot3.py` does not say to a real one: a `tail FILE` in an answer to a
    running job ends Pilot 3's logger, and the payload with it. `debug` brings the end of stdout as well.
    """
    if lease.soft_kill:
        return "softkill"
    return "debug" if lease.tail_wanted or lease.panda.debug else None


async def set_debug(service: Service, party: Party, job_id: int, *, mode: bool) -> bool:
    """Let a pilot send the end of its output, or no more. False: no such job runs here."""
    lease = service.leases.of(job_id)
    if lease is None or not _holds(service, party, lease, None):
        return False
    await _learn(service, lease, lease.state, replace(lease.panda, debug=mode))
    return True
