"""Output of processes that goes to somebody who reads it, instead of a file.

The process writes to FIFOs, which the guardian opens as it would open files. They are read as far
as their reader gives credit: a reader that is slow makes the process wait, and costs no memory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ailurus.logs import Log
from ailurus.loops import Loop, Loops
from pilot.node_ports import WINDOW, Output

AFTER_S = 5.0
"""How long the end of a stream is waited for when the process has ended: another process, which is
not the payload's, may have it open."""
LAST_BYTES = 2 << 20
"""What a process may have left in its FIFOs: more than they hold. Whether its reader still takes
anything then does not matter: nobody may be left who does."""
_log = Log("pilot.node.streams")


class Channel:
    """The two streams of one process. Made by `Streams.open`."""

    def __init__(self, streams: Streams, number: int, directory: Path, output: Output) -> None:
        self._streams, self.output = streams, output
        self.credit = WINDOW
        self.ended_at: float | None = None
        self.then: Callable[[], None] = lambda: None
        self.paths = {stream: str(directory / f"{number}.{stream}") for stream in (1, 2)}
        self.readers: dict[int, int] = {}
        """Descriptor → stream."""
        self._writers: list[int] = []
        for stream, path in self.paths.items():
            os.mkfifo(path, 0o600)
            flags = os.O_NONBLOCK | os.O_CLOEXEC
            self.readers[os.open(path, os.O_RDONLY | flags)] = stream
            # Ours: without a writer there is an end before the process has begun.
            self._writers.append(os.open(path, os.O_WRONLY | flags))

    def give(self, count: int) -> None:
        """The reader takes `count` more bytes."""
        self._streams.do(lambda: self._given(count))

    def finish(self, then: Callable[[], None]) -> None:
        """The process has ended: call `then` after all that it wrote has been told."""
        self._streams.do(lambda: self._finish(then))

    def _given(self, count: int) -> None:
        self.credit += count
        self._streams.look(self)

    def _finish(self, then: Callable[[], None]) -> None:
        self.then, self.ended_at = then, time.monotonic()
        self.credit += LAST_BYTES
        for fd in self._writers:
            os.close(fd)
        self._writers = []
        for path in self.paths.values():
            with contextlib.suppress(OSError):
                Path(path).unlink()
        self._streams.look(self)


class Streams:
    """All channels of this process, and the thread that reads them, from the first one on."""

    def __init__(self, directory: Path, loops: Loops) -> None:
        """`directory`: made for the FIFOs, which no payload sees."""
        self._directory, self._loops = directory, loops
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._todo: deque[Callable[[], None]] = deque()
        self._bell = -1
        self._poll: select.epoll | None = None
        # By descriptor: those that are read now.
        self._reading: dict[int, Channel] = {}
        self._ending: list[Channel] = []

    def open(self, output: Output) -> Channel:
        """A channel for a process to come. Raises OSError."""
        with self._lock:
            if self._poll is None:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._poll = select.epoll()
                self._poll.register(self._bell, select.EPOLLIN)
                self._loops.thread("streams", self._run)
        channel = Channel(self, next(self._numbers), self._directory, output)
        self.do(lambda: self.look(channel))
        return channel

    def do(self, what: Callable[[], None]) -> None:
        """Have it done by the thread."""
        self._todo.append(what)
        os.eventfd_write(self._bell, 1)

    def _run(self, loop: Loop) -> None:
        while True:
            self._turn()
            loop.turned(None)

    def _turn(self) -> None:
        assert self._poll is not None  # noqa: S101 - the thread is begun after it
        for fd, _ in self._poll.poll(self._patience()):
            if fd == self._bell:
                os.eventfd_read(self._bell)
            elif (channel := self._reading.get(fd)) is not None:
                self._read(channel, fd)
        while self._todo:
            self._todo.popleft()()
        for channel in list(self._ending):
            if not channel.readers or self._late(channel):
                self._end(channel)

    def _patience(self) -> float:
        ends = [one.ended_at + AFTER_S for one in self._ending if one.ended_at is not None]
        return max(0.0, min(ends) - time.monotonic()) if ends else -1

    def _late(self, channel: Channel) -> bool:
        return channel.ended_at is not None and time.monotonic() >= channel.ended_at + AFTER_S

    def look(self, channel: Channel) -> None:
        """Read a channel, or do not, as it has credit. By the thread."""
        assert self._poll is not None  # noqa: S101 - as above
        for fd in channel.readers:
            if channel.credit > 0 and fd not in self._reading:
                self._reading[fd] = channel
                self._poll.register(fd, select.EPOLLIN)
            elif channel.credit <= 0 and self._reading.pop(fd, None) is not None:
                self._poll.unregister(fd)
        if channel.ended_at is not None and channel not in self._ending:
            self._ending.append(channel)

    def _read(self, channel: Channel, fd: int) -> None:
        try:
            data = os.read(fd, min(channel.credit, WINDOW))
        except BlockingIOError:
            return
        if not data:
            self._close(channel, fd)
            return
        channel.credit -= len(data)
        try:
            channel.output(channel.readers[fd], data)
        except Exception:  # noqa: BLE001 - it costs that output, not that of others
            _log.error("output_not_taken", trace=True)
        self.look(channel)

    def _close(self, channel: Channel, fd: int) -> None:
        if self._reading.pop(fd, None) is not None and self._poll is not None:
            self._poll.unregister(fd)
        del channel.readers[fd]
        os.close(fd)

    def _end(self, channel: Channel) -> None:
        self._ending.remove(channel)
        for fd in list(channel.readers):
            self._close(channel, fd)
        channel.then()
