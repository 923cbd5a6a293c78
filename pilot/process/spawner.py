"""The pilot's ends of its guardians' sockets."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pilot.blame import GUARDIAN_DIED
from pilot.ports import ProcessEnd, ProcessSpec
from pilot.process import frames, guardian, kill
from pilot.process.orders import Answer, Cgroups, Enter, Message, Signal, Spawn, Started, Until
from pilot.room_ports import Entrance

if TYPE_CHECKING:
    from ailurus.logs import Log

_answers = msgspec.msgpack.Decoder(list[Answer])
Done = Callable[[ProcessEnd], None]
ENTER_S = 20.0
"""How long a room may take: some mounts."""


class GuardianLink:
    """Starts processes through one guardian. Any thread may ask; one listens."""

    def __init__(self, link: socket.socket, keys: Iterator[int]) -> None:
        self._link, self._keys = link, keys
        self._buffer = bytearray()
        # For the sending side.
        self._lock = threading.Lock()
        self._waiting: dict[int, Done] = {}
        self._pids: dict[int, int] = {}
        self._lost = False

    def spawn_all(self, orders: Sequence[tuple[ProcessSpec, Done]]) -> list[int]:
        """Start many with one message, or few: descriptors go with it."""
        keys: list[int] = []
        messages: list[Message] = []
        fds: list[int] = []
        for order, done in orders:
            with_it = [order.socket, *order.cgroup] if order.socket >= 0 else [*order.cgroup]
            if len(fds) + len(with_it) > frames.MOST_FDS:
                self._order(messages, fds)
                messages, fds = [], []
            keys.append(key := next(self._keys))
            self._waiting[key] = done
            messages.append(_spawn(key, order))
            fds += with_it
        self._order(messages, fds)
        return keys

    def _order(self, messages: list[Message], fds: Sequence[int]) -> None:
        if not self._send(messages, fds):
            for message in messages:
                assert isinstance(message, Spawn)  # noqa: S101 - nothing else is made of orders
                self._finish(ProcessEnd(key=message.key, errno=GUARDIAN_DIED, at=time.monotonic()))

    def signal(self, key: int, number: int) -> None:
        self._send([Signal(key, number)])

    def until(self, at: float, directory: str) -> None:
        """Have all killed at that time (`boot_s`) unless it is put off before, and the directory
        removed when the guardian ends, however that comes about."""
        self._send([Until(at, directory)])

    def cgroups(self, directory: Path, *, v2: bool) -> None:
        """Have cgroups removed when the guardian ends, however that comes about."""
        self._send([Cgroups(str(directory), v2)])

    def pid(self, key: int) -> int | None:
        return self._pids.get(key)

    def has(self, key: int) -> bool:
        """Whether it was started here and has not ended."""
        return key in self._waiting

    def turn(self, timeout_s: float | None = None) -> bool:
        """Wait for one message and hand its answers out; False: the guardian is gone."""
        if timeout_s is not None:
            spoken = select.poll()
            spoken.register(self._link, select.POLLIN)
            if not spoken.poll(1000 * timeout_s):
                return True
        try:
            data = self._link.recv(frames.READ_BYTES)
        except OSError:
            data = b""
        self._buffer += data
        for body in frames.frames(self._buffer):
            for answer in _answers.decode(body):
                if isinstance(answer, Started):
                    self._pids[answer.key] = answer.pid
                    if answer.lacks:
                        _log().warning("room_made_in_part", guardian=answer.pid, why=answer.lacks)
                else:
                    self._finish(answer)
        return bool(data)

    def lose(self) -> None:
        """End what runs there as the guardian's death ends it."""
        self._lost = True
        with contextlib.suppress(OSError):
            # One that still lives ends by this.
            self._link.shutdown(socket.SHUT_RDWR)
        for key in list(self._waiting):
            self._finish(ProcessEnd(key=key, errno=GUARDIAN_DIED, at=time.monotonic()))

    def close(self) -> None:
        self._link.close()

    def _finish(self, ended: ProcessEnd) -> None:
        self._pids.pop(ended.key, None)
        if (done := self._waiting.pop(ended.key, None)) is not None:
            done(ended)

    def _send(self, messages: list[Message], fds: Sequence[int] = ()) -> bool:
        with self._lock:
            try:
                frames.send(self._link, frames.frame(messages), fds)
            except OSError:
                return False
        return True


def _log() -> Log:
    # Late, or the guardian would have it in its memory.
    from ailurus.logs import Log

    return Log("pilot.process.spawner")


def _spawn(key: int, order: ProcessSpec) -> Spawn:
    return Spawn(
        key,
        list(order.argv),
        dict(order.environment),
        order.directory,
        order.stdout,
        order.stderr,
        list(order.cpus),
        order.depth,
        order.status_fd,
        order.arguments,
        order.filter,
        order.socket >= 0,
        order.tell,
        bool(order.cgroup),
    )


