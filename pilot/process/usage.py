"""What a payload takes of a node's disk and memory, wherever it put it: with a name or without.

disk      every inode beneath its directories, hard links once, a hole for nothing; files that it
has
          unlinked and still holds open
memory    what is mapped is in RSS; beside that /dev/shm and files in memory (memfd) that it holds
open
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from pilot.process import proc

ENTRY_BYTES = 4096
"""What an inode counts at least: a million empty files fill a file system as well."""
AHEAD_BYTES = 64 << 20
"""What may be allocated ahead of all files together, beside as much again as they have: a file
system does that for the few that grow, and a payload for as many as it likes (`fallocate
--keep-size`)."""
STEP = 20_000
"""Entries looked at in one step of a walk: 80 ms."""
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# The number of this system call on every architecture.
_PIDFD_GETFD = 438
_IN_MEMORY = ("/dev/shm", "/dev")  # noqa: S108 - of a payload; Apptainer's /dev is in memory, too
# How many descriptors are looked at of a process that hides them.
_NUMBERS = 1 << 16
# What the inode of a file in memory takes, with its name.
_INODE_KB = 1
# What a file system allocates ahead of a file that grows: as much again, and this.
_SLACK = 64 << 10


class Disk:
    """The bytes beneath directories, counted a step at a time and again from the start: so a tree
    of any size is counted to its end, and no step holds up other payloads."""

    def __init__(self, tops: Sequence[Path]) -> None:
        self.entries = 0
        """How many the last whole walk met, those that it could not look at included."""
        self.used = 0
        """Of the last whole walk, or of this one where it has already found more."""
        self.mark = 0
        """Of the last whole walk: another one when any file was made, changed or removed in
        between, whatever its times say."""
        self.too_deep = False
        """A directory has a longer path than the kernel takes, so what is in it cannot be
        counted."""
        # Now: later, a link in the place of one is not followed.
        self._tops = dict(_real(top) for top in tops)
        self._seen = self._sum = self._ahead = self._mark = 0
        self._linked: set[tuple[int, int]] = set()
        self._walk: Iterator[os.stat_result] | None = None

    def anew(self) -> Disk:
        """Another count, from the start, of the directories that these were: whatever lies in their
        places by now, and while another thread still counts here."""
        other = Disk(())
        other._tops = self._tops
        return other

    def step(self, most: int = STEP) -> bool:
        """Look at up to `most` more entries; whether that came to the end of a walk."""
        if self._walk is None:
            self._seen = self._sum = self._ahead = self._mark = 0
            self._linked, self._walk = set(), self._entries()
        for _ in range(most):
            if (found := next(self._walk, None)) is None:
                # A sum of many hashes has more bits than a number of MessagePack.
                self.used, self.mark, self._walk = self._so_far(), self._mark & (1 << 63) - 1, None
                self.entries = self._seen
                return True
            self._count(found)
        self.used = max(self.used, self._so_far())
        return False

    def _so_far(self) -> int:
        return self._sum + max(0, self._ahead - self._sum - AHEAD_BYTES)

    def _count(self, found: os.stat_result) -> None:
        self._seen += 1
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            if (found.st_dev, found.st_ino) in self._linked:
                return
            self._linked.add((found.st_dev, found.st_ino))
        charged = charge(found)
        self._sum += charged
        self._ahead += max(0, found.st_blocks * 512 - charged)
        self._mark += hash((found.st_ino, found.st_ctime_ns, found.st_size))

    def _entries(self) -> Iterator[os.stat_result]:
        todo = [*self._tops]
        while todo:
            path = todo.pop()
            try:
                handle, found = _opened(path, self._tops.get(path))
            except OSError as error:
                self._missed(error)
                continue
            # Its time says that names came and went, though none is left.
            if path in self._tops:
                self._mark += hash((path, found.st_ctime_ns))
            try:
                with os.scandir(handle) as entries:
                    for entry in entries:
                        try:
                            found = entry.stat(follow_symlinks=False)
                        except OSError as error:
                            self._missed(error)
                            continue
                        if stat.S_ISDIR(found.st_mode):
                            todo.append(f"{path}/{entry.name}")
                        yield found
            finally:
                os.close(handle)

    def _missed(self, error: OSError) -> None:
        """An entry that goes away meanwhile is no error; one that no path reaches is noted."""
        self._seen += 1
        self.too_deep |= error.errno == errno.ENAMETOOLONG


def charge(found: os.stat_result) -> int:
    """What a file counts: what is allocated, but not ahead of a file that grows."""
    allocated = found.st_blocks * 512
    if allocated <= 2 * found.st_size + _SLACK:
        allocated = min(allocated, found.st_size + ENTRY_BYTES)
    return max(allocated, ENTRY_BYTES)


class Nameless(Struct, frozen=True, gc=False):
    """Bytes of files without a name that processes hold open."""

    memory: int
    disk: int


class NodeUse(Struct, frozen=True, gc=False):
    """What all processes of a node together have in files."""

    memory_kb: int
    disk_kb: int

    def least(self, other: NodeUse) -> NodeUse:
        """The smaller of each."""
        return NodeUse(min(self.memory_kb, other.memory_kb), min(self.disk_kb, other.disk_kb))


def node_use(directory: str) -> NodeUse:
    """Of memory, and of the file system of `directory`; 0 where the system does not tell."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return NodeUse(proc.shmem_kb(), 0)
    return NodeUse(proc.shmem_kb(), (disk.f_blocks - disk.f_bfree) * disk.f_frsize // 1024)


def nameless(pids: Iterable[int], disk_device: int) -> Nameless:
    """What the descriptors of `pids` keep alive; `disk_device`: of the job's directory."""
    seen: set[tuple[int, int]] = set()
    memory = disk = 0
    for pid in pids:
        for found in _held_open(pid):
            known = (found.st_dev, found.st_ino)
            if found.st_nlink or not stat.S_ISREG(found.st_mode) or known in seen:
                continue
            seen.add(known)
            if found.st_dev in _memory_devices():
                memory += found.st_blocks * 512 + (_INODE_KB << 10)
            elif found.st_dev == disk_device:
                disk += charge(found)
    return Nameless(memory, disk)


def _held_open(pid: int) -> Iterator[os.stat_result]:
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names, not paths
    except PermissionError:
        # It made itself undumpable, or runs a program that nobody may read.
        yield from _hidden(pid)
        return
    except OSError:
        return
    for name in descriptors:
        with contextlib.suppress(OSError):
            yield os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116 - thousands of them


def _hidden(pid: int) -> Iterator[os.stat_result]:
    """The open files of a process whose list of them is shut to its own user, one number after the
    other: the user who made its namespace may take a copy of each."""
    size = proc.counter(f"/proc/{pid}/status", b"FDSize:") or 0
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            for number in range(min(size, _NUMBERS)):
                if (copy := _libc().syscall(_PIDFD_GETFD, process, number, 0)) >= 0:
                    try:
                        yield os.fstat(copy)
                    finally:
                        os.close(copy)
        finally:
            os.close(process)


@cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None)


