"""The guardian: a small process that starts all payloads, and kills all of them if the pilot dies.

It is forked from the pilot before anything else, is alone in its session, and is the subreaper of
whatever it starts: a payload's grandchild that calls setsid or forks twice becomes its child, so
nothing gets away. It ends when its socket does, which is what a pilot's death looks like, `kill -9`
included.

Told to enter the namespaces of a process, it forks another guardian there (`rooms.py`), which has a
socket of its own to the pilot and dies with it, or with this one.

Children are reaped with wait4(-1): a subreaper gets orphans that it never started, of which no
pidfd could tell it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import select
import signal
import socket
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from pilot.ports import ProcessEnd
from pilot.process import cgroup
from pilot.process.frames import frame, frames, receive
from pilot.process.kill import (
    Proc,
    become_subreaper,
    become_undumpable,
    kill_descendants,
    signal_tree,
)
from pilot.process.orders import Cgroups, Enter, Message, Spawn, Started, Until, boot_s
from pilot.process.starting import IGNORED, NotPrepared, ProgramStarter
from pilot.process.stopped import Stopped
from pilot.process.strangers import Strangers
from pilot.workdir import remove_tree

if TYPE_CHECKING:
    import resource

# How long an ending waits for what its payload left behind to be gone.
LEFTOVERS_S = 5.0
# After an ending: the kernel's list of children may miss one that just came.
AGAIN_S = 1.0
# Until strangers are looked at again.
SOON_S = 0.05
# Between two looks at a lease: of a machine that was suspended, time has gone on.
LEASE_LOOK_S = 1.0
# How long the news of a start may wait for an end to go with. An image's mount needs it.
NEWS_S = 0.005
# Of what tells of a signal; a second one of its kind waits for nobody.
BELL_BYTES = 128
_CHILD = re.compile(r'"child-pid": *(\d+)')
_messages = msgspec.msgpack.Decoder(list[Message])


def start() -> tuple[socket.socket, int]:
    """Fork the guardian; return the pilot's end of its socket and its process id."""
    # Both need it, and share the memory of what is loaded before.
    import ctypes  # noqa: F401

    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid:
        theirs.close()
        return ours, pid
    try:
        _be_guardian(theirs)
    finally:
        # Whatever happens, this process must not go on as a second pilot.
        os._exit(70)


def _be_guardian(link: socket.socket) -> NoReturn:
    # Of no use to the pilot.
    import resource

    from pilot.process import rooms  # noqa: F401 - loaded before there is a room to make

    # A collection would write to what is shared with the pilot, and so copy it.
    gc.freeze()
    os.setsid()
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    close_all_but([link.fileno()])
    os.chdir("/")
    os.umask(0o022)
    become_subreaper()
    # When memory runs out payloads go first.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("300", encoding="utf-8")
    # Last, for its files in /proc are root's afterwards.
    become_undumpable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    proc = Proc()
    Guardian(link, proc, Strangers(proc)).serve()
    os._exit(0)


