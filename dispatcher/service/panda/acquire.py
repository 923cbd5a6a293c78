"""Jobs for a PanDA client: leased as to any other worker, written as PanDA writes them."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.protocol import panda
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from ailurus.protocol.panda_acquire import JobRequest
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.worker import Ending, Phase
from dispatcher.events import WorkerChanged
from dispatcher.ports import Ahead, Asks, CatalogueUnavailable, Tx, Unavailable
from dispatcher.rules import attempts, queue, records, specs, worker_records
from dispatcher.rules.attempts import WorkerAttempt
from dispatcher.rules.queue import Given, Leased, LeaseRequest, Memory
from dispatcher.rules.worker_records import KnownWorker
from dispatcher.service import Service
from dispatcher.service.panda import outside
from dispatcher.service.panda.identity import Identity
from dispatcher.service.panda.outside import Outside
from dispatcher.service.state import HARVESTERS, PANDA, WorkerEnd, end_worker

# Three of PanDA's heartbeats.
LEASE_S = 3 * 1800.0
# Bytes; a shell line is limited to 128 KiB.
LONGEST_ARGUMENTS = 90_000
BOUNDLESS = 100_000_000
MANY_CORES = 1_000_000
# Of one request.
MOST_JOBS = 1000
ANYTHING = Room(cores=MANY_CORES, memory_mb=BOUNDLESS, disk_mb=BOUNDLESS)
# A PanDA pilot requests a job when it can run one and is answered at once: between two requests
# nobody can count on any room of it.
NO_ROOM = Room(cores=0)
# Pilots without a worker id that are distinguished on one node.
ON_A_NODE = 256
log = Log("panda")
_encode = msgspec.json.Encoder().encode


class Acquisition(Struct, frozen=True, kw_only=True):
    """A request for jobs of a pilot or a Harvester, with what the dispatcher knows beside it."""

    request: JobRequest
    # Blank: a pilot that no Harvester started.
    harvester_id: str = ""
    # Base URL where this pilot gets its transform.
    transforms: str = ""
    # Of the queue, for outputs; blank: there is none.
    storage: str = ""
    # The same for logs.
    log_storage: str = ""
    # Whether pilots of the queue use Rucio: `storage` is then the name of one there.
    rucio: bool = False
    # Where the transform leaves what does not go to Rucio; blank: pilots stage it out, too.
    place: str = ""
    # Of the queue's pilots.
    size: Room = ANYTHING
    # Our own URL, as the pilot reached us.
    home: str = ""
    # Whether the answer names a proxy for the job's user: there is none.
    proxy_key: bool = False

    @property
    def site(self) -> str:
        return self.request.site

    @property
    def worker_id(self) -> int:
        """The number of the Harvester's worker; 0: there is none."""
        return self.request.worker_id or 0


class WorkerKey(Struct, frozen=True):
    """By what the store finds the worker that stands for a PanDA client: its instance, if the
    client has no worker id; else the intent of its Harvester, and its number there."""

    instance: str = ""
    intent: str = ""
    index: int = 0


def intent_of(harvester_id: str) -> str:
    """The intent under which all workers of a Harvester are planned."""
    return f"{HARVESTERS}{harvester_id}"[:200]


def instance_of(harvester_id: str) -> str:
    """The instance of the worker that stands for a Harvester which takes jobs to its own
    workers."""
    return f"panda:{harvester_id}"[:200]


def key_of(wanted: Acquisition) -> WorkerKey:
    """The worker of a request; for a pilot without a worker id, the first one on its node."""
    if wanted.harvester_id and wanted.worker_id > 0:
        return WorkerKey(intent=intent_of(wanted.harvester_id), index=wanted.worker_id)
    # A Harvester that takes jobs to its own workers.
    if wanted.harvester_id:
        return WorkerKey(instance=instance_of(wanted.harvester_id))
    return WorkerKey(instance=f"panda:{wanted.site}@{wanted.request.node}"[:200])


