"""For how long cores of a job are held by none of its items."""

from __future__ import annotations

from typing import Any

from pilot.attempt import Attempt
from pilot.clock import Clock
from pilot.node.packing import Packer


class IdleCores:
    """Adds up, in the attempt, from one look to the next."""

    def __init__(self, attempt: Attempt, packer: Packer[Any], clock: Clock) -> None:
        """`packer`: of the items, on the nodes that the job has now."""
        self._attempt, self._packer, self._clock = attempt, packer, clock
        self._at = clock.monotonic()

    def count(self) -> None:
        """What is free now has been idle since the last look."""
        now = self._clock.monotonic()
        cores = sum(free.cores * nodes for free, nodes in self._packer.free())
        self._attempt.unused_core_s += cores * (now - self._at)
        self._at = now
