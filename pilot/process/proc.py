"""What /proc says about processes: read in one pass, parsed by hand (psutil costs fifty times
more)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024
_PSS = re.compile(rb"(?m)^(Pss|Pss_Shmem):\s+(\d+)")


class Process(Struct, frozen=True, gc=False):
    parent: int
    cpu_s: float
    """Its own and that of children it waited for."""
    rss_kb: int


def scan() -> dict[int, Process]:
    """All processes there are."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - a thousand paths would cost
        if name.isdecimal() and (text := _read(f"/proc/{name}/stat")):
            found[int(name)] = parse_stat(text)
    return found


def parse_stat(text: bytes) -> Process:
    """proc(5), /proc/PID/stat. A command may hold blanks and parentheses, so from its last one
    on."""
    fields = text[text.rindex(b")") + 2 :].split(None, 22)
    ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return Process(int(fields[1]), ticks / _TICK, int(fields[21]) * _PAGE_KB)


def trees(processes: Mapping[int, Process], roots: Iterable[int]) -> dict[int, list[int]]:
    """For each root: itself and all below it, each after its parent."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found = {}
    for root in roots:
        tree = [root] if root in processes else []
        # The list grows while the loop walks it.
        for pid in tree:
            tree += children.get(pid, ())
        found[root] = tree
    return found


def ancestors(pid: int) -> list[int]:
    """A process, its parent and so on, as far as this process sees them."""
    found = []
    while pid and (text := _read(f"/proc/{pid}/stat")):
        found.append(pid)
        pid = parse_stat(text).parent
    return found


def kin(pid: int) -> list[int]:
    """A process, all that it has started, and who has started it."""
    return [*ancestors(pid), *trees(scan(), [pid])[pid]]


class Io(Struct, frozen=True, gc=False):
    """Bytes that a process and the children it waited for moved."""

    read: int
    """From storage."""
    written: int
    """To storage."""
    moved: int
    """By read, write and their like, to and from any file, pipe or socket."""


def io_of(pid: int) -> Io | None:
    """What /proc tells of a process; None: nothing."""
    # proc(5), /proc/PID/io: rchar, wchar, syscr, syscw, read_bytes, write_bytes, each with its
    # number.
    words = _read(f"/proc/{pid}/io").split()
    try:
        return Io(int(words[9]), int(words[11]), int(words[1]) + int(words[3]))
    except (IndexError, ValueError):
        return None


class Mapped(Struct, frozen=True, gc=False):
    """What processes have mapped, in kB."""

    all: int
    shmem: int
    """Of that, of files in memory: /dev/shm, memfd, shared mappings."""


def pss_kb(pids: Iterable[int]) -> Mapped | None:
    """Memory of a tree with shared pages shared out; None if the kernel does not tell."""
    found, any_found = {b"Pss": 0, b"Pss_Shmem": 0}, False
    for pid in pids:
        for name, kb in _PSS.findall(_read(f"/proc/{pid}/smaps_rollup")):
            found[name] += int(kb)
            any_found = True
    return Mapped(found[b"Pss"], found[b"Pss_Shmem"]) if any_found else None


def rss_shmem_kb(pids: Iterable[int]) -> int:
    """What processes have mapped of files in memory; shared pages count once a process."""
    return sum(counter(f"/proc/{pid}/status", b"RssShmem:") or 0 for pid in pids)


def shmem_kb() -> int:
    """What the whole node has in files in memory."""
    return counter("/proc/meminfo", b"Shmem:") or 0


def counter(path: str, name: bytes) -> int | None:
    """The number after `name` in a file of `name number` lines; None if it is not there."""
    found = re.search(rb"(?m)^%b\s+(\d+)" % name, _read(path))
    return None if found is None else int(found[1])


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 16)
    except OSError:
        return b""
    finally:
        os.close(fd)
