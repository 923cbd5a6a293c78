"""The messages between a PanDA server and a Harvester instance, as values. Pure.

Names and keys: Harvester 0.7.5, `pandaharvester/harvestercommunicator/panda_communicator.py`, and
recorded requests of it. A resource type (SCORE, MCORE_HIMEM, …) is a share of a node that one pilot
of PanDA's would ask for; a worker of ours may hold several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ailurus.protocol import panda
from ailurus.protocol.resources import Shape
from ailurus.protocol.worker import Ending, Outcome, Phase
from harvester_edge.evidence import Worker
from harvester_edge.site import Site, Slot

START = "SET_N_WORKERS_JOBTYPE"
STATISTICS = "REPORT_WORKER_STATS"
KILL = "KILL_WORKERS"
SYNC_KILL = "SYNC_WORKERS_KILL"
ANY = "ANY"
ALL = "ALL"

_PHASES = {
    Phase.QUEUED: "submitted",
    Phase.HELD: "submitted",
    Phase.STARTING: "running",
    Phase.ACTIVE: "running",
    Phase.DRAINING: "running",
}
_ENDINGS = {
    Ending.DONE: "finished",
    Ending.IDLE_EXIT: "finished",
    Ending.WALLTIME: "finished",
    Ending.CANCELLED: "cancelled",
}


class Target(NamedTuple):
    """How many pilots of a resource type the server wants in a queue; each replaces the one
    before."""

    queue: str
    label: str
    kind: str
    pilots: int
    at: float


class Type(NamedTuple):
    """What a resource type asks of a node: cores, and MB of memory for each."""

    cores: int
    memory_mb: int


def status(worker: Worker) -> str | None:
    """Harvester's name for a worker's state; None while nothing is known of it."""
    if worker.phase is Phase.ENDED:
        if worker.outcome is Outcome.REJECTED:
            return "missed"
        return _ENDINGS.get(worker.ending or Ending.LOST, "failed")
    return _PHASES.get(worker.phase)


def worker_message(
    worker: Worker, slot: Slot | None, label: str, kind: str, host: str
) -> dict[str, Any]:
    """A worker for `update_workers`. A key without a value is left out, as Harvester does."""
    room = slot.room() if slot else None
    message: dict[str, Any] = {
        "workerID": worker.worker_id,
        "batchID": worker.batch_id or None,
        "status": status(worker),
        "computingSite": worker.queue,
        "nCore": room.together.cores if room else None,
        "submitTime": timestamp(worker.planned),
        "startTime": timestamp(worker.started),
        "endTime": timestamp(worker.ended),
        "jobType": label,
        "resourceType": kind,
        "diagMessage": worker.diagnosis[:500] or None,
        "syncLevel": 1,
        "harvesterHost": host,
        "minRamCount": room.together.memory_mb if room else None,
        "pandaid_list": [],
    }
    return {key: value for key, value in message.items() if value is not None}


def timestamp(at: float | None) -> str | None:
    """A time as Harvester writes it."""
    if at is None:
        return None
    return f"datetime/{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S.%f}"


def statistics(
    workers: Iterable[tuple[Worker, str, str]], wanted: Mapping[tuple[str, str], int]
) -> dict[str, dict[str, dict[str, int]]]:
    """Workers with their label and resource type, and how many are still to be submitted, as
    `report_worker_statistics` takes them: by label, type and state."""
    found: dict[str, dict[str, Counter[str]]] = {}

    def at(label: str, kind: str) -> Counter[str]:
        zero = Counter({"running": 0, "submitted": 0, "finished": 0, "to_submit": 0})
        return found.setdefault(label, {}).setdefault(kind, zero)

    for worker, label, kind in workers:
        if (state := status(worker)) is not None:
            at(label, kind)[state] += 1
    for (label, kind), n in wanted.items():
        at(label, kind)["to_submit"] += n
    return {label: {k: dict(n) for k, n in kinds.items()} for label, kinds in found.items()}


def types(listed: Sequence[Mapping[str, Any]], mcore: int) -> dict[str, Type]:
    """What each resource type of a server asks of a node. `mcore`: the cores of a multi-core job,
    which its type leaves open."""
    found = {}
    for one in listed:
        least, most = panda.number(one.get("mincore")) or 1, panda.number(one.get("maxcore"))
        cores = max(least, mcore if most is None else min(most, mcore)) if most != 1 else 1
        found[str(one.get("resource_name"))] = Type(
            cores, panda.number(one.get("minrampercore")) or 0
        )
    return found


def shape(kind: Type) -> Shape:
    """A job of that type, as demand has it."""
    return Shape(cores=kind.cores, memory_mb=kind.memory_mb * kind.cores)


def slot_for(site: Site, queue: str, kind: Type | None) -> tuple[str, int] | None:
    """The smallest slot of a queue that holds a pilot of that type (None: of any), and how many of
    them a worker of it stands for."""
    found = []
    for name, slot in site.slots.items():
        room = slot.room()
        each = 1 if kind is None else room.cores // kind.cores * room.nodes
        if slot.queue != queue or not each:
            continue
        if kind is not None and kind.memory_mb * room.cores > room.memory_mb:
            continue
        found.append((room.cores, room.memory_mb, name, each))
    return min(found)[2:] if found else None


def targets(queue: str, params: Any, at: float) -> Iterator[Target]:
    """The targets in `SET_N_WORKERS_JOBTYPE`: {label: {resource type: pilots}}. Anything else is
    left out."""
    for label, kinds in params.items() if isinstance(params, dict) else ():
        for kind, n in kinds.items() if isinstance(kinds, dict) else ():
            if (pilots := panda.number(n)) is not None:
                yield Target(queue, str(label), str(kind), max(0, pilots), at)


def matching_workers(params: Any, workers: Iterable[Worker], host: str) -> Iterator[Worker]:
    """The workers that `KILL_WORKERS` means: each list restricts, `ALL` and no list do not. Ours
    are of no computing element."""
    asked = params if isinstance(params, dict) else {}

    def among(key: str, value: str) -> bool:
        listed = asked.get(key, ALL)
        return listed == ALL or (isinstance(listed, list) and value in listed)

    if not (among("computingElement", "") and among("submissionHost", host)):
        return
    for worker in workers:
        if among("status", status(worker) or "") and among("computingSite", worker.queue):
            yield worker


def listed_workers(params: Any, workers: Iterable[Worker]) -> Iterator[Worker]:
    """The workers that `SYNC_WORKERS_KILL` lists, by number."""
    numbers = set()
    for one in params if isinstance(params, list) else ():
        of = one.get("workerID", one.get("worker_id")) if isinstance(one, dict) else one
        numbers.add(panda.number(of))
    return (worker for worker in workers if worker.worker_id and worker.worker_id in numbers)


def activated(table: Any, queue: str) -> dict[str, int]:
    """Jobs of a queue that are ready, by resource type: {site: {type: {label: {state: n}}}}."""
    found: Counter[str] = Counter()
    kinds = table.get(queue) if isinstance(table, dict) else None
    for kind, labels in kinds.items() if isinstance(kinds, dict) else ():
        for states in labels.values() if isinstance(labels, dict) else ():
            n = panda.number(states.get("activated")) if isinstance(states, dict) else None
            found[str(kind)] += max(0, n or 0)
    return dict(found)
