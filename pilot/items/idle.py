"""For how long cores of a job are held by none of its items."""

from __future__ import annotations

from pilot.attempt import Attempt
from pilot.clock import Clock


class IdleCores:
    """Adds up, in the attempt, from one look to the next."""

    def __init__(self, attempt: Attempt, cores: int, clock: Clock) -> None:
        self.cores = cores
        """That no item has now."""
        self._attempt, self._clock, self._at = attempt, clock, clock.monotonic()

    def count(self) -> None:
        """So many cores were idle since the last look."""
        now = self._clock.monotonic()
        self._attempt.unused_core_s += self.cores * (now - self._at)
        self._at = now
