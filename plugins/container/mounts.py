"""The squashfs of an image, mounted once for all payloads that use it.

Each image has a process: squashfuse, in a mount namespace of its own, and for an ordinary user in
a user namespace. The mount is seen by nobody else, and it ends with its process, however that ends:
so a pilot that is killed leaves none. Payloads are started in a room there, where all that they
have in common is mounted as well.

No privilege is needed, no set-user-ID program and no loop device, only /dev/fuse.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EAGAIN, EINVAL, EMFILE, ENOMEM, ENOSPC, ENOSYS, EPERM, EPIPE, ETIMEDOUT
from pathlib import Path

from msgspec import Struct

from ailurus.protocol.errors import Code
from pilot.ports import Check, Image, JobError, ProcessEnd, ProcessSpec, Spawner
from pilot.room_ports import Entrance, Step
from plugins.container.images import unusable

PROGRAMS = "/usr/bin:/usr/local/bin:/bin:/usr/sbin:/sbin"
"""Where the programs of a node are: no variable says it."""
READY_S = 30.0
"""A mount reads a superblock and a table."""
_LOOK_MS = 50
_OPEN = os.O_RDONLY | os.O_CLOEXEC
_SAID_BYTES = 2000
_NODES = frozenset({EAGAIN, EINVAL, EMFILE, ENOMEM, ENOSPC, ENOSYS, EPERM, EPIPE, ETIMEDOUT})
"""What no image does to a mount."""


class Mounted(Struct, frozen=True):
    """A mounted image."""

    pid: int
    """The process in whose namespaces the mount is."""
    path: str
    """Where it is there."""
    key: int
    """Of the process, for the spawner."""

    @property
    def seen(self) -> Path:
        """The same from outside."""
        return Path(f"/proc/{self.pid}/root{self.path}")


class Mounts:
    """The images that this pilot has mounted. Any thread may ask."""

    def __init__(self, directory: Path, spawner: Spawner) -> None:
        self._directory, self._spawner = directory, spawner
        self._lock = threading.Lock()
        self._locks: dict[Image, threading.Lock] = {}
        self._mounted: dict[Image, Mounted] = {}
        self._count = 0

    def of(self, image: Image) -> Mounted | None:
        """Where an image is mounted, if it is."""
        return self._mounted.get(image)

    def mount(self, image: Image, check: Check) -> Mounted:
        """Mount an image unless it is. Raises JobError."""
        with self._lock:
            mine = self._locks.setdefault(image, threading.Lock())
        with mine:
            if (found := self._mounted.get(image)) is None:
                found = self._mounted[image] = self._new(image, check)
            return found

    def room(self, mounted: Mounted, steps: Sequence[Step], done: Callable[[], None]) -> int:
        """Make a room where the image is seen, with those mounts; its key. `done` is called once it
        has ended. Raises OSError for what may be the image's fault, else JobError."""
        names = ("mnt",) if os.geteuid() == 0 else ("user", "mnt")
        fds: list[int] = []
        try:
            fds += (os.open(f"/proc/{mounted.pid}/ns/{name}", _OPEN) for name in names)
            return self._spawner.enter(Entrance(namespaces=fds, steps=steps), lambda _: done())
        except OSError as error:
            if error.errno not in _NODES:
                raise
            what = f"cannot mount what payloads see beside the image: {error.strerror}"
            raise _failed(what) from None
        finally:
            for fd in fds:
                os.close(fd)

    @contextmanager
    def looked_at(self, mounted: Mounted) -> Iterator[None]:
        """For a first look at what is in an image. A damaged one may keep squashfuse busy for ever:
        then it is killed, and the look fails with an OSError."""
        late = threading.Timer(READY_S, self._spawner.signal, (mounted.key, signal.SIGKILL))
        late.daemon = True
        late.start()
        try:
            yield
        finally:
            late.cancel()

    def _new(self, image: Image, check: Check) -> Mounted:
        with self._lock:
            self._count += 1
            place = self._directory / f"image-{self._count}"
        said = place.with_suffix(".log")
        try:
            place.mkdir(mode=0o700)
            # For a root of which the image has only parts.
            Path(root_of(str(place))).mkdir(mode=0o700)
            argv = command(image, place)
        except OSError as error:
            raise _failed(f"cannot make {place}: {error.strerror}") from None
        over = threading.Event()

        def done(_: ProcessEnd) -> None:
            self._mounted.pop(image, None)
            over.set()

        key = self._spawner.spawn(ProcessSpec(argv=argv, stderr=str(said), tell=True), done)
        deadline = time.monotonic() + READY_S
        while not over.is_set():
            check()
            if (pid := self._spawner.pid(key)) and _is_mounted(pid, place):
                return Mounted(pid, str(place), key)
            if time.monotonic() > deadline:
                self._spawner.signal(key, signal.SIGKILL)
                raise _failed(f"the image {image.path} was not mounted within {READY_S:.0f} s")
            over.wait(0.002)
        raise _why(image, _text(said))


