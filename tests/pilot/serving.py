"""A pilot's service on stand-ins, without its threads."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from ailurus.loops import Loop
from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.wire.client import Unreachable
from pilot.acquiring import Terms
from pilot.ports import JobError, ProcessEnd
from pilot.serve import Server
from tests.pilot.fakes import FakeSignals, World, assignment

SILENT = Unreachable("no answer")
GIVER = "the-dispatcher"


def server_of(world: World, signals: tuple[int, ...] = (), **terms: Any) -> Server:
    link: Any = world.link
    made = Server(world.kit, link, Terms(**terms), FakeSignals(world.clock, signals))
    no_loops: Any = lambda *args, **more: None  # noqa: E731
    made.loops.thread = no_loops  # type: ignore[method-assign]
    return made


def running() -> list[threading.Thread]:
    """The threads of jobs."""
    return [one for one in threading.enumerate() if one.name.startswith("job-")]


def joined(name: str = "") -> None:
    """Wait for all jobs that run to their end, or for the one of that name."""
    for thread in running():
        if not name or thread.name == name:
            thread.join(10)


def acquires(world: World, *answers: Any, **terms: Any) -> Server:
    """A server that has had these answers to its acquires; after them the dispatcher drains it."""
    made = server_of(world, **terms)
    world.link.answers["acquire"] = deque([*answers, m.Acquired(jobs=(), drain=True)])
    made.acquirer.run(Loop("acquirer", None, world.clock.monotonic))
    joined()
    return made


def jobs(*numbers: int, **fields: Any) -> m.Acquired:
    return m.Acquired(jobs=tuple(assignment(nr, **fields) for nr in numbers))


NONE = m.Acquired(jobs=())


def end_all(world: World, server: Server) -> None:
    """Let all payloads end."""
    server._stop_all(JobError(Code.SIGTERM, "the test ends"), 0.0)
    while threads := running():
        for key in list(world.spawner._done):
            world.spawner.end(ProcessEnd(key=key, exit_code=-9))
        threads[0].join(0.001)


def started(world: World) -> None:
    """Wait for the first payload to start: its job waits for no slot any more."""
    while not world.spawner.started:
        running()[0].join(0.001)
