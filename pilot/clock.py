"""Time, as the pilot's parts see it: a test hands them a clock that it moves by hand."""

from __future__ import annotations

import time as system
from typing import Protocol


class Waitable(Protocol):
    """An event, or a condition whose lock the caller holds."""

    def wait(self, timeout: float | None = None) -> bool: ...


class Clock(Protocol):
    """Where parts read the time and wait. All methods may be called from any thread."""

    def time(self) -> float:
        """Seconds since 1970."""

    def monotonic(self) -> float:
        """Seconds that never go back, from some start."""

    def cpu_s(self) -> float:
        """CPU seconds of the calling thread."""

    def wait(self, waited_for: Waitable, seconds: float | None = None) -> bool:
        """Wait until `waited_for` happens, for at most `seconds`; whether it happened."""

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of this machine."""

    time = staticmethod(system.time)
    monotonic = staticmethod(system.monotonic)
    cpu_s = staticmethod(system.thread_time)
    sleep = staticmethod(system.sleep)

    def wait(self, waited_for: Waitable, seconds: float | None = None) -> bool:
        return waited_for.wait(seconds)


SYSTEM = SystemClock()
