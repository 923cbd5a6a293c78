"""Sends payloads' output: what users watch while it grows, and the end of it when its payload has
ended."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.wire.client import Refused
from pilot.attempt import Attempt
from pilot.clock import Clock
from pilot.files.live_log import Follower, Rest
from pilot.upstream.link import Link
from pilot.upstream.spool import Id

# Pieces of logs in one request, and their characters; as JSON these may be six times as long.
MOST_PIECES, MOST_CHARACTERS = 500, 1_000_000
# Of ends of logs that wait for a dispatcher; where there is more, only the last characters of each
# are kept.
ENDS_BYTES, SHORT_END = 32_000_000, 2000


class LogSender:
    """The logs of all attempts. The reporter's thread sends; any thread may hand in ends and
    followers."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link, self._clock = link, clock
        self._ends: list[Rest] = []
        # Since when (monotonic) no dispatcher takes them.
        self.refused_since: float | None = None
        # What has been sent of logs, and until when (monotonic) users watch them.
        self._followers: dict[Id, Follower] = {}
        self._watched: dict[Id, float] = {}
        self._lock = threading.Lock()
        self._log = Log("pilot.upstream.log_sender")

    @property
    def has_ends(self) -> bool:
        return bool(self._ends)

    @property
    def has_watched(self) -> bool:
        return bool(self._watched)

    def add_end(self, end: Rest) -> None:
        """Send the end of a log; shortened, where too many of them wait."""
        with self._lock:
            if sum(one.bytes for one in self._ends) + end.bytes > ENDS_BYTES:
                end.shorten(SHORT_END)
            self._ends.append(end)

    def is_watched(self, attempt: Attempt) -> bool:
        """Whether users watch an attempt's output."""
        return attempt.id in self._watched

    def watch(self, attempt: Attempt, until: float) -> None:
        """Send an attempt's output as it grows, until `until` (monotonic)."""
        with self._lock:
            self._followers.setdefault(attempt.id, Follower(attempt))
            self._watched[attempt.id] = until

    def follower_of(self, attempt: Attempt) -> Follower:
        """Take the follower of an attempt's output, which is watched no more."""
        with self._lock:
            self._watched.pop(attempt.id, None)
            return self._followers.pop(attempt.id, None) or Follower(attempt)

    def forget(self, attempt: Id) -> None:
        with self._lock:
            self._watched.pop(attempt, None)
            self._followers.pop(attempt, None)

    def send_ends(self) -> AilurusError | None:
        """Send the ends of logs. Returns why no dispatcher took them instead of raising it: reports
        do not wait for logs."""
        while batch := self._next_ends():
            try:
                self._send([piece for _, piece in batch])
            except Refused as error:
                self._log.error("log_refused", what=str(error))
            except AilurusError as error:
                if self.refused_since is None:
                    self.refused_since = self._clock.monotonic()
                return error
            with self._lock:
                for end, _ in batch:
                    end.sent()
        self.refused_since = None
        return None

    def _next_ends(self) -> list[tuple[Rest, m.LogPiece]]:
        """The next piece of each log, as many as go together; forgets those that have none left."""
        batch: list[tuple[Rest, m.LogPiece]] = []
        size = 0
        with self._lock:
            for end in list(self._ends):
                piece = end.first()
                if piece is None:
                    end.close()
                    self._ends.remove(end)
                    continue
                if batch and (
                    size + len(piece.text) > MOST_CHARACTERS or len(batch) == MOST_PIECES
                ):
                    break
                batch.append((end, piece))
                size += len(piece.text)
        return batch

    def send_watched(self) -> None:
        """Send what has been written to the logs that users watch. Never raises: a live log is a
        service, and its end is sent in any case."""
        now = self._clock.monotonic()
        for attempt, until in list(self._watched.items()):
            follower = self._followers.get(attempt)
            if follower is not None and (pieces := follower.news()):
                try:
                    self._send(pieces)
                except AilurusError as error:
                    self._log.info("log_not_sent", what=str(error))
            if follower is None or now > until:
                with self._lock:
                    self._watched.pop(attempt, None)

    def _send(self, pieces: Sequence[m.LogPiece]) -> None:
        self._link.call("log_pieces", m.LogPieces(pieces=tuple(pieces)), answer=m.Done)
