"""What the kernel killed for memory while a payload ran: evidence, for any failure of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pilot.process import proc


class OomKills:
    """Counts from where it was made."""

    def __init__(self) -> None:
        path, self._where = _counter()
        self._before = proc.counter(path, b"oom_kill")

    def since(self) -> tuple[int, str]:
        """How many processes were killed since, and where."""
        now = proc.counter(_counter()[0], b"oom_kill")
        if now is None or self._before is None:
            return 0, self._where
        return max(0, now - self._before), self._where


@cache
def _counter() -> tuple[str, str]:
    """The file that counts, and for whom: the pilot's own cgroup, of version 2 or of 1 with the
    memory controller, and the whole node only where no cgroup tells: what a neighbour lost is not
    ours."""
    for line in Path("/proc/self/cgroup").read_bytes().decode("utf-8", "replace").splitlines():
        _, controllers, below = line.split(":", 2)
        if controllers == "":
            path = f"/sys/fs/cgroup/{below.strip('/')}/memory.events"
        elif "memory" in controllers.split(","):
            path = f"/sys/fs/cgroup/memory/{below.strip('/')}/memory.oom_control"
        else:
            continue
        for there in (path, path.replace(below.strip("/") + "/", "", 1)):  # a container's own top
            if proc.counter(there, b"oom_kill") is not None:
                return there, "in this worker's cgroup"
    return "/proc/vmstat", "on this node"
