"""What /proc says about processes: read in one pass, parsed by hand (psutil costs fifty times more)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


class Process(NamedTuple):
    parent: int
    cpu_s: float  # its own and that of children it waited for
    rss_kb: int


def scan() -> dict[int, Process]:
    """All processes there are."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - a thousand paths would cost
        if name.isdecimal() and (text := _read(f"/proc/{name}/stat")):
            found[int(name)] = parse_stat(text)
    return found


def parse_stat(text: bytes) -> Process:
    """proc(5), /proc/PID/stat. A command may hold blanks and parentheses, so from its last one on."""
    fields = text[text.rindex(b")") + 2 :].split(None, 22)
    ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return Process(int(fields[1]), ticks / _TICK, int(fields[21]) * _PAGE_KB)


def trees(processes: Mapping[int, Process], roots: Iterable[int]) -> dict[int, list[int]]:
    """For each root: itself and all below it."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found = {}
    for root in roots:
        tree = [root] if root in processes else []
        for pid in tree:  # grows while we walk it
            tree += children.get(pid, ())
        found[root] = tree
    return found


def io_of(pid: int) -> tuple[int, int] | None:
    """Bytes that a process read from and wrote to storage."""
    found = dict(line.split(b": ") for line in _read(f"/proc/{pid}/io").splitlines())
    try:
        return int(found[b"read_bytes"]), int(found[b"write_bytes"])
    except (KeyError, ValueError):
        return None


def pss_kb(pids: Iterable[int]) -> int | None:
    """Memory of a tree with shared pages shared out; None if the kernel does not tell."""
    total, told = 0, False
    for pid in pids:
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                total += int(line.split()[1])
                told = True
                break
    return total if told else None


def counter(path: str, name: bytes) -> int | None:
    """The number after `name` in a file of `name number` lines; None if it is not told."""
    for line in _read(path).splitlines():
        if line.startswith(name + b" "):
            return int(line.split()[1])
    return None


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
