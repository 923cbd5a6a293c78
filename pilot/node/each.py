"""Many processes of a payload on a node where no box stands for them: each gets one of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from ailurus.logs import Log
from pilot.blame import GUARDIAN_DIED, OSErrorsOn, Target
from pilot.node.outputs import Outputs
from pilot.node_ports import Exit, Explanation, Finish, Look, Node, Order, Task, TaskOutput
from pilot.ports import JobError, ProcessEnd
from pilot.workdir import remove_tree

_log = Log("pilot.node.each")


class EachItsOwn:
    """A box a process, made by its node."""

    def __init__(self, node: Node, order: Order) -> None:
        self._node, self._order = node, order
        self._outputs = Outputs(order.box.own, order.box.own, node.name)

    def start_all(self, tasks: Sequence[tuple[Task, Callable[[Finish], None]]]) -> Sequence[int]:
        return [self._start(task, done) for task, done in tasks]

    def look(self, wanted: Sequence[Look], told: Callable[[Sequence[TaskOutput]], None]) -> None:
        told([self._outputs.look(one) for one in wanted])

    def signal(self, key: int, number: int) -> None:
        self._node.signal(key, number)

    def close(self) -> None:
        """All of it ends with its processes."""
        self._outputs.remove()

    def _start(self, task: Task, done: Callable[[Finish], None]) -> int:
        # What a container's program reads at its start is this process's alone.
        box = self._order.box
        own = Path(box.own, f".box-{self._node.name}-{task.seat}")

        def ended(exit_: Exit) -> None:
            process = exit_.process
            failed = bool(process.exit_code or process.errno)
            remove_tree(own)
            take = partial(self._outputs.take, task.seat, failed=failed)
            done(Finish(process, take, exit_.memory))

        stdout, stderr = self._outputs.paths(task.seat)
        order = replace(
            self._order,
            argv=task.argv,
            box=replace(box, environment={**box.environment, **task.environment}, own=str(own)),
            stdout=stdout,
            stderr=stderr,
            cpus=task.cpus,
            memory_mb=task.memory_mb,
        )
        try:
            with OSErrorsOn(Target.NODE, "cannot make what a payload's container needs"):
                own.mkdir(mode=0o700)
            return self._node.start(order, ended)
        except JobError as error:
            _log.warning("no_box", name=order.name, what=str(error))
            ended(Exit(ProcessEnd(key=0, errno=GUARDIAN_DIED, before=True), Explanation))
            return 0
