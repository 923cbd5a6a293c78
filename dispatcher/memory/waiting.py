"""Who waits for what: told after each commit, on the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from msgspec import Struct

from ailurus.protocol import machine
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.states import FINAL, JobState
from dispatcher.events import Entry, Handled, StateChanged, Submitted, WorkerChanged
from dispatcher.memory.losses import Losses

Signal = asyncio.Future[None]
LEAST = Shape(cores=1, memory_mb=0, disk_mb=0)
"""The shape of a mixed lane: the sizes of its jobs are beside each of them."""
# Workers that are woken for a job whose size is not known here.
LOOKERS = 20


class Waiter(Struct, eq=False):
    """A worker that waits for a job."""

    queue: str
    room: Room
    worker_id: int
    woken: Signal
    hardware: Hardware | None = None
    ahead: bool = False
    """Its room is not free yet."""

    def takes(self, shape: Shape) -> bool:
        """Whether it has room for a job of this shape, and is the machine for it."""
        return shape.fits(self.room) and (
            not shape.machine or machine.met(shape.machine, self.hardware)
        )


class Flow:
    """How many jobs ended, and how, in the last minute."""

    SPAN_S = 60

    def __init__(self) -> None:
        self._seconds: dict[int, Counter[tuple[str, str]]] = {}

    def add(self, at: float, state: str, user: str) -> None:
        self._seconds.setdefault(int(at), Counter())[user, state] += 1

    def per_minute(self, now: float, user: str = "") -> Counter[str]:
        """Ends in the last 60 s by state: of a user's jobs, or of all."""
        self._seconds = {at: n for at, n in self._seconds.items() if at > now - self.SPAN_S}
        ends: Counter[str] = Counter()
        for second in self._seconds.values():
            for (whose, state), n in second.items():
                if user in ("", whose):
                    ends[state] += n
        return ends


class Hub:
    """What is committed wakes those that wait for it: one worker a new job, not all of them."""

    def __init__(self, shapes: Mapping[int, Shape]) -> None:
        self.seq = 0
        self._shapes = shapes
        # By queue, in the order in which they came: those with free room, and those without.
        self._workers: defaultdict[str, dict[Waiter, None]] = defaultdict(dict)
        self._ahead: defaultdict[str, dict[Waiter, None]] = defaultdict(dict)
        self._jobs: defaultdict[int, set[Signal]] = defaultdict(set)
        self._any: set[Signal] = set()
        self.flow = Flow()
        self.losses = Losses()

    def __call__(self, entries: Sequence[Entry]) -> None:
        """Take the events of a commit."""
        self.seq = entries[-1].seq
        for entry in entries:
            match entry.event:
                case Submitted(state=JobState.ACTIVATED) as new:
                    self.ready(new.queue, new.shape_id, new.jobs)
                case StateChanged(state=JobState.ACTIVATED) as job:
                    self.ready(job.queue, job.shape_id, 1)
                case Handled(queue=str(queue), shape_id=int(shape_id)):
                    self.ready(queue, shape_id, 1)
                case StateChanged() as job if job.state in FINAL and entry.job_id is not None:
                    self.flow.add(entry.at, job.state, job.user or "")
                    _release(self._jobs.pop(entry.job_id, set()))
                case WorkerChanged() as worker if entry.worker_id is not None:
                    self.losses.note(entry.at, entry.worker_id, worker)
        _release(self._any)
        self._any = set()

    def waiting(self, queue: str) -> int:
        """How many workers with free room wait for a job of `queue`."""
        return len(self._workers[queue])

    def expect_job(
        self,
        queue: str,
        room: Room,
        worker_id: int = 0,
        hardware: Hardware | None = None,
        *,
        ahead: bool = False,
    ) -> Waiter:
        """A waiter for the next job that fits; registered before looking, so that none is
        missed. `ahead`: woken only for what no worker with free room is woken for."""
        woken: Signal = asyncio.get_running_loop().create_future()
        waiter = Waiter(queue, room, worker_id, woken, hardware, ahead)
        self._line(waiter)[waiter] = None
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """Stop waiting."""
        self._line(waiter).pop(waiter, None)

    def expect_end(self, job_ids: Sequence[int]) -> Signal:
        """Done when one of the jobs has become final."""
        signal: Signal = asyncio.get_running_loop().create_future()
        for job_id in job_ids:
            self._jobs[job_id].add(signal)
        signal.add_done_callback(lambda done: self._no_longer(job_ids, done))
        return signal

    def expect_event(self) -> Signal:
        """Done at the next commit that tells something."""
        signal: Signal = asyncio.get_running_loop().create_future()
        self._any.add(signal)
        signal.add_done_callback(self._any.discard)
        return signal

    def wake(self, worker_id: int) -> None:
        """Let a worker that waits look again: it is to drain."""
        for waiters in self._lines():
            _release({waiter.woken for waiter in waiters if waiter.worker_id == worker_id})

    def wake_all(self) -> None:
        """Let everybody look again: at shutdown nobody may be kept waiting."""
        for waiters in self._lines():
            _release({waiter.woken for waiter in waiters})
        for signals in list(self._jobs.values()):
            _release(signals)
        _release(self._any)

    def _no_longer(self, job_ids: Sequence[int], signal: Signal) -> None:
        for job_id in job_ids:
            if job_id in self._jobs:
                self._jobs[job_id].discard(signal)
                if not self._jobs[job_id]:
                    del self._jobs[job_id]

    @property
    def anybody(self) -> bool:
        """Whether a worker waits for a job."""
        return any(self._lines())

    def ready(self, queue: str, shape_id: int, jobs: int) -> None:
        """Wake workers that could take these jobs, one a job."""
        shape = self._shapes.get(shape_id)
        # Jobs of many sizes: whoever is woken may not have the room.
        if shape == LEAST:
            jobs = max(jobs, LOOKERS)
        for line in (self._workers, self._ahead):
            for waiters in [line[queue]] if queue else list(line.values()):
                for waiter in list(waiters):
                    if not jobs:
                        return
                    # A shape that is not in the table yet was made by this very commit: let them
                    # look.
                    if waiter.woken.done() or (shape is not None and not waiter.takes(shape)):
                        continue
                    del waiters[waiter]
                    waiter.woken.set_result(None)
                    jobs -= 1

    def _line(self, waiter: Waiter) -> dict[Waiter, None]:
        return (self._ahead if waiter.ahead else self._workers)[waiter.queue]

    def _lines(self) -> Iterator[dict[Waiter, None]]:
        return chain(self._workers.values(), self._ahead.values())


def _release(signals: set[Signal]) -> None:
    for signal in list(signals):
        if not signal.done():
            signal.set_result(None)


async def until(signal: Signal, seconds: float) -> bool:
    """Wait for a signal at most so long. Whether it came."""
    try:
        done, _ = await asyncio.wait({signal}, timeout=max(0.0, seconds))
    finally:
        # Also where the one who waits is gone: nobody keeps it.
        if not signal.done():
            signal.cancel()
    return bool(done)
