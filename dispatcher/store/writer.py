"""What both stores share: the draft of a commit, and the thread that commits."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.tasks import Tasks
from dispatcher.accounts.meter import METER, Meter
from dispatcher.events import KINDS, Entry, Event, Unknown
from dispatcher.ports import NOTHING, Ahead, Row, Tx, Unavailable
from dispatcher.store.sums import Sums

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
Change = Callable[[Tx], Any]
Waiting = tuple[Change, asyncio.Future[Any], Ahead]
Answers = list[tuple[Any, BaseException | None]]
Mark = tuple[Sums, int, int]
Assigned = tuple[MutableMapping[Any, Any], Any, Any]
"""A table in memory, a key, and the value before: `ABSENT` if there was none."""

ABSENT = object()

# Changes that share a commit, at most.
TOGETHER = 512
SLOW_S = 0.25
log = Log("store")


_encode = msgspec.json.Encoder().encode
_decoders = {kind: msgspec.json.Decoder(event) for kind, event in KINDS.items()}


def event_row(entry: Entry, seq: int) -> dict[str, Any]:
    """An event as the table has it, with its number there."""
    return {
        "seq": seq,
        "at": entry.at,
        "kind": entry.event.kind,
        "job_id": entry.job_id,
        "worker_id": entry.worker_id,
        "data": _encode(entry.event).decode(),
    }


def read_event(row: Row) -> Entry:
    """The event of a row of `event.after`, which another version may have written."""
    seq, at, kind, job_id, worker_id, data = row
    try:
        event = _decoders[kind].decode(data)
    except (KeyError, msgspec.DecodeError):
        event = Unknown()
    return Entry(seq=seq, at=at, job_id=job_id, worker_id=worker_id, event=event)


class Again(Exception):
    """A change failed after it had written: all changes must run again, each by itself."""


class Draft:
    """The sums, events and memory that the changes of one commit move.

    Sums and events are written once, when the commit is settled.
    """

    wrote = False
    """Whether anything was written since a store set it to False."""

    def __init__(self, last_event: int = 0) -> None:
        self._last_event = last_event
        self.sums = Sums()
        self.events: list[Entry] = []
        self.assigned: list[Assigned] = []
        self.answers: Answers = []

    def count(self, queue: str, shape_id: int, state: str, by: int, owner: str = "") -> None:
        self.wrote = True
        self.sums.counts[queue, shape_id, state] += by
        if owner:
            self.sums.owned[owner, queue, state] += by

    def tally(self, first: int, part: str, by: int) -> None:
        self.wrote = True
        self.sums.tallies[first, part] += by

    def tell(
        self, event: Event, *, at: float, job_id: int | None = None, worker_id: int | None = None
    ) -> None:
        self.wrote = True
        seq = self._last_event + len(self.events) + 1
        self.events.append(Entry(seq=seq, at=at, job_id=job_id, worker_id=worker_id, event=event))

    def failed(self, kind: int, example: str, at: float) -> None:
        self.wrote = True
        kinds = self.sums.failures
        kinds[kind] = (kinds.get(kind, (0,))[0] + 1, example, at)

    def spend(self, ended: Mapping[str, Any]) -> None:
        self.wrote = True
        self.sums.spent.append(ended)

    def assign(self, table: MutableMapping[K, V], key: K, value: V) -> None:
        self.wrote = True
        self.assigned.append((table, key, table.get(key, ABSENT)))
        table[key] = value

    def mark(self) -> Mark:
        """What has been counted, told and assigned so far, for `back_to`."""
        return self.sums.copy(), len(self.events), len(self.assigned)

    def back_to(self, point: Mark) -> None:
        """Undo what was counted, told and assigned since `mark`."""
        self.sums, events, assigned = point
        del self.events[events:]
        self.unassign(assigned)

    def unassign(self, first: int = 0) -> None:
        """Give memory the values back that it had before the assignments from `first` on."""
        while len(self.assigned) > first:
            table, key, before = self.assigned.pop()
            if before is ABSENT:
                table.pop(key, None)
            else:
                table[key] = before


Drafted = Draft | Exception | None
_Begun = tuple[asyncio.AbstractEventLoop, list[Waiting], Drafted]


class Writing:
    """A store that commits in a thread of its own, once for all changes that have gathered."""

    def __init__(self, readers: int) -> None:
        self._waiting: deque[Waiting] = deque()
        # Set while nothing is being committed, nor about to be.
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._begun: queue.SimpleQueue[_Begun | None] = queue.SimpleQueue()
        self._listeners: list[Callable[[Sequence[Entry]], None]] = []
        self._subscribers: list[Callable[[str], None]] = []
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self.loops = Tasks(Log("loops"))
        self._ended = threading.Event()

    async def write(self, change: Callable[[Tx], T], ahead: Ahead = NOTHING) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((change, done, ahead))
        if self._at_rest.is_set():
            self._at_rest.clear()
            # With all changes that are requested until the loop comes round.
            loop.call_soon(self._begin, loop)
        return await done

    async def read(self, query: Callable[[Tx], T]) -> T:
        loop, meter = asyncio.get_running_loop(), METER.get()
        if meter is None:
            return await loop.run_in_executor(self._readers, self._read, query)
        await meter.turn.acquire()
        try:
            reading = loop.run_in_executor(self._readers, self._metered, meter, query)
        except BaseException:
            meter.turn.release()
            raise
        # A caller that hangs up does not stop the reader: the turn ends when the reading ends.
        reading.add_done_callback(lambda _: meter.turn.release())
        return await asyncio.shield(reading)

    def _metered(self, meter: Meter, query: Callable[[Tx], T]) -> T:
        began = self._clock()
        try:
            return self._read(query)
        finally:
            meter.seconds += self._clock() - began

    @staticmethod
    def _clock() -> float:
        """The clock by which a reading is charged, in seconds."""
        return time.perf_counter()

    def listen(self, listener: Callable[[Sequence[Entry]], None]) -> None:
        self._listeners.append(listener)

    def subscribe(self, subscriber: Callable[[str], None]) -> None:
        self._subscribers.append(subscriber)

    def _start(self) -> None:
        """Begin to commit."""
        self._thread = self.loops.thread("writer", self._serve, over=self._ended.is_set)

    async def _stop(self) -> None:
        # A write may come between its rest and our waking.
        while not self._at_rest.is_set():
            await self._at_rest.wait()
        self._begun.put(None)
        await asyncio.to_thread(self._thread.join)
        self._readers.shutdown()
        self.loops.close()

    def _read(self, query: Callable[[Tx], T]) -> T:
        raise NotImplementedError

    def _draft(self, batch: Sequence[Waiting]) -> Drafted:
        """Run the changes on the event loop without committing them; raises nothing.

        None leaves them to the thread. An exception says why none of them can be committed.
        """
        return None

    def _run(self, batch: Sequence[Waiting], draft: Drafted) -> tuple[Answers, list[Entry]]:
        """Run the changes, unless they are drafted, and commit.

        Raises Unavailable for what the store itself refuses, and a `draft` that is an exception.
        """
        raise NotImplementedError

    def _gathered(self) -> list[Waiting]:
        """Take the changes of the next commit from the list, in their order."""
        return [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._gathered()
        if batch:
            self._begun.put((loop, batch, self._draft(batch)))
        else:
            self._at_rest.set()

    def _serve(self, kept: Loop) -> None:
        while self._turn():
            kept.turned(None)
        self._ended.set()

    def _turn(self) -> bool:
        """Commit the next batch and what gathers meanwhile; returns False when the store closes.

        No batch is kept until the next turn.
        """
        begun = self._begun.get()
        if begun is None:
            return False
        loop, batch, draft = begun
        try:
            while batch:
                self._commit(loop, batch, draft)
                batch, draft = self._next(), None
        finally:
            on_loop(loop, self._begin, loop)
        return True

    def _next(self) -> list[Waiting]:
        """The batch with which the thread goes on by itself; empty: it waits for the event loop."""
        return []

    def _commit(
        self, loop: asyncio.AbstractEventLoop, batch: list[Waiting], draft: Drafted
    ) -> None:
        """Run and commit a batch, and answer it. What breaks the commit fails all its changes."""
        began = time.perf_counter()
        events: list[Entry] = []
        try:
            answers, events = self._run(batch, draft)
        except Unavailable as error:
            log.warning("commit_failed", reason=str(error), changes=len(batch))
            answers = [(None, error)] * len(batch)
        # A bug of ours fails these changes, and must not stop the thread.
        except Exception as error:  # noqa: BLE001
            log.error("commit_broke", trace=True, changes=len(batch))  # noqa: TRY400
            answers = [(None, error)] * len(batch)
        except BaseException as error:
            why = RuntimeError(f"the writer broke: {error!r}")
            on_loop(loop, self._answer, batch, [(None, why)] * len(batch), events)
            raise
        took = time.perf_counter() - began
        if took > SLOW_S:
            log.warning("commit_slow", seconds=round(took, 3), changes=len(batch))
        self._committed(loop, batch, answers, events)

    def _committed(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[Waiting],
        answers: Answers,
        events: list[Entry],
    ) -> None:
        on_loop(loop, self._answer, batch, answers, events)

    def _answer(self, batch: list[Waiting], answers: Answers, events: Sequence[Entry]) -> None:
        for (_, done, _), (answer, error) in zip(batch, answers, strict=True):
            if done.cancelled():
                continue
            if error is None:
                done.set_result(answer)
            else:
                done.set_exception(error)
        self._tell(events)

    def _tell(self, events: Sequence[Entry]) -> None:
        if events:
            for listener in self._listeners:
                try:
                    listener(events)
                # One that fails must not cut off the others.
                except Exception as error:  # noqa: BLE001
                    self.loops.once_failed("listeners", error)

    def _deliver(self, notice: str) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(notice)
            except Exception as error:  # noqa: BLE001 -- as above
                self.loops.once_failed("subscribers", error)


def on_loop(
    loop: asyncio.AbstractEventLoop, what: Callable[..., object], *arguments: object
) -> None:
    """Call `what` on the event loop, unless the loop has ended: then no caller waits any more."""
    try:
        loop.call_soon_threadsafe(what, *arguments)
    except RuntimeError:
        log.warning("loop_closed")
