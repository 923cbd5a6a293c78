"""Doors: this node's end of `pilot-rsh`, by which a payload starts processes on its other nodes.

    DIRECTORY/door         FIFO: each line names a request
              NAME/   a request's directory, made by pilot-rsh
                    command    its first line is the node, the rest what a shell there runs
                    out err    FIFOs: we write what the command writes
                    answer     FIFO: we write `yes` or `no WHY`; at the end the exit code, and why
                    control    FIFO: pilot-rsh writes names of signals; it is open while it lives

A payload made all of this and may have exchanged any of it, so nothing is followed, nothing that is
not of the expected kind is opened, no read or write waits, and all that is kept has a bound. What a
payload breaks is its own request. One thread serves the doors of all payloads of a node.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ailurus.beneath import DIRECTORY
from ailurus.loops import Loop, Loops
from ailurus.protocol.program import LONGEST_WORD
from pilot.rsh.exchange import Asked, Gone, Output, Said, Signalled, Taken, Told

MOST_REQUESTS = 500
"""Of one payload and node at once."""
DESCRIPTORS, SHARE, ENOUGH = 5, 2, 1 << 14
"""How many each holds; what part of the process's all may hold, and one payload half of that; how many
the process should have."""
REST_S = 0.05
"""How long a door that keeps us busy is not looked at."""
SIGNALS_AT_ONCE, SIGNAL_S = 200, 0.005
"""Of one door: so many signals, and then one each so many seconds. A guardian looks through all that a
command has started for each, and serves other payloads, too. So of names of which no request comes."""
CLOSED_S = 10.0
# Bytes taken in one turn, and from a door: a payload that writes without end gets no more of this
# thread.
_PIECE, _NAMES = 4096, 512
_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
_SIGNALS = {
    name.encode(): int(signal.Signals[f"SIG{name}"]) for name in ("TERM", "INT", "HUP", "KILL")
}
_PARTS = ("command", "out", "err", "answer", "control")


Tell = Callable[[Said], None]
"""Called from the thread of the doors, which it must not hold up."""


class Doors:
    """The doors of all payloads of this node."""

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._poll = select.epoll()
        self._lock = threading.Lock()
        # What other threads want done in ours.
        self._wanted: deque[Callable[[], None]] = deque()
        self._bell, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # What to call when a descriptor is ready, and for what.
        self._ready: dict[int, tuple[int, Callable[[], None]]] = {}
        self._resting: list[int] = []
        self._rest_until = 0.0
        self._serving = False
        # Requests of all doors: how many there are, and may be.
        self.requests = self.most_requests = 0
        self.watch(self._bell, select.EPOLLIN, self._rung)

    def open(self, directory: Path, tell: Tell) -> Door:
        """A door in `directory`, which is made, and which one payload sees. Raises OSError."""
        door = Door(self, directory, tell)
        with self._lock:
            if not self._serving:
                # Most pilots never have a payload of several nodes.
                self.most_requests = _descriptors() // SHARE // DESCRIPTORS
                self._loops.thread("doors", self._serve)
                self._serving = True
        self.soon(door.begin)
        return door

    def check(self, count: int) -> None:
        """Raise ValueError if a door that has `count` requests may have no more."""
        if count >= min(MOST_REQUESTS, self.most_requests // 2):
            raise ValueError(f"{count} commands run from this node already")
        if self.requests >= self.most_requests:
            raise ValueError("this node has no descriptors left for another command")

    def soon(self, task: Callable[[], None]) -> None:
        """Have something done by the doors' thread."""
        self._wanted.append(task)
        with contextlib.suppress(BlockingIOError):
            os.write(self._ring, b"!")

    def watch(self, fd: int, events: int, ready: Callable[[], None]) -> None:
        self._ready[fd] = (events, ready)
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        if self._ready.pop(fd, None) is not None and fd not in self._resting:
            self._poll.unregister(fd)

    def rest(self, fd: int) -> None:
        """Look away from a descriptor that keeps us busy, for a moment."""
        if fd in self._ready and fd not in self._resting:
            self._poll.unregister(fd)
            if not self._resting:
                self._rest_until = time.monotonic() + REST_S
            self._resting.append(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor, watched or not."""
        self.unwatch(fd)
        if fd in self._resting:
            self._resting.remove(fd)
        os.close(fd)

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 65536)
        while self._wanted:
            self._wanted.popleft()()

    def _serve(self, loop: Loop) -> None:
        while True:
            loop.turned(None)
            left_s = max(0.0, self._rest_until - time.monotonic()) if self._resting else -1
            for fd, _ in self._poll.poll(left_s):
                # One of the same turn may have closed it.
                if (found := self._ready.get(fd)) is not None:
                    found[1]()
            # By the clock: others may be ready all the time.
            if self._resting and time.monotonic() >= self._rest_until:
                resting, self._resting = self._resting, []
                for fd in resting:
                    self._poll.register(fd, self._ready[fd][0])


class Door:
    """The door of one payload on one node."""

    def __init__(self, doors: Doors, directory: Path, tell: Tell) -> None:
        self._doors, self._tell = doors, tell
        directory.mkdir(mode=0o700, parents=True)
        self._directory = os.open(directory, DIRECTORY)
        os.mkfifo("door", 0o600, dir_fd=self._directory)
        self._door = _fifo("door", self._directory, os.O_RDWR)
        self._buffer = b""
        self._requests: dict[int, _Request] = {}
        self._count = 0
        self._signals, self._refusals = _Allowance(), _Allowance()
        self._closed = False

    def begin(self) -> None:
        if not self._closed:
            self._doors.watch(self._door, select.EPOLLIN, self._knocked)

    def answer(self, told: Told) -> None:
        """Pass on what a request's command wrote, or its end. What there is no request for any more
        is dropped."""
        self._doors.soon(lambda: self._answer(told))

    def close(self) -> None:
        """Serve this payload no more: it has ended. What it made is left to whoever removes it."""
        over = threading.Event()

        def closed() -> None:
            self._closed = True
            self._doors.requests -= len(self._requests)
            for request in self._requests.values():
                request.close()
            self._requests.clear()
            self._doors.close(self._door)
            os.close(self._directory)
            over.set()

        self._doors.soon(closed)
        over.wait(CLOSED_S)

    def _answer(self, told: Told) -> None:
        if (request := self._requests.get(told.request)) is None:
            return
        if isinstance(told, Output):
            request.write(told.stream, told.data)
        else:
            request.finish(told.exit_code, told.why)

    def _knocked(self) -> None:
        if self._refusals.spent:
            # What it says stays where it is.
            self._doors.rest(self._door)
            return
        data = _read(self._door, _NAMES)
        *lines, rest = (self._buffer + data).split(b"\n")
        # No name is so long.
        self._buffer = rest[-100:]
        if len(data) == _NAMES:
            self._doors.rest(self._door)
        missing = {b""}
        for line in lines:
            if line in missing or not _NAME.fullmatch(line):
                continue
            try:
                self._open(line.decode())
            except (OSError, ValueError):
                # It breaks its own request, whatever it has made there.
                missing.add(line)
                self._refusals.take()

    def _open(self, name: str) -> None:
        """Take a request, or say why not. Raises OSError or ValueError for one that cannot even be
        told."""
        here = os.open(name, DIRECTORY, dir_fd=self._directory)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, here)
            answer = _fifo("answer", here, os.O_WRONLY)
            with contextlib.ExitStack() as refused:
                refused.callback(os.close, answer)
                try:
                    self._doors.check(len(self._requests))
                    self._count += 1
                    request = _Request(
                        self._doors, here, answer, self._tell, self._count, self._signals
                    )
                except (OSError, ValueError) as error:
                    os.write(answer, f"no {error}\n".encode("utf-8", "replace"))
                    return
                refused.pop_all()
            undo.pop_all()
        self._requests[request.number] = request
        self._doors.requests += 1
        request.begin(self._over)

    def _over(self, number: int) -> None:
        self._doors.requests -= 1
        self._requests.pop(number).close()


class _Stream:
    """One of a request's outputs: what was sent and is not yet written."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pending: deque[bytes] = deque()
        self.watched = False
        self.broken = False


class _Allowance:
    """How much of what costs others something may be done by now."""

    def __init__(self) -> None:
        self._paid_until = 0.0

    @property
    def spent(self) -> bool:
        """Whether nothing is left of it."""
        return self._paid_until > time.monotonic()

    def take(self) -> None:
        """Do so once more."""
        earliest = time.monotonic() - SIGNALS_AT_ONCE * SIGNAL_S
        self._paid_until = max(self._paid_until, earliest) + SIGNAL_S


class _Request:
    """A command that a payload has asked for, from its door's side."""

    def __init__(
        self, doors: Doors, here: int, answer: int, tell: Tell, number: int, signals: _Allowance
    ) -> None:
        """`here`, its directory, and `answer` become the request's. `signals`: the door's. Raises
        OSError or ValueError, and then they do not."""
        self.number, self._signals = number, signals
        self._doors, self._here, self._answer, self._tell = doors, here, answer, tell
        self._asked = _asked(number, here)
        opened: list[int] = []
        try:
            for name, flags in (
                ("out", os.O_WRONLY),
                ("err", os.O_WRONLY),
                ("control", os.O_RDONLY),
            ):
                opened.append(_fifo(name, here, flags))
        except (OSError, ValueError):
            for fd in opened:
                os.close(fd)
            raise
        self._streams = {1: _Stream(opened[0]), 2: _Stream(opened[1])}
        self._control = opened[2]
        self._words = b""
        self._end = b""
        self._over: Callable[[int], None] = lambda _: None

    def begin(self, over: Callable[[int], None]) -> None:
        """Pass the command on. `over` is called when nothing is left to do."""
        self._over = over
        self._last_word(b"yes\n")
        self._tell(self._asked)
        self._doors.watch(self._control, select.EPOLLIN, self._controlled)
        # If its writer went before we opened it, no event comes.
        self._controlled()

    def write(self, number: int, data: bytes) -> None:
        if (stream := self._streams.get(number)) is not None:
            stream.pending.append(data)
            if not stream.watched:
                self._flush(number, stream)

    def finish(self, exit_code: int, why: str) -> None:
        line = f"{exit_code} {' '.join(why.split())}"
        self._end = line.encode("utf-8", "replace")[:1000].rstrip() + b"\n"
        self._end_if_written()

    def close(self) -> None:
        """Close all that is open, and remove what pilot-rsh made unless it has."""
        for fd in (self._answer, self._control, *(one.fd for one in self._streams.values())):
            self._doors.close(fd)
        os.close(self._here)

    def _controlled(self) -> None:
        if self._signals.spent:
            # What it says stays where it is.
            self._doors.rest(self._control)
            return
        self._signals.take()
        try:
            data = os.read(self._control, _PIECE)
        except BlockingIOError:
            return
        if not data:
            self._tell(Gone(self.number))
            for part in _PARTS:
                with contextlib.suppress(OSError):
                    os.unlink(part, dir_fd=self._here)
            self._over(self.number)
            return
        if len(data) == _PIECE:
            self._doors.rest(self._control)
        *words, rest = (self._words + data).split(b"\n")
        self._words = rest[-100:]
        # Nothing becomes of one that comes twice at once.
        for word in dict.fromkeys(words):
            if (number := _SIGNALS.get(word)) is not None:
                self._tell(Signalled(self.number, number))

    def _flush(self, number: int, stream: _Stream) -> None:
        """Write what the FIFO takes, and say how much that was."""
        taken = 0
        while stream.pending:
            data = stream.pending[0]
            try:
                # Nobody reads it any more, and that is no reason to hold the command up.
                written = len(data) if stream.broken else os.write(stream.fd, data)
            except BlockingIOError:
                break
            except OSError:
                stream.broken = True
                continue
            taken += written
            if written < len(data):
                stream.pending[0] = data[written:]
            else:
                stream.pending.popleft()
        if taken:
            self._tell(Taken(self.number, number, taken))
        if bool(stream.pending) != stream.watched:
            stream.watched = not stream.watched
            if stream.watched:
                self._doors.watch(stream.fd, select.EPOLLOUT, lambda: self._flush(number, stream))
            else:
                self._doors.unwatch(stream.fd)
        self._end_if_written()

    def _end_if_written(self) -> None:
        if self._end and not any(one.pending for one in self._streams.values()):
            # Before the streams end, after which pilot-rsh looks for it.
            self._last_word(self._end)
            self._end = b""
            self._over(self.number)

    def _last_word(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._answer, line)


def _descriptors() -> int:
    """How many this process may have; from now on more, if the system lets it. Payloads keep their
    limit: the guardian, which starts them, is another process by now."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = max(soft, min(hard, ENOUGH))
    resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    return more


def _read(fd: int, most: int) -> bytes:
    """What is there to read, up to so much."""
    try:
        return os.read(fd, most)
    except BlockingIOError:
        return b""


def _asked(number: int, here: int) -> Asked:
    """What a request's file says. Raises OSError or ValueError."""
    fd = _opened("command", here, os.O_RDONLY, stat.S_ISREG)
    with os.fdopen(fd, "rb") as file:
        text = file.read(2 * LONGEST_WORD)
    node, _, command = text.partition(b"\n")
    if len(command) > LONGEST_WORD or b"\0" in command:
        raise ValueError(
            f"no shell takes a command of more than {LONGEST_WORD} bytes, or with a NUL"
        )
    return Asked(number, node[:255].decode("utf-8", "replace"), command)


def _fifo(name: str, directory: int, flags: int) -> int:
    return _opened(name, directory, flags, stat.S_ISFIFO)


def _opened(name: str, directory: int, flags: int, is_kind: Callable[[int], bool]) -> int:
    """Open a name that a payload made, if it is of that kind. Raises OSError or ValueError.

    It is looked at before it is opened: to open a device may do something.
    """
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not is_kind(os.fstat(handle).st_mode):
            raise ValueError(f"{name} is of another kind")
        return os.open(f"/proc/self/fd/{handle}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(handle)
