"""The topic `log:ID` of a live page: what a payload writes, as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import LogQuery, NoQuery
from dispatcher.auth.caller import Caller
from dispatcher.console.feeds import Feed, Watched, encoded
from dispatcher.events import Entry, StateChanged
from dispatcher.refusal import Rejected

# Characters of a live log that a page gets when it joins.
KEPT_LOG = 64_000
LOG_WAIT_S = 20.0
LOG_AGAIN_S = 2.0
_STREAMS = ("stdout", "stderr")


class LogFeed(Feed):
    """Both streams of a job's latest attempt. While a page looks at them, its pilot sends them."""

    def __init__(self, service: Watched, caller: Caller, job_id: int) -> None:
        super().__init__(service, caller, job_id)
        self._attempt_nr = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._pending: list[dict[str, Any]] = []
        self._kept: dict[str, deque[dict[str, Any]]] = {}

    async def begin(self) -> None:
        ask: dict[str, Any] = {"caller": self._caller, "job_id": self._job_id}
        detail = await self._service.users.show(NoQuery(), **ask)
        self._restart(detail.row.attempt_nr)

    async def look(self, entries: Sequence[Entry]) -> bytes:
        for entry in entries:
            event = entry.event
            if entry.job_id == self._job_id and isinstance(event, StateChanged):
                attempt_nr = event.attempt_nr or 0
                if attempt_nr > self._attempt_nr:
                    self._restart(attempt_nr)
        pending, self._pending = self._pending, []
        return b"".join(encoded("log", chunk) for chunk in pending)

    def snapshot(self) -> bytes:
        return b"".join(encoded("log", chunk) for kept in self._kept.values() for chunk in kept)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    def _restart(self, attempt_nr: int) -> None:
        self.close()
        self._attempt_nr = attempt_nr
        self._kept = {}
        if attempt_nr:
            self._tasks = [
                self._service.loops.once("live_logs", self._follow(stream)) for stream in _STREAMS
            ]

    async def _follow(self, stream: str) -> None:
        offset = -KEPT_LOG
        while True:
            ask = LogQuery(
                stream=stream, attempt_nr=self._attempt_nr, offset=offset, wait_s=LOG_WAIT_S
            )
            try:
                chunk = await self._service.users.log(ask, self._caller, job_id=self._job_id)
            except Rejected:
                # No log yet.
                await asyncio.sleep(LOG_AGAIN_S)
                continue
            except Exception as error:  # noqa: BLE001 -- else the page would get no more of this log
                self._service.loops.once_failed("live_logs", error)
                await asyncio.sleep(LOG_AGAIN_S)
                continue
            if chunk.text or chunk.final:
                self._keep(stream, chunk)
            if chunk.final and not chunk.text:
                return
            offset = chunk.end

    def _keep(self, stream: str, chunk: m.LogChunk) -> None:
        event = {
            "job_id": self._job_id,
            "attempt_nr": self._attempt_nr,
            "stream": stream,
            **msgspec.structs.asdict(chunk),
        }
        self._pending.append(event)
        kept = self._kept.setdefault(stream, deque())
        kept.append(event)
        while sum(len(chunk["text"]) for chunk in kept) - len(kept[0]["text"]) > KEPT_LOG:
            # A page loads earlier text by itself.
            kept.popleft()
