"""What an agent, or a head, does beside its loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from ailurus.logs import Log
from ailurus.loops import Loop, Loops
from pilot.blame import unexpected
from pilot.node_ports import Exit, Explanation
from pilot.ports import JobError

_log = Log("pilot.agents.chores")


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


@contextmanager
def apart(what: str, node: str) -> Iterator[None]:
    """Have an exception that nobody foresaw cost only what is done here: `what`, an event of the
    log, says what that is, and the trace what it was."""
    try:
        yield
    except Exception:  # noqa: BLE001 - as above
        _log.error(what, trace=True, node=node)


def explanation(exit_: Exit) -> Explanation:
    """What the node knows of a process that failed, whatever becomes of asking it: somebody waits
    for its end."""
    try:
        return exit_.explain()
    except Exception as error:  # noqa: BLE001 - as above
        return Explanation(error=judged(error))


def judged(error: Exception) -> JobError:
    """What a chore for a payload met, as the pilot is told it."""
    if isinstance(error, JobError):
        return error
    _log.error("agent_failed", trace=True)
    return unexpected(error, "the agent could not go on with the payload")
