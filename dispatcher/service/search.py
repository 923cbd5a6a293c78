"""Pages of jobs, newest first, read in slices of their ids.

Whatever is searched for, a slice holds a reader for about `SLICE_S`. A user has one search at a
time, and all searches together leave a reader free.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from weakref import WeakValueDictionary

from ailurus.protocol.messages import JobRow
from ailurus.protocol.states import WITH_WORKER, JobState
from dispatcher.ports import Store, Tx
from dispatcher.rules import records, views

# Ids of the first slice: most lists end there.
FIRST = 2_000
WIDEST = 1_000_000
# What a slice should take.
SLICE_S = 0.02
# After so long a page is handed over as far as it is.
SEARCH_S = 2.0


class Searches:
    """Reads pages of jobs, a slice at a time, for one user after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slice = asyncio.Semaphore(1)
        self._users: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def page(
        self, subject: str, wanted: Sequence[JobState], values: Mapping[str, Any]
    ) -> tuple[list[JobRow], int | None]:
        """Up to `most` jobs and where the page after them begins, if there may be one.
        A page may have fewer rows, or none, and yet be followed by others."""
        lock = self._users.setdefault(subject, asyncio.Lock())
        async with lock:
            return await self._page(wanted, values)

    async def _page(
        self, wanted: Sequence[JobState], values: Mapping[str, Any]
    ) -> tuple[list[JobRow], int | None]:
        most, before, width = values["most"], values["before"], FIRST
        ends = time.monotonic() + SEARCH_S
        jobs: list[JobRow] = []
        while True:
            part = {**values, "before": before, "most": most - len(jobs)}
            async with self._slice:
                began = time.perf_counter()
                found, before, least = await self._store.read(
                    lambda tx, part=part, width=width: _slice(tx, wanted, part, width)  # type: ignore[misc]
                )
                took = time.perf_counter() - began
            jobs += found
            if len(jobs) == most:
                return jobs, jobs[-1].job_id
            if before <= least:
                return jobs, None
            if time.monotonic() > ends:
                return jobs, before
            if took > SLICE_S:
                width = max(FIRST, width // 2)
            elif took < SLICE_S / 4:
                width = min(WIDEST, width * 4)


def _slice(
    tx: Tx, wanted: Sequence[JobState], values: Mapping[str, Any], width: int
) -> tuple[list[JobRow], int, int]:
    """The rows among the `width` ids below `before`; the least of these ids; the least id of all
    jobs."""
    least, last = records.job_range(tx)
    before = min(values["before"], last + 1)
    held = [state for state in wanted if state in WITH_WORKER]
    if values["kind"] is not None or (held and held == list(wanted)):
        # found by their workers or by their kind: few, whatever the ids are
        width = before
    begin = max(least, before - width)
    part = {**values, "before": before, "least": begin}
    pages = list(_pages(tx, wanted, part))
    rows = list(islice(heapq.merge(*pages, key=lambda row: -row.job_id), values["most"]))
    return rows, begin, least


def _pages(tx: Tx, wanted: Sequence[JobState], part: Mapping[str, Any]) -> Iterator[list[JobRow]]:
    """Rows to be merged: by kind of failure and state, by state, or whatever they are."""
    if part["kind"] is not None:
        values = {name: value for name, value in part.items() if name != "kind"}
        for (kind,) in tx.all("failure.alike", kind=part["kind"], owner=part["owner"]):
            for state in wanted or ("",):
                yield views.jobs(tx, "job.page_of_kind", kind=kind, state=state, **values)
        return
    for state in wanted:
        page = "job.page_with_worker" if state in WITH_WORKER else "job.page_in_state"
        yield views.jobs(tx, page, state=state, **part)
    if not wanted:
        yield views.jobs(tx, "job.page", **part)