def command(image: Image, place: Path) -> list[str]:
    """The process that mounts the squashfs of `image` at `place`, as long as it lives."""
    names = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    options = f"ro,nodev,nosuid,offset={image.offset}"
    return [
        *(program("unshare"), *names, "--mount", "--propagation", "slave", "--"),
        *(program("squashfuse_ll"), "-f", "-o", options, image.path, str(place)),
    ]


def root_of(place: str) -> str:
    """Beside a mount, the directory for a root that is made of it."""
    return f"{place}-root"


def program(name: str) -> str:
    """The path of a program of this node. Raises JobError if it is not here."""
    if found := shutil.which(name, path=PROGRAMS):
        return found
    raise JobError(
        Code.CONTAINER_MISSING,
        f"this node has no {name}, with which images are mounted for bubblewrap",
        field="container",
        remedy="install squashfuse (and util-linux), or Apptainer",
    )


def _is_mounted(pid: int, place: Path) -> bool:
    """Whether something is mounted at `place` for the process; waits a little for a change."""
    with suppress(OSError):
        if _namespace(pid) == _namespace("self"):
            # It is not apart yet, and a list that is opened now would be ours for ever.
            return False
        mounts = os.open(f"/proc/{pid}/mounts", os.O_RDONLY | os.O_CLOEXEC)
        try:
            mark = f" {_escaped(str(place))} ".encode()
            if mark in _all_of(mounts):
                return True
            changed = select.poll()
            changed.register(mounts, select.POLLPRI | select.POLLERR)
            changed.poll(_LOOK_MS)
            return mark in _all_of(mounts)
        finally:
            os.close(mounts)
    return False


def _namespace(pid: int | str) -> int:
    return Path(f"/proc/{pid}/ns/mnt").stat().st_ino


def _all_of(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    text = b""
    while piece := os.read(fd, 1 << 16):
        text += piece
    return text


def _escaped(path: str) -> str:
    """A path as /proc/mounts writes it."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in path)


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_bytes()[:_SAID_BYTES].decode("utf-8", "replace").strip()
    return ""


def _why(image: Image, said: str) -> JobError:
    """Whose fault it is that an image was not mounted: the node's, unless it mounts others."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return _failed("this user may not open /dev/fuse")
    if not _makes_namespaces():
        return JobError(
            Code.NO_USER_NAMESPACE,
            "this node lets its users make no user namespaces",
            remedy="set user.max_user_namespaces there, or install Apptainer with set-user-ID",
        )
    return unusable(image.path, said.replace("\n", "; ") or "squashfuse does not mount it")


def _makes_namespaces() -> bool:
    with suppress(OSError, ValueError):
        text = Path("/proc/sys/user/max_user_namespaces").read_text("ascii")
        return os.geteuid() == 0 or int(text) > 0
    return True


def _failed(what: str) -> JobError:
    return JobError(
        Code.CONTAINER_FAILED,
        what,
        field="container",
        remedy="is squashfuse in order on this node? `default: apptainer` does without",
    )
