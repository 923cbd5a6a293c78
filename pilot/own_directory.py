"""A pilot's own directory, and those that dead pilots have left beside it.

A lock on a file in it says that its pilot lives; the system takes it back however that ends, on a
file system that several nodes share, too. Where that is mounted so that a lock is seen on its own
node only, the file names the node, and elsewhere its directory is one of a dead pilot's only after
a time that none lives. A directory without such a file is nobody's to remove, nor is one with
reports in it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pilot.workdir import remove_tree

SPOOL = "spool"
"""What is in it where reports wait in the pilot's own directory."""
ELSEWHERE_S = 30 * 86_400.0
"""How old the directory of another node's pilot is that is taken for a dead one's."""
_LOCAL = frozenset({"localflock", "nolock", "local_lock=all", "local_lock=flock"})
"""Options of mounts, of Lustre and NFS, by which locks are seen on their own node only."""
_LOCAL_UNLESS_TOLD = frozenset({"beegfs"})
"""Where it is so by default, and the mount does not say."""
_LOCK = "lock"
_NAME = "ailurus-" + 16 * "[0-9a-f]"


@contextmanager
def made(workdir: Path, instance: str) -> Iterator[Path]:
    """A new directory in `workdir`, for a pilot that lives until the end of the `with`; to remove
    it is the caller's. Raises OSError."""
    _make_above(workdir)
    directory = workdir / f"ailurus-{instance}"
    directory.mkdir(mode=0o700)
    # Under its name only with its lock, or another pilot would take it for a dead one's.
    new = directory / f"{_LOCK}.new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # A file system without locks: nobody will take it for a dead one's.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(lock, os.fsencode(socket.gethostname()))
            new.rename(directory / _LOCK)
        yield directory
    finally:
        os.close(lock)


def sweep(workdir: Path) -> None:
    """Remove what dead pilots of this user have left in `workdir`."""
    for directory in workdir.glob(_NAME):
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(lock).st_uid == directory.lstat().st_uid == os.geteuid()
            ours = ours and _believed(lock, directory)
            if ours and not directory.is_symlink() and not (directory / SPOOL).exists():
                remove_tree(directory)
        except OSError:
            # Its pilot lives, or has removed it.
            continue
        finally:
            os.close(lock)


def locks_are_local(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether other nodes that share the file system of `directory` may not see a lock on a file
    there, as far as its mount says."""
    try:
        found = directory.stat().st_dev
        lines = [line.split(" ") for line in mounts.read_text("utf-8", "replace").splitlines()]
    except OSError:
        return False
    device = f"{os.major(found)}:{os.minor(found)}"
    for words in lines:
        if len(words) > 2 and words[2] == device and "-" in words:
            kind, _, options = words[words.index("-") + 1 :][:3]
            return kind in _LOCAL_UNLESS_TOLD or not _LOCAL.isdisjoint(options.split(","))
    return False


def _believed(lock: int, directory: Path) -> bool:
    """Whether a pilot that has no lock on this file is dead."""
    here = os.pread(lock, 1000, 0) == os.fsencode(socket.gethostname())
    if here or not locks_are_local(directory):
        return True
    return time.time() - os.fstat(lock).st_mtime > ELSEWHERE_S


def _make_above(directory: Path) -> None:
    """Make a directory, and those above it that are missing. Whatever the umask, no group of users
    may put another directory in the place of a pilot's."""
    if not directory.is_dir():
        _make_above(directory.parent)
        directory.mkdir(mode=0o755, exist_ok=True)
