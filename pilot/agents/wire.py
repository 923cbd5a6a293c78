"""A connection of pilot and agent once both have proved themselves: messages in and out."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pilot.agents.link import Session, body_of

MOST_WAITING = 128 << 20
"""Bytes that may wait for a peer which takes none; then the connection is given up."""
_READ = 1 << 16
_UNSENT, _UNREAD = 128 << 10, 512 << 10
"""Bytes that the kernel holds at either end: what overtakes others here waits behind them there."""
_TCP_NOTSENT_LOWAT = 25


class Wire:
    """Any thread may send. One loop receives, and flushes when the socket takes more.

    Beats overtake what else waits: a payload's long words, or its output, must not end a lease."""

    def __init__(self, link: socket.socket, session: Session, wake: Callable[[], None]) -> None:
        """`wake`: lets the loop look again at `waiting`."""
        link.setblocking(False)
        with contextlib.suppress(OSError):
            link.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD)
        self.link = link
        self._session, self._wake = session, wake
        self._lock = threading.Lock()
        # The rest of a frame, and bodies of those that come after it.
        self._out = bytearray()
        self._beats, self._others = deque[bytes](), deque[bytes]()
        self._size = 0
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether something waits for the socket to take more."""
        return bool(self._out or self._beats or self._others)

    @property
    def backlog(self) -> int:
        """How many bytes wait for it; none once it is closed."""
        return len(self._out) + self._size

    def send(self, *messages: Any) -> None:
        """Send messages in one frame. One that cannot be sent is lost, with the connection: the
        loop finds that out. Raises ValueError for more than a frame has."""
        self._send(body_of(messages), self._others)

    def beat(self, message: Any) -> None:
        """Send a message before all that waits."""
        self._send(body_of((message,)), self._beats)

    def _send(self, body: bytes, line: deque[bytes]) -> None:
        with self._lock:
            if self._closed:
                return
            if self.waiting:
                line.append(body)
                self._size += len(body)
            else:
                data = self._session.frame(body)
                try:
                    sent = self.link.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    return
                if sent == len(data):
                    return
                self._out += data[sent:]
            full = self.backlog > MOST_WAITING
        if full:
            self.shut()
        self._wake()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it. Raises OSError."""
        with self._lock:
            while self.waiting:
                if not self._out:
                    body = (self._beats or self._others).popleft()
                    self._size -= len(body)
                    self._out += self._session.frame(body)
                try:
                    sent = self.link.send(memoryview(self._out)[:_READ])
                except BlockingIOError:
                    return
                del self._out[:sent]

    def receive(self) -> list[bytes] | None:
        """What has come, as bodies of frames; None: the other end is gone. Raises OSError, and
        Stranger for what it did not say."""
        try:
            data = self.link.recv(_READ)
        except BlockingIOError:
            return []
        return self._session.open(data) if data else None

    def shut(self) -> None:
        """End the connection; the loop finds it ended."""
        with contextlib.suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._out.clear()
            self._beats.clear()
            self._others.clear()
            self._size = 0
            self.link.close()
