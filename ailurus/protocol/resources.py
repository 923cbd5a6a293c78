"""Resources: what a job needs, what a worker has free, what a slot offers, and their arithmetic.

`Resources` are of one node. The `Shape` of a job and the `Room` of a worker add how many nodes
there are with so much on each, and a time. In JSON and in rows all values stand flat, in the order
of the fields; only a room whose nodes differ tells its further nodes in a list behind them.

A GPU is taken as a whole, or, where the site says so, by several jobs that need a share of one.
Shares are counted in hundredths. Those that are free on two devices do not add up: so a room tells
what is free of each device that jobs share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
WHOLE = 100
"""A GPU, in hundredths."""
MOST_SHARED = 1000
"""GPUs of a node that jobs share."""
_Size = tuple[int, tuple[int, ...], int, int, int, int]
Hundredths = Annotated[int, Meta(ge=0, le=WHOLE)]


class Resources(Struct, frozen=True, kw_only=True, gc=False):
    """An amount of each resource of one node. Sums and differences keep the other fields of a
    subclass."""

    cores: Count = 0
    memory_mb: Whole = 0
    disk_mb: Whole = 0
    gpus: Count = 0
    """Whole ones. Of what is needed that is a share of one: 1."""
    gpu_share: Hundredths = 0
    """Of what is needed: how much of its one GPU; 0: all of each. Of what is there: the least that
    a job takes of a GPU that it shares; 0: none is shared."""
    gpu_parts: Annotated[tuple[Hundredths, ...], Meta(max_length=MOST_SHARED)] = ()
    """Of what is there: how much is free of each GPU that jobs share already, the most first."""

    def within(self, free: Resources) -> bool:
        """Whether `free` has enough of each resource."""
        return (
            self.cores <= free.cores
            and self.memory_mb <= free.memory_mb
            and self.disk_mb <= free.disk_mb
            and (free.shares(self) > 0 if self.gpu_share else self.gpus <= free.gpus)
        )

    def holds(self, each: Resources) -> int:
        """How many of `each` fit in here together. Raises ValueError if `each` needs nothing."""
        free_and_needed = (
            (self.cores, each.cores),
            (self.memory_mb, each.memory_mb),
            (self.disk_mb, each.disk_mb),
            (self.shares(each), 1) if each.gpu_share else (self.gpus, each.gpus),
        )
        return min(free // needed for free, needed in free_and_needed if needed)

    def shares(self, each: Resources) -> int:
        """How many that need the same share of a GPU there are GPUs for."""
        if not self.gpu_share:
            return 0
        taken = part_taken(each.gpu_share, self.gpu_share)
        return self.gpus * (WHOLE // taken) + sum(free // taken for free in self.gpu_parts)

    def plus(self, other: Resources) -> Self:
        """The sum."""
        return replace(
            self,
            cores=self.cores + other.cores,
            memory_mb=self.memory_mb + other.memory_mb,
            disk_mb=self.disk_mb + other.disk_mb,
            gpus=self.gpus + other.gpus,
            gpu_share=max(self.gpu_share, other.gpu_share),
            gpu_parts=tuple(sorted((*self.gpu_parts, *other.gpu_parts), reverse=True)),
        )

    def less(self, other: Resources, times: int = 1) -> Self:
        """What is left when `other` is taken away so many times: nothing of a resource of which
        there was too little."""
        gpus, gpu_parts = self.gpus, self.gpu_parts
        if not other.gpu_share:
            gpus = max(0, gpus - other.gpus * times)
        elif self.gpu_share:
            taken = part_taken(other.gpu_share, self.gpu_share)
            for _ in range(times):
                gpus, gpu_parts = without(gpus, gpu_parts, taken)
        return replace(
            self,
            cores=max(0, self.cores - other.cores * times),
            memory_mb=max(0, self.memory_mb - other.memory_mb * times),
            disk_mb=max(0, self.disk_mb - other.disk_mb * times),
            gpus=gpus,
            gpu_parts=gpu_parts,
        )

    def times(self, count: int) -> Self:
        """The sum of `count` of these."""
        return replace(
            self,
            cores=self.cores * count,
            memory_mb=self.memory_mb * count,
            disk_mb=self.disk_mb * count,
            gpus=self.gpus * count,
            gpu_parts=tuple(part for part in self.gpu_parts for _ in range(count)),
        )

    def at_most(self, limit: Resources) -> Self:
        """These, cut down to `limit`."""
        return replace(
            self,
            cores=min(self.cores, limit.cores),
            memory_mb=min(self.memory_mb, limit.memory_mb),
            disk_mb=min(self.disk_mb, limit.disk_mb),
            gpus=min(self.gpus, limit.gpus),
            gpu_share=max(self.gpu_share, limit.gpu_share) if limit.gpu_share else 0,
            gpu_parts=tuple(map(min, self.gpu_parts, limit.gpu_parts)),
        )


def kinds_of(shape: Shape) -> Iterator[tuple[str, str]]:
    """Those of `KINDS` in which a shape is compared with a room as numbers: not the GPU of which a
    job needs a share."""
    return (one for one in KINDS if not (shape.gpu_share and one[0] == "gpus"))


def part_taken(share: int, least: int) -> int:
    """How much a job that needs this share takes of a GPU of which no job takes less than
    `least`."""
    return max(share, least)


def without(gpus: int, parts: tuple[int, ...], taken: int) -> tuple[int, tuple[int, ...]]:
    """Whole GPUs and parts of shared ones that are free once `taken` of one is: of the part that is
    large enough and least, or else of a whole one, so that these stay whole as long as they can.
    Where it fits nowhere, the largest part is gone."""
    fitting = [part for part in parts if part >= taken]
    if fitting:
        at = len(fitting) - 1
        rest = (*parts[:at], *parts[at + 1 :], parts[at] - taken)
    elif gpus:
        gpus, rest = gpus - 1, (*parts, WHOLE - taken)
    else:
        rest = parts[1:]
    return gpus, tuple(sorted((part for part in rest if part), reverse=True))


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
            and (room.shares(self) > 0 if self.gpu_share else self.gpus <= room.gpus)
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
            gpu_share=free.gpu_share,
            gpu_parts=free.gpu_parts,
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
            gpu_share=first.gpu_share,
            gpu_parts=first.gpu_parts,
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

    def most_of_a_gpu(self) -> int:
        """The most of a GPU that is free for a job that shares it, in hundredths."""
        sharing = [group for group in self.groups if group.gpu_share]
        return max((WHOLE if g.gpus else max(g.gpu_parts, default=0) for g in sharing), default=0)

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
            return self.less(shape, jobs)
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
                    left = each.less(need, count)
                    free[left] = free.get(left, 0) + nodes
        return self.over(free, seconds_left=self.seconds_left)


def plain(amount: Resources) -> Resources:
    """The amount alone, of a shape, a group or a room: so much on one node."""
    return Resources(
        cores=amount.cores,
        memory_mb=amount.memory_mb,
        disk_mb=amount.disk_mb,
        gpus=amount.gpus,
        gpu_share=amount.gpu_share,
        gpu_parts=amount.gpu_parts,
    )


def least_share(jobs: int) -> int:
    """The least that a job takes of a GPU that so many may share, ten at most: no more fit. 0: none
    is shared."""
    return WHOLE // jobs if jobs > 1 else 0


def part_of_a_gpu(hundredths: int) -> str:
    """`0.5 of a GPU`."""
    return f"{hundredths / WHOLE:g} of a GPU"


def breaks(need: Resources, free: Resources) -> bool:
    """Whether something that fits takes a share of a GPU that is whole so far."""
    taken = part_taken(need.gpu_share, free.gpu_share)
    return need.gpu_share > 0 and (not free.gpu_parts or free.gpu_parts[0] < taken)


def _turn(group: Group, shape: Shape) -> tuple[bool, bool, _Size]:
    """Which nodes a job of this shape takes first."""
    fits, one = shape.within(group), shape.nodes == 1
    if fits and one:
        return False, breaks(shape, group), _size(group)
    gpus, parts, cores, memory_mb, disk_mb, share = _size(group)
    # Of two nodes whose parts begin alike, the one with more of them is emptier: the 1 puts the
    # other behind it.
    turned = (*(-part for part in parts), 1)
    return not fits, False, (-gpus, turned, -cores, -memory_mb, -disk_mb, -share)


def _group(each: Resources, nodes: int) -> Group:
    return Group(
        cores=each.cores,
        memory_mb=each.memory_mb,
        disk_mb=each.disk_mb,
        gpus=each.gpus,
        gpu_share=each.gpu_share,
        gpu_parts=each.gpu_parts,
        nodes=nodes,
    )


def _size(each: Resources) -> _Size:
    return (
        each.gpus,
        each.gpu_parts,
        each.cores,
        each.memory_mb,
        each.disk_mb,
        each.gpu_share,
    )
