"""Sums up a site's limits and an observation as `decide` takes them: demand fitted to slots, what
workers occupy, who says stop. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.resources import Room
from ailurus.protocol.units import size_mb
from ailurus.protocol.worker import Outcome, Phase
from harvester_edge.decide import Breaker, Cost, Health, Limbo, Limits, SlotSeen, Snapshot, breaker
from harvester_edge.evidence import UNKNOWN, Worker
from harvester_edge.fit import Bin, fit
from harvester_edge.ports import RENAMED
from harvester_edge.reconcile import Observation
from harvester_edge.site import Site, percent
from harvester_edge.upstream import Key

SILENT = Hardware()
"""Of a pilot that does not tell: it gets no job that needs a kind of machine."""


def limits(site: Site) -> Limits:
    """What the site allows, as the decision takes it."""
    scaling = site.scaling
    ratio, budget = scaling.queued_ratio, scaling.budget
    return Limits(
        total=scaling.max_total,
        queued=scaling.max_queued,
        per_cycle=scaling.per_cycle,
        floor=scaling.floor,
        max_shrink=percent(site.policy.max_shrink),
        queued_ratio=ratio.of_running if ratio else None,
        queued_floor=ratio.floor if ratio else 0,
        attenuation=scaling.attenuation,
        cores=scaling.max_cores,
        memory_mb=None if scaling.max_memory is None else size_mb(scaling.max_memory),
        node_hours=budget.node_hours * percent(budget.stop_at) if budget else None,
    )


class Circumstances(NamedTuple):
    """What decides beside the observation."""

    now: float
    starts: Mapping[str, Health]
    """How the last workers of each slot started."""
    empty: Mapping[str, Health]
    """Pilots of each slot that left without ever having had a job."""
    spent_node_hours: float = 0.0
    """Of the budget's period, by workers that have ended."""
    paused: str = ""
    """Who or what paused the site."""
    draining: bool = False
    files_fault: str = ""
    """Why nothing may be started from the edge's directories."""
    listing_failure: str = ""
    search_failure: str = ""
    clock_off_min: int = 0
    """By how many minutes the machine's clock was set since the edge began."""
    grace_s: float = 0.0
    machines: Mapping[str, tuple[Hardware, ...]] = {}
    """What kinds of machines slots have, as far as that is known."""
    wrong_machines: tuple[str, ...] = ()
    """What the site file says of them and pilots deny, in sentences."""


def snapshot(
    site: Site, workers: Mapping[Key, Worker], seen: Observation, around: Circumstances
) -> Snapshot:
    """The input of `decide`. `workers`: those that have not ended, after the observation was
    recorded."""
    bins = {
        name: Bin(slot.queue, site.room(name), around.machines.get(name, ()))
        for name, slot in site.slots.items()
    }
    bins = _as_found(bins, workers, seen.demand.answer)
    living = list(workers.values())
    count = _Counting(site, seen, around, bins, living)
    made = Snapshot(
        **count.of(living),
        paused=around.paused,
        dispatcher_fault=seen.dispatcher_fault,
        listing_fault=seen.listing_fault,
        files_fault=around.files_fault,
        drain=around.draining,
        doubt=_doubt(living, around.listing_failure),
    )
    if not (lost := [worker for worker in living if _in_limbo(worker)]):
        return made
    known = [worker for worker in living if not _in_limbo(worker)]
    name, why = _limbo(lost, around)
    return replace(made, limbo=Limbo(name=name, why=why, rest=replace(made, **count.of(known))))


