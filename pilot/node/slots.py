"""Slots: which job occupies which cores, memory, disk and GPUs of which nodes, and which is next.

`Packer` has the order and the nodes; here are the threads of jobs, which wait for their turn.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.hardware import Hardware, common
from ailurus.protocol.job import DISK_STEP_MB, MEMORY_STEP_MB, JobSpec, shape_of
from ailurus.protocol.messages.occupancy import Occupancy
from ailurus.protocol.resources import Resources, Room, Shape
from pilot.attempt import Attempt
from pilot.clock import SYSTEM, Clock
from pilot.node.gpus import Gpu
from pilot.node.lines import Wish
from pilot.node.occupancy import Account, Cores, held, narrowed, widened
from pilot.node.packing import Packer
from pilot.node.shares import OWN, Placement, Slot
from pilot.node.topology import Cpu
from pilot.ports import JobError

NODES_S, LATE_NODES_S = 1.0, 60.0
"""How long jobs wait for nodes that are going to join, and how long there is hope of one."""


class _Growing(NamedTuple):
    """What takes nodes that come while it runs."""

    most: int
    gained: Callable[[Slot], None]


class Slots:
    """The room of this pilot, shared by its jobs' threads."""

    def __init__(
        self,
        total: Resources | None = None,
        pin: Collection[Cpu] = (),
        gpus: Sequence[Gpu] = (),
        clock: Clock = SYSTEM,
    ) -> None:
        """`total`: of this machine; None: all nodes `join`. `pin`: CPUs to bind payloads to.
        `gpus`: as many devices as `total` says."""
        self._packer: Packer[Attempt] = Packer()
        self._clock = clock
        self._coming: dict[Attempt, Shape] = {}
        # That have given their slots back and are here still.
        self._leaving: set[Attempt] = set()
        # Of the one and of the other.
        self._coming_cores = self._leaving_cores = 0
        self._draining = False
        self._account, self._since = Account(clock.monotonic()), clock.time()
        # Those of jobs that carry payloads hold slots.
        self._carrying: set[Attempt] = set()
        # Of those that have given theirs back.
        self._unused_core_s = 0.0
        self._growing: dict[Attempt, _Growing] = {}
        # By node, and what they have in common, once it is asked for.
        self._hardware: dict[str, Hardware] = {}
        self._common: Hardware | None = None
        self._awaited: set[str] = set()
        self._awaited_since = clock.monotonic()
        # A job waited for its slots in vain, and none has been given back since.
        self._stuck = False
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        """Notified when there may be room for another job."""
        if total is not None:
            self.join(OWN, total, pin, gpus)

    def join(
        self, node: str, total: Resources, pin: Collection[Cpu] = (), gpus: Sequence[Gpu] = ()
    ) -> None:
        """Take a node into use."""
        with self._lock:
            self._awaited.discard(node)
            self._packer.join(node, total, pin, gpus)
            self._account.join(node, total, self._clock.time())
            self._grant()
            self.changed.notify_all()

    def describe(self, node: str, hardware: Hardware) -> None:
        """Note what kind of machine one of several nodes is."""
        with self._lock:
            self._hardware[node], self._common = hardware, None

    def hardware(self) -> Hardware | None:
        """What those nodes have in common; None: this machine alone is there."""
        with self._lock:
            if self._hardware and self._common is None:
                self._common = common(self._hardware.values())
            return self._common

    def leave(self, node: str) -> list[Attempt]:
        """Forget a node. Returns the jobs that hold a slot there, for the caller to stop: those on
        several nodes hold the others until their payload has ended."""
        with self._lock:
            self._awaited.discard(node)
            if self._hardware.pop(node, None) is not None:
                self._common = None
            holders, now = self._packer.leave(node), self._clock.time()
            self._account.leave(node, now)
            for job in holders:
                if job.held is not None:
                    job.held = narrowed(job.held, node, now)
            self._return_misfits()
            self._count()
            return holders

    def await_nodes(self, nodes: Iterable[str]) -> None:
        """These are going to join."""
        with self._lock:
            self._awaited.update(nodes)
            self._awaited_since = self._clock.monotonic()

    @property
    def awaits(self) -> bool:
        """Whether there may soon be room on a node that has not joined yet."""
        return bool(self._awaited) and self._awaited_for_s() < LATE_NODES_S

    def wait_for_nodes(self) -> bool:
        """Wait a moment for nodes that are going to join, so that the first request for jobs tells
        of their room, too. Called under the lock. False: there are none, or they are late."""
        left_s = NODES_S - self._awaited_for_s()
        if not self._awaited or left_s <= 0:
            return False
        self._clock.wait(self.changed, left_s)
        return True

    def _awaited_for_s(self) -> float:
        return self._clock.monotonic() - self._awaited_since

    def end_by(self, monotonic: float) -> None:
        """Start no job whose walltime ends after this reading of the clock."""
        self._packer.until = monotonic

    def expect(self, job: Attempt) -> None:
        """Keep room for a job that has come, until it holds its slots or has ended: its inputs may
        take hours, and meanwhile another job would find the room free."""
        with self._lock:
            self._coming[job] = shape_of(job.spec)
            self._coming_cores += _cores(job)
            self._count()

    def gone(self, job: Attempt) -> None:
        """Keep no room any more for a job that has got its slots, or stands in line for them, or
        has ended."""
        with self._lock:
            if self._coming.pop(job, None) is not None:
                self._coming_cores -= _cores(job)
                self._count()
                self.changed.notify_all()
            elif job in self._leaving:
                self._leaving.discard(job)
                self._leaving_cores -= _cores(job)
                self._count()

    @contextmanager
    def placed(self, job: Attempt) -> Iterator[Placement]:
        """Its slots for `job`, once they are free; raises the job's own stop if that comes
        first."""
        spec, shape = job.spec, shape_of(job.spec)
        with self._lock:
            # A PanDA pilot's job asks for all that there is, and not for a multiple of anything.
            rounded = self._packer.could_hold(shape.each, shape.nodes)
            wish = Wish(
                shape.each if rounded else _asked(spec),
                spec.nodes,
                spec.priority,
                estimate_s=spec.estimate_s or 0.0,
                limit_s=spec.walltime_s or 0.0,
                # What starts an elastic job's processes is on its first node, which it cannot lose;
                # nor can it lose the pilot's own.
                anchored=bool(spec.launcher_options.get("elastic")),
            )
            self._packer.add(job, wish)
            self._grant()
            self._return_misfits()
            self.gone(job)
        try:
            while (placement := self._packer.holds(job)) is None:
                job.check()
                if job.waits_until is None:
                    job.wakeup.wait()
                else:
                    self._clock.wait(job.wakeup, job.waits_until - self._clock.monotonic())
                    self._return_late(job, job.waits_until)
                job.wakeup.clear()
            job.check()
            job.held = held(placement, self._clock.time())
            if spec.payloads is not None:
                self._carrying.add(job)
            yield placement
        finally:
            with self._lock:
                self._give_back(job)

    @contextmanager
    def growing(self, job: Attempt, most: int, gained: Callable[[Slot], None]) -> Iterator[None]:
        """Give a job that has its slots one more on each node that comes, up to so many nodes: as
        many as it has lost before others start there, what is more only while nobody waits.
        `gained` is told by any thread, and must take no time."""
        with self._lock:
            self._growing[job] = _Growing(most, gained)
            self._grant()
        try:
            yield
        finally:
            with self._lock:
                del self._growing[job]

    def notify(self) -> None:
        """Let whoever waits for room look again."""
        with self._lock:
            self.changed.notify_all()

    def drain(self) -> None:
        """No more jobs come; whoever waits for room looks again."""
        with self._lock:
            self._draining = True
            self._count()
            self.changed.notify_all()

    def occupancy(self) -> Occupancy:
        """The nodes, and what became of their core-seconds so far."""
        with self._lock:
            self._count()
            unused_core_s = self._unused_core_s
            unused_core_s += sum(job.unused_core_s for job in self._carrying)
            return self._account.told(self._since, self._clock.time(), unused_core_s)

    @property
    def total(self) -> Room:
        """What the nodes have, be it free or not."""
        with self._lock:
            return _room(Counter(total for _, total, _ in self._packer.nodes()))

    def room(self) -> Room:
        """What is free for jobs that are not here yet."""
        with self._lock:
            room = _room(dict(self._packer.free()))
            waiting = [
                (_shape(need, nodes), count) for need, nodes, count in self._packer.waiting()
            ]
            for shape, count in (*waiting, *((shape, 1) for shape in self._coming.values())):
                room = _keeping(room, shape, count)
            return room

    def waiting(self) -> int:
        """Jobs that are here and hold no slot yet."""
        with self._lock:
            return len(self._packer) + len(self._coming)

    @property
    def stuck(self) -> bool:
        """Whether the jobs that hold slots are those behind which one waited for too long."""
        return self._stuck

    def _grant(self) -> None:
        for job, growing in self._growing.items():
            self._grow(job, min(job.spec.nodes, growing.most), growing.gained)
        self._take()
        for job, growing in self._growing.items() if not len(self._packer) else ():
            self._grow(job, growing.most, growing.gained)
        self._count()

    def _grow(self, job: Attempt, most: int, gained: Callable[[Slot], None]) -> None:
        while (slot := self._packer.grow(job, most)) is not None:
            if job.held is not None:
                job.held = widened(job.held, slot, self._clock.time())
            gained(slot)

    def _take(self) -> None:
        now = self._clock.monotonic()
        for job, _ in self._packer.take(now):
            job.wakeup.set()
        for job in self._packer.late():
            left_s = (self._packer.until or 0.0) - now
            self._return(
                job, Code.WALLTIME, f"{job.spec.walltime_s} s of walltime, {left_s:.0f} s are left"
            )

    def _count(self) -> None:
        """Note what the cores do from now on."""
        free = sum(each.cores * nodes for each, nodes in self._packer.free())
        cores = Cores(
            busy=self._account.cores - free,
            free=free,
            lost=self._account.lost_cores,
            coming=self._coming_cores,
            leaving=self._leaving_cores,
            blocked=len(self._packer) > 0,
            draining=self._draining,
        )
        self._account.turn(self._clock.monotonic(), cores)

    def _return_misfits(self) -> None:
        """Let others have the jobs for which there are not the nodes any more."""
        for job in self._packer.impossible():
            self._packer.remove(job)
            shape = shape_of(job.spec)
            have = sum(shape.within(total) for _, total, _ in self._packer.nodes())
            what = f"it needs {shape.nodes} nodes, and the pilot has {have} such nodes"
            self._return(job, Code.RESOURCE_UNAVAILABLE, what)

    def _return_late(self, job: Attempt, until: float) -> None:
        """Let others have a job that was fetched ahead, if no slot has come by then."""
        with self._lock:
            late = self._clock.monotonic() >= until and self._packer.holds(job) is None
            # One that was killed is not given back.
            if late and job.stopped is None:
                self._stuck = True
                self._packer.remove(job)
                self._return(job, Code.RESOURCE_UNAVAILABLE, "the jobs before it run on")

    def _return(self, job: Attempt, code: Code, what: str) -> None:
        """Stop a job that has not begun, so that it is given back."""
        job.give_back = True
        job.stop(JobError(code, f"the job cannot start here: {what}", transient=True))

    def _give_back(self, job: Attempt) -> None:
        if self._packer.holds(job) is None:
            self._packer.remove(job)
        else:
            self._stuck = False
            self._packer.give_back(job)
            self._leaving.add(job)
            self._leaving_cores += _cores(job)
            self._carrying.discard(job)
            self._unused_core_s += job.unused_core_s
            if job.held is not None:
                job.held = replace(job.held, ended=round(self._clock.time(), 3))
        self._grant()
        self.changed.notify_all()


