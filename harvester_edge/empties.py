"""Pilots that leave without ever having had a job although jobs wait that their slot could hold.

The server gives them none for a reason that demand does not show: a PanDA server tells of no
walltime (maxwalltime) and no platform. More of them would leave alike, so they are counted like
failed starts. A pilot writes how many jobs it had into its directory (`left`). It counts only if
jobs waited for as long as it ran: who comes too late for a burst says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from ailurus.protocol import messages as m
from ailurus.protocol.units import duration_s
from ailurus.protocol.worker import Ending
from harvester_edge.decide import Health, one_more
from harvester_edge.edge import Edge
from harvester_edge.evidence import Worker
from harvester_edge.fit import Bin, capacity, describe
from harvester_edge.render import LEFT

GOOD = (Ending.DONE, Ending.IDLE_EXIT)
SLACK_S = 60.0


def key(slot: str) -> str:
    """The book's key for a slot's empty pilots, beside its failed starts; no slot has a blank in
    its name."""
    return f"{slot} empty"


def count(edge: Edge, demand: m.Demand, ended: Iterable[Worker]) -> None:
    """Note which slots jobs wait for, and what the pilots that have just ended say of it."""
    now = edge.clock()
    asks = {name: list(_asks(edge, name, demand)) for name in edge.site.slots}
    begun: dict[str, int] = {}
    for worker in ended:
        if worker.registered is None or worker.slot not in asks:
            continue
        jobs = _jobs(edge, worker)
        if jobs:
            _well(edge, worker.slot)
        elif jobs == 0 and worker.ending in GOOD and _in_vain(edge, worker, asks[worker.slot]):
            begun[worker.slot] = begun.get(worker.slot, 0) + 1
            health = edge.book.health(key(worker.slot))
            failures = one_more(health, begun[worker.slot])
            reason = _reason(edge, worker.slot, asks[worker.slot])
            edge.book.set_health(
                key(worker.slot), Health(failures=failures, since=now, reason=reason)
            )
    for name, waiting in asks.items():
        if waiting:
            edge.waiting_since.setdefault(name, now)
        else:
            edge.waiting_since.pop(name, None)
    _look_at_the_living(edge, demand, now)


def _asks(edge: Edge, name: str, demand: m.Demand) -> Iterable[m.ShapeDemand]:
    slot = edge.site.slots[name]
    place = Bin(slot.queue, edge.site.room(name))
    return (ask for ask in demand.shapes if ask.jobs and capacity(place, ask))


def _in_vain(edge: Edge, worker: Worker, asks: list[m.ShapeDemand]) -> bool:
    """Whether jobs waited from its start to its end."""
    since = edge.waiting_since.get(worker.slot)
    return bool(asks) and since is not None and since <= (worker.started or 0.0)


def _jobs(edge: Edge, worker: Worker) -> int | None:
    """How many jobs a pilot has had, as it wrote when it left; None: it wrote nothing."""
    try:
        return int(
            (edge.worker_directories / worker.intent / str(worker.index) / LEFT).read_text("ascii")[
                :20
            ]
        )
    except (OSError, ValueError):
        return None


def _well(edge: Edge, slot: str) -> None:
    if edge.book.health(key(slot)).failures:
        edge.book.set_health(key(slot), Health())


def _look_at_the_living(edge: Edge, demand: m.Demand, now: float) -> None:
    """A pilot that is there for longer than one without a job would stay has had one, as has one
    that holds some now."""
    stays_s = duration_s(edge.site.scaling.idle_exit) + 2 * edge.poll_s + SLACK_S
    ill = {name: edge.book.health(key(name)) for name in edge.site.slots}
    ill = {name: health for name, health in ill.items() if health.failures}
    if not ill:
        return
    busy = {(row.intent, row.index) for row in demand.workers if row.jobs}
    for worker in edge.workers.values():
        if worker.slot in ill and worker.registered is not None:
            began = worker.started or worker.registered
            if worker.key in busy or now - began > stays_s:
                _well(edge, worker.slot)


def _reason(edge: Edge, slot: str, asks: list[m.ShapeDemand]) -> str:
    room = edge.site.slots[slot].room()
    jobs = sum(ask.jobs for ask in asks)
    shapes = "; ".join(describe(ask.shape) for ask in asks[:3])
    nodes = f"{room.nodes} nodes of " if room.nodes > 1 else ""
    return (
        f"{jobs} jobs wait ({shapes}) and were not given to a pilot with {nodes}{room.cores} cores, "
        f"{room.memory_mb} MB, {room.seconds_left:.0f} s left: do they need more time, or something else that "
        f"slot {slot} lacks?"
    )