class _Counting(NamedTuple):
    """Counts some of the workers as if they were all."""

    site: Site
    seen: Observation
    around: Circumstances
    bins: dict[str, Bin]
    living: Collection[Worker]

    def of(self, workers: list[Worker]) -> dict[str, Any]:
        """The fields of a Snapshot that depend on which workers count."""
        demand = self.seen.demand.answer
        free = [
            Bin(row.queue, row.room, (row.hardware or SILENT,))
            for row in demand.workers
            if row.room.cores and row.phase is Phase.ACTIVE
        ]
        there = Counter(worker.slot for worker in workers)
        unregistered = [worker for worker in workers if worker.waits]
        waiting = Counter(worker.slot for worker in unregistered)
        active = sum(
            worker.phase is Phase.ACTIVE and worker.registered is not None for worker in workers
        )
        free += [one for name, one in self.bins.items() for _ in range(waiting[name])]
        wants = fit(demand.shapes, self.bins, free)
        slots = tuple(
            SlotSeen(
                name=name,
                wanted=-(-wants.wanted[name] // slot.together) * slot.together,
                breaker=_breaker(name, slot.together, unregistered, workers, self.around),
                allowed=None if slot.max_total is None else slot.max_total - there[name],
                cost=cost_of(self.site, name),
            )
            for name, slot in self.site.slots.items()
        )
        nodes = sum(self.site.nodes_each(worker.slot) for worker in self.living)
        sentences = _sentences(
            self.living, nodes, waiting.total(), active, self.around.clock_off_min
        )
        return {
            "slots": slots,
            "total": len(workers),
            "queued": waiting.total(),
            "active": active,
            "draining": sum(worker.phase is Phase.DRAINING for worker in workers),
            "cost": _occupied(self.site, there, self.around.spent_node_hours),
            "inputs": (*sentences, *self.seen.demand.sentences, *self.around.wrong_machines),
            "never": wants.never,
        }


def _breaker(
    name: str,
    together: int,
    unregistered: list[Worker],
    workers: list[Worker],
    around: Circumstances,
) -> Breaker:
    """What stops a slot: its failed starts, pilots that left empty, or workers under another
    name."""
    waiting = [worker for worker in unregistered if worker.slot == name]
    renamed = [one for one in waiting if one.diagnosis.startswith(RENAMED)]
    if renamed:
        ids = ", ".join(sorted({one.batch_id for one in renamed})[:3])
        return Breaker(allowed=0, reason=f"of {ids} {renamed[0].diagnosis}")
    starts = breaker(around.starts[name], now=around.now, starting=len(waiting), together=together)
    # Of pilots that left empty one is tried at a time, and watched to its end.
    empty = around.empty[name]
    tried = sum(worker.slot == name and worker.planned >= empty.since for worker in workers)
    what = "pilots in a row left without a job"
    left = breaker(empty, now=around.now, starting=tried, together=together, what=what)
    return min((starts, left), key=lambda one: math.inf if one.allowed is None else one.allowed)


def _in_limbo(worker: Worker) -> bool:
    """Whether nothing shows a worker, or that it was ever submitted. One that its id shows is no
    such."""
    if worker.diagnosis.startswith(RENAMED):
        return False
    unclear = worker.phase is Phase.SUBMITTING and worker.outcome is Outcome.UNCLEAR
    return worker.missing is not None or unclear


def _limbo(lost: list[Worker], around: Circumstances) -> tuple[str, str]:
    """What keeps workers in doubt. Without a time: a text that changed would be a new decision."""
    if around.search_failure:
        why = (
            f"{len(lost)} workers are in no listing any more and hold their places, for what became of "
            f"them cannot be asked: {around.search_failure}; they are let go after policy.max_queue_age"
        )
        return "history", why
    if unclear := [one for one in lost if one.outcome is Outcome.UNCLEAR]:
        reason = unclear[0].diagnosis or "no answer"
        return (
            "unclear",
            f"whether {len(unclear)} workers were submitted is still unclear: {reason}",
        )
    return (
        "unlisted",
        f"{len(lost)} workers are in no listing any more; they count as lost after {around.grace_s:.0f} s",
    )


def _doubt(workers: list[Worker], listing_failure: str) -> str:
    """Why workers that wait may wait for long, or wait no longer."""
    reasons = Counter(one.diagnosis for one in workers if one.phase is Phase.HELD and one.waits)
    doubts = [f"{n} are held: {reason or 'no reason'}" for reason, n in reasons.most_common(3)]
    if listing_failure:
        doubts.append(f"the last listing failed: {listing_failure}")
    return ", ".join(doubts)


def _sentences(
    workers: Collection[Worker], nodes: int, queued: int, active: int, clock_off_min: int
) -> Iterator[str]:
    """What was seen of the site's own workers, for `why`."""
    total = len(workers)
    if abs(clock_off_min) > 1:
        yield (
            f"this machine's clock was set by {clock_off_min:+d} minutes since the edge began, which goes by the "
            "time before: restart it, or its deadlines are wrong"
        )
    odd = Counter(one.diagnosis for one in workers if one.diagnosis.startswith(UNKNOWN))
    for diagnosis, n in odd.most_common(5):
        yield f"of {n} workers {diagnosis}; they are left as they are"
    of = "" if nodes == total else f" of {nodes} nodes"
    yield f"{total} workers{of}: {queued} wait to start, {active} active, {total - queued - active} on their way out"


def cost_of(site: Site, name: str) -> Cost:
    """What a worker of a slot occupies; of a slot that the file does not know (any more), the
    most."""
    slot = site.slots.get(name)
    if slot is None:
        costs = [cost_of(site, known) for known in site.slots]
        return Cost(
            cores=max(cost.cores for cost in costs),
            memory_mb=max(cost.memory_mb for cost in costs),
            node_hours=max(cost.node_hours for cost in costs),
        )
    room = slot.room()
    return Cost(
        cores=room.cores * slot.nodes_each,
        memory_mb=room.memory_mb * slot.nodes_each,
        node_hours=slot.walltime_s / 3600 * slot.nodes_each,
        together=slot.together,
    )


def _occupied(site: Site, there: Counter[str], spent_node_hours: float) -> Cost:
    """What all workers occupy; their node-hours at the most, and those of the period that are
    spent."""
    costs = [(cost_of(site, slot), n) for slot, n in there.items()]
    occupied = Cost(node_hours=spent_node_hours + sum(cost.node_hours * n for cost, n in costs))
    for cost, n in costs:
        occupied = occupied.plus(cost.times(n))
    return occupied


def period_begin(period: str, now: float) -> float:
    """When the day, month or year of UTC began."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = {"day": day, "month": day.replace(day=1), "year": day.replace(month=1, day=1)}
    return first[period].timestamp()


def _as_found(
    slots: dict[str, Bin], workers: Mapping[Key, Worker], demand: m.Demand
) -> dict[str, Bin]:
    """What slots really offer: the latest worker of one may have found less than the file says, and
    what kinds of machines a slot gets is known by those that it has now."""
    found: dict[str, m.WorkerRow] = {}
    machines: dict[str, dict[Hardware, None]] = {}
    for row in demand.workers:
        worker = workers.get((row.intent, row.index))
        if worker is not None and row.total.cores:
            machines.setdefault(worker.slot, {})[row.hardware or SILENT] = None
            last = found.setdefault(worker.slot, row)
            if row.registered > last.registered:
                found[worker.slot] = row
    return {
        name: Bin(one.queue, _at_most(one.room, found[name].total), tuple(machines[name]))
        if name in found
        else one
        for name, one in slots.items()
    }


def _at_most(room: Room, found: Room) -> Room:
    return replace(room.at_most(found), nodes=min(room.nodes, found.most("nodes")))
