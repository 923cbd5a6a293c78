"""Connections for long transfers, which check all the time whether to go on.

A read or write that waits for the other side checks every half second, and one that makes progress,
be it a byte at a time, checks at every step. So neither a silent nor a slow server keeps a transfer
beyond its limit. A large body is sent only when its receiver wants it: a server that redirects says
so before the file has gone over the network twice.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from ailurus.wire.connection import pools

STEP_S = 0.5
# How long a server has to refuse the body; many answer nothing.
EXPECT_S = 1.0
# Bytes.
LONGEST_HEAD = 64 * 1024
_check: ContextVar[Callable[[], None]] = ContextVar("check", default=lambda: None)


@contextmanager
def watching(check: Callable[[], None]) -> Iterator[None]:
    """Let every wait on a connection of this thread call `check`; what it raises ends the
    transfer."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


class OfferedBody:
    """A request's body that is sent if it is wanted."""

    wanted = True

    def __iter__(self) -> Iterator[bytes]:
        return (piece for piece in self.pieces() if self.wanted)

    def pieces(self) -> Iterator[bytes]:
        raise NotImplementedError


class _Watched:
    """A connected socket, with what `http.client` and urllib3 use of one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._silence_s: float | None = sock.gettimeout()
        # Bytes that were read here and not yet by the reader of the answer.
        self._ahead = b""
        self._users = 1
        sock.settimeout(STEP_S)

    def settimeout(self, seconds: float | None) -> None:
        """How long the other side may be silent."""
        self._silence_s = seconds

    def gettimeout(self) -> float | None:
        return self._silence_s

    def fileno(self) -> int:
        return self._sock.fileno()

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._patiently(self._sock.send, left) :]

    def readinto(self, buffer: memoryview) -> int:
        if self._ahead:
            n = min(len(buffer), len(self._ahead))
            buffer[:n], self._ahead = self._ahead[:n], self._ahead[n:]
            return n
        return self._patiently(self._sock.recv_into, buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        self._users += 1
        return io.BufferedReader(_Raw(self))

    def close(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._sock.close()

    def wants_body(self) -> bool:
        """Whether the server, which was asked, has not refused the body within `EXPECT_S`."""
        deadline = time.monotonic() + EXPECT_S
        while (left := deadline - time.monotonic()) > 0 and len(self._ahead) < LONGEST_HEAD:
            _check.get()()
            self._sock.settimeout(min(left, STEP_S))
            try:
                got = self._sock.recv(4096)
            except TimeoutError:
                continue
            finally:
                self._sock.settimeout(STEP_S)
            self._ahead += got
            head, ended, rest = self._ahead.partition(b"\r\n\r\n")
            if ended and head.split(b" ", 2)[1:2] == [b"100"]:
                self._ahead = rest
                return True
            if ended or not got:
                return False
        return True

    def _patiently(self, act: Callable[[Any], int], data: memoryview) -> int:
        began = time.monotonic()
        while True:
            _check.get()()
            try:
                return act(data)
            except TimeoutError:
                silent_s = time.monotonic() - began
                if self._silence_s is not None and silent_s > self._silence_s:
                    raise TimeoutError(f"silent for {silent_s:.0f} s") from None


class _Raw(io.RawIOBase):
    def __init__(self, watched: _Watched) -> None:
        self._watched = watched

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._watched.readinto(memoryview(buffer))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._watched.close()


class _Http(HTTPConnection):
    _offer: OfferedBody | None = None
    sock: Any

    def connect(self) -> None:
        super().connect()
        self.sock = _Watched(self.sock)

    def request(self, method: str, url: str, body: Any = None, *more: Any, **options: Any) -> None:
        headers = options.get("headers") or (more[0] if more else {})
        asks = isinstance(body, OfferedBody) and "Expect" in headers
        self._offer = body if asks else None
        super().request(method, url, body, *more, **options)

    def endheaders(self, *more: Any, **options: Any) -> None:
        super().endheaders(*more, **options)
        if self._offer is not None:
            self._offer.wanted = self.sock.wants_body()


class _Https(_Http, HTTPSConnection):
    pass


POOLS = pools(_Http, _Https)
