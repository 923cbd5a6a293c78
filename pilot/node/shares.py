"""What is free on a node, and what of it a payload holds."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from ailurus.protocol.resources import Resources
from pilot.node.gpus import Gpu
from pilot.node.topology import Cpu, choose

OWN = ""
"""The name of the node on which the pilot itself runs, where it has no other."""
Free = tuple[int, int, int, int]
"""GPUs, cores, MB of memory and of disk: in this order the tightest node is the least."""
NEVER = float("inf")


class Slot(NamedTuple):
    """A granted share of one node."""

    need: Resources
    pinned: tuple[Cpu, ...] = ()
    """The CPUs to run on, of that node; none where payloads are not pinned."""
    gpus: tuple[Gpu, ...] = ()
    node: str = OWN

    @property
    def cpus(self) -> tuple[int, ...]:
        return tuple(cpu.number for cpu in self.pinned)


Placement = tuple[Slot, ...]
"""What a payload holds: one slot on each of its nodes, the first for its first process."""


class FreeNode:
    """A node, and what is free there."""

    __slots__ = ("cpus", "free", "gpus", "name", "open", "total")

    def __init__(self, name: str, total: Resources, cpus: list[Cpu], gpus: list[Gpu]) -> None:
        self.name, self.total, self.cpus, self.gpus = name, total, cpus, gpus
        self.free = free_of(total)
        # Whether anything may start there.
        self.open = True

    def bind(self, count: int) -> tuple[Cpu, ...]:
        """The CPUs of a payload, close to each other; none if payloads are not pinned here."""
        if not self.cpus:
            return ()
        chosen = choose(self.cpus, count)
        taken = {cpu.number for cpu in chosen}
        self.cpus = [cpu for cpu in self.cpus if cpu.number not in taken]
        return chosen

    def slot(self, need: Resources) -> Slot:
        """A share of the node. What is `free` is the caller's affair."""
        gpus = tuple(self.gpus[: need.gpus])
        del self.gpus[: len(gpus)]
        return Slot(need, self.bind(need.cores), gpus, self.name)

    def unbind(self, cpus: Sequence[Cpu]) -> None:
        """Take back what `bind` returned."""
        if cpus:
            self.cpus = sorted([*self.cpus, *cpus], key=attrgetter("number"))


class Holding(NamedTuple):
    """What has started."""

    placement: Placement
    nodes: tuple[FreeNode, ...]
    ends: float
    """When it will probably have ended."""

    def more(self, slot: Slot, node: FreeNode) -> Holding:
        return Holding((*self.placement, slot), (*self.nodes, node), self.ends)


def free_of(amount: Resources) -> Free:
    return amount.gpus, amount.cores, amount.memory_mb, amount.disk_mb


def amount_of(free: Free) -> Resources:
    gpus, cores, memory_mb, disk_mb = free
    return Resources(cores=cores, memory_mb=memory_mb, disk_mb=disk_mb, gpus=gpus)


def fits(want: Free, free: Free) -> bool:
    return want[1] <= free[1] and want[2] <= free[2] and want[0] <= free[0] and want[3] <= free[3]


def changed(free: Free, need: Free, sign: int) -> Free:
    """What is free when `need` is given back, or with a negative `sign` taken."""
    return (
        free[0] + sign * need[0],
        free[1] + sign * need[1],
        free[2] + sign * need[2],
        free[3] + sign * need[3],
    )


def share(want: Free, total: Free) -> float:
    """The largest part of any resource of a node that is wanted; more than 1 if it has too
    little."""
    parts = zip(want, total, strict=True)
    return max((need / there if there else NEVER for need, there in parts if need), default=0.0)
