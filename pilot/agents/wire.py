"""A connection of pilot and agent once both have proved themselves: messages in and out."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from pilot.agents.link import Session

MOST_WAITING = 128 << 20
"""Bytes that may wait for a peer which takes none; then the connection is given up."""
_READ = 1 << 16


class Wire:
    """Any thread may send. One loop receives, and flushes when the socket takes more."""

    def __init__(self, link: socket.socket, session: Session, wake: Callable[[], None]) -> None:
        """`wake`: lets the loop look again at `waiting`."""
        link.setblocking(False)
        self.link = link
        self._session, self._wake = session, wake
        self._lock = threading.Lock()
        self._out = bytearray()
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether something waits for the socket to take more."""
        return bool(self._out)

    @property
    def backlog(self) -> int:
        """How many bytes wait for it; none once it is closed."""
        return len(self._out)

    def send(self, *messages: Any) -> None:
        """Send messages in one frame. One that cannot be sent is lost, with the connection: the
        loop finds that out."""
        with self._lock:
            if self._closed:
                return
            data = self._session.seal(messages)
            if not self._out:
                try:
                    sent = self.link.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    return
                if sent == len(data):
                    return
                data = data[sent:]
            self._out += data
            full = len(self._out) > MOST_WAITING
        if full:
            self.shut()
        self._wake()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it. Raises OSError."""
        with self._lock:
            while self._out:
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
            self.link.close()
