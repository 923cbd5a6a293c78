"""The topics of a live page: each reads from the service what is new and makes one event of it.

`look` returns what the pages that are here need, `snapshot` what one that joins needs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import (
    EventsQuery,
    JobsQuery,
    LogQuery,
    NoQuery,
    Samples,
    SamplesQuery,
    Scope,
    WorkerRows,
    WorkersQuery,
)
from ailurus.protocol.states import FINAL
from ailurus.tasks import Tasks
from dispatcher import events
from dispatcher.auth.caller import Caller
from dispatcher.events import Entry, Handled, StateChanged, Submitted

# Of one pass; with more, pages load their lists again.
MOST_EVENTS = 500
# Between two reads of what changes without an event: rates, resource use.
QUIET_S = 2.0
WORKERS_S = 1.0
# The newest of a user: these move in a list.
OWN_JOBS = 500
OWN_S = 0.5
# Of one topic to one page: big lists come less often.
BYTES_PER_S = 500_000

_encode = msgspec.json.Encoder().encode


class HubLike(Protocol):
    """Knows the number of the last committed event."""

    seq: int


class WatchedUsers(Protocol):
    """The service's calls for users about jobs."""

    async def jobs(self, ask: JobsQuery, caller: Caller) -> m.JobPage: ...
    async def events(self, ask: EventsQuery, caller: Caller) -> m.Events: ...
    async def show(self, ask: NoQuery, caller: Caller, job_id: int) -> m.JobDetail: ...
    async def why(self, ask: NoQuery, caller: Caller, job_id: int) -> m.Why: ...
    async def samples(self, ask: SamplesQuery, caller: Caller, job_id: int) -> Samples: ...
    async def log(self, ask: LogQuery, caller: Caller, job_id: int) -> m.LogChunk: ...


class WatchedFigures(Protocol):
    """The system in figures."""

    async def overview(self, ask: NoQuery, caller: Caller) -> m.Overview: ...
    async def workers(self, ask: WorkersQuery, caller: Caller) -> WorkerRows: ...


class Watched(Protocol):
    """The parts of the service that pages look at."""

    @property
    def loops(self) -> Tasks: ...
    @property
    def hub(self) -> HubLike: ...
    @property
    def users(self) -> WatchedUsers: ...
    @property
    def figures(self) -> WatchedFigures: ...


def encoded(kind: str, content: object, seq: int | None = None) -> bytes:
    """One server-sent event. JSON has no raw newline, so no text can end it early."""
    head = b"" if seq is None else b"id: %d\n" % seq
    return b"%sevent: %s\ndata: %s\n\n" % (head, kind.encode(), _encode(content))


class EventReader:
    """The events that were committed since the last look, for all topics together."""

    def __init__(self, service: Watched) -> None:
        self._service = service
        # What was before is in the snapshots.
        self._last = service.hub.seq

    async def since(self) -> Sequence[Entry]:
        """What was committed since the last time; costs nothing when nothing was."""
        if self._service.hub.seq == self._last:
            return ()
        ask = EventsQuery(after=self._last, limit=MOST_EVENTS)
        answer = await self._service.users.events(ask, _OURSELVES)
        self._last = answer.last
        return [events.of_users(shown) for shown in answer.events]


# Reads all events, as only administrators may: a feed shows a caller no more of them than is
# theirs.
_OURSELVES = Caller(subject="", scopes=frozenset({Scope.ADMIN}))


# What is the same for all is read as the caller that may see least.
_LEAST = Caller(subject="", scopes=frozenset({Scope.READ}))


class Feed:
    """A topic with the rights of one caller."""

    # Whether the answer does not depend on the caller.
    same_for_all = False

    def __init__(self, service: Watched, caller: Caller, job_id: int) -> None:
        self._service = service
        self._caller = caller
        self._job_id = job_id
        self._read_at = 0.0
        self._last = b""
        # What the pages get in this pass.
        self.fresh = b""
        self.users = 0
        # When, by the monotonic clock.
        self.looked = 0.0
        # Since then.
        self.missed: list[Entry] = []
        self.ready: asyncio.Future[None]

    async def begin(self) -> None:
        """Read the first state; raises Rejected when the caller may not."""
        await self.look(())

    async def look(self, entries: Sequence[Entry]) -> bytes:
        """What changed, as an event; nothing if nothing did."""
        raise NotImplementedError

    def snapshot(self) -> bytes:
        """The present state, as an event."""
        return self._last

    def close(self) -> None:
        """End it: no page looks any more."""

    def _due(self, period_s: float) -> bool:
        return time.monotonic() - self._read_at >= period_s

    def _changed(self, kind: str, content: object) -> bytes:
        self._read_at = time.monotonic()
        now, self._last = self._last, encoded(kind, content)
        return self._last if self._last != now else b""


