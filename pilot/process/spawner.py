"""The pilot's end of the guardian's socket."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from pilot.blame import GUARDIAN_DIED
from pilot.ports import ProcessEnd, ProcessSpec
from pilot.process import frames, guardian, kill
from pilot.process.guardian import Answer, Signal, Spawn, Started

_answers = msgspec.msgpack.Decoder(list[Answer])


class GuardedSpawner:
    """Starts processes through the guardian. Any thread may ask; `listen` has one of its own."""

    def __init__(self, link: socket.socket, guardian_pid: int) -> None:
        self.guardian_pid = guardian_pid
        self._link = link
        self._buffer = bytearray()
        # For the sending side.
        self._lock = threading.Lock()
        self._keys = itertools.count(1)
        self._waiting: dict[int, Callable[[ProcessEnd], None]] = {}
        self._pids: dict[int, int] = {}
        self._lost = False

    def spawn(self, order: ProcessSpec, done: Callable[[ProcessEnd], None]) -> int:
        return self.spawn_all([(order, done)])[0]

    def spawn_all(
        self, orders: Sequence[tuple[ProcessSpec, Callable[[ProcessEnd], None]]]
    ) -> list[int]:
        """Start many with one message."""
        messages: list[Spawn | Signal] = []
        for order, done in orders:
            key = next(self._keys)
            self._waiting[key] = done
            messages.append(
                Spawn(
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
                )
            )
        keys = [message.key for message in messages]
        if not self._send(messages, [order.socket for order, _ in orders if order.socket >= 0]):
            for key in keys:
                self._finish(ProcessEnd(key=key, errno=GUARDIAN_DIED, at=time.monotonic()))
        return keys

    def signal(self, key: int, number: int) -> None:
        self._send([Signal(key, number)])

    def pid(self, key: int) -> int | None:
        return self._pids.get(key)

    def listen(self, on_loss: Callable[[], None]) -> None:
        """Hand out answers until the guardian is gone; `on_loss` then, unless we closed."""
        try:
            while self.turn():
                pass
        except Exception:  # noqa: BLE001 - a guardian that sends nonsense is as good as dead
            # Late, or the guardian would have it in its memory.
            from ailurus.logs import Log

            Log("pilot.process.spawner").error("guardian_not_understood", trace=True)
        if not self._lost:
            self._lost = True
            with contextlib.suppress(OSError):
                # One that still lives ends by this.
                self._link.shutdown(socket.SHUT_RDWR)
            # Its children are ours now: none may outlive the only process that could stop them.
            kill.kill_descendants(os.getpid())
            on_loss()
            for key in list(self._waiting):
                self._finish(ProcessEnd(key=key, errno=GUARDIAN_DIED, at=time.monotonic()))

    def turn(self, timeout_s: float | None = None) -> bool:
        """Wait for one message and hand its answers out; False: the guardian is gone."""
        if timeout_s is not None and not select.select([self._link], [], [], timeout_s)[0]:
            return True
        try:
            data = self._link.recv(1 << 18)
        except OSError:
            data = b""
        self._buffer += data
        for body in frames.frames(self._buffer):
            for answer in _answers.decode(body):
                if isinstance(answer, Started):
                    self._pids[answer.key] = answer.pid
                else:
                    self._finish(answer)
        return bool(data)

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

    def _finish(self, ended: ProcessEnd) -> None:
        self._pids.pop(ended.key, None)
        if (done := self._waiting.pop(ended.key, None)) is not None:
            done(ended)

    def _send(self, messages: list[Spawn | Signal], sockets: Sequence[int] = ()) -> bool:
        with self._lock:
            try:
                frames.send(self._link, frames.frame(messages), sockets)
            except OSError:
                return False
        return True


def start() -> GuardedSpawner:
    """Fork the guardian and become the reaper of its children should it die before us."""
    link, pid = guardian.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    kill.become_subreaper()
    return GuardedSpawner(link, pid)
