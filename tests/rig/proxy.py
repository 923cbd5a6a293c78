"""A proxy for HTTP with the faults of networks, request by request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

from msgspec import Struct


class Fault(StrEnum):
    """What becomes of a request."""

    NONE = "none"
    LOST = "lost"  # done, but the client never hears it
    CUT = "cut"  # the connection breaks before the server has heard all of it
    TWICE = "twice"  # the server hears it twice, the client the second answer
    SILENT = "silent"  # half open: done, and nothing comes for a while; then the connection breaks
    DRIBBLE = "dribble"  # the answer comes a few bytes at a time


SILENT_S = 3.0


class Seen(Struct, frozen=True):
    """A request as it came by."""

    at: float  # time.monotonic()
    path: str


class Proxy:
    """Listens on loopback in a thread of its own; `fault(nr)` says what becomes of request `nr`."""

    def __init__(
        self,
        upstream: int,
        fault: Callable[[int], Fault] = lambda nr: Fault.NONE,
        *,
        keep: bool = False,
    ) -> None:
        self._upstream = upstream
        self._fault = fault
        self._keep = keep
        self.kept: list[bytes] = []  # all that came by, both ways, if asked for
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0
        self.requests = 0
        self.faults: Counter[Fault] = Counter()
        self.seen: list[Seen] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(5)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())  # what is still open is cancelled at the end

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _client(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection of a client, with one of ours to the server, request by request."""
        broken = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        with contextlib.closing(writer), contextlib.suppress(*broken, asyncio.CancelledError):
            there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
            with contextlib.closing(back):
                while request := await _message(reader):
                    path = request.split(b" ", 2)[1].decode("latin-1")
                    self.seen.append(Seen(time.monotonic(), path))
                    self.requests += 1
                    fault = self._fault(self.requests)
                    self.faults[fault] += 1
                    if fault is Fault.CUT:
                        back.write(request[: len(request) // 2])
                        await back.drain()
                        break
                    back.write(request)
                    answer = await self._answer(there, reader)
                    if fault is Fault.TWICE:
                        back.write(request)
                        answer = await self._answer(there, reader)
                    if self._keep:
                        self.kept += (request, answer)
                    if fault is Fault.SILENT:
                        await asyncio.sleep(SILENT_S)
                    if not answer or fault in (Fault.LOST, Fault.SILENT):
                        break
                    await _write(writer, answer, piece=7 if fault is Fault.DRIBBLE else len(answer))

    async def _answer(self, there: StreamReader, client: StreamReader) -> bytes:
        """The server's answer; nothing if the client hangs up before it comes."""
        answer = asyncio.ensure_future(_message(there))
        gone = asyncio.ensure_future(_end_of(client))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else b""
        finally:
            answer.cancel()
            gone.cancel()


async def _write(writer: StreamWriter, answer: bytes, piece: int) -> None:
    for at in range(0, len(answer), piece):
        writer.write(answer[at : at + piece])
        await writer.drain()
        if piece < len(answer):
            await asyncio.sleep(0.002)


async def _end_of(client: StreamReader) -> None:
    while not client.at_eof():  # noqa: ASYNC110 -- reading would take the next request away
        await asyncio.sleep(0.05)


async def _message(reader: StreamReader) -> bytes:
    """A whole request or answer; nothing at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    fields = head.lower()
    if b"transfer-encoding: chunked" in fields:
        return head + await _chunks(reader)
    _, found, rest = fields.partition(b"content-length:")
    return head + (await reader.readexactly(int(rest.split(b"\r\n", 1)[0])) if found else b"")


async def _chunks(reader: StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        body += line + await reader.readexactly(int(line, 16) + 2)
        if int(line, 16) == 0:
            return body
