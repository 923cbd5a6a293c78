"""A payload under a supervisor, for tests that set what is read of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ailurus.protocol.errors import Code
from pilot.attempt import Attempt
from pilot.node.local import LocalNode
from pilot.node.sampler import Sampler
from pilot.node.supervisor import Supervisor
from pilot.node_ports import Order
from pilot.ports import Sandbox
from pilot.process.proc import Io, Process
from pilot.site import Limits, bounds_of
from pilot.workdir import Workdir
from tests.pilot.attempts import attempt_of
from tests.pilot.fakes import FakeClock, FakeContainer, FakeReadings, FakeSpawner, Started

MB = 1024
USUAL = Limits()
ROOT = 101
"""The process id of the first payload of a FakeSpawner."""


class Watch:
    """One payload under a supervisor whose time and samples a test sets."""

    def __init__(self, directory: Path, attempt: Attempt, limits: Limits, clock: FakeClock) -> None:
        self.clock, self.readings, self.spawner = clock, FakeReadings(), FakeSpawner()
        self.node = LocalNode(FakeContainer(), self.spawner, Sampler(clock, self.readings))
        self.supervisor = Supervisor(bounds_of(limits), {"": self.node}, clock)
        self.attempt = attempt
        self.work = Workdir(directory / "1.1")
        self.work.make()

    def start(self) -> None:
        box = Sandbox(directory="/", tmp="/tmp", environment={}, memory_mb=100)
        spec = self.attempt.spec
        order = Order(name=self.attempt.name, spec=spec, argv=["true"], box=box)
        self.attempt.start_payload(lambda: Started(self.node, self.node.start(order, print)))
        self.uses(rss_mb=1)

    def uses(self, rss_mb: int = 1, cpu_s: float = 0.0, moved: int = 0) -> None:
        self.readings.processes = {ROOT: Process(1, cpu_s, rss_mb * MB)}
        self.readings.io = {ROOT: Io(7, 8, moved)}

    def after(self, seconds: float) -> Code | None:
        """Look again so much later; the code of what has stopped the payload."""
        self.clock.forward(seconds)
        self.supervisor._look(self.clock.now)
        return self.attempt.stopped.code if self.attempt.stopped else None


def watch_of(directory: Path, limits: Limits = USUAL, **fields: object) -> Iterator[Watch]:
    clock = FakeClock()
    attempt = attempt_of("true", **{"memory_mb": 100, "disk_mb": 10, **fields})
    attempt._clock = clock
    made = Watch(directory, attempt, limits, clock)
    with made.supervisor.watching(attempt, made.work, [made.node]):
        made.start()
        yield made
