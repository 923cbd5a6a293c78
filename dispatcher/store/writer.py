"""What both stores share: a draft of what a commit counts and tells, and the thread that commits."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ailurus.logs import Log
from ailurus.protocol.messages import Event
from dispatcher.ports import NOTHING, Ahead, Bulletin, Tx, Unavailable

T = TypeVar("T")
Change = Callable[[Tx], Any]
Asked = tuple[Change, asyncio.Future[Any], asyncio.AbstractEventLoop, Ahead]
Answers = list[tuple[Any, BaseException | None]]
Counts = Counter[tuple[str, int, str]]

TOGETHER = 512  # changes that may share a commit
SLOW_S = 0.25
log = Log("store")


class Again(Exception):
    """A change failed after it had written: run all of them once more, each by itself."""


class Draft:
    """What the changes of one commit count and tell, written down once when it is settled."""

    wrote = False  # since somebody set it to False

    def __init__(self, last_event: int = 0) -> None:
        self._last_event = last_event
        self.counts: Counts = Counter()
        self.events: list[Event] = []

    def count(self, queue: str, shape_id: int, state: str, by: int) -> None:
        self.wrote = True
        self.counts[queue, shape_id, state] += by

    def tell(
        self,
        kind: str,
        *,
        at: float,
        job_id: int | None = None,
        worker_id: int | None = None,
        **data: Any,
    ) -> None:
        self.wrote = True
        seq = self._last_event + len(self.events) + 1
        self.events.append(
            Event(seq=seq, at=at, kind=kind, job_id=job_id, worker_id=worker_id, data=data)
        )

    def mark(self) -> tuple[Counts, int]:
        """What has been said so far."""
        return self.counts.copy() if self.counts else Counter(), len(self.events)

    def back_to(self, point: tuple[Counts, int]) -> None:
        """Unsay what was said since `mark`."""
        self.counts = point[0]
        del self.events[point[1] :]

    def moves(self) -> list[dict[str, Any]]:
        """The counters that move; always in the same order, so that no two commits wait in a ring."""
        return [
            {"queue": q, "shape_id": shape, "state": state, "by": by}
            for (q, shape, state), by in sorted(self.counts.items())
            if by
        ]


class Writing:
    """A store with one writer thread, which runs the changes that have gathered and commits once."""

    def __init__(self, readers: int) -> None:
        self._asked: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._listeners: list[Callable[[Sequence[Event]], None]] = []
        self._hearers: list[Callable[[Bulletin], None]] = []
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)

    async def write(self, change: Callable[[Tx], T], ahead: Ahead = NOTHING) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._asked.put((change, done, loop, ahead))
        return await done

    async def read(self, query: Callable[[Tx], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, query)

    def listen(self, listener: Callable[[Sequence[Event]], None]) -> None:
        self._listeners.append(listener)

    def hear(self, hearer: Callable[[Bulletin], None]) -> None:
        self._hearers.append(hearer)

    async def _stop(self) -> None:
        self._asked.put(None)
        await asyncio.to_thread(self._thread.join)
        self._readers.shutdown()

    def _read(self, query: Callable[[Tx], T]) -> T:
        raise NotImplementedError

    def _run(self, batch: Sequence[Asked]) -> tuple[Answers, list[Event]]:
        """Run the changes and commit. What the store itself refuses is raised as Unavailable."""
        raise NotImplementedError

    def _serve(self) -> None:
        ends = False
        while not ends:
            asked = [self._asked.get()]
            while len(asked) < TOGETHER and not self._asked.empty():
                asked.append(self._asked.get())
            ends = None in asked
            batch = [one for one in asked if one is not None]
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[Asked]) -> None:
        """Answer all. What the store itself refuses fails all of them."""
        began = time.perf_counter()
        events: list[Event] = []
        try:
            answers, events = self._run(batch)
        except Unavailable as error:
            log.warning("commit_failed", reason=str(error), changes=len(batch))
            answers = [(None, error)] * len(batch)
        took = time.perf_counter() - began
        if took > SLOW_S:
            log.warning("commit_slow", seconds=round(took, 3), changes=len(batch))
        self._committed(batch, answers, events)

    def _committed(self, batch: list[Asked], answers: Answers, events: list[Event]) -> None:
        on_loop(batch[0][2], self._answer, batch, answers, events)

    def _answer(self, batch: list[Asked], answers: Answers, events: Sequence[Event]) -> None:
        for (_, done, *_), (answer, error) in zip(batch, answers, strict=True):
            if done.cancelled():
                continue
            if error is None:
                done.set_result(answer)
            else:
                done.set_exception(error)
        self._tell(events)

    def _tell(self, events: Sequence[Event]) -> None:
        if events:
            for listener in self._listeners:
                listener(events)

    def _spread(self, bulletin: Bulletin) -> None:
        for hearer in self._hearers:
            hearer(bulletin)


def on_loop(
    loop: asyncio.AbstractEventLoop, what: Callable[..., object], *arguments: object
) -> None:
    """Have `what` called on the event loop, unless that has ended: then nobody waits any more."""
    try:
        loop.call_soon_threadsafe(what, *arguments)
    except RuntimeError:
        log.warning("loop_closed")
