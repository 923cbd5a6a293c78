"""Signals as messages: blocked in all threads, and taken one by one by the main one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection
from typing import Protocol

NUDGE = signal.SIGALRM
"""Wakes the main thread; sent by the pilot's own threads."""


class Signals(Protocol):
    """Where the main thread waits."""

    def wait(self, seconds: float) -> int | None:
        """The number of the next signal, or None when `seconds` have passed."""

    def nudge(self) -> None:
        """Let `wait` return NUDGE."""


class BlockedSignals:
    """Signals of this process. Made in the main thread, after the process has blocked them."""

    def __init__(self, numbers: Collection[int]) -> None:
        self._numbers, self._main = numbers, threading.get_ident()

    def wait(self, seconds: float) -> int | None:
        found = signal.sigtimedwait(self._numbers, seconds)
        return None if found is None else found.si_signo

    def nudge(self) -> None:
        signal.pthread_kill(self._main, NUDGE)
