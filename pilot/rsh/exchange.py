"""Commands that a payload starts on its other nodes by `pilot-rsh`, from the head's side.

    pilot-rsh ─FIFOs→ Door of its node ─Said→ Exchange ─→ the payload's nodes
                                       ←Told─

What goes over the link of an agent are the messages; the doors are in `pilot.rsh.doors`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection
from typing import Protocol

from msgspec import Struct

from pilot.ports import JobError

MOST_NAMED = 20
NOT_RUN = 255
"""The exit code of a pilot-rsh whose command did not run, or of whose end nothing is known."""


class Asked(Struct, frozen=True, array_like=True, tag=True):
    """A payload asks for a command on another node. `request` is unique at its door."""

    request: int
    node: str
    command: bytes


class Signalled(Struct, frozen=True, array_like=True, tag=True):
    request: int
    number: int


class Gone(Struct, frozen=True, array_like=True, tag=True):
    """The pilot-rsh of a request has died: so must what it started. Nothing more comes of it."""

    request: int


class Taken(Struct, frozen=True, array_like=True, tag=True):
    """So many bytes of a stream (1 or 2) were taken: as many more may be sent."""

    request: int
    stream: int
    count: int


class Output(Struct, frozen=True, array_like=True, tag=True):
    request: int
    stream: int
    data: bytes


class Finished(Struct, frozen=True, array_like=True, tag=True):
    """The command has ended, and no output comes any more; `why` if it did not run or was lost."""

    request: int
    exit_code: int
    why: str = ""


Said = Asked | Signalled | Gone | Taken
Told = Output | Finished
Sink = Callable[[bytes], None]


class Command(Protocol):
    """A command that runs on a node. What there is of it no more is not signalled."""

    def signal(self, number: int) -> None:
        """Send a signal to its processes; KILL ends all of them."""

    def taken(self, stream: int, count: int) -> None:
        """So many bytes of its output (1) or its errors (2) have gone: as many more may come."""


class Start(Protocol):
    """Starts a command in the payload's sandbox on a node."""

    def __call__(
        self, node: str, command: bytes, out: Sink, err: Sink, done: Callable[[int, str], None]
    ) -> Command:
        """The sinks, and at the end `done` with the exit code and why there is none, are called
        from another thread, in order. Raises JobError if it cannot be started."""


class Exchange:
    """The commands of one payload."""

    def __init__(self, nodes: Collection[str], start: Start) -> None:
        """`nodes`: those that commands may run on."""
        self._nodes, self._start = set(nodes), start
        # By the node of the door that asked, and the number there.
        self._running: dict[tuple[str, int], _Running] = {}
        self._closed = False

    def said(self, node: str, said: Said, tell: Callable[[Told], None]) -> None:
        """Do what the door of `node` says; that door is told, by `tell`, what comes of it. What one
        door says comes in order, from one thread at a time."""
        if isinstance(said, Asked):
            self._begin(node, said, tell)
        elif (found := self._running.get((node, said.request))) and found.command:
            if isinstance(said, Taken):
                found.command.taken(said.stream, said.count)
            else:
                number = said.number if isinstance(said, Signalled) else signal.SIGKILL
                found.command.signal(number)

    def come(self, node: str) -> None:
        """Commands may run on this node, too."""
        self._nodes.add(node)

    def go(self, node: str) -> None:
        """A node is lost. What it had asked for on others ends."""
        self._nodes.discard(node)
        for (asked_by, _), running in list(self._running.items()):
            if asked_by == node and running.command is not None:
                running.command.signal(signal.SIGKILL)

    def close(self) -> None:
        """Start nothing any more: the payload has ended, or is ending."""
        self._closed = True

    def _begin(self, node: str, asked: Asked, tell: Callable[[Told], None]) -> None:
        key = (node, asked.request)

        def done(exit_code: int, why: str) -> None:
            self._running.pop(key, None)
            tell(Finished(asked.request, exit_code, why))

        if self._closed:
            done(NOT_RUN, "the job has ended")
            return
        if asked.node not in self._nodes:
            names = ", ".join(sorted(self._nodes)[:MOST_NAMED])
            done(NOT_RUN, f"no node of this job is called {asked.node!r}: it has {names}")
            return
        running = self._running[key] = _Running()
        try:
            # It may be done before this returns.
            running.command = self._start(
                asked.node,
                asked.command,
                lambda data: tell(Output(asked.request, 1, data)),
                lambda data: tell(Output(asked.request, 2, data)),
                done,
            )
        except JobError as error:
            done(NOT_RUN, f"{asked.node}: {error}")


class _Running:
    """A command from when it was asked for; without `command` while it is being started."""

    command: Command | None = None
