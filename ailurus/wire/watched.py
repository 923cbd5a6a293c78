"""Connections for long transfers, which check all the time whether to go on.

A read or write that waits for the other side checks every half second, and one that makes progress,
be it a byte at a time, ten times a second. So neither a silent nor a slow server keeps a transfer
beyond its limit. A large body is sent only when its receiver wants it: a server that redirects says
so before the file has gone over the network twice.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException, RemoteDisconnected
from typing import Any

from urllib3 import BaseHTTPResponse, HTTPResponse
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)
from urllib3.exceptions import TimeoutError as Silent

from ailurus.wire.connection import Joining, pools
from ailurus.wire.opening import STEP_S, check, connected, strict, was_cut

# How often a transfer that makes progress is checked; TLS makes it in steps of 16 KiB.
CHECK_S = 0.1
# How long a server has to refuse the body; many answer nothing.
EXPECT_S = 1.0
# Bytes.
LONGEST_HEAD = 64 * 1024


def read_into(answer: BaseHTTPResponse, buffer: memoryview) -> int:
    """Read more of an answer's body, past urllib3's copies; the bytes that came, 0 at its end.
    Raises ProtocolError where it breaks off, TimeoutError of urllib3 where nothing comes."""
    body = answer._original_response  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        got: int = body.readinto(buffer)
    except TimeoutError as error:
        raise Silent(str(error)) from None
    except (OSError, HTTPException) as error:
        raise ProtocolError(str(error) or type(error).__name__) from None
    if not got and body.length:
        raise ProtocolError(f"{body.length} bytes are missing")
    return got


class OfferedBody:
    """A request's body that is sent if it is wanted."""

    wanted = True
    length: int
    """Bytes; as many come in one piece where they are few (`connection.LARGEST`)."""

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
        self._check_at = 0.0
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
            check()
            self._sock.settimeout(min(left, STEP_S))
            try:
                got = self._sock.recv(4096)
            except TimeoutError:
                continue
            except ssl.SSLError as error:
                if not was_cut(error):
                    raise
                return False
            finally:
                self._sock.settimeout(STEP_S)
            self._ahead += got
            while b"\r\n\r\n" in self._ahead:
                head, _, rest = self._ahead.partition(b"\r\n\r\n")
                status = re.match(rb"HTTP/1\.[0-9] (1[0-9][0-9])\b", head)
                if status is None or int(status[1]) == HTTPStatus.SWITCHING_PROTOCOLS:
                    return False
                self._ahead = rest
                if int(status[1]) == HTTPStatus.CONTINUE:
                    return True
            if not got:
                return False
        return True

    def _patiently(self, act: Callable[[Any], int], data: memoryview) -> int:
        began = now = time.monotonic()
        while True:
            if now >= self._check_at:
                check()
                self._check_at = now + CHECK_S
            try:
                return act(data)
            except ssl.SSLError as error:
                if not was_cut(error):
                    raise
                raise ConnectionResetError("the connection was cut") from None
            except TimeoutError:
                now = time.monotonic()
                silent_s = now - began
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


class Forgotten(ConnectionResetError):
    """The server had closed a kept connection when a request came by it, and has answered
    nothing."""


class _Http(Joining):
    _offer: OfferedBody | None = None
    # Whether it has brought an answer: the server may have closed it since.
    _kept = False
    sock: Any

    def connect(self) -> None:
        self._kept = False
        super().connect()
        self.sock = _Watched(self.sock)

    def _new_conn(self) -> socket.socket:
        try:
            return connected(self._dns_host, self.port, self.timeout, self.socket_options or ())
        except (socket.gaierror, UnicodeError) as error:
            why = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise NameResolutionError(self.host, self, why) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"{self.host}: {error}") from error
        except OSError as error:
            why_not = f"Failed to establish a new connection: {error}"
            raise NewConnectionError(self, why_not) from error

    def _tunnel(self) -> None:
        """Ask a proxy for the connection."""
        plain = self.sock
        self.sock = _Watched(plain)
        super()._tunnel()
        plain.settimeout(self.timeout)
        self.sock = plain

    def request(self, method: str, url: str, body: Any = None, *more: Any, **options: Any) -> None:
        headers = options.get("headers") or (more[0] if more else {})
        asks = isinstance(body, OfferedBody) and "Expect" in headers
        self._offer = body if asks else None
        with self._forgotten():
            super().request(method, url, body, *more, **options)

    @staticmethod
    def length_of(body: Any) -> int:
        return body.length if isinstance(body, OfferedBody) else 0

    # What urllib3 returns is no answer of the standard library.
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with self._forgotten():
            answer = super().getresponse()
        self._kept = True
        if self._offer is not None and not self._offer.wanted:
            # The server may wait for the body, and take the next request for it.
            self.close()
        return answer

    @contextmanager
    def _forgotten(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # urllib3 looks for an answer that came before.
            raise
        except (ConnectionError, RemoteDisconnected) as error:
            if self._kept:
                raise Forgotten(str(error)) from None
            raise

    def endheaders(self, *more: Any, **options: Any) -> None:
        super().endheaders(*more, **options)
        if self._offer is not None:
            self._offer.wanted = self.sock.wants_body()


class _Https(_Http, HTTPSConnection):
    def connect(self) -> None:
        assert self.ssl_context is not None  # noqa: S101 - who makes a pool of these gives one
        strict(self.ssl_context)
        super().connect()


POOLS = pools(_Http, _Https)
