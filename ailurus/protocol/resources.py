"""Resources: what a job needs, what a worker has free, what a slot offers, and their arithmetic.

`Resources` are of one node. The `Shape` of a job and the `Room` of a worker add how many nodes
there are with so much on each, and a time. In JSON and in rows all values stand flat, in the order
of the fields; only a room whose nodes differ tells its further nodes in a list behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from ailurus.protocol.fields import Count, Whole

KINDS = (
    ("cores", "cores"),
    ("memory_mb", "MB of memory"),
    ("disk_mb", "MB of disk"),
    ("gpus", "GPUs"),
    ("nodes", "nodes"),
)
"""The fields that a shape and a room have in common, and what an amount of each is called."""
MOST_NODES = 1_000_000
"""Of a room, in all of its groups."""
MOST_GROUPS = 64
"""Of a room that is told. What a room of many different nodes has beyond them, it tells next time."""


class Resources(Struct, frozen=True, kw_only=True, gc=False):
    """An amount of each resource of one node. Sums and differences keep the other fields of a
    subclass."""

    cores: Count = 0
    memory_mb: Whole = 0
    disk_mb: Whole = 0
    gpus: Count = 0

    def within(self, free: Resources) -> bool:
        """Whether `free` has enough of each resource."""
        return (
            self.cores <= free.cores
            and self.memory_mb <= free.memory_mb
            and self.disk_mb <= free.disk_mb
            and self.gpus <= free.gpus
        )

    def holds(self, each: Resources) -> int:
        """How many of `each` fit in here together. Raises ValueError if `each` needs nothing."""
        free_and_needed = (
            (self.cores, each.cores),
            (self.memory_mb, each.memory_mb),
            (self.disk_mb, each.disk_mb),
            (self.gpus, each.gpus),
        )
        return min(free // needed for free, needed in free_and_needed if needed)

    def plus(self, other: Resources) -> Self:
        """The sum."""
        return replace(
            self,
            cores=self.cores + other.cores,
            memory_mb=self.memory_mb + other.memory_mb,
            disk_mb=self.disk_mb + other.disk_mb,
            gpus=self.gpus + other.gpus,
        )

    def less(self, other: Resources) -> Self:
        """What is left when `other` is taken away: nothing of a resource of which there was too
        little."""
        return replace(
            self,
            cores=max(0, self.cores - other.cores),
            memory_mb=max(0, self.memory_mb - other.memory_mb),
            disk_mb=max(0, self.disk_mb - other.disk_mb),
            gpus=max(0, self.gpus - other.gpus),
        )

    def times(self, count: int) -> Self:
        """The sum of `count` of these."""
        return replace(
            self,
            cores=self.cores * count,
            memory_mb=self.memory_mb * count,
            disk_mb=self.disk_mb * count,
            gpus=self.gpus * count,
        )

    def at_most(self, limit: Resources) -> Self:
        """These, cut down to `limit`."""
        return replace(
            self,
            cores=min(self.cores, limit.cores),
            memory_mb=min(self.memory_mb, limit.memory_mb),
            disk_mb=min(self.disk_mb, limit.disk_mb),
            gpus=min(self.gpus, limit.gpus),
        )


class Shape(Resources, frozen=True, kw_only=True, order=True, gc=False):
    """What a job occupies while it runs, on each of its nodes. Jobs of a queue are indexed by
    it."""

    cores: Count = 1
    memory_mb: Whole = 2000
    nodes: int = 1
    walltime_s: int = 0
    """0: the job does not say."""
    machine: str = ""
    """What kind of machine it needs, as `ailurus.protocol.machine` writes it; blank: any. Rooms
    know nothing of it."""

    @property
    def each(self) -> Resources:
        """What it occupies on one node."""
        return plain(self)

    def fits(self, room: Room) -> bool:
        """Whether a job of this shape can start in `room`."""
        # As `within`, spelled out: an acquire compares each shape of its queue.
        return (
            self.cores <= room.cores
            and self.memory_mb <= room.memory_mb
            and self.disk_mb <= room.disk_mb
            and self.gpus <= room.gpus
            and self.nodes <= room.nodes
            and (room.seconds_left is None or self.walltime_s <= room.seconds_left)
        ) or (room.more is not UNSET and room.in_time(self) and self.nodes <= room.nodes_for(self))


class Group(Resources, frozen=True, kw_only=True, gc=False):
    """Equal nodes: so much is free on each of them."""

    nodes: Count = 1


class Room(Resources, frozen=True, kw_only=True, gc=False):
    """What a worker has free on each of its nodes, or what a slot of a site offers when empty.

    A worker whose nodes differ tells them in groups of equal ones: the first group stands flat, the
    others in `more`. Who does not know `more` sees the first group as all there is, and fills what
    is free there and not more.
    """

    cores: Count = 1
    nodes: Count = 1
    seconds_left: float | None = None
    """Until the worker must end; None: no end is known."""
    more: Annotated[tuple[Group, ...], Meta(max_length=1000)] | UnsetType = UNSET
    """Further groups of nodes; absent: there are none."""

    def __post_init__(self) -> None:
        """Raises ValueError for more nodes than can be told once some groups have become equal."""
        if self.more is not UNSET and self.most("nodes") > MOST_NODES:
            raise ValueError(f"a room of more than {MOST_NODES} nodes")

    @classmethod
    def of(cls, free: Resources, *, seconds_left: float | None) -> Self:
        """The room of a worker on one node."""
        return cls(
            cores=free.cores,
            memory_mb=free.memory_mb,
            disk_mb=free.disk_mb,
            gpus=free.gpus,
            seconds_left=seconds_left,
        )

    @classmethod
    def over(cls, free: Mapping[Resources, int], *, seconds_left: float | None) -> Self:
        """The room of a worker on several nodes: how many have so much free. Nodes without a free
        core are left out; the largest group comes first."""
        groups = sorted(
            ((each, count) for each, count in free.items() if each.cores and count),
            key=lambda group: (group[1] * group[0].cores, _size(group[0])),
            reverse=True,
        )[:MOST_GROUPS]
        if not groups:
            return cls(cores=0, seconds_left=seconds_left)
        (first, nodes), *rest = groups
        return cls(
            cores=first.cores,
            memory_mb=first.memory_mb,
            disk_mb=first.disk_mb,
            gpus=first.gpus,
            nodes=nodes,
            seconds_left=seconds_left,
            more=tuple(_group(each, count) for each, count in rest) or UNSET,
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups of equal nodes."""
        first = _group(self, self.nodes)
        return (first,) if self.more is UNSET else (first, *self.more)

    @property
    def together(self) -> Resources:
        """What all nodes have free together."""
        if self.nodes == 1 and self.more is UNSET:
            return plain(self)
        total = Resources()
        for group in self.groups:
            total = total.plus(group.times(group.nodes))
        return total

    def in_time(self, shape: Shape) -> bool:
        """Whether a job of this shape ends before the worker must."""
        return self.seconds_left is None or shape.walltime_s <= self.seconds_left

    def most(self, kind: str) -> int:
        """Of one of KINDS, the most that a node has free; how many nodes there are."""
        if kind == "nodes":
            return sum(group.nodes for group in self.groups)
        return max(int(getattr(group, kind)) for group in self.groups)

    def nodes_for(self, each: Resources) -> int:
        """How many nodes have so much free."""
        return sum(group.nodes for group in self.groups if each.within(group))

    def capacity(self, shape: Shape) -> int:
        """How many jobs of this shape fit in here together. Raises ValueError if it needs
        nothing."""
        if not shape.fits(self):
            return 0
        held = [(group.nodes, group.holds(shape)) for group in self.groups]
        most = sum(nodes * each for nodes, each in held) // shape.nodes
        if shape.nodes == 1:
            return most
        # On one node no job has two of its shares. So n jobs fit where their shares do, of which a
        # node takes n at most: dealt out node by node, the shares of a job come to different ones.
        least = 1
        while least < most:
            middle = (least + most + 1) // 2
            if sum(nodes * min(each, middle) for nodes, each in held) >= middle * shape.nodes:
                least = middle
            else:
                most = middle - 1
        return least

    def taking(self, shape: Shape, jobs: int = 1) -> Self:
        """What is left when `jobs` of this shape, as many as fit at most, have started: those of
        one node where they leave least, so that large gaps stay for wide jobs; those of several on
        the emptiest nodes, so that most of them fit. For one that does not fit, what is there is
        kept."""
        if self.nodes == 1 and self.more is UNSET:
            return self.less(shape if jobs == 1 else shape.times(jobs))
        free: dict[Resources, int] = {}
        shares = jobs * shape.nodes
        need = plain(shape)
        for group in sorted(self.groups, key=lambda group: _turn(group, shape)):
            each = plain(group)
            most = min(jobs, each.holds(need)) if need.within(each) else 1
            full = min(group.nodes, shares // most)
            rest = shares - full * most if full < group.nodes else 0
            shares -= full * most + rest
            parts = ((full, most), (bool(rest), rest), (group.nodes - full - bool(rest), 0))
            for nodes, count in parts:
                if nodes:
                    left = each.less(need.times(count))
                    free[left] = free.get(left, 0) + nodes
        return self.over(free, seconds_left=self.seconds_left)


def plain(amount: Resources) -> Resources:
    """The amount alone, of a shape, a group or a room: so much on one node."""
    return Resources(
        cores=amount.cores, memory_mb=amount.memory_mb, disk_mb=amount.disk_mb, gpus=amount.gpus
    )


def _turn(group: Group, shape: Shape) -> tuple[bool, tuple[int, ...]]:
    """Which nodes a job of this shape takes first."""
    fits, size = shape.within(group), _size(group)
    return not fits, size if fits and shape.nodes == 1 else tuple(-n for n in size)


def _group(each: Resources, nodes: int) -> Group:
    return Group(
        cores=each.cores,
        memory_mb=each.memory_mb,
        disk_mb=each.disk_mb,
        gpus=each.gpus,
        nodes=nodes,
    )


def _size(each: Resources) -> tuple[int, int, int, int]:
    return each.gpus, each.cores, each.memory_mb, each.disk_mb
