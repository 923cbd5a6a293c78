"""Nodes of a payload on this machine without agents: a guardian each, and `pilot-rsh` among
them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from ailurus.logs import Log
from ailurus.loops import Loops
from pilot.ports import PATH, ProcessEnd, ProcessSpec
from pilot.process.spawner import GuardedSpawner
from pilot.rsh.doors import Door, Doors
from pilot.rsh.exchange import Command, Exchange, Sink
from tests.pilot.helpers import guarded

PILOT_RSH = Path(__file__).parents[3] / "pilot/rsh/pilot-rsh"
WINDOW = 64 << 10


class _Stream:
    """A FIFO that a command writes, carried to a sink by a thread, a window at a time."""

    def __init__(self, path: Path, sink: Sink) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # Held until the command has ended, so that there is no end before its beginning.
        self._writer = os.open(path, os.O_WRONLY)
        os.set_blocking(self._fd, True)
        self._sink, self._window = sink, WINDOW
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._carry, daemon=True)
        self.thread.start()
        self.most_ahead = 0

    def taken(self, count: int) -> None:
        with self._changed:
            self._window += count
            self._changed.notify()

    def ended(self) -> None:
        os.close(self._writer)
        with self._changed:
            # What it wrote last goes, whatever was taken.
            self._window += 1 << 20
            self._changed.notify()
        self.thread.join()

    def _carry(self) -> None:
        while data := os.read(self._fd, 32 << 10):
            with self._changed:
                while self._window <= 0:
                    self._changed.wait()
                self._window -= len(data)
                self.most_ahead = max(self.most_ahead, WINDOW - self._window)
            self._sink(data)
        os.close(self._fd)


class _Command:
    def __init__(self, spawner: GuardedSpawner, streams: Sequence[_Stream]) -> None:
        self._spawner, self.streams = spawner, streams
        self.key = 0

    def signal(self, number: int) -> None:
        self._spawner.signal(self.key, number)

    def taken(self, stream: int, count: int) -> None:
        self.streams[stream - 1].taken(count)


class Node:
    def __init__(
        self, name: str, directory: Path, spawner: GuardedSpawner, enter: Sequence[str]
    ) -> None:
        """`enter`: words before a command that is to run there."""
        self.name, self.directory, self.spawner, self.enter = name, directory, spawner, enter
        self.tmp = directory / "tmp"
        self.tmp.mkdir(parents=True)
        self.own: dict[str, str] = {}
        self.door: Door | None = None

    @property
    def rsh(self) -> Path:
        return self.tmp / "rsh"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Cluster:
    """Nodes with one payload on them."""

    def __init__(self, nodes: Mapping[str, Node], shell: Sequence[str]) -> None:
        self.nodes = nodes
        self.more: dict[str, str] = {}
        self.commands: list[_Command] = []
        self._shell = shell
        self._doors = Doors(Loops(Log("tests")))
        self.exchange = Exchange(nodes, self._start)
        for name, node in nodes.items():
            node.door = self._doors.open(node.rsh, self._teller(name, node))

    def close(self) -> None:
        self.exchange.close()
        for node in self.nodes.values():
            assert node.door is not None
            node.door.close()

    def rsh(self, *words: str, node: str = "q1", **options: object) -> subprocess.Popen[bytes]:
        """pilot-rsh, as a payload on `node` calls it."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [*self._shell, str(PILOT_RSH), *words],
            stdin=subprocess.DEVNULL,
            env=self.environment(node),
            **options,  # type: ignore[call-overload]
        )

    def environment(self, node: str) -> dict[str, str]:
        return {
            "PATH": PATH,
            "HOME": str(self.nodes[node].directory),
            "TMPDIR": str(self.nodes[node].tmp),
            "AILURUS_RSH": str(self.nodes[node].rsh),
            "AILURUS_PILOT_RSH": str(PILOT_RSH),
            "ON": node,
            **self.more,
            **self.nodes[node].own,
        }

    def run(self, argv: Sequence[str], node: str, timeout_s: float = 30) -> Ran:
        """The first process of the payload, started as its commands are."""
        out, err, over = bytearray(), bytearray(), threading.Event()
        results: list[tuple[int, str]] = []

        def done(code: int, why: str) -> None:
            results.append((code, why))
            over.set()

        command = self._start(node, shlex.join(argv).encode(), out.extend, err.extend, done)
        try:
            assert over.wait(timeout_s), (bytes(out), bytes(err))
        finally:
            command.signal(signal.SIGKILL)
        return Ran(results[0][0], out.decode(), err.decode())

    def _teller(self, name: str, node: Node) -> Callable[..., None]:
        def tell(said: object) -> None:
            assert node.door is not None
            self.exchange.said(name, said, node.door.answer)  # type: ignore[arg-type]

        return tell

    def _start(
        self, node: str, command: bytes, out: Sink, err: Sink, done: Callable[[int, str], None]
    ) -> Command:
        place = self.nodes[node]
        number = len(self.commands)
        paths = [place.directory / f"{number}.{stream}" for stream in ("out", "err")]
        made = _Command(
            place.spawner, [_Stream(p, s) for p, s in zip(paths, (out, err), strict=True)]
        )
        self.commands.append(made)

        def ended(end: ProcessEnd) -> None:
            def finish() -> None:
                for stream in made.streams:
                    stream.ended()
                code = end.exit_code
                done(code if code >= 0 else 128 - code, os.strerror(end.errno) if end.errno else "")

            # The spawner's thread must not wait for a stream.
            threading.Thread(target=finish, daemon=True).start()

        made.key = place.spawner.spawn(
            ProcessSpec(
                argv=[*place.enter, "/bin/sh", "-c", os.fsdecode(command)],
                environment=self.environment(node),
                directory=str(place.directory),
                stdout=str(paths[0]),
                stderr=str(paths[1]),
            ),
            ended,
        )
        return made


@contextmanager
def cluster(
    directory: Path,
    names: Sequence[str] = ("q1", "q2", "q3"),
    shell: Sequence[str] = ("/bin/sh",),
    enter: Callable[[str], Sequence[str]] = lambda name: (),
) -> Iterator[Cluster]:
    """A payload on nodes of these names; `shell` runs its pilot-rsh."""
    with ExitStack() as stack:
        nodes = {
            name: Node(name, directory / name, stack.enter_context(guarded()), enter(name))
            for name in names
        }
        made = Cluster(nodes, shell)
        try:
            yield made
        finally:
            made.close()


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
