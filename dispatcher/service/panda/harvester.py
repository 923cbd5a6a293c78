"""Harvester's instances, their workers and statistics, and jobs in numbers for them.

A worker of a Harvester is a planned worker of ours: its intent is the instance, its index the
worker id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from ailurus.protocol import panda
from ailurus.protocol.states import AT_WORK, TO_BE_SERVED, WITH_WORKER, JobState
from ailurus.protocol.worker import Ending, Phase
from dispatcher.events import HarvesterLine, WorkerChanged
from dispatcher.ports import Tx
from dispatcher.rules import attempts, records, worker_records
from dispatcher.rules.attempts import WorkerAttempt
from dispatcher.service import Service
from dispatcher.service.panda.acquire import ANYTHING, WorkerKey, instance_of, intent_of, worker_of
from dispatcher.service.panda.updates import WORKER_ERROR, renew
from dispatcher.service.state import WorkerEnd, end_worker

STATISTICS_S = 4 * 3600.0
# PanDA's code of a job whose worker ended while it ran.
WORKER_ENDED = 300
# Jobs that one worker can report.
MOST_JOBS = 1000
# These are shown even as 0.
SHOWN = (JobState.ACTIVATED, JobState.ASSIGNED, JobState.RUNNING)
_PHASES = {
    "submitted": Phase.QUEUED,
    "ready": Phase.QUEUED,
    "pending": Phase.QUEUED,
    "idle": Phase.STARTING,
    "running": Phase.STARTING,
}
_ENDINGS = {
    "finished": Ending.DONE,
    "failed": Ending.FAILED,
    "cancelled": Ending.CANCELLED,
    "missed": Ending.NEVER_REGISTERED,
}
Scalar = str | bool | int | float | None
"""A text; Harvester's plugins also give numbers, or nothing."""
Statistics = dict[str, dict[str, dict[str, int]]]
_statistics = msgspec.json.Decoder(Statistics).decode
_encode = msgspec.json.Encoder().encode


class HarvesterWorker(Struct, frozen=True):
    """A worker as Harvester reports it; other fields are not kept."""

    worker_id: Annotated[int, Meta(ge=1, le=2**62)] = field(name="workerID")
    status: str
    site: Annotated[str, Meta(min_length=1, max_length=200)] = field(name="computingSite")
    batch_id: str | int | None = field(name="batchID", default=None)
    node: str | None = field(name="nodeID", default=None)
    diagnosis: str | None = field(name="diagMessage", default=None)
    sync_level: int | None = field(name="syncLevel", default=None)
    jobs: list[int] | None = field(name="pandaid_list", default=None)
    error_code: int | None = field(name="errorCode", default=None)


class Dialog(Struct, frozen=True):
    """A line of Harvester's log for operators."""

    module: Scalar = field(name="moduleName", default=None)
    identifier: Scalar = None
    level: Scalar = field(name="messageLevel", default=None)
    message: Scalar = field(name="diagMessage", default=None)


async def heartbeat(service: Service, harvester_id: str, data: Mapping[str, Any]) -> None:
    """Note that an instance lives, and renew the jobs that it holds for its workers."""

    def change(tx: Tx) -> int | None:
        known = worker_records.find_fact(tx, "harvester", harvester_id, "")
        reported = _encode(data).decode() if data or known is None else known.data
        _put(tx, "harvester", harvester_id, "", reported, service.state.now())
        own = worker_records.find_by_instance(tx, instance_of(harvester_id))
        return own.worker_id if own else None

    worker_id = await service.store.write(change)
    for lease in service.state.leases.of_worker(worker_id) if worker_id else []:
        renew(service, lease)


async def update_workers(service: Service, harvester_id: str, workers: Sequence[Any]) -> list[bool]:
    """Apply the reports of an instance about its workers. False: that entry is no worker."""
    read: list[HarvesterWorker | None] = []
    for one in workers:
        try:
            read.append(msgspec.convert(one, HarvesterWorker))
        except msgspec.ValidationError:
            read.append(None)

    def change(tx: Tx) -> list[_Taken]:
        return [
            _take(tx, harvester_id, one, service.state.now()) for one in read if one is not None
        ]

    for taken in await service.store.write(change):
        for job_id, attempt_nr in taken.lost:
            service.state.leases.drop_attempt(job_id, attempt_nr)
        if taken.ended:
            service.state.forget_worker(taken.worker_id)
        elif live := service.state.live.get(taken.worker_id):
            live.site, live.queue = live.site or taken.site, live.queue or taken.site
            live.host = live.host or taken.host
    for one in read:
        for job_id in (one.jobs or []) if one is not None and one.status not in _ENDINGS else []:
            lease = service.state.leases.of(job_id)
            if lease is not None and lease.worker_id in service.state.panda_silence_s:
                renew(service, lease)
    return [one is not None for one in read]