class GuardedSpawner(GuardianLink):
    """The guardian of this pilot, and those that it has forked into rooms."""

    def __init__(self, link: socket.socket, guardian_pid: int) -> None:
        super().__init__(link, itertools.count(1))
        self.guardian_pid = guardian_pid
        self._rooms: dict[int, GuardianLink] = {}
        # Of rooms; any thread adds to it, and each removes itself.
        self._listeners: set[threading.Thread] = set()

    def spawn(self, order: ProcessSpec, done: Done) -> int:
        return self.spawn_all([(order, done)])[0]

    def spawn_all(self, orders: Sequence[tuple[ProcessSpec, Done]]) -> list[int]:
        """Start many, all in the same room, with one message."""
        if not orders or not (room := orders[0][0].room):
            return super().spawn_all(orders)
        if (link := self._rooms.get(room)) is not None:
            return link.spawn_all(orders)
        keys = [next(self._keys) for _ in orders]
        for key, (_, done) in zip(keys, orders, strict=True):
            done(ProcessEnd(key=key, errno=GUARDIAN_DIED, at=time.monotonic()))
        return keys

    def enter(self, entrance: Entrance, done: Done) -> int:
        """Make a room, and return its key when it is ready. `done` is called once it has ended.
        Raises OSError if it cannot be made."""
        ours, theirs = socket.socketpair()
        key = next(self._keys)
        link, known = GuardianLink(ours, self._keys), threading.Event()
        ends: list[ProcessEnd] = []

        def over(ended: ProcessEnd) -> None:
            ends.append(ended)
            self._rooms.pop(key, None)
            link.lose()
            if known.is_set():
                done(ended)
            known.set()

        self._waiting[key] = over
        self._rooms[key] = link
        order = Enter(
            key,
            len(entrance.namespaces),
            len(entrance.reapers),
            list(entrance.steps),
            list(entrance.spared),
            entrance.confined,
            entrance.filter,
        )
        with theirs:
            fds = [theirs.fileno(), *entrance.namespaces, *entrance.reapers]
            if not self._send([order], fds):
                raise ConnectionError(errno.EPIPE, "the guardian is gone")
        listener = threading.Thread(
            target=self._listen_to, args=(link, known), name="room", daemon=True
        )
        self._listeners.add(listener)
        listener.start()
        if not known.wait(ENTER_S):
            self.signal(key, signal.SIGKILL)
            raise TimeoutError(errno.ETIMEDOUT, f"no room after {ENTER_S:.0f} s")
        if ends:
            number = ends[0].errno or ends[0].exit_code
            raise OSError(number, os.strerror(number) if number > 0 else "it was killed")
        return key

    def signal(self, key: int, number: int) -> None:
        self._of(key)._send([Signal(key, number)])  # noqa: SLF001 - of the same kind

    def pid(self, key: int) -> int | None:
        return self._of(key)._pids.get(key)  # noqa: SLF001 - of the same kind

    def guardians(self) -> list[int]:
        """Process ids of the guardian and of those in rooms."""
        rooms = (self._pids.get(key) for key in list(self._rooms))
        return [self.guardian_pid, *(pid for pid in rooms if pid)]

    def _of(self, key: int) -> GuardianLink:
        return next((room for room in list(self._rooms.values()) if room.has(key)), self)

    def fileno(self) -> int:
        """What can be read when the guardian has said something."""
        return self._link.fileno()

    def listen(self, on_loss: Callable[[], None]) -> None:
        """Hand out answers until the guardian is gone; `on_loss` then, unless we closed."""
        while self.heard():
            pass
        self.gone(on_loss)

    def heard(self) -> bool:
        """As `turn`; a guardian that sends nonsense is as good as gone."""
        try:
            return self.turn()
        except Exception:  # noqa: BLE001 - whatever it is
            _log().error("guardian_not_understood", trace=True)
            return False

    def gone(self, on_loss: Callable[[], None]) -> None:
        """Go on without the guardian, which has ended; `on_loss` is called unless we closed."""
        if not self._lost:
            self._lost = True
            with contextlib.suppress(OSError):
                # One that still lives ends by this.
                self._link.shutdown(socket.SHUT_RDWR)
            # Its children are ours now: none may outlive the only process that could stop them.
            kill.kill_descendants(os.getpid())
            on_loss()
            self.lose()

    def close(self) -> None:
        """Let the guardian kill what is left and end, and wait for that."""
        self._lost = True
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            # One that somebody stopped would never end.
            os.kill(self.guardian_pid, signal.SIGCONT)
            os.waitpid(self.guardian_pid, 0)
        self._link.close()
        for listener in list(self._listeners):
            listener.join(ENTER_S)

    def _listen_to(self, room: GuardianLink, known: threading.Event) -> None:
        """Hand out a room's answers; its first is that it is ready. When it is gone its guardian's
        end is told by the pilot's, after all that it leaves has been killed."""
        try:
            while room.turn():
                known.set()
        except Exception:  # noqa: BLE001 - as of the guardian
            room.lose()
        room.close()
        self._listeners.discard(threading.current_thread())


def start() -> GuardedSpawner:
    """Fork the guardian and become the reaper of its children should it die before us."""
    link, pid = guardian.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    kill.become_subreaper()
    return GuardedSpawner(link, pid)
