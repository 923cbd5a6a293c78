"""Processes of one payload that end by themselves, and what became of them for want of memory.

Some may have only a part of the payload's. Where that has a cgroup, each of these has one below it:
so the kernel holds it to its limit at any time, and tells of its children, too. The sampler looks
in any case: it is alone where there is no cgroup, and a limit of the kernel's leaves room for more.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence

from pilot.node.sampler import Held, Sampler
from pilot.node_ports import MemoryLoss
from pilot.ports import ProcessEnd, Spawner
from pilot.process.cgroup import Group


class OwnMemory:
    """Those of one payload on this machine. Any thread may call it."""

    def __init__(
        self, payload: str, spawner: Spawner, sampler: Sampler, group: Group | None
    ) -> None:
        """`group`: the payload's, made to be divided."""
        self._payload, self._spawner, self._sampler = payload, spawner, sampler
        self._group = group
        # Processes that the kernel killed and that are accounted for.
        self._told = 0
        self._lock = threading.Lock()

    def hold(self, name: str, memory_mb: int) -> HeldProcess:
        """Hold a process that is about to start. `name`: unique in its payload."""
        memory_kb = memory_mb << 10
        part = None if self._group is None else self._group.part(name, memory_kb)
        process = HeldProcess(self._spawner, part, lambda: self._let_go(process))
        held = Held(process.pid, memory_kb, process.over)
        self._sampler.hold(self._payload, process, held)
        return process

    def loss(self, end: ProcessEnd, held: HeldProcess | None = None) -> MemoryLoss | None:
        """What a process that ended lost. Of one without a limit of its own: what the kernel killed
        in the whole payload meanwhile, and nobody has been told of."""
        if held is not None:
            return held.ended(end)
        if self._group is None or not end.exit_code:
            return None
        with self._lock:
            counted = self._group.oom_kills()
            kills, self._told = counted - self._told, counted
        return MemoryLoss(0, kills, own=False) if kills > 0 else None

    def _let_go(self, process: HeldProcess) -> None:
        self._sampler.let_go(self._payload, process)


class HeldProcess:
    """One that may have only a part."""

    def __init__(self, spawner: Spawner, part: Group | None, let_go: Callable[[], None]) -> None:
        self._spawner, self._part, self._let_go = spawner, part, let_go
        self._key = self._used_kb = 0
        self.cgroup: Sequence[int] = () if part is None else part.entrance
        """Where it is to be started; empty: where its payload is."""

    def started(self, key: int) -> None:
        """It has been started; it may have ended by now."""
        self._key = key

    def pid(self) -> int | None:
        return self._spawner.pid(self._key) if self._key else None

    def over(self, used_kb: int) -> None:
        """The sampler has seen it above its limit."""
        self._used_kb = used_kb
        self._spawner.signal(self._key, signal.SIGKILL)

    def ended(self, end: ProcessEnd) -> MemoryLoss | None:
        """Nothing of it is left."""
        self._let_go()
        kills, full = 0, False
        if self._part is not None:
            if end.exit_code:
                kills, full = self._part.oom_kills(), self._part.was_full()
            self._part.remove()
        if not end.exit_code or not (kills or self._used_kb):
            return None
        return MemoryLoss(self._used_kb, kills, own=full or self._used_kb > 0)