def close_all_but(kept: Collection[int]) -> None:
    """Close what this process has inherited, beside 0 to 2 and `kept`."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


def deaths() -> int:
    """A descriptor that can be read when a child has ended: a handler would cost more."""
    import ctypes

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    # A sigset_t.
    mask = (ctypes.c_uint64 * 16)(1 << signal.SIGCHLD - 1)
    fd = ctypes.CDLL(None, use_errno=True).signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "signalfd failed")
    return int(fd)


class Guardian:
    """The loop of a guardian's process."""

    def __init__(
        self,
        link: socket.socket,
        proc: Proc,
        strangers: Strangers,
        stopped: Stopped | None = None,
    ) -> None:
        """`stopped`: of one in a room, whose programs may stop each other."""
        self._link, self._proc, self._strangers = link, proc, strangers
        self._stopped = stopped
        self._waits_for = os.WNOHANG
        if stopped is not None:
            self._waits_for |= os.WUNTRACED | os.WCONTINUED
        self._starter = ProgramStarter()
        # What runs, by process id.
        self._running: dict[int, Spawn] = {}
        # Process ids by key.
        self._pids: dict[int, int] = {}
        # By process id: where its status can be read.
        self._status: dict[int, int] = {}
        # By key, until when they wait for their leftovers to be gone.
        self._ended: dict[int, tuple[float, ProcessEnd]] = {}
        # Process ids that runtimes started in sandboxes → key.
        self._inner: dict[int, int] = {}
        self._answers: list[Started | ProcessEnd] = []
        # Sent with the next answer, or soon.
        self._started: list[Started | ProcessEnd] = []
        # What the socket has not taken yet.
        self._out = bytearray()
        self._again_at = 0.0
        # An agent's lease, and what is its.
        self._until: Until | None = None
        self._cgroups: Cgroups | None = None
        # Descriptors that came, for orders in the same order.
        self._fds: list[int] = []

    def serve(self) -> None:
        bell = deaths()
        poll = select.epoll()
        poll.register(self._link, select.EPOLLIN)
        poll.register(bell, select.EPOLLIN)
        buffer, full = bytearray(), False
        while True:
            events = poll.poll(self._patience())
            rung = False
            for fd, event in events:
                if fd == bell:
                    os.read(bell, BELL_BYTES)
                    rung = True
                    continue
                if event == select.EPOLLOUT:
                    continue
                try:
                    data, fds = receive(self._link)
                except OSError:
                    data, fds = b"", []
                self._fds += fds
                if not data:
                    self._end()
                    return
                buffer += data
                for body in frames(buffer):
                    for message in _messages.decode(body):
                        self._do(message)
                    self._starter.rest()
            if self._until is not None and boot_s() >= self._until.at:
                self._end()
                return
            if rung or not events or 0 < self._again_at <= time.monotonic():
                self._reap()
            if self._stopped is not None and self._stopped.left_s() <= 0:
                self._stopped.turn(self._running)
            if self._answers or (self._started and not events):
                self._out += frame(self._started + self._answers)
                self._answers, self._started = [], []
            if not self._tell():
                self._end()
                return
            if bool(self._out) != full:
                full = not full
                poll.modify(self._link, select.EPOLLIN | (select.EPOLLOUT if full else 0))

    def _tell(self) -> bool:
        """Send what waits, as far as the socket takes it: who reads may be sending, too, and is to
        be heard. False: the pilot is gone."""
        try:
            while self._out:
                del self._out[: self._link.send(self._out, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def _patience(self) -> float:
        """How long to wait for something to happen."""
        if self._started:
            return NEWS_S
        left = self._again_at - time.monotonic() if self._again_at else float("inf")
        if self._stopped is not None:
            left = min(left, self._stopped.left_s())
        if self._until is not None:
            left = min(left, self._until.at - boot_s(), LEASE_LOOK_S)
        return -1 if left == float("inf") else max(0.0, left)

    def _do(self, message: Message) -> None:
        if isinstance(message, Until):
            self._until = message
        elif isinstance(message, Cgroups):
            self._cgroups = message
        elif isinstance(message, Spawn | Enter):
            try:
                pid = self._begin(message)
            except (NotPrepared, OSError, ValueError) as error:
                number = getattr(error, "errno", None) or errno.EINVAL
                self._answers.append(
                    ProcessEnd(
                        key=message.key,
                        errno=number,
                        at=time.monotonic(),
                        before=isinstance(error, NotPrepared),
                    )
                )
                return
            self._pids[message.key] = pid
            # Somebody may wait for it.
            told = self._answers if isinstance(message, Enter) or message.tell else self._started
            told.append(Started(message.key, pid))
        elif (pid := self._pids.get(message.key, 0)) and pid in self._running:
            if message.number == signal.SIGKILL:
                # Its leftovers are strangers then, and go too.
                os.kill(pid, signal.SIGKILL)
            else:
                signal_tree(pid, message.number, self._running[pid].depth, self._proc)

    def _begin(self, order: Spawn | Enter) -> int:
        """Start a program or a guardian elsewhere. Raises as `ProgramStarter.start`."""
        if isinstance(order, Enter):
            self._starter.rest()
            pid = self._enter(order)
            self._running[pid] = Spawn(order.key, [], {}, "/", "", "", [], 0)
            return pid
        # First: it is this program's, whatever fails.
        inherited = self._taken(1)[0] if order.socket else -1
        cgroup = self._taken(2) if order.cgroup else ()
        pid, status = self._starter.start(order, inherited, cgroup)
        if status:
            self._status[pid] = status
        order.arguments = order.filter = b""
        self._running[pid] = order
        return pid

    def _enter(self, order: Enter) -> int:
        fds = self._taken(1 + order.namespaces + order.reapers)
        try:
            if pid := os.fork():
                return pid
            try:
                self._be_elsewhere(order, fds)
            except OSError as error:
                os._exit(error.errno or errno.EINVAL)
            finally:
                # Whatever happens, this process must not go on as a second guardian here.
                os._exit(70)
        finally:
            for fd in fds:
                os.close(fd)

    def _be_elsewhere(self, order: Enter, fds: list[int]) -> NoReturn:
        link = socket.socket(fileno=fds[0])
        close_all_but([*fds, self._proc.fileno()])
        namespaces, reapers = fds[1 : 1 + order.namespaces], fds[1 + order.namespaces :]
        strangers = Strangers(self._proc, reapers, order.spared)
        become_subreaper()
        from pilot.process import rooms

        lacks = rooms.enter(order, namespaces)
        link.sendall(frame([Started(0, os.getpid(), lacks)]))
        Guardian(link, self._proc, strangers, Stopped(self._proc)).serve()
        os._exit(0)

    def _taken(self, count: int) -> list[int]:
        """Descriptors that came with an order. Raises NotPrepared."""
        if len(self._fds) < count:
            # The kernel drops what exceeds the limit of open files.
            raise NotPrepared(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        taken, self._fds = self._fds[:count], self._fds[count:]
        return taken

    def _status_text(self, pid: int) -> str:
        """What an ended program wrote to its status channel."""
        if (fd := self._status.pop(pid, None)) is None:
            return ""
        # Another process that has the writer is not waited for.
        os.set_blocking(fd, False)
        try:
            return os.read(fd, 1 << 16).decode("utf-8", "replace")
        except OSError:
            return ""
        finally:
            os.close(fd)

    def _reap(self) -> None:
        """Collect all that ended, kill what belongs to no running payload, then report the ends."""
        usages: dict[int, resource.struct_rusage] = {}
        while True:
            try:
                pid, status, used = os.wait4(-1, self._waits_for)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if self._stopped is not None and self._stopped.note(pid, status):
                continue
            self._strangers.forget(pid)
            usages[pid] = used
            if (order := self._running.pop(pid, None)) is not None:
                self._pids.pop(order.key, None)
                now = time.monotonic()
                text = self._status_text(pid)
                ended = ProcessEnd(
                    key=order.key,
                    exit_code=os.waitstatus_to_exitcode(status),
                    cpu_s=used.ru_utime + used.ru_stime,
                    max_rss_kb=used.ru_maxrss,
                    at=now,
                    status=text,
                )
                self._ended[order.key] = (now + LEFTOVERS_S, ended)
                self._again_at = now + AGAIN_S
                if text and (inner := _CHILD.search(text)):
                    self._inner[int(inner[1])] = order.key
        for pid in self._inner.keys() & usages.keys():
            self._add(self._inner.pop(pid), usages[pid])
        clean = self._strangers.sweep(self._running, self._inner)
        now = time.monotonic()
        for key, (deadline, ended) in list(self._ended.items()):
            if clean or now > deadline:
                self._answers.append(ended)
                del self._ended[key]
        if not self._ended:
            self._inner.clear()
        if not clean:
            self._again_at = now + SOON_S
        elif now >= self._again_at:
            self._again_at = 0.0

    def _add(self, key: int, used: resource.struct_rusage) -> None:
        """A runtime does not wait for what it started, so the payload's usage is not in its own;
        and what it has of memory is its own, and ours before it became that program."""
        if (found := self._ended.get(key)) is None:
            return
        deadline, ended = found
        cpu_s = ended.cpu_s + used.ru_utime + used.ru_stime
        ended = msgspec.structs.replace(ended, cpu_s=cpu_s, max_rss_kb=used.ru_maxrss)
        self._ended[key] = (deadline, ended)

    def _end(self) -> None:
        """The pilot is gone: kill everything below, until there is nothing."""
        kill_descendants(os.getpid(), self._proc)
        if self._cgroups is not None:
            cgroup.leave_nothing(Path(self._cgroups.directory), v2=self._cgroups.v2)
        if self._until is not None:
            remove_tree(Path(self._until.directory))