class _Taken(Struct, frozen=True):
    """The outcome of a report about one worker."""

    worker_id: int
    site: str
    host: str
    ended: bool = False
    lost: tuple[tuple[int, int], ...] = ()
    """Jobs and their attempts."""


def _take(tx: Tx, harvester_id: str, reported: HarvesterWorker, now: float) -> _Taken:
    """Apply the report about one worker, before its pilot is seen, meanwhile, or after its end."""
    intent = intent_of(harvester_id)
    worker = worker_records.find_of_harvester(tx, intent, reported.worker_id)
    if worker is None:
        worker_of(
            tx,
            WorkerKey(intent=intent, index=reported.worker_id),
            reported.site,
            active=False,
            now=now,
        )
        worker = worker_records.find_of_harvester(tx, intent, reported.worker_id)
        assert worker is not None  # noqa: S101 -- it was made just now
        # Its pilot fetches jobs itself: the instance can be commanded to start more.
        if not reported.jobs:
            _put(tx, "pull", harvester_id, reported.site, "", now)
    worker_id, phase, ending = worker.worker_id, worker.phase, worker.ending
    batch_id, diagnosis = str(reported.batch_id or "")[:200], (reported.diagnosis or "")[:2000]
    node = (reported.node or "")[:500]
    is_new = (node and not worker.host) or (batch_id and not worker.batch_id)
    if not worker.queue or is_new:
        more = {"queue": reported.site, "host": node, "batch_id": batch_id}
        tx.run("worker.fill", worker_id=worker_id, **more)
    taken = _Taken(worker_id, reported.site, node)
    if reported.status in _ENDINGS:
        if phase != Phase.ENDED or ending == Ending.LOST:
            ended = _ENDINGS[reported.status]
            end = WorkerEnd(ending=ended, diagnosis=diagnosis, batch_id=batch_id)
            end_worker(tx, worker_id, end, now=now)
        lost = _conclude_jobs(tx, harvester_id, reported, worker_id, now)
        return replace(taken, ended=True, lost=tuple(lost))
    if phase == Phase.ENDED and (ending != Ending.LOST or reported.status not in _PHASES):
        return taken
    unseen = _PHASES.get(reported.status, Phase.QUEUED)
    new_phase = phase if worker.registered is not None else unseen
    tx.run(
        "worker.phase",
        worker_id=worker_id,
        phase=new_phase,
        ending=None,
        ended=None,
        batch_id=batch_id,
        diagnosis=diagnosis,
    )
    if new_phase != phase:
        tx.tell(WorkerChanged(phase=Phase(new_phase)), at=now, worker_id=worker_id)
    return taken


def _conclude_jobs(
    tx: Tx, harvester_id: str, reported: HarvesterWorker, worker_id: int, now: float
) -> list[tuple[int, int]]:
    """Store for the jobs of an ended worker why it ended; returns the lost attempts. Where the
    instance says that nobody else reports them (`syncLevel` 1), those that still ran are lost. A
    job that stages out is not: the end of a worker may be known before the last update of its
    pilot."""
    own = worker_records.find_by_instance(tx, instance_of(harvester_id))
    holders = {worker_id} if own is None else {worker_id, own.worker_id}
    held = [job_id for (job_id,) in tx.all("attempt.held_by", worker_id=worker_id)]
    lost = []
    named = [job_id for job_id in (reported.jobs or ())[:MOST_JOBS] if 0 < job_id < 2**63]
    for job_id in dict.fromkeys([*held, *named]):
        job = records.find_job(tx, job_id)
        if job is None or job.state not in WITH_WORKER or job.worker_id not in holders:
            continue
        # A job that a pilot took and never began is lost too; an instance still uses one that it
        # holds.
        runs = job.state in AT_WORK or (job.state is JobState.SENT and job.worker_id == worker_id)
        if reported.sync_level != 1 or not runs:
            if reported.error_code:
                error = f"{reported.error_code}: {reported.diagnosis or ''}"[:2000]
                _put(tx, WORKER_ERROR, "", f"{job_id}.{job.attempt_nr}", error, now)
            continue
        reason = f"worker was {reported.status} while the job was {job.state}"
        attempts.expire(
            tx,
            WorkerAttempt(job_id, job.attempt_nr, job.worker_id),
            reason=f"{reason} : {reported.diagnosis}"[:2000] if reported.diagnosis else reason,
            code=WORKER_ENDED,
            now=now,
        )
        lost.append((job_id, job.attempt_nr))
    return lost


async def last_worker(service: Service, harvester_id: str) -> int | None:
    """The highest worker id that an instance has used, if it has used any."""
    intent = intent_of(harvester_id)
    row = await service.store.read(lambda tx: tx.one("worker.last_index", intent=intent))
    return records.value(row, 0) or None