def _free(tx: Tx, key: WorkerKey) -> WorkerKey:
    """The key for a pilot without a worker id: each pilot on a node has a row of its own while it
    holds a job."""
    if key.intent:
        return key
    for nr in range(1, ON_A_NODE):
        mine = key if nr == 1 else WorkerKey(instance=f"{key.instance}#{nr}")
        worker = worker_records.find_by_instance(tx, mine.instance)
        if worker is None or tx.one("attempt.held_by", worker_id=worker.worker_id) is None:
            return mine
    return key


def worker_of(
    tx: Tx,
    key: WorkerKey,
    site: str,
    *,
    active: bool,
    now: float,
    node: str = "",
    size: Room | None = None,
) -> int:
    """The id of the worker, made if it is new; `active`: its pilot sent the request. What is blank
    or None was not reported and stays as it is."""
    columns = {
        "host": node[:500],
        "instance": key.instance,
        "batch_id": "",
        "version": PANDA,
        "total": _encode(size or NO_ROOM).decode(),
        "now": now,
    }
    if key.intent:
        found = worker_records.find_of_harvester(tx, key.intent, key.index)
    else:
        found = worker_records.find_by_instance(tx, key.instance)
    if found is not None:
        worker_id = found.worker_id
        if size is None:
            columns["total"] = found.total or columns["total"]
        columns["host"] = columns["host"] or found.host
        if _written(found, site, columns):
            return worker_id
    elif key.intent:
        planned = {"intent": key.intent, "idx": key.index, "deadline": None}
        worker_id = records.value(tx.one("worker.plan", site=site, queue=site, **planned), 0)
    else:
        worker_id = records.value(tx.one("worker.add", site=site, queue=site, **columns), 0)
    tx.run("worker.serve", worker_id=worker_id, queue=site, lease_s=LEASE_S)
    if active:
        tx.run("worker.register", worker_id=worker_id, **columns)
        tx.tell(WorkerChanged(phase=Phase.ACTIVE), at=now, worker_id=worker_id)
    return worker_id


def _written(worker: KnownWorker, site: str, columns: dict[str, Any]) -> bool:
    """Whether all that a pilot can report of itself is in its row."""
    return (
        (worker.queue, worker.phase) == (site, Phase.ACTIVE)
        and worker.registered is not None
        and (worker.total, worker.host) == (columns["total"], columns["host"])
    )


async def acquire(service: Service, wanted: Acquisition) -> list[dict[str, Any]]:
    """Jobs for a client, as dictionaries. Empty: there is none that it can run."""
    # All our jobs are of one task, and its number is 1.
    if wanted.request.task_id not in (None, 0, 1):
        return []
    while True:
        jobs, unfit = await _acquired(service, wanted)
        if jobs or not unfit:
            return jobs
        # The jobs that stood in front have been failed: look again.


async def _acquired(service: Service, wanted: Acquisition) -> tuple[list[dict[str, Any]], int]:
    """Some jobs, and how many had to be failed because no pilot can run them."""
    key = key_of(wanted)
    request = _request(wanted)
    memory = Memory(service.state.shapes, service.state.turns)

    def change(tx: Tx) -> tuple[int, Given]:
        if not queue.any_ready(tx, request, memory):
            raise _NothingLeased
        worker_id = worker_of(
            tx,
            key if wanted.harvester_id else _free(tx, key),
            wanted.site,
            active=True,
            now=service.state.now(),
            node=wanted.request.node,
            size=wanted.size,
        )
        mine = replace(request, worker_id=worker_id)
        given = queue.lease(tx, mine, memory, now=service.state.now())
        if not given.jobs and not given.unfit:
            # Undoes the worker's row as well: no trace of the client is kept.
            raise _NothingLeased
        if wanted.rucio:
            where = Outside(rse=wanted.storage, place=wanted.place)
            outside.keep(tx, given.jobs, where, now=service.state.now())
        return worker_id, given

    try:
        worker_id, given = await service.store.write(
            change, Ahead(ask=Asks(0, "", wanted.site, request.count))
        )
    except _NothingLeased:
        return [], 0
    passing = not wanted.harvester_id
    mark_seen(service, worker_id, wanted.site, wanted.request.node, wanted.size, passing=passing)
    until = service.state.awake.now + LEASE_S
    for job in given.jobs:
        service.state.hold(job.attempt, until)
    written = await _translated(service, wanted, worker_id, given.jobs)
    if written.faults or written.later:
        await _take_back(service, worker_id, written)
    return written.jobs, given.unfit + len(written.faults)


