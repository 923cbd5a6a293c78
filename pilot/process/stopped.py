"""Programs that a signal has stopped, in a room that they share: one of them may have stopped all
others (`kill -STOP -1`), and nobody in there is left to let them go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

from pilot.process.kill import Proc

STOPPED_S = 2.0
"""For so long they stand: what suspends a whole job stops this process soon after them."""
LOOK_S = 5.0
"""Between two looks. Nothing tells of a program whose child is stopped before its exec: it waits
for that one in the kernel (vfork), and is not stopped itself."""
_STATE, _PARENT = 0, 1
"""Behind the name, in /proc/PID/stat."""


class Stopped:
    """Lets the programs of a guardian go on."""

    def __init__(self, proc: Proc) -> None:
        self._proc = proc
        self._due = float("inf")
        self._look_at = time.monotonic() + LOOK_S

    def note(self, pid: int, status: int) -> bool:
        """Take what `wait` said. Whether the program still runs, be it stopped or not."""
        if os.WIFSTOPPED(status):
            self._due = min(self._due, time.monotonic() + STOPPED_S)
            return True
        return os.WIFCONTINUED(status)

    def left_s(self) -> float:
        """Seconds until something is to be done."""
        return min(self._due, self._look_at) - time.monotonic()

    def turn(self, running: Collection[int]) -> None:
        """Let all go on that stand, if it is time. `running`: the programs, by process id."""
        now = time.monotonic()
        due = self._due <= now
        if self._look_at <= now:
            self._look_at = now + LOOK_S
            due = due or any(self._stat(pid)[:1] in ([b"D"], [b"T"]) for pid in running)
        if due:
            self._due = float("inf")
            for pid in self._standing(running):
                with suppress(OSError):
                    os.kill(pid, signal.SIGCONT)

    def _standing(self, running: Collection[int]) -> Iterator[int]:
        """Of these and all below them those that are stopped; from one pass over /proc."""
        found = {int(name): stat for name in self._proc.pids() if (stat := self._stat(int(name)))}
        for pid, stat in found.items():
            if stat[_STATE] != b"T":
                continue
            above = pid
            while above not in running and above in found:
                above = int(found[above][_PARENT])
            if above in running:
                yield pid

    def _stat(self, pid: int) -> list[bytes]:
        """The fields behind its name; none: it is gone."""
        with suppress(OSError):
            stat = self._proc.read(f"{pid}/stat")
            return stat[stat.rindex(b")") + 2 :].split(None, _PARENT + 1)
        return []
