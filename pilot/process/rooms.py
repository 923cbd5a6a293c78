"""Rooms: namespaces of another process, where a guardian of their own starts programs.

What a guardian needs of the system it was forked in must be open or loaded when it enters: inside
there may be no Python, and another /proc.
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pilot.process.kill import become_undumpable, die_with_parent
from pilot.process.orders import Enter
from pilot.room_ports import Bind, Closed, Directory, EmptyFile, Memory, Only, Step, Symlink

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC = 1, 2, 4, 32, 4096, 16384
_MNT_DETACH = 2
_NEW_ROOT = "/sys"
"""Where a smaller root is made: no directory that it takes over is below another one there."""
_FLAGS = (
    (os.ST_NOEXEC, 8),
    (os.ST_NOATIME, 1024),
    (os.ST_NODIRATIME, 2048),
    (os.ST_RELATIME, 1 << 21),
)
"""What a mount says of itself → its flag in mount(2): who may not take it away must repeat it."""
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 22, 24, 38, 47
_SECCOMP_FILTER, _AMBIENT_CLEAR_ALL = 2, 4
_CAPABILITY_VERSION = 0x20080522
_INSTRUCTION_BYTES = 8


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def enter(order: Enter, namespaces: Sequence[int]) -> str:
    """Take this process, which has one thread, into the namespaces, and make it as `order` says.
    Returns which steps were left out, and why. Raises OSError."""
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    for fd in namespaces:
        _checked(libc.setns(fd, 0), "setns")
        os.close(fd)
    os.chdir("/")
    lacks = [lack for step in order.steps if (lack := _take(libc, step))]
    if order.confined:
        _give_up(libc)
    if order.filter:
        _forbid(libc, order.filter)
    # After all that, which would undo both.
    become_undumpable()
    die_with_parent()
    if os.getppid() != parent:
        raise ProcessLookupError
    return "; ".join(lacks)


def _take(libc: ctypes.CDLL, step: Step) -> str:
    """Take a step, or say why the room is made without it. Raises OSError."""
    match step:
        case Bind(source, target):
            with _pinned(target) as place:
                _mount(libc, source, place, _MS_BIND)
            _close(libc, target)
        case Memory(target):
            with _pinned(target) as place:
                _mount(libc, "memory", place, _MS_NOSUID | _MS_NODEV, b"tmpfs", b"mode=755")
        case Closed(target):
            _close(libc, target)
        case Directory(path):
            Path(path).mkdir(mode=0o755)
        case EmptyFile(path):
            Path(path).touch(mode=0o644)
        case Symlink(path, to):
            Path(path).symlink_to(to)
        case Only(paths):
            return _leave_only(libc, paths)
    return ""


def _close(libc: ctypes.CDLL, target: str) -> None:
    """Make the mount at `target` read-only, with nothing of devices or set-user-ID in it."""
    with _pinned(target) as place:
        found = os.statvfs(place).f_flag
        flags = sum(flag for said, flag in _FLAGS if found & said)
        flags |= _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV
        _mount(libc, "", place, flags)


def _leave_only(libc: ctypes.CDLL, paths: Sequence[str]) -> str:
    """Move to a root that has nothing but `paths`, or stay where we are, and say why."""
    sources = dict(_opened([*paths, *_procs()]))
    try:
        _mount(libc, "memory", _NEW_ROOT, _MS_NOSUID | _MS_NODEV, b"tmpfs", b"mode=755")
    except OSError as error:
        return _kept(error)
    try:
        for path, fd in sources.items():
            _bound(libc, fd, f"{_NEW_ROOT}{path}")
        for link in [entry for entry in Path("/").iterdir() if entry.is_symlink()]:
            with suppress(FileExistsError):
                Path(_NEW_ROOT, link.name).symlink_to(link.readlink())
        # In /tmp bubblewrap begins to make each of its roots, wherever our own directories are.
        for name in ("sys", "tmp"):
            Path(_NEW_ROOT, name).mkdir(mode=0o755, exist_ok=True)
        os.chdir(_NEW_ROOT)
        _checked(libc.pivot_root(b".", b"."), "pivot_root")
        # The old one, which is on top of it.
        _checked(libc.umount2(b".", _MNT_DETACH), "umount")
    except OSError as error:
        libc.umount2(os.fsencode(_NEW_ROOT), _MNT_DETACH)
        return _kept(error)
    finally:
        os.chdir("/")
        for fd in sources.values():
            os.close(fd)
    return ""


def _kept(error: OSError) -> str:
    return f"the node's other file systems are still mounted there: {error}"


def _procs() -> list[str]:
    """Where the whole of a /proc is mounted. A sandbox may have one of its own only where one is
    seen of which nothing is covered, and on some nodes that of /proc is not."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    return [
        os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), words[4]))
        for words in mounts
        if words[3] == b"/" and words[words.index(b"-") + 1] == b"proc"
    ]


def _opened(paths: Sequence[str]) -> Iterator[tuple[str, int]]:
    """What there is of them, less what is beneath others, as it was before anything covers it."""
    for path in sorted({*paths}):
        if any(path.startswith(f"{other}/") for other in paths):
            continue
        with suppress(OSError):
            # What is mounted on demand is mounted by the slash.
            with suppress(NotADirectoryError):
                os.stat(f"{path}/")  # noqa: PTH116 - a Path has no slash
            yield path, os.open(path, os.O_PATH | os.O_CLOEXEC)


def _bound(libc: ctypes.CDLL, fd: int, target: str) -> None:
    """Have what `fd` stands for at `target`, with all that is mounted below it: in a user namespace
    nothing may be uncovered, and where the pilot is in a container of its own each device is a
    mount, too."""
    place = Path(target)
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        place.mkdir(mode=0o755)
    else:
        place.touch(mode=0o644)
    _mount(libc, f"/proc/self/fd/{fd}", target, _MS_BIND | _MS_REC)


@contextmanager
def _pinned(path: str) -> Iterator[str]:
    """A name for what is at `path` that leads there whatever happens; no link is followed on the
    way. Raises OSError."""
    here = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        for part in path.split("/"):
            if part:
                below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = below
        yield f"/proc/self/fd/{here}"
    finally:
        os.close(here)


def _mount(
    libc: ctypes.CDLL, source: str, target: str, flags: int, kind: bytes = b"", data: bytes = b""
) -> None:
    words = (os.fsencode(source), os.fsencode(target), kind or None)
    _checked(libc.mount(*words, ctypes.c_ulong(flags), data or None), f"mount {target}")


def _give_up(libc: ctypes.CDLL) -> None:
    """Have no capability, nor ever get one, whatever this process and its children execute."""
    number = 0
    while libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    # Effective, permitted, inheritable, each in two words.
    none = (ctypes.c_uint32 * 6)()
    header = _Header(_CAPABILITY_VERSION, 0)
    _checked(libc.capset(ctypes.byref(header), none), "capset")
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if number == 0:
        raise PermissionError


def _forbid(libc: ctypes.CDLL, instructions: bytes) -> None:
    """Have only the system calls that the program lets pass."""
    program = _Program(len(instructions) // _INSTRUCTION_BYTES, instructions)
    done = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(program), 0, 0)
    _checked(done, "seccomp")


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
