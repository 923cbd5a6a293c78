"""Claims on a node's GPUs: no two pilots of a user hand out the same device.

A claim is a lock on a file that is named after the device. The kernel takes it back when the pilot
ends, however it ends. The files lie in directories that only the user can enter, so that nobody
else can hold or forge a claim; pilots of different users on one node are divided by the batch
system alone.

A pilot whose slot has a part of a GPU shares its lock with others of that kind, and locks as many
bytes of the file as its part has hundredths: all of them together have no more than a hundred.

There are several directories, and a claim is a lock in each of them: where another user has put
something in the place of one, or a cleaner has emptied it, pilots still meet in the others.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ailurus.protocol.resources import WHOLE
from pilot.node.gpus import Gpu

# Other users can write to these too: what lies there is checked.
BASES = (Path("/run/lock"), Path("/dev/shm"), Path("/tmp"), Path("/var/tmp"))  # noqa: S108
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Claims:
    """The GPUs that this process has claimed, until it closes them or ends."""

    def __init__(self, gpus: tuple[Gpu, ...], locks: Sequence[int]) -> None:
        self.gpus = gpus
        self._locks = locks

    def close(self) -> None:
        """Give up all claims."""
        _close(self._locks)
        self._locks = ()


NONE = Claims((), ())


def claim(
    gpus: Iterable[Gpu], most: int | None, bases: Iterable[Path] = BASES, *, part: int = 0
) -> Claims:
    """Claim up to `most` of `gpus` that no other pilot of this user has; None: all of them. With a
    `part`, so many hundredths of each, of which others have parts at most.

    Without a directory for the locks nothing is claimed.
    """
    if not (gpus := tuple(gpus)):
        return NONE
    directories = [path for base in bases if (path := _directory(base)) is not None]
    claimed: list[Gpu] = []
    locks: list[int] = []
    for gpu in gpus:
        if most is not None and len(claimed) >= most:
            break
        if held := _lock(gpu.key, directories, part):
            claimed.append(gpu)
            locks += held
    return Claims(tuple(claimed), locks)


def _directory(base: Path) -> Path | None:
    """This user's directory in `base`, made if it is missing; None if it cannot be its alone."""
    path = base / f"ailurus-gpus-{os.geteuid()}"
    with suppress(OSError):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        if (
            stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.geteuid()
            and not found.st_mode & 0o077
        ):
            return path
    return None


def _lock(key: str, directories: Sequence[Path], part: int) -> list[int]:
    """Locks on a device, or on a part of it, in all directories, or none if another pilot has one
    of them. A directory where no lock can be had, on a full disk say, is passed over."""
    held: list[int] = []
    kind = fcntl.LOCK_SH if part else fcntl.LOCK_EX
    for directory in directories:
        try:
            fd = os.open(directory / key.replace("/", "_"), _OPEN, 0o600)
        except OSError:
            continue
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            _close((*held, fd))
            return []
        except OSError:
            os.close(fd)
        else:
            held.append(fd)
    if part and not any(_part(held, begin, part) for begin in range(WHOLE - part + 1)):
        _close(held)
        return []
    return held


def _part(files: Sequence[int], begin: int, length: int) -> bool:
    """Lock the same bytes in all files; whether nobody has one of them. In one step a file, so that
    of two that begin at the same time one gets what it needs."""
    for nr, fd in enumerate(files):
        try:
            _bytes(fd, fcntl.F_WRLCK, begin, length)
        except OSError:
            for locked in files[:nr]:
                _bytes(locked, fcntl.F_UNLCK, begin, length)
            return False
    return True


def _bytes(fd: int, kind: int, begin: int, length: int) -> None:
    """Lock or unlock bytes for an open file, not for this process: closing another descriptor of
    the file takes nothing back. Raises OSError if somebody has one of them."""
    # struct flock, of 64-bit Linux.
    lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, begin, length, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)


def _close(locks: Iterable[int]) -> None:
    for fd in locks:
        os.close(fd)
