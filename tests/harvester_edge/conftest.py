"""A batch system and a dispatcher in memory, and a clock that we move."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.worker import Ending, Phase
from ailurus.wire.client import Refused, Unreachable
from harvester_edge.book import Book
from harvester_edge.daemon import cycle
from harvester_edge.edge import Edge, SiteLease
from harvester_edge.native import Native
from harvester_edge.ports import (
    Accepted,
    Batch,
    BatchError,
    BatchId,
    Order,
    Sighting,
    Tag,
    renamed_job,
)
from harvester_edge.site import Site


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class MemoryBatch(Batch):
    """A batch system that does what a test says."""

    poll_s: float = 2.0
    settle_s: float = 10.0
    grace_s: float = 20.0
    index: str = "0"
    answers: list[Any] = field(default_factory=list)  # outcomes to give instead of accepting
    lose_answers: bool = False  # accept, and say something else
    jobs: dict[tuple[str, int], Sighting] = field(default_factory=dict)
    orders: list[tuple[Tag, Order]] = field(default_factory=list)
    cancelled: list[BatchId] = field(default_factory=list)
    broken: str = ""
    hidden: bool = False  # the listing does not show our jobs, nor does a search
    no_history: str = ""  # why a search fails
    renamed: str = ""  # the name that it has given our jobs: only their ids find them
    ids: Any = field(default_factory=lambda: itertools.count(1))

    def submit(self, order: Order, tag: Tag) -> Any:
        self.orders.append((tag, order))
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None and not self.lose_answers:
            return answer
        for index in range(order.count):
            one = Sighting(
                batch_id=BatchId(str(next(self.ids))), tag=tag, index=index, phase=Phase.QUEUED
            )
            self.jobs[tag, index] = one
        taken = {n: self.jobs[tag, n].batch_id for n in range(order.count)}
        return answer or Accepted(taken)

    def listing(self) -> tuple[Sighting, ...]:
        if self.broken:
            raise BatchError(self.broken)
        return () if self.hidden or self.renamed else tuple(self.jobs.values())

    def find(self, tag: Tag, ids: Any = (), age_s: float = 0.0) -> tuple[Sighting, ...]:
        if self.no_history:
            raise BatchError(self.no_history)
        if self.renamed:
            found = [one for one in self.jobs.values() if one.batch_id in ids]
            as_shown = [msgspec.structs.replace(one, tag=Tag(self.renamed)) for one in found]
            return tuple(renamed_job(one, tag) for one in as_shown)
        return tuple(one for one in self.listing() if one.tag == tag)

    def cancel(self, ids: Collection[BatchId]) -> None:
        self.cancelled += ids

    def set(self, phase: Phase | None, ending: Ending | None = None, detail: str = "") -> None:
        """Put all jobs in a phase."""
        for key, one in self.jobs.items():
            self.jobs[key] = msgspec.structs.replace(one, phase=phase, ending=ending, detail=detail)


@dataclass
class MemoryDispatcher:
    """What `Client.call` answers."""

    clock: Clock
    jobs: int = 0
    shape: Shape = field(default_factory=Shape)
    queue: str = "demo"
    sharing: int = 1
    rows: dict[tuple[str, int], m.WorkerRow] = field(default_factory=dict)
    intents: dict[str, int] = field(default_factory=dict)
    news: list[m.WorkerObservation] = field(default_factory=list)
    drained: list[int] = field(default_factory=list)
    asked: list[m.DemandRequest] = field(default_factory=list)
    epoch: int = 1
    slow_s: float = 0.0  # how long it takes to plan workers
    down: bool = False
    taken: bool = False
    refuses: str = ""  # why it plans no workers
    giver: str = ""  # what its store is called

    def call(self, name: str, ask: Any, *, answer: Any, **_: Any) -> Any:
        if self.down:
            raise Unreachable("no dispatcher answers")
        if self.taken and name == "hello":
            raise Refused(m.Problem(title="another edge has it", status=409, remedy="stop it"))
        return getattr(self, f"_{name}")(ask)

    def _hello(self, ask: m.Hello) -> m.Welcome:
        return m.Welcome(epoch=self.epoch, lease_s=60, giver=self.giver)

    def _demand(self, ask: m.DemandRequest) -> m.Demand:
        self.asked.append(ask)
        shape = m.ShapeDemand(
            queue=self.queue, shape=self.shape, jobs=self.jobs, sites=self.sharing
        )
        shapes = (shape,)
        return m.Demand(
            shapes=shapes if self.jobs else (),
            workers=tuple(self.rows.values()),
            giver=self.giver,
        )

    def _intent(self, ask: m.NewIntent) -> m.Bootstraps:
        self.clock.forward(self.slow_s)
        if self.refuses:
            raise Refused(m.Problem(title=self.refuses, status=403))
        self.intents[ask.intent] = ask.count
        return m.Bootstraps(tokens=tuple(f"token-{n}" for n in range(ask.count)))

    def _workers_news(self, ask: m.WorkerObservations) -> m.Done:
        self.news += ask.workers
        return m.Done()

    def _drain(self, ask: m.DrainWorkers) -> m.Done:
        self.drained += ask.worker_ids
        for key, row in self.rows.items():
            if row.worker_id in ask.worker_ids:
                self.rows[key] = msgspec.structs.replace(row, phase=Phase.DRAINING)
        return m.Done()

    def register(self, intent: str, index: int = 0, *, free: int = 0, cores: int = 1) -> None:
        """A pilot registers, with `free` of its cores idle."""
        self.rows[intent, index] = m.WorkerRow(
            worker_id=len(self.rows) + 1, site="demo", queue=self.queue, host="node",
            phase=Phase.ACTIVE, registered=self.clock(), last_heard=self.clock(),
            room=Room(cores=free, memory_mb=4000, disk_mb=10_000),
            total=Room(cores=cores, memory_mb=4000, disk_mb=10_000),
            intent=intent, index=index,
        )  # fmt: skip

    def end(self, intent: str, ending: Ending, index: int = 0) -> None:
        row = self.rows[intent, index]
        self.rows[intent, index] = msgspec.structs.replace(
            row, phase=Phase.ENDED, ending=ending, room=Room(cores=0)
        )


@dataclass
class World:
    edge: Edge
    batch: MemoryBatch
    dispatcher: MemoryDispatcher
    clock: Clock

    def cycle(self, times: int = 1, seconds: float = 2.0) -> Any:
        decision = None
        for _ in range(times):
            decision = cycle(self.edge)
            self.clock.forward(seconds)
        return decision

    def workers(self) -> list[Any]:
        return list(self.edge.workers.values())

    def restart(self) -> None:
        """A new edge with what is on disk."""
        self.edge.book.close()
        self.edge.book = Book(self.edge.state / "book.sqlite", site="demo")
        self.edge.workers = {one.key: one for one in self.edge.book.live()}
        self.edge.lease = SiteLease()

    def configure(self, **scaling: Any) -> None:
        changed = msgspec.structs.replace(self.edge.site.scaling, **scaling)
        self.edge.site = msgspec.structs.replace(self.edge.site, scaling=changed)


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A site file's data."""
    (tmp_path / "edge.token").write_text("t")
    (tmp_path / "edge.token").chmod(0o600)
    return {
        "schema": 1,
        "site": "demo",
        "backend": {"kind": "local"},
        "dispatcher": {
            "url": "http://127.0.0.1:9",
            "token_file": str(tmp_path / "edge.token"),
        },
        "paths": {"work": str(tmp_path / "work"), "state": str(tmp_path / "state")},
        "slots": {
            "std": {"queue": "demo", "cores": 1, "memory": "4000M", "disk": "10G", "walltime": "1h"}
        },
        "scaling": {"max_total": 4, "max_queued": 4, "per_cycle": 4, "idle_exit": "60s"},
        "pilot": {"program": "/bin/true"},
    }


@pytest.fixture
def world(tree: dict[str, Any]) -> Any:
    made = make_world(tree)
    yield made
    made.edge.book.close()


def make_world(tree: dict[str, Any]) -> World:
    """An edge of a site in memory."""
    site = msgspec.convert(tree, Site)
    clock = Clock()
    (site.state / "workers").mkdir(parents=True)
    batch, dispatcher = MemoryBatch(), MemoryDispatcher(clock)
    edge = Edge(
        site=site,
        batch=batch,
        book=Book(site.state / "book.sqlite", site="demo"),
        upstream=Native(dispatcher),
        clock=clock,
        log=Log("edge"),
    )
    return World(edge, batch, dispatcher, clock)


def started(world, count=1):
    """The tag of workers that demand has brought and whose pilots have registered."""
    world.dispatcher.jobs = count
    world.cycle()
    tag = world.batch.orders[0][0]
    world.batch.set(Phase.STARTING)
    for index in range(count):
        world.dispatcher.register(tag, index)
    world.dispatcher.jobs = 0
    world.cycle()
    return tag
