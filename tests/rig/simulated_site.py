"""A batch site and its dispatcher in warped time: queues, backfill, outages, slow and lying
listings, preemption, submissions whose answer is lost. The real edge talks to it through its two
ports.

What the site really holds is known here and nowhere else, so that here is seen whether the edge
ever exceeds a cap, kills a payload, forgets a worker or starts one twice.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.worker import Ending, Phase
from harvester_edge.book import Book
from harvester_edge.edge import Edge
from harvester_edge.native import Native
from harvester_edge.ports import (
    Accepted,
    Batch,
    BatchError,
    BatchId,
    Order,
    Rejected,
    Sighting,
    Tag,
    Unclear,
)
from harvester_edge.site import Site
from plugins.batch.slurm import parse_squeue

Key = tuple[str, int]
KEPT_S = 300.0  # MinJobAge: how long what has ended stays in the listing
QUEUE = "sim"
FULL = Room(cores=1, memory_mb=2000, disk_mb=1000)
NONE = Room(cores=0)


class Weather(Struct, frozen=True, kw_only=True):
    """How the site behaves. Shares are probabilities of one event."""

    capacity: int  # workers that run at once
    wait_s: float = 60.0  # mean time in the queue while there is room
    backfill: float = 0.3  # share that starts at once
    walltime_s: float = 43_200.0
    idle_exit_s: float = 300.0
    job_s: float = 3600.0
    outages: tuple[tuple[float, float], ...] = ()  # no command answers
    lies: float = 0.0  # share of listings that lack a third of what there is
    stale: float = 0.0  # share of listings that show the last one again
    preempted: float = 0.0  # share of workers
    broken: float = 0.0  # share of pilots that end before they register
    unclear: float = 0.0  # share of submissions that are taken, and whose answer is lost
    refused: float = 0.0  # share of submissions


@dataclass
class Task:
    """A worker as the site has it."""

    key: Key
    batch_id: str
    worker_id: int
    state: str = "PENDING"
    version: int = 0  # grows with each change, so that outdated events are known
    idle: bool = False
    busy: bool = False
    draining: bool = False
    ended: float = 0.0
    row: m.WorkerRow | None = None


@dataclass
class World:
    """The truth. `serve` answers what the edge asks; `forward` lets time pass."""

    weather: Weather
    seed: int = 1
    now: float = 1_000_000_000.0
    waiting: int = 0  # jobs
    finished: int = 0
    tasks: dict[Key, Task] = field(default_factory=dict)
    alive: int = 0
    unregistered: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    most_alive: int = 0
    most_unregistered: int = 0
    killed: int = 0  # payloads that the edge's own `cancel` ended
    twice: int = 0  # tags submitted more than once

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._running = 0
        self._ready: deque[Task] = deque()
        self._events: list[tuple[float, int, str, Task, int]] = []
        self._number = 0
        self._gone: deque[Task] = deque()
        self._idle: dict[Key, Task] = {}
        self._tags: set[str] = set()
        self._last_listing = b""
        self._by_worker: dict[int, Task] = {}

    # time ---------------------------------------------------------------------------------------

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            at, _, what, task, version = heapq.heappop(self._events)
            self.now = at
            if version == task.version or what in ("walltime", "preempt"):
                getattr(self, f"_{what}")(task)
        self.now = until
        while self._gone and self._gone[0].ended < self.now - KEPT_S:
            task = self._gone.popleft()
            task.state = "GONE"

    def add(self, jobs: int) -> None:
        """Jobs arrive."""
        self.waiting += jobs
        while self.waiting and self._idle:
            self._take(self._idle.pop(next(iter(self._idle))))

    def _at(self, seconds: float, what: str, task: Task) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, what, task, task.version))

    def _eligible(self, task: Task) -> None:
        self._ready.append(task)
        self._start_some()

    def _start_some(self) -> None:
        while self._ready and self._running < self.weather.capacity:
            task = self._ready.popleft()
            if task.state == "PENDING":
                self._running += 1
                task.state = "RUNNING"
                task.version += 1
                self._at(self.random.uniform(2, 10), "register", task)
                self._at(self.weather.walltime_s, "walltime", task)

    def _register(self, task: Task) -> None:
        if self.random.random() < self.weather.broken:
            self._end(task, "FAILED", None)
            return
        self.unregistered -= 1
        intent, index = task.key
        task.row = m.WorkerRow(
            worker_id=task.worker_id, site="sim", queue=QUEUE, host=f"n{task.worker_id % 500}",
            phase=Phase.ACTIVE, registered=self.now, last_heard=self.now, room=FULL, total=FULL,
            intent=intent, index=index, batch_id=task.batch_id, version="0.1.0",
        )  # fmt: skip
        if self.random.random() < self.weather.preempted:
            self._at(self.random.uniform(0, self.weather.walltime_s), "preempt", task)
        self._next(task)

    def _next(self, task: Task) -> None:
        if task.draining:
            self._end(task, "COMPLETED", Ending.DONE)
        elif self.waiting:
            self._take(task)
        else:
            task.version += 1
            task.busy, self._idle[task.key] = False, task
            self._show(task, room=FULL, phase=Phase.ACTIVE)
            self._at(self.weather.idle_exit_s, "idle_exit", task)

    def _take(self, task: Task) -> None:
        self.waiting -= 1
        task.version += 1
        task.busy = True
        self._show(task, room=NONE)
        self._at(self.weather.job_s * self.random.uniform(0.5, 1.5), "done", task)

    def _done(self, task: Task) -> None:
        self.finished += 1
        task.busy = False
        self._next(task)

    def _idle_exit(self, task: Task) -> None:
        self._end(task, "COMPLETED", Ending.IDLE_EXIT)

    def _walltime(self, task: Task) -> None:
        self._end(task, "TIMEOUT", Ending.LOST)

    def _preempt(self, task: Task) -> None:
        self._end(task, "PREEMPTED", Ending.LOST)

    def _end(self, task: Task, state: str, bye: Ending | None) -> None:
        if task.ended:
            return
        if task.state == "RUNNING":
            self._running -= 1
        if task.row is None:
            self.unregistered -= 1
        if task.busy:
            self.waiting += 1
            task.busy = False
        self.alive -= 1
        self._idle.pop(task.key, None)
        task.state, task.ended = state, self.now
        task.version += 1
        self._gone.append(task)
        if task.row is not None and bye is not None:
            self._show(task, room=NONE, phase=Phase.ENDED, ending=bye)
        self._start_some()

    def _show(self, task: Task, **news: Any) -> None:
        if task.row is not None:
            task.row = msgspec.structs.replace(task.row, last_heard=self.now, **news)

    # the batch system's commands ------------------------------------------------------------------

    def serve(self, what: str, asked: bytes) -> bytes:
        """Answer a question of the edge: text of a command, or a JSON document of the
        dispatcher."""
        self.calls[what] = self.calls.get(what, 0) + 1
        answer: bytes = getattr(self, f"answer_{what}")(asked)
        return answer

    def _down(self) -> bool:
        return any(begin <= self.now < end for begin, end in self.weather.outages)

    def answer_submit(self, asked: bytes) -> bytes:
        tag, count = msgspec.json.decode(asked, type=tuple[str, int])
        luck = self.random.random()
        if self._down() or luck < self.weather.refused:
            return b"unclear" if self._down() else b"refused"
        self.twice += tag in self._tags
        self._tags.add(tag)
        self._number += 1
        array = self._number
        for index in range(count):
            worker_id = len(self.tasks) + 1
            task = Task((tag, index), f"{array}_{index}", worker_id)
            self.tasks[task.key] = self._by_worker[worker_id] = task
            self.alive += 1
            self.unregistered += 1
            at_once = self.random.random() < self.weather.backfill
            wait = 0.0 if at_once else self.random.expovariate(1 / self.weather.wait_s)
            self._at(wait, "eligible", task)
        self.most_alive = max(self.most_alive, self.alive)
        self.most_unregistered = max(self.most_unregistered, self.unregistered)
        return b"unclear" if luck > 1 - self.weather.unclear else str(array).encode()

    def answer_listing(self, _: bytes) -> bytes:
        if self._down():
            return b"!"
        luck = self.random.random()
        if luck < self.weather.stale and self._last_listing:
            return self._last_listing
        lies = luck > 1 - self.weather.lies
        shown = (
            task
            for task in self.tasks.values()
            if task.state != "GONE" and not (lies and self.random.random() < 1 / 3)
        )
        self._last_listing = _squeue(shown)
        return self._last_listing

    def answer_find(self, asked: bytes) -> bytes:
        tag = asked.decode()
        if self._down():
            return b"!"
        return _squeue(task for task in self.tasks.values() if task.key[0] == tag)

    def answer_cancel(self, asked: bytes) -> bytes:
        ids = set(msgspec.json.decode(asked, type=list[str]))
        for task in [one for one in self.tasks.values() if one.batch_id in ids and not one.ended]:
            self.killed += task.busy
            self._end(task, "CANCELLED", Ending.LOST)
        return b""

    # the dispatcher -------------------------------------------------------------------------------

    def answer_hello(self, _: bytes) -> bytes:
        return msgspec.json.encode(m.Welcome(epoch=1, lease_s=120))

    def answer_demand(self, _: bytes) -> bytes:
        rows = (
            task.row
            for task in self.tasks.values()
            if task.row is not None and (not task.ended or self.now - task.ended < 900)
        )
        shape = Shape(cores=1, memory_mb=2000, disk_mb=1000)
        shapes = (m.ShapeDemand(queue=QUEUE, shape=shape, jobs=self.waiting),)
        return msgspec.json.encode(
            m.Demand(shapes=shapes if self.waiting else (), workers=tuple(rows))
        )

    def answer_intent(self, asked: bytes) -> bytes:
        count = msgspec.json.decode(asked, type=m.NewIntent).count
        return msgspec.json.encode(m.Bootstraps(tokens=("t" * 400,) * count))

    def answer_workers_news(self, _: bytes) -> bytes:
        return msgspec.json.encode(m.Done())

    def answer_drain(self, asked: bytes) -> bytes:
        for worker_id in msgspec.json.decode(asked, type=m.DrainWorkers).worker_ids:
            task = self._by_worker[worker_id]
            if task.ended:
                continue
            task.draining = True
            if task.busy:
                self._show(task, phase=Phase.DRAINING)
            else:
                self._end(task, "COMPLETED", Ending.DONE)
        return msgspec.json.encode(m.Done())


def _squeue(tasks: Iterator[Task]) -> bytes:
    """What `squeue` prints with the format of our plugin."""
    lines = []
    for task in tasks:
        job, _, index = task.batch_id.partition("_")
        state = task.state if task.state != "GONE" else "COMPLETED"
        node = f"n{task.worker_id % 500}" if state != "PENDING" else ""
        lines.append(f"{job}|{index}|{state}|None|{node}|{task.key[0]}\n")
    return "".join(lines).encode()


# the edge's side ----------------------------------------------------------------------------------

Serve = Callable[[str, bytes], bytes]


class SimBatch(Batch):
    """The port `Batch`, over `serve`: Slurm's text is parsed as Slurm's plugin parses it."""

    poll_s, settle_s, grace_s, index = 120.0, 120.0, 240.0, "0"

    def __init__(self, serve: Serve, root: Path, site: Site) -> None:
        self._serve, self._root, self._prefix = serve, root, site.tag_prefix

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear:
        answer = self._serve("submit", msgspec.json.encode((tag, order.count))).decode()
        if answer == "refused":
            return Rejected("Invalid account or account/partition combination specified")
        if answer == "unclear":
            return Unclear("sbatch: Socket timed out on send/recv operation")
        return Accepted({n: BatchId(f"{answer}_{n}") for n in range(order.count)})

    def listing(self) -> tuple[Sighting, ...]:
        return self._parsed(self._serve("listing", b""))

    def find(self, tag: Tag, ids: Any = (), age_s: float = 0.0) -> tuple[Sighting, ...]:
        return self._parsed(self._serve("find", tag.encode()))

    def cancel(self, ids: Collection[BatchId]) -> None:
        self._serve("cancel", msgspec.json.encode(sorted(ids)))

    def _parsed(self, text: bytes) -> tuple[Sighting, ...]:
        if text == b"!":
            raise BatchError("squeue: Unable to contact slurm controller")
        return tuple(parse_squeue(text.decode(), self._prefix, self._root))


class SimClient:
    """What of `Client` the edge uses."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve

    def call(self, name: str, ask: Any, *, answer: Any) -> Any:
        return msgspec.json.decode(self._serve(name, msgspec.json.encode(ask)), type=answer)


