"""How far the files of an attempt have come: told with its heartbeats."""

from __future__ import annotations

import threading

from ailurus.protocol.messages import Staging
from pilot.clock import SYSTEM, Clock


class StagingProgress:
    """Files of one staging, counted by the thread that moves them and read by the reporter's."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock, self._began = clock, clock.monotonic()
        self._lock = threading.Lock()
        self._sizes: dict[str, int | None] = {}
        self._moved: dict[str, int] = {}
        self._done: set[str] = set()

    def expect(self, name: str, size: int | None) -> None:
        """One more file; its size in bytes, if that is known."""
        with self._lock:
            self._sizes[name] = size

    def moved(self, name: str, moved_bytes: int) -> None:
        """So many bytes of a file have come."""
        with self._lock:
            self._moved[name] = moved_bytes

    def done(self, name: str, size: int) -> None:
        """A file is there."""
        with self._lock:
            self._sizes[name] = self._moved[name] = size
            self._done.add(name)

    def now(self) -> Staging:
        """What the heartbeat says."""
        with self._lock:
            known = [size for size in self._sizes.values() if size is not None]
            return Staging(
                files=len(self._sizes),
                done=len(self._done),
                moved_bytes=sum(self._moved.values()),
                total_bytes=sum(known) if len(known) == len(self._sizes) else None,
                seconds=round(self._clock.monotonic() - self._began, 3),
            )
