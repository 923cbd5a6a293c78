"""The guardian: a small process that starts all payloads, and kills all of them if the pilot dies.

It is forked from the pilot before anything else, is alone in its session, and is the subreaper of
whatever it starts: a payload's grandchild that calls setsid or forks twice becomes its child, so
nothing gets away. It ends when its socket does, which is what a pilot's death looks like, `kill -9`
included.

    pilot → guardian   Spawn, Signal      guardian → pilot   Started, ProcessEnd
    what gathers goes in one frame, and that something started is no news worth a frame of its own;
    the frame of a program that gets a socket brings the descriptor

Children are reaped with wait4(-1): a subreaper gets orphans that it never started, of which no
pidfd could tell it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import re
import select
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from pilot.ports import ARGUMENTS, FILTER, ProcessEnd
from pilot.process.frames import SOCKET, frame, frames, receive
from pilot.process.kill import (
    become_subreaper,
    become_undumpable,
    kill_descendants,
    kill_tree,
    signal_tree,
)

if TYPE_CHECKING:
    import resource

# How long an ending waits for what its payload left behind to be gone.
LEFTOVERS_S = 5.0
# After an ending: the kernel's list of children may miss one that just came.
AGAIN_S = 1.0
# An exec is over by then, many times.
EXEC_S = 0.5
# Until strangers are looked at again.
SOON_S = 0.05
# How long the news of a start may wait for an end to go with. An image's mount needs it.
NEWS_S = 0.005
_NAMES = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "XCPU", "PIPE", "TSTP")
_CHILD = re.compile(r'"child-pid": *(\d+)')
# It ends when the pilot does, and by no signal.
_IGNORED = [signal.Signals[f"SIG{name}"] for name in _NAMES]
# What we ignore, or Python does, a payload does not.
_DEFAULT = [*_IGNORED, signal.SIGXFSZ]
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY


class Spawn(msgspec.Struct, array_like=True, tag=True):
    key: int
    argv: list[str]
    environment: dict[str, str]
    directory: str
    stdout: str
    stderr: str
    cpus: list[int]
    depth: int
    status_fd: int = 0
    arguments: bytes = b""
    filter: bytes = b""
    socket: bool = False


class NotPrepared(Exception):
    """What comes before a program could not be done; the errno."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.errno = error.errno or errno.EINVAL


class Signal(msgspec.Struct, array_like=True, tag=True):
    key: int
    number: int


class Started(msgspec.Struct, array_like=True, tag=True):
    key: int
    pid: int


Message = Spawn | Signal
Answer = Started | ProcessEnd
_messages = msgspec.msgpack.Decoder(list[Message])


def start() -> tuple[socket.socket, int]:
    """Fork the guardian; return the pilot's end of its socket and its process id."""
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
    import resource  # of no use to the pilot

    # A collection would write to what is shared with the pilot, and so copy it.
    gc.freeze()
    os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
        if int(name) > 2 and int(name) != link.fileno():
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.chdir("/")
    os.umask(0o022)
    become_subreaper()
    # When memory runs out payloads go first.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("300", encoding="utf-8")
    # Last, for its files in /proc are root's afterwards.
    become_undumpable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Guardian(link).serve()
    os._exit(0)


def _in_memory(data: bytes) -> int:
    """A descriptor from which `data` is read, above all that a program inherits."""
    low = os.memfd_create("arguments")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(low, view) :]
        os.lseek(low, 0, os.SEEK_SET)
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, FILTER + 1)
    finally:
        os.close(low)


def _outputs(order: Spawn) -> list[tuple[int, str]]:
    found = ((1, order.stdout), (2, order.stderr))
    # /dev/null is ours already.
    return [(fd, path) for fd, path in found if path != "/dev/null"]


