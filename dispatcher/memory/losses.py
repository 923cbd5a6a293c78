"""The workers that ended badly of late, as events tell."""

from __future__ import annotations

from msgspec import Struct

from ailurus.protocol.worker import Ending, Phase
from dispatcher.events import WorkerChanged

BAD = frozenset({Ending.LOST, Ending.FAILED, Ending.NODE_FAIL, Ending.OOM})
"""Endings of workers that are nobody's wish."""
# For so long a lost pilot is shown.
RECENT_S = 900.0
# Endings of workers that are remembered.
MOST = 1000


class Loss(Struct, frozen=True):
    """A worker that ended badly."""

    at: float
    queue: str
    site: str
    host: str
    ending: str


class Losses:
    """The workers that ended badly of late, by the events that say so."""

    def __init__(self) -> None:
        self._of: dict[int, Loss] = {}

    def note(self, at: float, worker_id: int, event: WorkerChanged) -> None:
        """Note an event about a worker. One that comes back was not lost."""
        if event.ending in BAD:
            place = event.queue or "", event.site or "", event.host or ""
            self._of[worker_id] = Loss(at, *place, str(event.ending))
            if len(self._of) > MOST:
                del self._of[next(iter(self._of))]
        elif event.phase is Phase.ACTIVE:
            self._of.pop(worker_id, None)

    def recent(self, now: float) -> list[Loss]:
        self._of = {key: loss for key, loss in self._of.items() if loss.at > now - RECENT_S}
        return list(self._of.values())