class OverviewFeed(Feed):
    """The system in numbers, as the caller may see it: at each change, and now and then for the
    rates. Users are many, and most events are others': theirs come now and then."""

    async def look(self, entries: Sequence[Entry]) -> bytes:
        mine = entries and self._caller.may(Scope.ADMIN)
        if not mine and not self._due(QUIET_S):
            return b""
        return self._changed(
            "overview", await self._service.figures.overview(NoQuery(), self._caller)
        )


class JobsFeed(Feed):
    """What a list needs to stay true: the changes of jobs, and that there are new ones."""

    _rows: dict[int, m.JobRow] | None = None

    async def begin(self) -> None:
        if not self._caller.may(Scope.ADMIN):
            self._rows = await self._own()

    async def look(self, entries: Sequence[Entry]) -> bytes:
        if self._rows is not None:
            return await self._compared(self._rows) if entries or self._late else b""
        changes: dict[int, dict[str, Any]] = {}
        submitted = 0
        for entry in entries:
            match entry.event:
                case Submitted(jobs=jobs):
                    submitted += jobs
                case Handled(verb="move", new=str(queue)) if entry.job_id is not None:
                    changes.setdefault(entry.job_id, {"job_id": entry.job_id})["queue"] = queue
                case StateChanged() as job if entry.job_id is not None:
                    change = changes.setdefault(entry.job_id, {"job_id": entry.job_id})
                    change.update(_moved(job, entry.worker_id), changed=entry.at)
        return self._event(list(changes.values()), submitted, reload=len(entries) >= MOST_EVENTS)

    def snapshot(self) -> bytes:
        """A page that joins loads its list itself."""
        return encoded("jobs", {"changes": [], "submitted": 0, "reload": True})

    _late = False

    async def _compared(self, before: dict[int, m.JobRow]) -> bytes:
        """Events name no owner: the caller's newest jobs are read and compared."""
        self._late = not self._due(OWN_S)
        if self._late:
            return b""
        self._read_at = time.monotonic()
        self._rows = now = await self._own()
        changes = [row for job_id, row in now.items() if before.get(job_id, row) != row]
        return self._event(changes, sum(job_id not in before for job_id in now))

    async def _own(self) -> dict[int, m.JobRow]:
        page = await self._service.users.jobs(JobsQuery(limit=OWN_JOBS), self._caller)
        return {row.job_id: row for row in page.jobs}

    def _event(self, changes: Sequence[object], submitted: int, *, reload: bool = False) -> bytes:
        if not changes and not submitted:
            return b""
        content = {"changes": changes, "submitted": submitted, "reload": reload}
        return encoded("jobs", content)


def _moved(job: StateChanged, worker_id: int | None) -> dict[str, Any]:
    """What is new in a job's row: its owner may see it."""
    moved = {"attempt_nr": job.attempt_nr, "worker_id": worker_id, "code": job.code}
    return {"state": job.state} | {key: value for key, value in moved.items() if value is not None}


class WorkersFeed(Feed):
    """All workers alive, with their last heartbeat; large lists less often."""

    same_for_all = True

    async def look(self, entries: Sequence[Entry]) -> bytes:
        if not self._due(max(WORKERS_S, len(self._last) / BYTES_PER_S)):
            return b""
        rows = await self._service.figures.workers(WorkersQuery(), _LEAST)
        return self._changed("workers", rows)


class JobFeed(Feed):
    """One job: all about it, why it is where it is, and its curves; of these only what is new."""

    _final = False
    _attempt_nr = 0
    _samples: tuple[m.Sample, ...] = ()
    _content: dict[str, Any] | None = None

    async def look(self, entries: Sequence[Entry]) -> bytes:
        touched = any(entry.job_id == self._job_id for entry in entries)
        if not touched and self._content and (self._final or not self._due(QUIET_S)):
            return b""
        self._read_at = time.monotonic()
        ask: dict[str, Any] = {"caller": self._caller, "job_id": self._job_id}
        detail = await self._service.users.show(NoQuery(), **ask)
        why = await self._service.users.why(NoQuery(), **ask)
        if detail.row.attempt_nr != self._attempt_nr:
            self._attempt_nr, self._samples = detail.row.attempt_nr, ()
        after = self._samples[-1].at if self._samples else 0.0
        answer = await self._service.users.samples(SamplesQuery(after=after), **ask)
        self._samples += answer.samples
        self._final = detail.row.state in FINAL
        before, self._content = (
            self._content,
            {"job_id": self._job_id, "detail": detail, "why": why},
        )
        if before == self._content and not answer.samples:
            return b""
        return encoded("job", {**self._content, "after": after, "samples": answer.samples})

    def snapshot(self) -> bytes:
        return encoded("job", {**(self._content or {}), "after": 0.0, "samples": self._samples})
