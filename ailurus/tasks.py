"""The supervisor of endless loops for asyncio, as `ailurus.loops` is for threads. No pilot imports
it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from ailurus.logs import Log
from ailurus.loops import LONGEST_PAUSE_S, Ended, Loop, Loops

T = TypeVar("T")
Body = Callable[[Loop], Awaitable[object]]


class Tasks(Loops):
    """All loops of a process with an event loop, tasks and threads."""

    def __init__(self, log: Log, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(log, clock=clock)
        self._tasks: set[asyncio.Task[Any]] = set()

    def task(
        self,
        name: str,
        body: Body,
        *,
        turn_s: float | None = None,
        longest_s: float = LONGEST_PAUSE_S,
    ) -> asyncio.Task[None]:
        """A task that keeps `body` until it is cancelled."""
        return self._started(self._keep(self.add(name, turn_s, longest_s), body))

    def once(self, name: str, what: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that ends by itself. What it raises is counted and logged under `name`, which is
        down only while such tasks go on failing."""
        task = self._started(what)
        task.add_done_callback(partial(self._settled, name))
        return task

    async def end(self) -> None:
        """Cancel all tasks and wait for them. Threads go on until `close`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _started(self, what: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self, loop: Loop, body: Body) -> None:
        while True:
            try:
                await body(loop)
                raise Ended("it returned although nobody had ended it")
            except asyncio.CancelledError as error:
                if _cancelled():
                    raise
                # Not this task was cancelled but one that it waited for.
                pause_s = self.note(loop, error)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the loop goes on
                pause_s = self.note(loop, error)
            await asyncio.sleep(pause_s)

    def _settled(self, name: str, task: asyncio.Task[Any]) -> None:
        try:
            task.result()
        except asyncio.CancelledError as error:
            if not task.cancelling():
                self.once_failed(name, error)
        except Exception as error:  # noqa: BLE001 -- nobody awaits it
            self.once_failed(name, error)


def _cancelled() -> bool:
    """Whether the running task is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
