"""Inputs of single items: brought into the job's directory before the item that names them begins.

As many items as run at once are looked after ahead. What several name is brought once, and removed
when nobody who is here needs it any more: so a job may have more inputs than its disk holds. Of two
inputs that are not the same and have one name, the item of the second waits until the first is
gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from ailurus.protocol import trees
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile
from pilot.items.item import Item
from pilot.ports import JobError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

AT_ONCE = 4
"""Inputs that are brought at the same time."""


class Brought(Struct):
    """An input is there, or why not."""

    file: InputFile
    error: JobError | None = None


class HasInputs(Struct):
    """An item has its inputs, or why not."""

    item: Item
    error: JobError | None = None


class _Held(Struct):
    file: InputFile
    users: set[Item]
    here: bool = False


class ItemInputs:
    """Those of the items of one job. One thread calls it; `bring` is called by others."""

    def __init__(
        self,
        bring: Callable[[InputFile], None],
        remove: Callable[[str], None],
        told: Callable[[Brought], None],
        ahead: int,
    ) -> None:
        """`bring` raises JobError; `remove` takes the name in the job's directory; `told` hears of
        each that came. `ahead`: items that are looked after before they begin."""
        self._bring, self._remove, self._told, self._ahead = bring, remove, told, ahead
        self._held: dict[str, _Held] = {}
        self._queue: deque[Item] = deque()
        # Of items whose inputs are coming, those that are missing.
        self._missing: dict[Item, set[str]] = {}
        # Items that have all of theirs and have not begun.
        self._ready: set[Item] = set()
        self._pool: ThreadPoolExecutor | None = None

    def want(self, item: Item) -> None:
        """Look after an item in its turn."""
        self._queue.append(item)

    def turn(self) -> Iterator[HasInputs]:
        """Look after those whose turn it is now. To be called whenever one was wanted, has begun
        or is over: those that have theirs by now."""
        for _ in range(len(self._queue)):
            if len(self._missing) + len(self._ready) >= self._ahead:
                break
            item = self._queue.popleft()
            if self._must_wait(item):
                self._queue.append(item)
                continue
            missing = set()
            for file in item.lease.spec.inputs:
                if not self._held_for(item, file).here:
                    missing.add(trees.place(file))
            if missing:
                self._missing[item] = missing
            else:
                yield self._has_all(item)

    def brought(self, news: Brought) -> Iterator[HasInputs]:
        """Take what `told` was told."""
        name = trees.place(news.file)
        held = self._held[name]
        if news.error is not None:
            del self._held[name]
            for item in held.users:
                self._missing.pop(item, None)
                yield HasInputs(item, news.error)
        else:
            held.here = True
            for item in held.users:
                if (missing := self._missing.get(item)) is not None:
                    missing.discard(name)
                    if not missing:
                        yield self._has_all(item)
            self._unless_used(name)

    def begun(self, item: Item) -> None:
        """An item that has its inputs begins: it is another's turn."""
        self._ready.discard(item)

    def over(self, item: Item) -> None:
        """An item needs its inputs no more, or never will."""
        self._ready.discard(item)
        self._missing.pop(item, None)
        if item in self._queue:
            self._queue.remove(item)
        for file in item.lease.spec.inputs:
            name = trees.place(file)
            if (held := self._held.get(name)) is not None and item in held.users:
                held.users.discard(item)
                self._unless_used(name)

    def close(self) -> None:
        """Wait for what is under way, which the caller has stopped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _has_all(self, item: Item) -> HasInputs:
        self._missing.pop(item, None)
        self._ready.add(item)
        return HasInputs(item)

    def _must_wait(self, item: Item) -> bool:
        """Whether another file lies where one of an item's inputs belongs, or is on its way
        there."""
        held = (self._held.get(trees.place(file)) for file in item.lease.spec.inputs)
        return any(
            there is not None and there.file != file
            for there, file in zip(held, item.lease.spec.inputs, strict=True)
        )

    def _held_for(self, item: Item, file: InputFile) -> _Held:
        name = trees.place(file)
        if (held := self._held.get(name)) is None:
            held = self._held[name] = _Held(file, set())
            if self._pool is None:
                # Late: most items have no inputs.
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(AT_ONCE, "inputs")
            self._pool.submit(self._brought_by, file)
        held.users.add(item)
        return held

    def _brought_by(self, file: InputFile) -> None:
        try:
            self._bring(file)
        except JobError as error:
            self._told(Brought(file, error))
        except Exception as error:  # noqa: BLE001 - the items that wait for it end by it
            what = f"the pilot itself failed: {type(error).__name__}: {error}"
            self._told(Brought(file, JobError(Code.INTERNAL, what)))
        else:
            self._told(Brought(file))

    def _unless_used(self, name: str) -> None:
        held = self._held[name]
        # What is on its way comes first.
        if held.here and not held.users:
            del self._held[name]
            self._remove(name)


def refusal(files: Sequence[InputFile]) -> JobError | None:
    """Why inputs of an item cannot be brought while others of its job run."""
    if any(file.unpack for file in files):
        return JobError(
            Code.NOT_IMPLEMENTED,
            "archives of single payloads are not unpacked",
            field="inputs",
            remedy="name them among the inputs of the job, or let the payload unpack them",
        )
    return None
