"""Programs that a signal has stopped, in a room that they share: one of them may have stopped all
others (`kill -STOP -1`), and nobody in there is left to let them go on."""

from __future__ import annotations

import os
import signal
import time

from pilot.process.kill import Proc, signal_tree

STOPPED_S = 2.0
"""For so long they stand: what suspends a whole job stops this process soon after them."""


class Stopped:
    """The programs of a guardian that stand, by process id, and until when."""

    def __init__(self, proc: Proc) -> None:
        self._proc = proc
        self._until: dict[int, float] = {}

    def note(self, pid: int, status: int) -> bool:
        """Take what `wait` said. Whether the program still runs, be it stopped or not."""
        if os.WIFSTOPPED(status):
            self._until[pid] = time.monotonic() + STOPPED_S
            return True
        self._until.pop(pid, None)
        return os.WIFCONTINUED(status)

    def left_s(self) -> float:
        """Seconds until one is to go on."""
        return min(self._until.values(), default=float("inf")) - time.monotonic()

    def resume(self) -> None:
        """Let those go on whose time has come, and all below them."""
        now = time.monotonic()
        for pid in [pid for pid, until in self._until.items() if until <= now]:
            del self._until[pid]
            signal_tree(pid, signal.SIGCONT, 0, self._proc)