def site(root: Path, scaling: dict[str, Any], *, poll: str = "120s") -> Site:
    """A site file's content for the simulation."""
    return msgspec.convert(
        {
            "schema": 1,
            "site": "sim",
            "backend": {"kind": "slurm", "limits": {"poll": poll}},
            "dispatcher": {"url": "http://127.0.0.1:9", "token_file": "/nowhere"},
            "paths": {"work": str(root / "work"), "state": str(root / "state")},
            "slots": {
                "std": {
                    "queue": QUEUE,
                    "cores": 1,
                    "memory": "2000M",
                    "disk": 1000,
                    "walltime": "12h",
                }
            },
            "scaling": scaling,
            "pilot": {"program": "/bin/true"},
        },
        Site,
    )


def edge(of: Site, serve: Serve, clock: Callable[[], float]) -> Edge:
    """The real edge over the simulated ports."""
    (of.state / "workers").mkdir(parents=True, exist_ok=True)
    book = Book(of.state / "book.sqlite", site=of.site)
    made = Edge(
        site=of,
        batch=SimBatch(serve, of.state / "workers", of),
        book=book,
        upstream=Native(SimClient(serve)),
        clock=clock,
        log=Log("edge"),
    )
    made.workers = {worker.key: worker for worker in book.live()}
    made.recovery.due_at = None
    return made
