"""What is free on a node, and what of it a payload holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from ailurus.protocol.resources import WHOLE, Resources, part_taken
from pilot.node.gpus import Gpu
from pilot.node.topology import Cpu, choose

OWN = ""
"""The name of the node on which the pilot itself runs, where it has no other."""
NEVER = float("inf")


class Free(NamedTuple):
    """What is free on a node, or needed on one, as in `Resources`: in this order the tightest node
    is the least."""

    gpus: int
    gpu_parts: tuple[int, ...]
    cores: int
    memory_mb: int
    disk_mb: int
    gpu_share: int


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

    __slots__ = ("cpus", "free", "gpus", "name", "open", "shared", "total")

    def __init__(self, name: str, total: Resources, cpus: list[Cpu], gpus: list[Gpu]) -> None:
        self.name, self.total, self.cpus = name, total, cpus
        self.free = free_of(total)
        # Those that nobody shares, and how much is free of each of the others.
        self.gpus, parts = gpus[: total.gpus], gpus[total.gpus :]
        self.shared: dict[Gpu, int] = dict(zip(parts, total.gpu_parts, strict=False))
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

    def take(self, need: Resources) -> Slot:
        """A share of the node, which has so much free."""
        self.free = changed(self.free, need, -1)
        if need.gpu_share:
            gpus: tuple[Gpu, ...] = (self._take_part(need),)
        else:
            gpus = tuple(self.gpus[: need.gpus])
            del self.gpus[: len(gpus)]
        return Slot(need, self.bind(need.cores), gpus, self.name)

    def take_back(self, slot: Slot) -> None:
        """Count what a payload held as free again. Its CPUs are for `unbind`."""
        self.free = changed(self.free, slot.need, 1)
        if not slot.need.gpu_share:
            self.gpus += slot.gpus
            return
        gpu = slot.gpus[0]
        free = self.shared.pop(gpu) + self._taken(slot.need)
        if free == WHOLE:
            self.gpus.append(gpu)
        else:
            self.shared[gpu] = free
        self._count_parts(whole=int(free == WHOLE))

    def unbind(self, cpus: Sequence[Cpu]) -> None:
        """Take back what `bind` returned."""
        if cpus:
            self.cpus = sorted([*self.cpus, *cpus], key=attrgetter("number"))

    def like(self) -> FreeNode:
        """Another one, with so much free, to try on."""
        other = FreeNode(self.name, self.total, [], [*self.gpus])
        other.free, other.shared = self.free, {**self.shared}
        return other

    def _take_part(self, need: Resources) -> Gpu:
        """A device of which so much is free: the one with the least, or else a whole one."""
        taken = self._taken(need)
        fitting = [gpu for gpu, free in self.shared.items() if free >= taken]
        if fitting:
            gpu = min(fitting, key=self.shared.__getitem__)
            self.shared[gpu] -= taken
        else:
            gpu = self.gpus.pop(0)
            self.shared[gpu] = WHOLE - taken
        self._count_parts(whole=-int(not fitting))
        return gpu

    def _taken(self, need: Resources) -> int:
        return part_taken(need.gpu_share, self.total.gpu_share)

    def _count_parts(self, whole: int) -> None:
        """Note what is free of shared devices, and that so many whole ones have become free."""
        parts = sorted((free for free in self.shared.values() if free), reverse=True)
        self.free = self.free._replace(gpus=self.free.gpus + whole, gpu_parts=tuple(parts))


class Holding(NamedTuple):
    """What has started."""

    placement: Placement
    nodes: tuple[FreeNode, ...]
    ends: float
    """When it will probably have ended."""

    def more(self, slot: Slot, node: FreeNode) -> Holding:
        return Holding((*self.placement, slot), (*self.nodes, node), self.ends)


def free_of(amount: Resources) -> Free:
    return Free(
        amount.gpus,
        amount.gpu_parts,
        amount.cores,
        amount.memory_mb,
        amount.disk_mb,
        amount.gpu_share,
    )


def amount_of(free: Free) -> Resources:
    return Resources(
        cores=free.cores,
        memory_mb=free.memory_mb,
        disk_mb=free.disk_mb,
        gpus=free.gpus,
        gpu_share=free.gpu_share,
        gpu_parts=free.gpu_parts,
    )


def fits(want: Free, free: Free) -> bool:
    return (
        want.cores <= free.cores
        and want.memory_mb <= free.memory_mb
        and (_has_part(want, free) if want.gpu_share else want.gpus <= free.gpus)
        and want.disk_mb <= free.disk_mb
    )


def tightest(want: Free, there: Iterable[Free]) -> Free | None:
    """Of nodes on which it fits, the one to take: for a share of a GPU first one on which no whole
    GPU is needed for it. None: there are none."""
    if not want.gpu_share:
        return min(there, default=None)
    return min(there, key=lambda free: (not _in_a_part(want, free), free), default=None)


def _has_part(want: Free, free: Free) -> bool:
    return free.gpu_share > 0 and (free.gpus > 0 or _in_a_part(want, free))


def _in_a_part(want: Free, free: Free) -> bool:
    largest = free.gpu_parts[0] if free.gpu_parts else 0
    return largest >= part_taken(want.gpu_share, free.gpu_share)


def changed(free: Free, need: Resources, sign: int) -> Free:
    """What is free when `need` is given back, or with a negative `sign` taken. A share of a GPU is
    of a certain one, and so its node's affair."""
    return Free(
        free.gpus if need.gpu_share else free.gpus + sign * need.gpus,
        free.gpu_parts,
        free.cores + sign * need.cores,
        free.memory_mb + sign * need.memory_mb,
        free.disk_mb + sign * need.disk_mb,
        free.gpu_share,
    )


def share(want: Free, total: Free) -> float:
    """The largest part of any resource of a node that is wanted; more than 1 if it has too
    little."""
    gpus = (want.gpus, total.gpus)
    if want.gpu_share:
        if not fits(want, total):
            return NEVER
        taken = part_taken(want.gpu_share, total.gpu_share)
        gpus = (taken, WHOLE * total.gpus + sum(total.gpu_parts))
    parts = (
        gpus,
        (want.cores, total.cores),
        (want.memory_mb, total.memory_mb),
        (want.disk_mb, total.disk_mb),
    )
    return max((need / there if there else NEVER for need, there in parts if need), default=0.0)