def _try_outputs(order: Spawn) -> None:
    """Raise NotPrepared if the outputs of what could not be started are why: nothing else tells."""
    try:
        for _, path in _outputs(order):
            os.close(os.open(path, _APPEND | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise NotPrepared(error) from None


class Guardian:
    """The loop of the guardian process."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
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
        # Orphans of payloads that still run → their payload.
        self._spared: dict[int, int] = {}
        # Orphans without an environment → until when is well.
        self._unsure: dict[int, float] = {}
        self._answers: list[Started | ProcessEnd] = []
        # Sent with the next answer, or soon.
        self._started: list[Started | ProcessEnd] = []
        self._again_at = 0.0
        # Sockets that came, for programs in the same order.
        self._sockets: list[int] = []
        self._all_cpus = os.sched_getaffinity(0)
        me = os.getpid()
        self._children = os.open(f"/proc/{me}/task/{me}/children", os.O_RDONLY | os.O_CLOEXEC)

    def serve(self) -> None:
        bell, ring = socket.socketpair()
        bell.setblocking(False)
        ring.setblocking(False)
        signal.set_wakeup_fd(ring.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.epoll()
        poll.register(self._link, select.EPOLLIN)
        poll.register(bell, select.EPOLLIN)
        buffer = bytearray()
        while True:
            events = poll.poll(self._patience())
            for fd, _ in events:
                if fd == bell.fileno():
                    bell.recv(65536)
                    continue
                try:
                    data, fds = receive(self._link)
                except OSError:
                    data, fds = b"", []
                self._sockets += fds
                if not data:
                    self._end()
                    return
                buffer += data
                for body in frames(buffer):
                    for message in _messages.decode(body):
                        self._do(message)
            self._reap()
            if self._answers or (self._started and not events):
                try:
                    self._link.sendall(frame(self._started + self._answers))
                except OSError:
                    self._end()
                    return
                self._answers, self._started = [], []

    def _patience(self) -> float:
        """How long to wait for something to happen."""
        if self._started:
            return NEWS_S
        return max(0.0, self._again_at - time.monotonic()) if self._again_at else -1

    def _do(self, message: Message) -> None:
        if isinstance(message, Spawn):
            try:
                pid = self._spawn(message)
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
            message.arguments = message.filter = b""
            self._running[pid] = message
            self._pids[message.key] = pid
            self._started.append(Started(message.key, pid))
        elif (pid := self._pids.get(message.key, 0)) and pid in self._running:
            if message.number == signal.SIGKILL:
                # Its leftovers are strangers then, and go too.
                os.kill(pid, signal.SIGKILL)
            else:
                signal_tree(pid, message.number, self._running[pid].depth)

    def _spawn(self, order: Spawn) -> int:
        """Start it. Raises NotPrepared for what is ours, OSError or ValueError for the
        program's."""
        # Closed again once the program has them.
        opened: list[int] = []
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, fd, path, _APPEND, 0o600) for fd, path in _outputs(order)
        ]
        status = 0
        try:
            try:
                # First: it is this program's, whatever fails.
                if order.socket:
                    opened.append(self._taken_socket())
                    actions.append((os.POSIX_SPAWN_DUP2, opened[-1], SOCKET))
                if order.cpus:
                    os.sched_setaffinity(0, order.cpus)
                if order.directory != "/":
                    # posix_spawn has none of its own; we have one thread.
                    os.chdir(order.directory)
                if order.status_fd:
                    status, writer = os.pipe()
                    opened.append(writer)
                    actions.append((os.POSIX_SPAWN_DUP2, writer, order.status_fd))
                for data, fd in ((order.arguments, ARGUMENTS), (order.filter, FILTER)):
                    if data:
                        opened.append(_in_memory(data))
                        actions.append((os.POSIX_SPAWN_DUP2, opened[-1], fd))
            except OSError as error:
                raise NotPrepared(error) from None
            try:
                pid = os.posix_spawn(
                    order.argv[0],
                    order.argv,
                    order.environment,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=[],
                    setsigdef=_DEFAULT,
                )
            except OSError:
                _try_outputs(order)
                raise
            if status:
                self._status[pid], status = status, 0
            return pid
        finally:
            for fd in (*opened, status) if status else opened:
                os.close(fd)
            if order.directory != "/":
                os.chdir("/")
            if order.cpus:
                os.sched_setaffinity(0, self._all_cpus)

    def _taken_socket(self) -> int:
        if not self._sockets:
            # The kernel drops what exceeds the limit of open files.
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._sockets.pop(0)

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
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._spared.pop(pid, None)
            self._unsure.pop(pid, None)
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
                if inner := _CHILD.search(text):
                    self._inner[int(inner[1])] = order.key
        for pid in self._inner.keys() & usages.keys():
            self._add(self._inner.pop(pid), usages[pid])
        clean = self._sweep()
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

    def _sweep(self) -> bool:
        """Kill orphans of payloads that ended; whether there were none.

        An orphan is spared while a payload runs that it provably belongs to: by session, or by the
        environment it was started with. Who shows none is in the middle of an exec; one that does
        so for long hides, and is killed too.
        """
        clean = True
        for pid in self._child_pids():
            if pid in self._running:
                continue
            if pid in self._inner:
                # All of a sandbox ends with it; to look at all processes would cost more.
                os.kill(pid, signal.SIGKILL)
                clean = False
                continue
            if (owner := self._spared.get(pid)) is None:
                owner = self._owner(pid)
            if owner in self._running:
                self._spared[pid] = owner
                continue
            clean = False
            now = time.monotonic()
            if owner is None and now < self._unsure.setdefault(pid, now + EXEC_S):
                continue
            kill_tree(pid)
        return clean

    def _child_pids(self) -> list[int]:
        text = b""
        # One read gives a page.
        while piece := os.pread(self._children, 1 << 16, len(text)):
            text += piece
        return [int(pid) for pid in text.split()]

    def _owner(self, pid: int) -> int | None:
        """The running payload that a process belongs to; 0: none; None: it shows no environment."""
        with contextlib.suppress(OSError):
            if (session := os.getsid(pid)) in self._running:
                return session
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if environment == [b""]:
                return None
            for payload, order in self._running.items():
                mark = order.environment.get("AILURUS_ATTEMPT")
                if mark and f"AILURUS_ATTEMPT={mark}".encode() in environment:
                    return payload
        return 0

    def _end(self) -> None:
        """The pilot is gone: kill everything below, until there is nothing."""
        signal.set_wakeup_fd(-1)
        kill_descendants(os.getpid())
