"""What became of the core-seconds of a pilot's nodes: held by jobs, or idle and why. No threads, no
clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from ailurus.protocol.messages.occupancy import Held, HeldSlot, IdleReason, NodeSize, Occupancy
from ailurus.protocol.messages.usage import MOST_NODES
from ailurus.protocol.resources import Resources
from pilot.node.shares import Placement, Slot


class Cores(NamedTuple):
    """How many cores there are of each kind at one moment."""

    busy: int = 0
    """Held by jobs."""
    free: int = 0
    lost: int = 0
    """Of nodes that have left."""
    coming: int = 0
    """Asked for by jobs that are here, and stage in."""
    leaving: int = 0
    """Of jobs that have given their slots back, and stage out."""
    blocked: bool = False
    """Whether a job waits for slots that it does not get."""
    draining: bool = False


def reasons(cores: Cores) -> dict[IdleReason, int]:
    """Why the cores that no job holds are idle: each counts once."""
    found = {IdleReason.LOST: cores.lost}
    left = cores.free

    def take(reason: IdleReason, most: int) -> None:
        nonlocal left
        found[reason] = min(left, most)
        left -= found[reason]

    take(IdleReason.STAGING_IN, cores.coming)
    take(IdleReason.WIDE, left if cores.blocked else 0)
    take(IdleReason.STAGING_OUT, cores.leaving)
    take(IdleReason.DRAINING if cores.draining else IdleReason.NOTHING, left)
    return {reason: count for reason, count in found.items() if count}


class Account:
    """Adds up, from one change to the next."""

    def __init__(self, now: float) -> None:
        """`now`: by a monotonic clock, as everywhere here."""
        self._at = now
        self._cores = Cores()
        self._busy_core_s = 0.0
        self._idle_core_s: dict[IdleReason, float] = {}
        self._nodes: dict[str, NodeSize] = {}
        self.cores = self.lost_cores = 0
        """Of the nodes that are there, and of those that have left."""

    def turn(self, now: float, cores: Cores) -> None:
        """What is known until now was so since the last call; from now on it is `cores`."""
        if (seconds := now - self._at) > 0:
            self._at = now
            self._busy_core_s += seconds * self._cores.busy
            for reason, count in reasons(self._cores).items():
                before = self._idle_core_s.get(reason, 0.0)
                self._idle_core_s[reason] = before + seconds * count
        self._cores = cores

    def join(self, name: str, total: Resources, at: float) -> None:
        """A node has come, or comes again. `at`: in seconds since 1970, like below."""
        self._nodes.pop(name, None)
        if len(self._nodes) >= MOST_NODES:
            del self._nodes[next(iter(self._nodes))]
        self._nodes[name] = NodeSize(name=name, cores=total.cores, gpus=total.gpus, joined=at)
        self._sum_up()

    def leave(self, name: str, at: float) -> None:
        if (node := self._nodes.get(name)) is not None and not node.left:
            self._nodes[name] = replace(node, left=at)
            self._sum_up()

    def _sum_up(self) -> None:
        self.cores = sum(node.cores for node in self._nodes.values() if not node.left)
        self.lost_cores = sum(node.cores for node in self._nodes.values() if node.left)

    def told(self, since: float, until: float, unused_core_s: float) -> Occupancy:
        """All of it. `unused_core_s`: of what jobs of many payloads held, what none of these
        had."""
        unused = min(unused_core_s, self._busy_core_s)
        idle: Mapping[IdleReason, float] = {**self._idle_core_s, IdleReason.PAYLOADS: unused}
        return Occupancy(
            nodes=tuple(self._nodes.values()),
            since=round(since, 3),
            until=round(until, 3),
            busy_core_s=round(self._busy_core_s - unused, 3),
            idle_core_s={reason: round(sum_s, 3) for reason, sum_s in idle.items() if sum_s},
        )


def held(placement: Placement, began: float) -> Held:
    """What a job holds from now on."""
    slots = tuple(_held_slot(slot) for slot in placement[:MOST_NODES])
    return Held(slots=slots, began=round(began, 3))


def widened(before: Held, slot: Slot, at: float) -> Held:
    """What a job holds that has got a slot more."""
    if len(before.slots) >= MOST_NODES:
        return before
    return replace(before, slots=(*before.slots, replace(_held_slot(slot), began=round(at, 3))))


def narrowed(before: Held, node: str, at: float) -> Held:
    """What a job holds that has lost a node."""
    slots = (
        replace(one, ended=round(at, 3)) if one.node == node and not one.ended else one
        for one in before.slots
    )
    return replace(before, slots=tuple(slots))


def _held_slot(slot: Slot) -> HeldSlot:
    gpus = tuple(gpu.name for gpu in slot.gpus)
    return HeldSlot(node=slot.node, cores=slot.need.cores, gpus=gpus)
