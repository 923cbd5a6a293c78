"""Submissions: listed, looked at, waited for. What makes them is in `intake.py`."""

from __future__ import annotations

import asyncio
import time

from ailurus.protocol import api_submissions as api
from ailurus.protocol import messages as m
from ailurus.protocol.scopes import Scope
from dispatcher.auth.caller import Caller
from dispatcher.memory.waiting import until
from dispatcher.ports import Tx
from dispatcher.rules import submission_records, submissions
from dispatcher.rules.searches import BEYOND
from dispatcher.service.search import FIRST, SEARCH_S, next_width
from dispatcher.service.state import State

# Submissions that are looked at in one reading.
PART = 100
# Between two looks of who waits: a busy dispatcher commits all the time.
LOOK_S = 0.2


class Submissions:
    """The part of the service that shows submissions."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def submissions(self, ask: api.SubmissionsQuery, caller: Caller) -> m.SubmissionPage:
        """Submissions, newest first."""
        owner = ask.user if caller.may(Scope.ADMIN) else caller.subject
        if ask.user not in ("", owner):
            return m.SubmissionPage(submissions=())
        found: list[m.SubmissionRow] = []
        before, width = ask.before or BEYOND, FIRST
        ends = time.monotonic() + SEARCH_S
        while True:

            def look(
                tx: Tx, before: int = before, width: int = width
            ) -> tuple[int, list[m.SubmissionRow], int]:
                least, last = submission_records.span_of_all(tx)
                end = max(least, min(before, last + 1) - width)
                found = submissions.page(tx, owner, end, before, PART)
                # A full part may have left some of this slice out.
                return (found[-1].submission if len(found) == PART else end), found, least

            async with self._state.searching:
                began = time.perf_counter()
                begin, rows, least = await self._state.store.read(look)
                width = next_width(width, time.perf_counter() - began)
            for row in rows:
                if _matches(ask, row):
                    found.append(row)
                    if len(found) == ask.limit:
                        return m.SubmissionPage(submissions=tuple(found), next=row.submission)
            before = begin
            if before <= least:
                return m.SubmissionPage(submissions=tuple(found))
            if time.monotonic() > ends:
                return m.SubmissionPage(submissions=tuple(found), next=before, cut=True)

    async def submission(self, ask: api.SubmissionQuery, caller: Caller) -> m.SubmissionDetail:
        """All about one submission, once it has ended or the time is over."""
        deadline = time.monotonic() + ask.wait_s

        def look(tx: Tx) -> m.SubmissionDetail:
            row = submissions.find(tx, ask.submission, caller.owns)
            return m.SubmissionDetail(
                row=row,
                retried_as=submissions.retried_as(tx, row.submission),
                acts=submissions.acts(tx, row.submission),
            )

        while True:
            signal = self._state.hub.expect_event()
            try:
                detail = await self._state.store.read(look)
            except BaseException:
                signal.cancel()
                raise
            left = deadline - time.monotonic()
            if detail.row.ended or left <= 0:
                signal.cancel()
                return detail
            await until(signal, left)
            await asyncio.sleep(min(LOOK_S, max(0.0, deadline - time.monotonic())))

    def start(self) -> None:
        """Count anew what a dispatcher of an earlier version may have left wrong."""
        self._state.loops.once("tallies", self._recount())

    async def _recount(self) -> None:
        number: int | None = 0
        while number is not None:
            number = await self._state.store.write(
                lambda tx, after=number: submissions.recount(tx, after)  # type: ignore[misc]
            )
            await asyncio.sleep(0)


def _matches(ask: api.SubmissionsQuery, row: m.SubmissionRow) -> bool:
    if ask.open and row.ended:
        return False
    if ask.name.endswith("*"):
        named = row.name.startswith(ask.name[:-1])
    else:
        named = ask.name in ("", row.name)
    key, equals, value = ask.label.partition("=")
    labelled = not ask.label or (row.labels.get(key) == value if equals else key in row.labels)
    return named and labelled
