"""What a look found, as `decide` takes it: demand fitted to slots, what workers occupy, who says stop."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.worker import Outcome, Phase
from harvester_edge import empties
from harvester_edge.decide import Breaker, Cost, Limbo, SlotSeen, Snapshot, breaker
from harvester_edge.edge import Edge, Steady
from harvester_edge.evidence import UNKNOWN, Worker
from harvester_edge.fit import Bin, fit
from harvester_edge.ports import RENAMED


def snapshot(
    edge: Edge,
    demand: m.Demand,
    sentences: tuple[str, ...],
    now: float,
    *,
    unheard: str,
    unseen: str,
    unfit: str,
) -> Snapshot:
    """What `decide` is told. `unheard`, `unseen`: why the dispatcher or the batch system said nothing;
    `unfit`: why nothing can be started."""
    bins = {name: Bin(slot.queue, slot.room()) for name, slot in edge.site.slots.items()}
    bins = _as_found(edge, bins, demand)
    workers = list(edge.workers.values())
    seen = Snapshot(
        **_counted(edge, demand, sentences, bins, workers, now),
        paused=_paused(edge),
        unheard=unheard,
        unseen=unseen,
        unfit=unfit,
        drain=edge.site.policy.status == "drain" or (edge.state / "drain").exists(),
        doubt=_doubt(edge, workers),
    )
    if not (lost := [worker for worker in workers if _in_limbo(worker)]):
        return seen
    known = [worker for worker in workers if not _in_limbo(worker)]
    rest = replace(seen, **_counted(edge, demand, sentences, bins, known, now))
    name, why = _limbo(edge, lost)
    return replace(seen, limbo=Limbo(name=name, why=why, rest=rest))


def _counted(
    edge: Edge,
    demand: m.Demand,
    sentences: tuple[str, ...],
    bins: dict[str, Bin],
    workers: list[Worker],
    now: float,
) -> dict[str, Any]:
    """What of a snapshot depends on which workers count."""
    free = [
        Bin(row.queue, row.room)
        for row in demand.workers
        if row.room.cores and row.phase is Phase.ACTIVE
    ]
    there = Counter(worker.slot for worker in workers)
    asked_for = [worker for worker in workers if worker.waits]
    waiting = Counter(worker.slot for worker in asked_for)
    active = sum(
        worker.phase is Phase.ACTIVE and worker.registered is not None for worker in workers
    )
    free += [place for name, place in bins.items() for _ in range(waiting[name])]
    wants = fit(demand.shapes, bins, free)
    slots = tuple(
        SlotSeen(
            name=name,
            wanted=-(-wants.wanted[name] // slot.nodes) * slot.nodes,
            breaker=_breaker(edge, name, asked_for, workers, now),
            room=None if slot.max_total is None else slot.max_total - there[name],
            cost=cost_of(edge, name),
        )
        for name, slot in edge.site.slots.items()
    )
    return {
        "slots": slots,
        "total": len(workers),
        "queued": waiting.total(),
        "active": active,
        "cost": _occupied(edge, there, now),
        "inputs": (*_inputs(edge, waiting.total(), active), *sentences),
        "never": wants.never,
    }


def _breaker(
    edge: Edge, name: str, asked_for: list[Worker], workers: list[Worker], now: float
) -> Breaker:
    """What stops a slot: its failed starts, or workers that are not listed as what they are. `asked_for`:
    those of `workers` that have not registered."""
    waiting = [worker for worker in asked_for if worker.slot == name]
    renamed = [one for one in waiting if one.diagnosis.startswith(RENAMED)]
    if renamed:
        ids = ", ".join(sorted({one.batch_id for one in renamed})[:3])
        return Breaker(room=0, reason=f"of {ids} {renamed[0].diagnosis}")
    nodes = edge.site.slots[name].nodes
    starts = breaker(edge.book.health(name), now=now, starting=len(waiting), nodes=nodes)
    empty = empties.stops(edge, name, workers, now)
    return min((starts, empty), key=lambda one: math.inf if one.room is None else one.room)


def _in_limbo(worker: Worker) -> bool:
    """Whether nothing shows a worker, or that it was ever submitted. One that its id shows is no such."""
    if worker.diagnosis.startswith(RENAMED):
        return False
    unclear = worker.phase is Phase.SUBMITTING and worker.outcome is Outcome.UNCLEAR
    return worker.missing is not None or unclear


def _limbo(edge: Edge, lost: list[Worker]) -> tuple[str, str]:
    """What keeps workers in doubt. Told without a time: a text that changed would be a new decision."""
    if edge.unsearched:
        why = (
            f"{len(lost)} workers are in no listing any more and hold their places, for what became of "
            f"them cannot be asked: {edge.unsearched}; they are let go after policy.max_queue_age"
        )
        return "history", why
    if unclear := [one for one in lost if one.outcome is Outcome.UNCLEAR]:
        said = unclear[0].diagnosis or "no answer"
        return "unclear", f"whether {len(unclear)} workers were submitted is still unclear: {said}"
    grace = f"{edge.times.grace_s:.0f}"
    return (
        "unlisted",
        f"{len(lost)} workers are in no listing any more; they count as lost after {grace} s",
    )


def _doubt(edge: Edge, workers: list[Worker]) -> str:
    """Why workers that wait may wait for long, or wait no longer."""
    reasons = Counter(one.diagnosis for one in workers if one.phase is Phase.HELD and one.waits)
    told = [f"{n} are held: {reason or 'no reason'}" for reason, n in reasons.most_common(3)]
    if edge.blind:
        told.append(f"the last listing failed: {edge.blind}")
    return ", ".join(told)


def _inputs(edge: Edge, queued: int, active: int) -> Iterator[str]:
    """What was seen, in words."""
    total = len(edge.workers)
    if isinstance(edge.clock, Steady) and abs(minutes := edge.clock.off_min()) > 1:
        yield (
            f"this machine's clock was set by {minutes:+d} minutes since the edge began, which goes by the "
            "time before: restart it, or its deadlines are wrong"
        )
    odd = Counter(
        worker.diagnosis for worker in edge.workers.values() if worker.diagnosis.startswith(UNKNOWN)
    )
    for diagnosis, n in odd.most_common(5):
        yield f"of {n} workers {diagnosis}; they are left as they are"
    yield f"{total} workers: {queued} wait to start, {active} active, {total - queued - active} on their way out"


def cost_of(edge: Edge, name: str) -> Cost:
    """What a worker of a slot occupies; of a slot that the file does not know (any more), the most."""
    slot = edge.site.slots.get(name)
    if slot is None:
        costs = [cost_of(edge, known) for known in edge.site.slots]
        return Cost(
            cores=max(cost.cores for cost in costs),
            memory_mb=max(cost.memory_mb for cost in costs),
            node_hours=max(cost.node_hours for cost in costs),
        )
    room = slot.room()
    return Cost(
        cores=room.cores,
        memory_mb=room.memory_mb,
        node_hours=slot.walltime_s / 3600,
        nodes=slot.nodes,
    )


def _occupied(edge: Edge, there: Counter[str], now: float) -> Cost:
    """What all workers occupy; their node-hours at the most, and those of the period that are spent."""
    costs = [(cost_of(edge, slot), n) for slot, n in there.items()]
    budget = edge.site.scaling.budget
    spent = edge.book.spent(period_begin(budget.period, now)) if budget else 0.0
    hours = spent + sum(cost.node_hours * n for cost, n in costs)
    occupied = Cost(node_hours=hours)
    for cost, n in costs:
        occupied = occupied.plus(cost.times(n))
    return occupied


def period_begin(period: str, now: float) -> float:
    """When the day, month or year of UTC began."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = {"day": day, "month": day.replace(day=1), "year": day.replace(month=1, day=1)}
    return first[period].timestamp()


def _as_found(edge: Edge, slots: dict[str, Bin], demand: m.Demand) -> dict[str, Bin]:
    """What slots really offer: the latest worker of one may have found less than the file says."""
    found: dict[str, m.WorkerRow] = {}
    for row in demand.workers:
        worker = edge.workers.get((row.intent, row.index))
        if worker is not None and row.total.cores:
            last = found.setdefault(worker.slot, row)
            if row.registered > last.registered:
                found[worker.slot] = row
    return {
        name: Bin(place.queue, place.room.at_most(found[name].total)) if name in found else place
        for name, place in slots.items()
    }


def _paused(edge: Edge) -> str:
    if edge.site.policy.status != "online":
        return f"policy.status is {edge.site.policy.status}"
    for name in ("pause", "drain"):
        file = edge.state / name
        try:
            reason = _word_in(file)
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = str(error)
        return f"{file} exists" + (f": {reason}" if reason else "")
    return ""


def _word_in(file: Path) -> str:
    """What somebody wrote there, an admin by hand perhaps: whatever it is, no cycle waits for it."""
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, 600).decode("utf-8", "replace")[:200].strip()
    finally:
        os.close(fd)
