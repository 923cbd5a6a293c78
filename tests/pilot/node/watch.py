"""A payload under a supervisor, for tests that set what is read of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ailurus.protocol.errors import Code
from pilot.attempt import Attempt
from pilot.node.sampler import Sampler
from pilot.node.supervisor import Supervisor
from pilot.ports import ProcessSpec
from pilot.process.proc import Io, Process
from pilot.site import Limits, bounds_of
from pilot.workdir import Workdir
from tests.pilot.attempts import attempt_of
from tests.pilot.fakes import FakeClock, FakeReadings, FakeSpawner

MB = 1024
USUAL = Limits()
ROOT = 101
"""The process id of the first payload of a FakeSpawner."""


class Watch:
    """One payload under a supervisor whose time and samples a test sets."""

    def __init__(self, directory: Path, attempt: Attempt, limits: Limits, clock: FakeClock) -> None:
        self.clock, self.readings, self.spawner = clock, FakeReadings(), FakeSpawner()
        self.supervisor = Supervisor(bounds_of(limits), clock, Sampler(clock, self.readings))
        self.attempt = attempt
        self.work = Workdir(directory / "1.1")
        self.work.make()
        attempt.start_payload(
            lambda: (self.spawner, self.spawner.spawn(ProcessSpec(argv=["true"]), print))
        )
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
    with made.supervisor.watching(attempt, made.work):
        yield made
