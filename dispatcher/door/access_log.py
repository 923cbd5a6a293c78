"""What the door sees of every request: counted and timed by route, and a line in the access log.

It costs about a microsecond a request: plain dictionaries, which `/metrics` reads on request.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from bisect import bisect_left
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
FLUSH_S = 0.25
# Bytes of lines that are written at once.
LARGE = 64 * 1024
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
log = Log("access")


class Tally(Struct):
    """The requests of one route."""

    statuses: Counter[int]
    # Not cumulated; the last counts requests longer than all bounds.
    buckets: list[int]
    seconds: float = 0.0


class AccessEntry(Struct):
    """A line of the access log. No path and no query: a client may put a token there."""

    # RFC 3339, UTC.
    time: str
    status: int
    method: str
    # `panda` and `console` are each one.
    route: str
    ms: float
    # The trace id of the client's traceparent, else ours.
    request_id: str
    # Subject of the token; blank without one.
    caller: str
    # Its address.
    client: str


class AccessLog:
    """A file that gets a JSON line a request, a quarter of a second late. Raises AilurusError when
    it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self._encode = msgspec.json.Encoder().encode
        self._size = 0
        self._flushing: asyncio.TimerHandle | None = None
        self._file = self._opened()

    def write(self, entry: AccessEntry) -> None:
        """Keep a line; it is in the file soon."""
        line = self._encode(entry)
        self._lines.append(line)
        self._size += len(line)
        if self._size > LARGE:
            self.flush()
        elif self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write the gathered lines. A disk that is full costs these lines, not the service."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        lines, self._lines, self._size = self._lines, [], 0
        if not lines:
            return
        try:
            os.write(self._file, b"\n".join(lines) + b"\n")
        except OSError as error:
            log.warning("access_log_lost", lines=len(lines), reason=error.strerror)

    def reopen(self) -> None:
        """Go on in a new file, after the old one was moved away. Raises AilurusError."""
        self.flush()
        fresh = self._opened()
        os.close(self._file)
        self._file = fresh

    def close(self) -> None:
        self.flush()
        os.close(self._file)

    def _opened(self) -> int:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise AilurusError(
                f"cannot write the access log {self._path}: {error.strerror}",
                field="--access-log",
                remedy="name a file in a directory that this user may write to",
            ) from None


class Traffic:
    """All requests since the start."""

    def __init__(self, access: AccessLog | None = None) -> None:
        self.routes: dict[str, Tally] = {}
        self._access = access
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)
        self._second = (0, "")

    def name(self, headers: dict[bytes, bytes]) -> str:
        """The id of a request in logs and problems: its trace id, or one of ours."""
        given = headers.get(b"traceparent")
        if given is not None and (match := _TRACE.fullmatch(given)):
            return match[1].decode()
        return f"{self._prefix}{next(self._numbers):08x}"

    def note(
        self, scope: dict[str, Any], headers: dict[bytes, bytes], status: int, seconds: float
    ) -> None:
        """Count an answered request. Its route and caller are in its scope."""
        route = scope.get("route", "")
        tally = self.routes.get(route)
        if tally is None:
            tally = self.routes[route] = Tally(Counter(), [0] * (len(BOUNDS_S) + 1))
        tally.statuses[status] += 1
        tally.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        tally.seconds += seconds
        if self._access is not None:
            client = scope.get("client")
            self._access.write(
                AccessEntry(
                    self._stamp(),
                    status,
                    scope["method"],
                    route,
                    round(1000 * seconds, 3),
                    scope.get("request_id") or self.name(headers),
                    scope.get("caller", ""),
                    client[0] if client else "",
                )
            )

    def _stamp(self) -> str:
        now = time.time()
        whole = int(now)
        if self._second[0] != whole:
            self._second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
        return f"{self._second[1]}.{int(1000 * (now - whole)):03d}Z"
