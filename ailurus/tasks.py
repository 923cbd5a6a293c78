"""The supervisor's form for asyncio: what `ailurus.loops` is for threads. No pilot imports it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ailurus.logs import Log
from ailurus.loops import Ended, Loop, Loops

Body = Callable[[Loop], Awaitable[object]]


class Tasks(Loops):
    """All loops of a process with an event loop, tasks and threads."""

    def __init__(self, log: Log, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(log, clock=clock)
        self._tasks: set[asyncio.Task[None]] = set()

    def task(self, name: str, body: Body, *, turn_s: float | None = None) -> asyncio.Task[None]:
        """A task that keeps `body` until it is cancelled."""
        return self._held(self._keep(self.add(name, turn_s), body))

    def once(self, name: str, what: Awaitable[object]) -> asyncio.Task[None]:
        """A task that ends by itself: held until then, and what it raises is counted and logged under
        `name`, which is down only while such tasks go on failing."""
        return self._held(self._single(self._loops.get(name) or self.add(name), what))

    async def end(self) -> None:
        """Cancel all tasks and wait for them; no thread is called again."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _held(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
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
                pause_s = self.note(loop, error)  # something that it waited for was
            except Exception as error:  # noqa: BLE001 -- whatever it is, the loop goes on
                pause_s = self.note(loop, error)
            await asyncio.sleep(pause_s)

    async def _single(self, loop: Loop, what: Awaitable[object]) -> None:
        try:
            await what
        except asyncio.CancelledError as error:
            if _cancelled():
                raise
            self.note(loop, error)
        except Exception as error:  # noqa: BLE001 -- nobody waits for it who could be told
            self.note(loop, error)
        loop.turned(None)


def _cancelled() -> bool:
    """Whether the running task was told to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