class _Translated(Struct):
    """Jobs as PanDA's dictionaries."""

    jobs: list[dict[str, Any]] = []
    # Why one cannot be written so, by its id: that one fails alone.
    faults: dict[int, str] = {}
    # Those whose inputs the catalogue cannot name now.
    later: list[Leased] = []


async def _translated(
    service: Service, wanted: Acquisition, worker_id: int, leased: list[Leased]
) -> _Translated:
    more = {"credname": "", "myproxy": ""} if wanted.proxy_key else {}
    written = _Translated()
    for job in leased:
        try:
            sent = await _sent(service, wanted, worker_id, job)
            written.jobs.append(panda.job_dictionary(sent) | more)
        except CatalogueUnavailable as away:
            log.warning("job_kept_back", job_id=job.attempt.job_id, reason=away.reason)
            written.later.append(job)
        except Exception as fault:  # noqa: BLE001 -- whatever it is, it stops this job and no other
            why = str(fault) if isinstance(fault, ValueError) else repr(fault)
            written.faults[job.attempt.job_id] = f"no PanDA pilot can be given it: {why}"
    return written


async def _take_back(service: Service, worker_id: int, written: _Translated) -> None:
    """Fail what cannot be handed out, and let what cannot be now wait."""
    back = [(job.attempt.job_id, job.attempt.attempt_nr) for job in written.later]

    def change(tx: Tx) -> None:
        now = service.state.now()
        for job_id, why in written.faults.items():
            attempts.fail_unfit(tx, job_id=job_id, why=why, now=now)
        for job_id, attempt_nr in back:
            attempts.release(tx, WorkerAttempt(job_id, attempt_nr, worker_id), now=now)

    # Before the commit wakes somebody who leases it anew.
    for job_id, _ in back:
        service.state.leases.drop(job_id)
    try:
        await service.store.write(change)
    except Unavailable:
        for job in written.later:
            service.state.hold(job.attempt, service.state.awake.now + LEASE_S)
        raise
    for job_id in written.faults:
        service.state.leases.drop(job_id)


def _request(wanted: Acquisition) -> LeaseRequest:
    """The request for the queue; its worker is added when there is a job for it."""
    return LeaseRequest(
        queue=wanted.site,
        room=_room(wanted.request),
        count=max(1, min(wanted.request.count or 1, MOST_JOBS)),
        request_id=f"panda-{secrets.token_hex(8)}",
        # PanDA's clients do not say that a request is repeated.
        again=False,
        suits=_suits(wanted),
    )


def _room(request: JobRequest) -> Room:
    """What the pilot has free, by its request, for all jobs that it takes."""
    return Room(
        cores=MANY_CORES,
        memory_mb=max(0, request.memory_mb or 0) or BOUNDLESS,
        disk_mb=max(0, request.disk_mb or 0) or BOUNDLESS,
        seconds_left=max(0, request.seconds_left or 0) or None,
    )


def _suits(wanted: Acquisition) -> Callable[[Shape], bool]:
    """Which jobs a pilot can be given: those that its queue's data lets it run, and none that needs
    a kind of machine."""
    return lambda shape: (
        not shape.machine
        and panda.of_type(shape, wanted.request.resource_type)
        and shape.fits(wanted.size)
    )


