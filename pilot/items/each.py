"""Items on a node where no box stands for them: each gets one of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from pilot.node_ports import Exit, Node, Order, Task
from pilot.ports import ProcessEnd


class EachItsOwn:
    """A box a process, made by its node."""

    def __init__(self, node: Node, order: Order) -> None:
        self._node, self._order = node, order
        self.logs = (order.box.own, order.box.own)

    def start_all(
        self, tasks: Sequence[tuple[Task, Callable[[ProcessEnd], None]]]
    ) -> Sequence[int]:
        return [self._start(task, done) for task, done in tasks]

    def signal(self, key: int, number: int) -> None:
        self._node.signal(key, number)

    def close(self) -> None:
        """All of it ends with its processes."""

    def _start(self, task: Task, done: Callable[[ProcessEnd], None]) -> int:
        def ended(exit_: Exit) -> None:
            done(exit_.process)

        order = replace(
            self._order,
            argv=task.argv,
            box=replace(self._order.box, environment=task.environment),
            stdout=task.stdout,
            stderr=task.stderr,
            cpus=task.cpus,
        )
        return self._node.start(order, ended)