def _room(free: Mapping[Resources, int]) -> Room:
    """A room of nodes: how many have so much free. Where there are several, memory and disk are
    rounded down as shapes are rounded up: so more of them are equal."""
    if sum(free.values()) == 1:
        return Room.of(next(iter(free)), seconds_left=None)
    rounded: Counter[Resources] = Counter()
    for each, count in free.items():
        rounded[_rounded(each)] += count
    return Room.over(rounded, seconds_left=None)


def _rounded(free: Resources) -> Resources:
    return Resources(
        cores=free.cores,
        memory_mb=free.memory_mb // MEMORY_STEP_MB * MEMORY_STEP_MB,
        disk_mb=free.disk_mb // DISK_STEP_MB * DISK_STEP_MB,
        gpus=free.gpus,
        gpu_share=free.gpu_share,
        gpu_parts=free.gpu_parts,
    )


def _asked(spec: JobSpec) -> Resources:
    return Resources(
        cores=spec.cores,
        memory_mb=spec.memory_mb,
        disk_mb=spec.disk_mb,
        gpus=spec.gpus,
        gpu_share=spec.gpu_share,
    )


def _cores(job: Attempt) -> int:
    """On all its nodes."""
    return job.spec.cores * job.spec.nodes


def _shape(need: Resources, nodes: int) -> Shape:
    return Shape(
        cores=need.cores,
        memory_mb=need.memory_mb,
        disk_mb=need.disk_mb,
        gpus=need.gpus,
        gpu_share=need.gpu_share,
        nodes=nodes,
    )


def _keeping(room: Room, shape: Shape, count: int) -> Room:
    """What is left of a room when so many jobs of a shape have what they need of it."""
    if fitting := min(count, room.capacity(shape)):
        room = room.taking(shape, fitting)
    for _ in range(min(count - fitting, room.most("nodes"))):
        room = room.taking(shape)
    return room
