"""Claims on a node's GPUs: no two pilots of a user hand out the same device.

A claim is a lock on a file that is named after the device. The kernel takes it back when the pilot
ends, however it ends. The files lie in directories that only the user can enter, so that nobody
else can hold or forge a claim; pilots of different users on one node are divided by the batch
system alone.

There are several directories, and a claim is a lock in each of them: where another user has put
something in the place of one, or a cleaner has emptied it, pilots still meet in the others.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

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


def claim(gpus: Iterable[Gpu], most: int | None, bases: Iterable[Path] = BASES) -> Claims:
    """Claim up to `most` of `gpus` that no other pilot of this user has; None: all of them.

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
        if held := _lock(gpu.key, directories):
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


def _lock(key: str, directories: Sequence[Path]) -> list[int]:
    """Locks on a device in all directories, or none if another pilot has one of them. A directory
    where no lock can be had, on a full disk say, is passed over."""
    held: list[int] = []
    for directory in directories:
        try:
            fd = os.open(directory / key.replace("/", "_"), _OPEN, 0o600)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _close((*held, fd))
            return []
        except OSError:
            os.close(fd)
        else:
            held.append(fd)
    return held


def _close(locks: Iterable[int]) -> None:
    for fd in locks:
        os.close(fd)