async def instances_of(service: Service, queue: str) -> list[str]:
    """The instances that have reported of workers at a queue lately."""
    since = service.state.now() - STATISTICS_S

    def look(tx: Tx) -> set[str]:
        counted = {*tx.all("fact.since", kind="workers", since=since)}
        pulled = {*tx.all("fact.since", kind="pull", since=since)}
        return {instance for instance, site, _ in counted | pulled if site == queue}

    return sorted(await service.store.read(look))


async def keep_statistics(service: Service, harvester_id: str, site: str, text: str) -> None:
    """Store how many workers an instance has at a queue. Raises ValueError for another kind of
    text."""
    try:
        table = _encode(_statistics(text)).decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    await service.store.write(
        lambda tx: _put(tx, "workers", harvester_id, site[:200], table, service.state.now())
    )


async def statistics(service: Service) -> dict[str, dict[str, Statistics]]:
    """The statistics that instances reported in the last hours, by queue and instance."""
    since = service.state.now() - STATISTICS_S
    rows = await service.store.read(lambda tx: tx.all("fact.since", kind="workers", since=since))
    found: dict[str, dict[str, Statistics]] = {}
    for instance, site, table in rows:
        if numbers := _statistics(table):
            found.setdefault(site, {})[instance] = numbers
    return found


async def keep_metrics(service: Service, harvester_id: str, metrics: Sequence[Any]) -> bool:
    """Store the last figures of each host of an instance. False: these are none, and nothing is
    stored."""
    try:
        figures = msgspec.convert(metrics, list[tuple[str, str, str]])
    except msgspec.ValidationError:
        return False

    def change(tx: Tx) -> None:
        for _, host, text in figures:
            _put(tx, "metrics", harvester_id, host[:200], text[:100_000], service.state.now())

    await service.store.write(change)
    return True


async def keep_dialogs(service: Service, harvester_id: str, dialogs: Sequence[Any]) -> None:
    """Make events of lines of an instance's log, for operators. Raises ValueError for other
    entries."""
    try:
        lines = msgspec.convert(dialogs, list[Dialog])
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None

    def change(tx: Tx) -> None:
        for line in lines:
            event = HarvesterLine(
                instance=harvester_id,
                module=_shown(line.module)[:200],
                identifier=_shown(line.identifier)[:500],
                level=_shown(line.level)[:50],
                message=_shown(line.message)[:2000],
            )
            tx.tell(event, at=service.state.now())

    await service.store.write(change)


def _shown(value: Scalar) -> str:
    return "" if value is None else str(value)


async def keep_node(
    service: Service, kind: str, site: str, name: str, content: Mapping[str, Any]
) -> bool:
    """Store the description of a node (`node`), or of one kind of GPU in it (`gpu`). Whether it was
    known."""
    text = _encode(content).decode()[:20_000]

    def change(tx: Tx) -> bool:
        known = worker_records.find_fact(tx, kind, site[:200], name[:500])
        _put(tx, kind, site[:200], name[:500], text, service.state.now())
        return known is not None

    return await service.store.write(change)


def _put(tx: Tx, kind: str, owner: str, name: str, data: str, now: float) -> None:
    tx.run("fact.put", kind=kind, owner=owner[:200], name=name, at=now, data=data)


# --- jobs in numbers ------------------------------------------------------------------------------


async def by_site(service: Service) -> dict[str, dict[str, int]]:
    """Jobs of each queue by state. Jobs without a queue wait in each."""
    found: dict[str, dict[str, int]] = {}
    for site, types in (await by_type(service)).items():
        total: Counter[str] = Counter(dict.fromkeys(SHOWN, 0))
        for labels in types.values():
            total.update(labels["managed"])
        found[site] = dict(total)
    return found


async def by_type(service: Service) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """Jobs of each queue by resource type, label and state. We have one label."""
    counters = await service.store.read(records.counters)
    sites = {one.queue for one in counters} | {live.queue for live in service.state.live.values()}
    found: dict[str, dict[str, dict[str, dict[str, int]]]] = {site: {} for site in sites if site}
    for one in counters:
        name, state = one.queue, one.state
        if state not in TO_BE_SERVED:
            continue
        shape = service.state.shapes[one.shape_id]
        if state == JobState.ACTIVATED and (shape.machine or not shape.fits(ANYTHING)):
            # No PanDA pilot gets such a job: none is to be started for it.
            continue
        kind = panda.resource_type(shape.cores, shape.memory_mb)
        for site in [name] if name else list(found) if state == JobState.ACTIVATED else []:
            states = found[site].setdefault(kind, {}).setdefault("managed", dict.fromkeys(SHOWN, 0))
            states[state] = states.get(state, 0) + one.n
    return found
