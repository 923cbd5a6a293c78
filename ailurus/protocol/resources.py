"""Resources: what a job needs, what a worker has free, what a slot offers, and their arithmetic.

`Resources` are of one node. The `Shape` of a job and the `Room` of a worker add how many nodes
there are with so much on each, and a time. In JSON and in rows all values stand flat, in the order
of the fields.
"""

from __future__ import annotations

from typing import Self

from msgspec import Struct
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

    @property
    def each(self) -> Resources:
        """What it occupies on one node."""
        return Resources(
            cores=self.cores, memory_mb=self.memory_mb, disk_mb=self.disk_mb, gpus=self.gpus
        )

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
        )


class Room(Resources, frozen=True, kw_only=True, gc=False):
    """What a worker has free on each of its nodes, or what a slot of a site offers when empty."""

    cores: Count = 1
    nodes: Count = 1
    seconds_left: float | None = None
    """Until the worker must end; None: no end is known."""

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
