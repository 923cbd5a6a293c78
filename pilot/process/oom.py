"""What the kernel killed for memory while a payload ran: evidence, for any failure of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pilot.process import proc
from pilot.process.cgroup import Group

OWN = "in its own cgroup"


class OomKills:
    """Counts from where it was made: in a payload's own cgroup, or in what it shares."""

    def __init__(self, group: Group | None = None) -> None:
        self._group = group
        path, self._where = _counter()
        self._before = proc.counter(path, b"oom_kill")

    def since(self) -> tuple[int, str]:
        """How many processes were killed since, and where."""
        if self._group is not None:
            return self._group.oom_kills(), OWN
        now = proc.counter(_counter()[0], b"oom_kill")
        if now is None or self._before is None:
            return 0, self._where
        return max(0, now - self._before), self._where


@cache
def _counter() -> tuple[str, str]:
    return counter_of(Path("/proc/self/cgroup").read_bytes().decode("utf-8", "replace"))


def counter_of(cgroups: str, top: str = "/sys/fs/cgroup") -> tuple[str, str]:
    """The file that counts, and for whom, by the text of /proc/self/cgroup.

    It is that of the pilot's own cgroup, of version 2 or of 1 with the memory controller; the
    whole node's only where no cgroup has one, for a neighbour's losses are not ours.
    """
    for line in cgroups.splitlines():
        _, controllers, below = line.split(":", 2)
        if controllers == "":
            path, file = top, "memory.events"
        elif "memory" in controllers.split(","):
            path, file = f"{top}/memory", "memory.oom_control"
        else:
            continue
        # Inside a container its own cgroup lies at the top.
        for there in (Path(path, below.strip("/"), file), Path(path, file)):
            if proc.counter(str(there), b"oom_kill") is not None:
                return str(there), "in this worker's cgroup"
    return "/proc/vmstat", "on this node"
