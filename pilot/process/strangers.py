"""What payloads leave behind: orphans that came to a guardian, and whose they are."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence

from pilot.process.kill import Proc, kill_tree
from pilot.process.orders import Spawn

# An exec is over by then, many times.
EXEC_S = 0.5


class Strangers:
    """Orphans of payloads: children of this process that it did not start, and those of `reapers`
    (their /proc/PID/task/PID/children, open), which in a process namespace get them in its place.
    """

    def __init__(
        self, proc: Proc, reapers: Sequence[int] = (), spared: Collection[int] = ()
    ) -> None:
        self._proc = proc
        self._children = [proc.children(os.getpid()), *reapers]
        self._own = frozenset(spared)
        # Orphans of payloads that still run → their payload.
        self._spared: dict[int, int] = {}
        # Orphans without an environment → until when is well.
        self._unsure: dict[int, float] = {}
        # Beside these, who has seen none of them end forgets those that are gone.
        self._elsewhere = bool(reapers)

    def forget(self, pid: int) -> None:
        """It has ended, and its number may be another's from now on."""
        self._spared.pop(pid, None)
        self._unsure.pop(pid, None)

    def sweep(self, running: Mapping[int, Spawn], doomed: Collection[int] = ()) -> bool:
        """Kill orphans of payloads that ended; whether there were none. `running`: what this
        process started, by process id. `doomed`: those to kill without a look.

        An orphan is spared while a payload runs that it provably belongs to: by session, or by the
        environment it was started with. Who shows none is in the middle of an exec; one that does
        so for long hides, and is killed too.
        """
        clean = True
        pids = self._child_pids()
        if self._elsewhere and self._spared:
            self._spared = {pid: owner for pid, owner in self._spared.items() if pid in pids}
        for pid in pids:
            if pid in running or pid in self._own:
                continue
            if pid in doomed:
                # All of a sandbox ends with it; to look at all processes would cost more.
                os.kill(pid, signal.SIGKILL)
                clean = False
                continue
            owner = self._spared.get(pid)
            if owner is None:
                owner = self._owner(pid, running)
            if owner is not None and owner in running:
                self._spared[pid] = owner
                continue
            clean = False
            now = time.monotonic()
            if owner is None and now < self._unsure.setdefault(pid, now + EXEC_S):
                continue
            kill_tree(pid, self._proc)
        return clean

    def _child_pids(self) -> list[int]:
        text = b""
        for fd in self._children:
            size = 0
            # One read gives a page.
            while piece := os.pread(fd, 1 << 16, size):
                text += piece
                size += len(piece)
        return [int(pid) for pid in text.split()]

    def _owner(self, pid: int, running: Mapping[int, Spawn]) -> int | None:
        """The running payload that a process belongs to; 0: none; None: it shows no environment."""
        with contextlib.suppress(OSError):
            if (session := os.getsid(pid)) in running:
                return session
            environment = self._proc.read(f"{pid}/environ").split(b"\0")
            if environment == [b""]:
                return None
            for payload, order in running.items():
                mark = order.environment.get("AILURUS_ATTEMPT")
                if mark and f"AILURUS_ATTEMPT={mark}".encode() in environment:
                    return payload
        return 0
