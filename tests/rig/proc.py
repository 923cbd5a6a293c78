"""What the kernel says about processes: CPU time, memory, descriptors, and who carries a mark."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

_TICK = os.sysconf("SC_CLK_TCK")


class Use(Struct, frozen=True):
    """What one process has used and holds."""

    cpu_s: float = 0.0
    rss_mb: float = 0.0
    descriptors: int = 0
    threads: int = 0


def use(pid: int) -> Use:
    """Of one process, its threads included and its children not."""
    fields = _stat(pid)
    return Use(
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICK,
        rss_mb=int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1024**2,
        descriptors=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        threads=int(fields[17]),
    )


def cpu_s(pid: int) -> float:
    """CPU time of one process."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK


def cpu_with_children_s(pid: int) -> float:
    """CPU time of one process and of those that it has waited for; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        return sum(map(int, _stat(pid)[11:15])) / _TICK
    return 0.0


def pss_mb(pid: int) -> float:
    """Its memory, pages shared with others counted in part."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024


def started(pid: int) -> int | None:
    """When a process that lives began, in the kernel's ticks: with its id that is who it is."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return text[text.rindex(")") + 2 :].split()


def processes() -> Iterator[int]:
    """All process ids that can be seen."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            yield int(path.name)


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    with contextlib.suppress(OSError):
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    return []


def below(pid: int) -> list[int]:
    """All descendants of a process."""
    found = [pid]
    for one in found:
        found += children(one)
    return found[1:]


def words(pid: int) -> bytes:
    """Argument list, environment and working directory of a process: where a mark can be."""
    found = b""
    for name in ("cmdline", "environ"):
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{pid}/{name}").read_bytes() + b"\0"
    with contextlib.suppress(OSError):
        found += bytes(Path(f"/proc/{pid}/cwd").readlink())
    return found


def marked(mark: str) -> list[int]:
    """Processes that carry `mark`, ourselves and those that have ended apart."""
    return [pid for pid in processes() if pid != os.getpid() and mark.encode() in words(pid)]


def end(pids: Iterable[int], mark: str) -> None:
    """KILL processes that carry our mark: looked at again through a descriptor that cannot be
    reused."""
    for pid in pids:
        with contextlib.suppress(OSError):
            held = os.pidfd_open(pid)
            try:
                if mark.encode() in words(pid):
                    signal.pidfd_send_signal(held, signal.SIGKILL)
            finally:
                os.close(held)
