"""The warden of an agent: a small process that sees to what a dead or stopped agent cannot.

It ends the agent when that lets its lease run out, as one does that somebody stopped; the guardian
then kills the payloads. When the agent has ended, however it did, it removes the agent's directory,
once the guardian has ended, too.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import struct
import time
from pathlib import Path
from typing import NoReturn

from pilot.process.kill import become_undumpable
from pilot.workdir import remove_tree

GUARDIAN_S = 10.0
"""How long the guardian may take to kill what runs."""
STEP_S = 1.0
"""A machine that was suspended is looked at again after that."""
_UNTIL = struct.Struct("d")


def boot_s() -> float:
    """Seconds that go on while the machine is suspended: a lease does, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Warden:
    """The agent's end of it."""

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid, self._pipe = pid, pipe

    def until(self, at: float) -> None:
        """The agent's lease runs until then, by `boot_s`."""
        with contextlib.suppress(OSError):
            os.write(self._pipe, _UNTIL.pack(at))

    def leave(self) -> None:
        """The agent has seen to everything: let the warden end, too."""
        os.close(self._pipe)
        with contextlib.suppress(OSError):
            os.waitpid(self._pid, 0)


def start(directory: Path, guardian_pid: int) -> Warden:
    """Fork the warden, before there are threads. Raises OSError."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)[::-1]
    agent = os.pidfd_open(os.getpid())
    guardian = os.pidfd_open(guardian_pid)
    pid = os.fork()
    if pid:
        for fd in (theirs, agent, guardian):
            os.close(fd)
        os.set_blocking(ours, False)
        return Warden(pid, ours)
    try:
        _be_warden(theirs, agent, guardian, directory)
    finally:
        os._exit(70)


def _be_warden(pipe: int, agent: int, guardian: int, directory: Path) -> NoReturn:
    # A collection would write to what is shared with the agent, and so copy it.
    gc.freeze()
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    become_undumpable()
    kept = {pipe, agent, guardian}
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
    _watch(pipe, agent)
    poll = select.poll()
    poll.register(guardian, select.POLLIN)
    poll.poll(GUARDIAN_S * 1000)
    remove_tree(directory)
    os._exit(0)


def _watch(pipe: int, agent: int) -> None:
    """Until the agent has ended."""
    until, last = float("inf"), b""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while True:
        left = min(until - boot_s(), STEP_S)
        if left <= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(agent, signal.SIGKILL)
            until = float("inf")
            continue
        if poll.poll(left * 1000):
            if not (data := os.read(pipe, 4096)):
                return
            last = (last + data)[-_UNTIL.size * 2 :]
            whole = len(last) // _UNTIL.size * _UNTIL.size
            until = _UNTIL.unpack_from(last, whole - _UNTIL.size)[0] if whole else until
            last = last[whole:]
