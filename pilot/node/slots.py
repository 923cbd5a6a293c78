"""Slots: which job occupies which cores, memory, disk and GPUs, and which is next.

Waiting jobs are ordered by priority, then longest estimate first (jobs without one last), then
arrival; whatever fits is started, so a narrow job fills the gap in front of a wide one. `Line` is
the order and nothing else: the pilot's threads and `pack` both use it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

from ailurus.protocol.job import shape_of
from ailurus.protocol.resources import Resources
from pilot.attempt import Attempt
from pilot.node.gpus import Gpu

T = TypeVar("T")


class Line(Generic[T]):
    """What waits for a slot, by shape: so a thousand wide jobs cost a narrow one nothing."""

    def __init__(self) -> None:
        self._heaps: dict[Resources, list[tuple[int, float, int, T]]] = {}
        self._count = itertools.count()

    def add(self, item: T, need: Resources, *, priority: int = 0, estimate_s: float = 0.0) -> None:
        entry = (-priority, -estimate_s, next(self._count), item)
        heapq.heappush(self._heaps.setdefault(need, []), entry)

    def remove(self, item: T, need: Resources) -> None:
        heap = self._heaps.get(need, [])
        heap[:] = [entry for entry in heap if entry[3] is not item]
        heapq.heapify(heap)
        if not heap:
            self._heaps.pop(need, None)

    def take(self, free: Resources) -> tuple[list[tuple[T, Resources]], Resources]:
        """All that start now, in order, and what is free after that."""
        taken: list[tuple[T, Resources]] = []
        while fitting := [need for need in self._heaps if need.within(free)]:
            need = min(fitting, key=lambda need: self._heaps[need][0][:3])
            taken.append((heapq.heappop(self._heaps[need])[3], need))
            free = free.less(need)
            if not self._heaps[need]:
                del self._heaps[need]
        return taken, free

    def needs(self) -> Iterator[Resources]:
        """What each waiting item will occupy."""
        for need, heap in self._heaps.items():
            yield from itertools.repeat(need, len(heap))


OWN = ""
"""The name of the node on which the pilot itself runs, where it has no other."""


class Slot(NamedTuple):
    """A granted share of one node. `cpus` is empty where payloads are not pinned."""

    need: Resources
    cpus: tuple[int, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    node: str = OWN


Placement = tuple[Slot, ...]
"""What a payload holds: one slot on each of its nodes, the first for its first process."""


class Slots:
    """The room of this pilot, shared by its jobs' threads."""

    def __init__(
        self, total: Resources, pin: Collection[int] = (), gpus: Sequence[Gpu] = ()
    ) -> None:
        """`pin`: CPUs to bind payloads to. `gpus`: as many devices as `total` says."""
        self.total = total
        self._free = total
        self._cpus = sorted(pin)
        self._gpus = list(gpus)
        self._line: Line[Attempt] = Line()
        self._coming: dict[Attempt, Resources] = {}
        self._granted: dict[Attempt, Placement] = {}
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        """Notified when there may be room for another job."""

    def expect(self, job: Attempt) -> None:
        """Keep room for a job that has come, until it holds its slot or has ended: its inputs may
        take hours, and meanwhile another job would find the room free."""
        with self._lock:
            self._coming[job] = shape_of(job.spec).each

    def gone(self, job: Attempt) -> None:
        """Keep no room any more for a job that has got its slot, or stands in line for it, or has
        ended."""
        with self._lock:
            if self._coming.pop(job, None) is not None:
                self.changed.notify_all()

    @contextmanager
    def placed(self, job: Attempt) -> Iterator[Placement]:
        """Its slots for `job`, once they are free; raises the job's own stop if that comes
        first."""
        need = shape_of(job.spec).each
        with self._lock:
            self._line.add(
                job, need, priority=job.spec.priority, estimate_s=job.spec.estimate_s or 0.0
            )
            self._grant()
            self.gone(job)
        try:
            while job not in self._granted:
                job.check()
                job.wakeup.wait()
                job.wakeup.clear()
            job.check()
            yield self._granted[job]
        finally:
            with self._lock:
                self._give_back(job, need)

    def notify(self) -> None:
        """Let whoever waits for room look again."""
        with self._lock:
            self.changed.notify_all()

    def room(self) -> Resources:
        """What is free for jobs that are not here yet."""
        with self._lock:
            free = self._free
            for need in self._waiting():
                free = free.less(need)
            return free

    def waiting(self) -> int:
        """Jobs that are here and hold no slot yet."""
        with self._lock:
            return sum(1 for _ in self._waiting())

    def _waiting(self) -> Iterator[Resources]:
        yield from self._line.needs()
        yield from self._coming.values()

    def _grant(self) -> None:
        taken, self._free = self._line.take(self._free)
        for job, need in taken:
            cpus = tuple(self._cpus[: need.cores])
            gpus = tuple(self._gpus[: need.gpus])
            del self._cpus[: len(cpus)], self._gpus[: len(gpus)]
            self._granted[job] = (Slot(need, cpus, gpus),)
            job.wakeup.set()

    def _give_back(self, job: Attempt, need: Resources) -> None:
        placement = self._granted.pop(job, None)
        if placement is None:
            self._line.remove(job, need)
        else:
            self._free = self._free.plus(need)
            for slot in placement:
                self._cpus = sorted([*self._cpus, *slot.cpus])
                self._gpus += slot.gpus
            self._grant()
        self.changed.notify_all()
