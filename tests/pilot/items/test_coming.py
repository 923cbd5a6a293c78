"""Nodes that come to a job of items while it runs."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

from ailurus.protocol.resources import Resources
from pilot.attempt import Attempt
from pilot.items.coming import Coming
from pilot.items.news import NodeCame
from pilot.node.shares import Slot
from pilot.workdir import Workdir
from tests.pilot.fakes import assignment
from tests.rig.waiting import until

SLOT = Slot(node="n2", need=Resources(cores=1))


class Node:
    """A node on which a box takes as long to stand as the test wants."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.closed = 0

    def stand(self, order: Any, check: Any) -> Any:
        self.asked.release()
        assert self.go.acquire(timeout=10)
        return self

    def close(self) -> None:
        self.closed += 1


def test_a_node_that_is_lost_before_its_box_stands_comes_when_it_is_there_again(
    tmp_path: Path,
) -> None:
    attempt, node = Attempt(assignment(1), lambda _: None), Node()
    part: Any = SimpleNamespace(node=node, box=None)
    came: SimpleQueue[NodeCame] = SimpleQueue()
    coming = Coming(attempt, Workdir(tmp_path / "1.1"), lambda slots, check: [part], came.put)
    coming.begin(SLOT)
    assert node.asked.acquire(timeout=10)
    coming.lost("n2")
    coming.begin(SLOT)
    assert node.asked.acquire(timeout=10)
    for _ in range(2):
        node.go.release()
    assert came.get(timeout=10).slot is SLOT
    # By a thread of its own, which may be slower than the one that came.
    until(lambda: attempt.notes, 10, "it is said why the first one is not used")
    coming.close()
    assert came.empty()
    assert "n2, which came back: it was lost again" in attempt.notes[-1]
    assert node.closed == 2