def shared_memory_kb(pid: int) -> int:
    """What a process's /dev/shm holds, and /dev where it can be written to, names included; 0 where
    they are the node's own."""
    return sum(_held_in(f"/proc/{pid}/root{place}", place) for place in _IN_MEMORY)


def _held_in(path: str, place: str) -> int:
    try:
        found = os.statvfs(path)
        if found.f_flag & os.ST_RDONLY:
            return 0
        blocks = (found.f_blocks - found.f_bfree) * found.f_bsize // 1024
        names = max(0, found.f_files - found.f_ffree - 1)
        if not blocks + names or os.stat(path).st_dev == _own_device(place):  # noqa: PTH116
            return 0
    except OSError:
        return 0
    return blocks + names * _INODE_KB


@cache
def _own_device(place: str) -> int:
    try:
        return Path(place).stat().st_dev
    except OSError:
        return -1


@cache
def _memory_devices() -> frozenset[int]:
    """The devices of files that are only in memory, of usual and of huge pages."""
    found = set()
    for flags in (os.MFD_CLOEXEC, os.MFD_CLOEXEC | os.MFD_HUGETLB):
        with contextlib.suppress(OSError):
            fd = os.memfd_create("device", flags)
            found.add(os.fstat(fd).st_dev)
            os.close(fd)
    return frozenset(found)


def _real(path: Path) -> tuple[str, tuple[int, int] | None]:
    """The path of a directory without links, and which inode it is. As `realpath`, which looks at
    each part, but for each job."""
    try:
        handle = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return os.fspath(path), None
    try:
        real = os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115 - text in, text out
        return real, _inode(os.fstat(handle))
    finally:
        os.close(handle)


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _opened(path: str, inode: tuple[int, int] | None) -> tuple[int, os.stat_result]:
    """A directory, open; one that the payload closed is opened to its user, and stays so. OSError
    if it is not `inode`, and a link leads there: the payload may have put one in the place of what
    was seen."""
    try:
        handle = os.open(path, os.O_RDONLY | _DIRECTORY)
    except PermissionError:
        closed = os.open(path, os.O_PATH | _DIRECTORY)
        try:
            _open_to_user(closed, path, inode)
        finally:
            os.close(closed)
        handle = os.open(path, os.O_RDONLY | _DIRECTORY)
    try:
        return handle, _open_to_user(handle, path, inode)
    except OSError:
        os.close(handle)
        raise


def _open_to_user(handle: int, path: str, inode: tuple[int, int] | None) -> os.stat_result:
    """The state of the directory `handle`, which its user may read from now on. OSError if it is
    neither `inode` nor at `path` without links."""
    itself = f"/proc/self/fd/{handle}"
    found = os.fstat(handle)
    if _inode(found) != inode and os.readlink(itself) != path:  # noqa: PTH115 - thousands of them
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    if found.st_mode & 0o500 != 0o500:
        Path(itself).chmod(stat.S_IMODE(found.st_mode) | 0o500)
    return found
