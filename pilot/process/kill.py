"""Trees of processes: to be their reaper, to tell all of one something, to kill all of one."""

from __future__ import annotations

import contextlib
import os
import signal
import time

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36


def become_subreaper() -> None:
    """Orphans below this process become its children, not init's."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def become_undumpable() -> None:
    """Nobody of the same user may read this process's memory, environment or descriptors."""
    _prctl(PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """This process is killed when the one that started it ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Proc:
    """The /proc of the moment, to be read even from where another one is mounted in its place."""

    def __init__(self) -> None:
        self._fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def read(self, name: str) -> bytes:
        """A file in it. Raises OSError."""
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            text = b""
            while piece := os.read(fd, 1 << 16):
                text += piece
            return text
        finally:
            os.close(fd)

    def children(self, pid: int) -> int:
        """The list of a process's children, open for reading. Raises OSError."""
        name = f"{pid}/task/{pid}/children"
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)

    def pids(self) -> list[str]:
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            names = os.listdir(here)  # noqa: PTH208 - a thousand paths would cost
            return [name for name in names if name.isdecimal()]
        finally:
            os.close(here)


def kill_descendants(root: int, proc: Proc | None = None) -> None:
    """KILL all that runs below the process `root`, which is their subreaper, and reap it."""
    proc = proc or Proc()
    while True:
        below = [pid for pid, _ in _descendants(root, proc)]
        _stop_and_kill(below)
        try:
            while os.wait4(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        if below:
            # The kernel is taking them down; nothing tells when a tree is gone.
            time.sleep(0.005)


def kill_tree(pid: int, proc: Proc) -> None:
    _stop_and_kill([pid, *(below for below, _ in _descendants(pid, proc))])


def _stop_and_kill(pids: list[int]) -> None:
    # Stopped first: a fork bomb forks no further.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, number)


def signal_tree(root: int, number: int, spared: int, proc: Proc) -> None:
    below = [(root, 0), *_descendants(root, proc)]
    for pid, depth in below:
        if depth >= spared:
            with contextlib.suppress(OSError):
                os.kill(pid, number)


def _descendants(root: int, proc: Proc) -> list[tuple[int, int]]:
    """All processes below `root` with their depth, parents first; from one pass over /proc."""
    children: dict[int, list[int]] = {}
    for name in proc.pids():
        with contextlib.suppress(OSError, IndexError, ValueError):
            stat = proc.read(f"{name}/stat")
            parent = int(stat[stat.rindex(b")") + 2 :].split(None, 2)[1])
            children.setdefault(parent, []).append(int(name))
    found: list[tuple[int, int]] = []
    layer, depth = [root], 1
    while layer:
        layer = [child for pid in layer for child in children.get(pid, ())]
        found += [(pid, depth) for pid in layer]
        depth += 1
    return found


def _prctl(option: int, value: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
