"""What became of processes for want of memory, without a kernel."""

from __future__ import annotations

from typing import Any, cast

from pilot.node.own_memory import OwnMemory
from pilot.node_ports import MemoryLoss
from pilot.ports import ProcessEnd

FAILED = ProcessEnd(key=1, exit_code=-9, at=1.0)


class Kernel:
    """A cgroup in which one more process is killed each time that somebody looks."""

    def __init__(self) -> None:
        self.kills = 0

    def oom_kills(self) -> int:
        self.kills += 1
        return self.kills


def test_each_kill_is_told_once_though_the_kernel_kills_meanwhile() -> None:
    kernel = Kernel()
    memory = OwnMemory("1.1", cast(Any, None), cast(Any, None), cast(Any, kernel))
    losses = [memory.loss(FAILED) for _ in range(3)]
    assert losses == [MemoryLoss(0, 1, own=False)] * 3
    assert kernel.kills == 3
