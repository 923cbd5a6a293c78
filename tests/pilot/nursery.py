"""Guardians for tests, forked in a process that has nothing loaded but what a pilot has.

Libraries in the tests' own process (libuv, XRootD, OpenTelemetry) begin threads, or close files, in
whatever is forked from it: such a guardian may join no namespaces, or loses its socket. So nothing
is forked there (`tests/conftest.py`).
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

from pilot.process import guardian
from pilot.process.spawner import GuardedSpawner

TREE = Path(__file__).parents[2]
_BYTES = 32


class Nursery:
    """The tests' end of that process; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.pilot.nursery", str(theirs.fileno())],
                cwd=TREE,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start(self) -> GuardedSpawner:
        """A new guardian."""
        with self._lock:
            self._line.send(b"start")
            said, (link,), _, _ = socket.recv_fds(self._line, _BYTES, 1)
        return _Spawner(socket.socket(fileno=link), int(said), self)

    def wait(self, pid: int) -> None:
        """Until a guardian has ended, whose socket has."""
        with self._lock:
            self._line.send(str(pid).encode())
            self._line.recv(_BYTES)

    def close(self) -> None:
        """End it."""
        self._line.close()
        self._process.wait()


class _Spawner(GuardedSpawner):
    """One whose guardian is a child of the nursery."""

    def __init__(self, link: socket.socket, guardian_pid: int, nursery: Nursery) -> None:
        super().__init__(link, guardian_pid)
        self._nursery = nursery

    def close(self) -> None:
        self._lost = True
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)
        self._nursery.wait(self.guardian_pid)
        super().close()


@cache
def nursery() -> Nursery:
    """The one of this process."""
    made = Nursery()
    atexit.register(made.close)
    return made


def main() -> None:
    """Fork guardians, and tell of their ends, until nobody asks any more."""
    line = socket.socket(fileno=int(sys.argv[1]))
    while asked := line.recv(_BYTES):
        if asked == b"start":
            link, pid = guardian.start()
            with link:
                socket.send_fds(line, [str(pid).encode()], [link.fileno()])
            continue
        with suppress(ChildProcessError, ProcessLookupError):
            os.kill(int(asked), signal.SIGCONT)
            os.waitpid(int(asked), 0)
        line.send(asked)


if __name__ == "__main__":
    main()
