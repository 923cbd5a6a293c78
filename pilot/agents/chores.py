"""What an agent, or a head, does beside its loop."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

from ailurus.loops import Loop, Loops


class Chores:
    """What may take seconds, done in a thread of its own one after the other."""

    def __init__(self, name: str, loops: Loops) -> None:
        self._todo: SimpleQueue[Callable[[], object]] = SimpleQueue()
        loops.thread(name, self._run)

    def add(self, what: Callable[[], object]) -> None:
        self._todo.put(what)

    def _run(self, loop: Loop) -> None:
        while True:
            self._todo.get()()
            loop.turned(None)
