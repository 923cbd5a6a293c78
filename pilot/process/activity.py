"""Signs of life of a payload: any one will do.

A file is one when it *differs* from before, whatever its time: a clock of a file system, or a file
from the future, says nothing. Work is one when there is enough of it in the time between two looks:
a shell that polls ten times a second stays below that, a computation that writes nothing is far
above.
"""

from __future__ import annotations

# CPU time between two looks that is a sign: a share of one core, and seconds.
CPU_SHARE, CPU_LEAST_S = 0.02, 0.05
# I/O that is one: bytes a second, and bytes.
IO_RATE, IO_LEAST = 20_000.0, 65_536


class Signs:
    """When a payload last gave one."""

    def __init__(self, now: float) -> None:
        self.alive_at = now
        """time.monotonic() of the last sign, or of the start."""
        self._began = now
        # Of each node: when it was looked at, CPU seconds, bytes moved.
        self._work: dict[str, tuple[float, float, int]] = {}
        self._marks: dict[str, int] = {}

    def wrote(self, what: str, mark: int, now: float) -> None:
        """`mark` stands for all that is known of `what`: another one than before is a sign."""
        if self._marks.setdefault(what, mark) != mark:
            self._marks[what] = mark
            self.alive_at = now

    def worked(self, node: str, cpu_s: float, moved: int, now: float) -> None:
        """CPU seconds and bytes moved so far by the processes that there are on a node. Both may
        shrink, when one ends that nobody waited for."""
        at, cpu_before_s, moved_before = self._work.get(node, (self._began, 0.0, 0))
        for_s = now - at
        if cpu_s - cpu_before_s >= max(CPU_LEAST_S, CPU_SHARE * for_s) or (
            moved - moved_before >= max(IO_LEAST, IO_RATE * for_s)
        ):
            self.alive_at = now
        self._work[node] = (now, cpu_s, moved)
