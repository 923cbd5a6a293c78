"""How a guardian starts one program."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pilot.ports import ARGUMENTS, FILTER
from pilot.process.cgroup import inside
from pilot.process.frames import SOCKET
from pilot.process.orders import Spawn

_NAMES = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "XCPU", "PIPE", "TSTP")
IGNORED = [signal.Signals[f"SIG{name}"] for name in _NAMES]
"""By a guardian, which ends when the pilot does, and by no signal."""
# What we ignore, or Python does, a payload does not.
_DEFAULT = [*IGNORED, signal.SIGXFSZ]
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY


class NotPrepared(Exception):
    """What comes before a program could not be done; the errno."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.errno = error.errno or errno.EINVAL


class ProgramStarter:
    """Starts programs, from a process with one thread whose descriptors 0 to 2 are /dev/null."""

    def __init__(self) -> None:
        self._all_cpus = os.sched_getaffinity(0)
        # Where this process is for the sake of the program that it started last.
        self._directory, self._cpus = "/", [*self._all_cpus]
        # What is opened for a program comes above all that it inherits: these stay taken.
        while os.dup(0) < FILTER:
            pass

    def rest(self) -> None:
        """Be nowhere in particular again. To be called once some programs have been started."""
        with suppress(OSError):
            self._go("/", [])

    def start(self, order: Spawn, socket: int = -1, cgroup: Sequence[int] = ()) -> tuple[int, int]:
        """Start it; its process id, and where its status can be read, or 0. `socket`: the one that
        it inherits; `cgroup`: as `inside` takes them; they are closed here. Raises NotPrepared for
        what is ours, OSError or ValueError for the program's."""
        # Closed again once the program has them.
        opened = [*cgroup]
        actions: list[tuple[Any, ...]] = []
        status = 0
        try:
            try:
                for fd, path in _outputs(order):
                    opened.append(_output(path))
                    actions.append((os.POSIX_SPAWN_DUP2, opened[-1], fd))
                if socket >= 0:
                    opened.append(socket)
                    actions.append((os.POSIX_SPAWN_DUP2, socket, SOCKET))
                # posix_spawn has neither; we have one thread.
                self._go(order.directory, order.cpus)
                if order.status_fd:
                    status, writer = os.pipe()
                    opened.append(writer)
                    actions.append((os.POSIX_SPAWN_DUP2, writer, order.status_fd))
                for data, fd in ((order.arguments, ARGUMENTS), (order.filter, FILTER)):
                    if data:
                        opened.append(_in_memory(data))
                        actions.append((os.POSIX_SPAWN_DUP2, opened[-1], fd))
            except OSError as error:
                raise NotPrepared(error) from None
            with inside(cgroup):
                pid = os.posix_spawn(
                    order.argv[0],
                    order.argv,
                    order.environment,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=[],
                    setsigdef=_DEFAULT,
                )
            kept, status = status, 0
            return pid, kept
        finally:
            for fd in (*opened, status) if status else opened:
                os.close(fd)

    def _go(self, directory: str, cpus: Sequence[int]) -> None:
        """Have the directory and the CPUs of the next program; of no CPUs, all. Raises OSError."""
        wanted = [*(cpus or self._all_cpus)]
        if wanted != self._cpus:
            os.sched_setaffinity(0, wanted)
            self._cpus = wanted
        if directory != self._directory:
            os.chdir(directory)
            self._directory = directory


def _in_memory(data: bytes) -> int:
    """A descriptor from which `data` is read."""
    fd = os.memfd_create("arguments")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _outputs(order: Spawn) -> list[tuple[int, str]]:
    found = ((1, order.stdout), (2, order.stderr))
    # /dev/null is ours already.
    return [(fd, path) for fd, path in found if path != "/dev/null"]


def _output(path: str) -> int:
    """An open output. A payload may have put a FIFO there, and nobody but it is to wait for the
    reader: not this process, which also kills. Raises OSError."""
    fd = os.open(path, _APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    os.set_blocking(fd, True)
    return fd
