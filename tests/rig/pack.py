"""Many processes through few slots, in one thread: the pilot's order and back-fill without its
jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ailurus.protocol.resources import Resources
from pilot.node.lines import Wish
from pilot.node.packing import Packer
from pilot.node.shares import OWN
from pilot.ports import ProcessEnd, ProcessSpec
from pilot.process.spawner import GuardedSpawner


class Task(NamedTuple):
    """A command, what it occupies, and how long it will probably take."""

    argv: Sequence[str]
    need: Resources = Resources(cores=1)
    estimate_s: float = 0.0


def pack(tasks: Sequence[Task], room: Resources, spawner: GuardedSpawner) -> list[ProcessEnd]:
    """Run all tasks in `room` as the packer orders them; results in the order of `tasks`.

    A task that does not fit in `room` at all is refused before anything runs. The caller's thread
    reads the guardian's answers: nobody else may.
    """
    packer: Packer[int] = Packer()
    packer.join(OWN, room)
    for index, task in enumerate(tasks):
        if not task.need.within(room):
            raise ValueError(f"tasks[{index}] needs {task.need}, the room is {room}")
        packer.add(index, Wish(task.need, estimate_s=task.estimate_s))
    results: list[ProcessEnd | None] = [None] * len(tasks)
    left = len(tasks)

    def done(index: int) -> Callable[[ProcessEnd], None]:
        def note(ended: ProcessEnd) -> None:
            nonlocal left
            results[index] = ended
            packer.give_back(index)
            left -= 1

        return note

    while left:
        if taken := packer.take():
            spawner.spawn_all(
                [(ProcessSpec(argv=tasks[index].argv), done(index)) for index, _ in taken]
            )
        if left and not spawner.turn():
            raise RuntimeError("the guardian is gone")
    return [result for result in results if result is not None]