async def _sent(
    service: Service, wanted: Acquisition, worker_id: int, job: Leased
) -> panda.PandaJob:
    """Raises CatalogueUnavailable."""
    label = wanted.request.label
    spec = specs.decoded(job.spec)[0]
    sent = panda.PandaJob(
        job_id=job.attempt.job_id,
        attempt_nr=job.attempt.attempt_nr,
        spec=spec,
        owner=job.attempt.owner,
        label=label if label not in ("", "unified") else "managed",
        transformation=f"{wanted.transforms}/{panda.TRANSFORM}",
        queue=wanted.site,
        storage=wanted.storage,
        log_storage=wanted.log_storage,
        place=wanted.place,
        mark=service.state.mark,
        rucio=wanted.rucio,
        inputs=await outside.inputs(service, spec) if wanted.rucio else (),
    )
    arguments = panda.packed(sent)
    # Too long for a command line: the transform fetches them.
    if len(arguments) > LONGEST_ARGUMENTS:
        name = f"{job.attempt.job_id}.{job.attempt.attempt_nr}"
        # It stands in a URL, and is good for reading this alone.
        key = service.seals.key(f"panda job {name}.{worker_id}")
        arguments = f"-n {name} -u {wanted.home}/trf/job/{name}.{worker_id}.{key}"
    return msgspec.structs.replace(sent, parameters=arguments)


async def job_body(
    service: Service, job_id: int, attempt_nr: int, worker_id: int, key: str
) -> bytes | None:
    """The part of a job that is too long for a command line, for a client that has its key. None:
    it has not, or there is no such attempt. Raises AilurusError while the catalogue is away."""
    good = service.seals.key(f"panda job {job_id}.{attempt_nr}.{worker_id}")
    if not hmac.compare_digest(good, key):
        return None

    def look(tx: Tx) -> tuple[JobSpec, Outside] | None:
        attempt = records.find_attempt(tx, job_id, attempt_nr)
        if attempt is None:
            return None
        return specs.decoded(specs.body(tx, job_id))[0], outside.of(tx, job_id, attempt_nr)

    found = await service.store.read(look)
    if found is None:
        return None
    spec, where = found
    try:
        inputs = await outside.inputs(service, spec) if where.rse else ()
    except CatalogueUnavailable as away:
        raise AilurusError(away.reason, remedy=away.remedy or "ask again") from None
    return panda.body(
        panda.PandaJob(
            job_id=job_id,
            attempt_nr=attempt_nr,
            spec=spec,
            place=where.place,
            mark=service.state.mark,
            rucio=bool(where.rse),
            inputs=inputs,
        )
    )


async def worker_started(
    service: Service, identity: Identity, key: WorkerKey, site: str, node: str
) -> None:
    """Note that the pilot of a Harvester's worker has begun. An anonymous client adds no worker."""

    def change(tx: Tx) -> tuple[int, str]:
        known = worker_records.find_of_harvester(tx, key.intent, key.index)
        if not (identity.production or (known is not None and identity.serves(known.queue))):
            return 0, ""
        worker_id = worker_of(tx, key, site, active=True, now=service.state.now(), node=node)
        place = worker_records.find_place(tx, worker_id)
        return worker_id, place.queue if place else ""

    worker_id, queue_name = await service.store.write(change)
    if worker_id:
        mark_seen(service, worker_id, queue_name, node)


async def worker_ended(service: Service, identity: Identity, key: WorkerKey) -> None:
    """Note that the pilot of a Harvester's worker has ended by itself."""

    def change(tx: Tx) -> int:
        known = worker_records.find_of_harvester(tx, key.intent, key.index)
        if known is None or not identity.serves(known.queue) or known.phase == Phase.ENDED:
            return 0
        end_worker(tx, known.worker_id, WorkerEnd(ending=Ending.DONE), now=service.state.now())
        return known.worker_id

    if worker_id := await service.store.write(change):
        service.state.forget_worker(worker_id)


def mark_seen(
    service: Service,
    worker_id: int,
    site: str,
    node: str,
    size: Room | None = None,
    *,
    passing: bool = False,
) -> None:
    """Note that a PanDA client was seen: it may be silent for three of its heartbeats."""
    service.state.panda_silence_s[worker_id] = LEASE_S
    live = service.state.live.get(worker_id)
    if live is None:
        live = service.state.remember(
            worker_id, site, site, node[:500], size or NO_ROOM, service.state.now()
        )
        live.passing = passing
    live.site, live.queue = site or live.site, site or live.queue
    live.host, live.total = node[:500] or live.host, size or live.total
    live.room = NO_ROOM
    live.last, live.flushed = service.state.now(), False
    live.until = service.state.awake.now + LEASE_S


class _NothingLeased(Exception):
    """Nothing was leased: the change is to be undone."""
