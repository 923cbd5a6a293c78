"""Searches for jobs, read in slices of their ids, newest first.

Whatever is searched for, a slice holds a reader for about `SLICE_S`. A user has one search at a
time, and all searches together leave a reader free.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from msgspec import Struct

from ailurus.protocol import messages as m
from ailurus.protocol.messages import JobRow
from dispatcher.ports import Store, Tx
from dispatcher.rules import records, searches
from dispatcher.rules.searches import Wanted

# Ids of the first slice: most lists end there.
FIRST = 2_000
WIDEST = 1_000_000
# What a slice should take.
SLICE_S = 0.02
# After so long a page is handed over as far as it is.
SEARCH_S = 2.0
# Owners that a count names.
OWNERS = 5
T = TypeVar("T")


class _Slice(Struct, frozen=True):
    """What a slice of ids held."""

    found: Any
    least: int
    """The least of its ids."""
    end: int
    """The least id that there is to look at."""
    last: int
    """The greatest id of all jobs."""


def next_width(width: int, took_s: float) -> int:
    """How many ids the slice has that follows one of `width` ids, which took so long."""
    if took_s > SLICE_S:
        return max(FIRST, width // 2)
    return min(WIDEST, width * 4) if took_s < SLICE_S / 4 else width


class Searches:
    """Searches for one user after the other."""

    def __init__(self, store: Store, turns: asyncio.Semaphore) -> None:
        """`turns`: see `State.searching`."""
        self._store, self._turns = store, turns
        self._users: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def page(self, subject: str, search: Wanted, before: int, most: int) -> m.JobPage:
        """Up to `most` jobs below the id `before`, and where the page after them begins, if there
        may be one. A page may have fewer rows, or none, and yet be followed by others."""
        jobs: list[JobRow] = []

        def look(tx: Tx, values: dict[str, Any]) -> list[JobRow]:
            return _rows(tx, search, {**values, "most": most - len(jobs)})

        async with self._users.setdefault(subject, asyncio.Lock()):
            ends = time.monotonic() + SEARCH_S
            async for part in self._slices(search, before, look):
                jobs += part.found
                if len(jobs) == most:
                    return m.JobPage(jobs=tuple(jobs), next=jobs[-1].job_id)
                if part.least > part.end and time.monotonic() > ends:
                    return m.JobPage(jobs=tuple(jobs), next=part.least, cut=True)
        return m.JobPage(jobs=tuple(jobs))

    async def count(self, subject: str, search: Wanted) -> m.Counted:
        """How many jobs match, as far as the time allows."""
        states: Counter[str] = Counter()
        users: Counter[str] = Counter()
        last, cut = 0, False

        def look(tx: Tx, values: dict[str, Any]) -> list[tuple[str, str, int]]:
            query, begins = searches.begins(tx, search)
            return [
                row for begin in begins for row in searches.count(tx, query, begin, search, values)
            ]

        async with self._users.setdefault(subject, asyncio.Lock()):
            ends = time.monotonic() + SEARCH_S
            async for part in self._slices(search, searches.BEYOND, look):
                last = last or part.last
                for owner, state, n in part.found:
                    states[state] += n
                    users[owner] += n
                if part.least > part.end and time.monotonic() > ends:
                    cut = True
                    break
        return m.Counted(
            jobs=states.total(),
            states=dict(states.most_common()),
            users=dict(users.most_common(OWNERS)),
            owners=len(users),
            at=search.now,
            last=max(0, last),
            cut=cut,
        )

    async def _slices(
        self, search: Wanted, before: int, look: Callable[[Tx, dict[str, Any]], Any]
    ) -> AsyncIterator[_Slice]:
        """What `look` finds in one slice after the other, downwards from `before`."""
        before, width = min(before, search.before), FIRST
        while True:
            async with self._turns:
                began = time.perf_counter()
                part = await self._store.read(
                    lambda tx, before=before, width=width: _slice(tx, search, before, width, look)  # type: ignore[misc]
                )
                took = time.perf_counter() - began
            yield part
            before = part.least
            if before <= part.end:
                return
            width = next_width(width, took)


def _slice(
    tx: Tx, search: Wanted, before: int, width: int, look: Callable[[Tx, dict[str, Any]], Any]
) -> _Slice:
    """What is among the `width` ids below `before`."""
    least, last = records.job_range(tx)
    search = searches.placed(tx, search)
    end = max(least, search.least)
    before = min(before, last + 1, search.before)
    _, begins = searches.begins(tx, search)
    if all(begin.few for begin in begins):
        # Found at an index: few, whatever the ids are.
        width = before
    begin = max(end, before - width)
    found = look(tx, {"least": begin, "before": before})
    return _Slice(found, begin, end, last)


def _rows(tx: Tx, search: Wanted, values: dict[str, Any]) -> list[JobRow]:
    """Rows from all beginnings of the search, merged."""
    query, begins = searches.begins(tx, search)
    pages = [searches.page(tx, query, begin, search, values) for begin in begins]
    rows = heapq.merge(*pages, key=lambda row: -row.job_id)
    return list(islice(rows, values["most"]))
