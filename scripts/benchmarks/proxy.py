"""A proxy for HTTP that loses answers: the server has done what was asked, the client never hears it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from msgspec import Struct


class Seen(Struct, frozen=True):
    """A request as it came by."""

    at: float  # time.monotonic()
    path: str


class Proxy:
    """Listens on loopback in a thread of its own; `loses(nr)` says whether answer `nr` is dropped."""

    def __init__(
        self, upstream: int, loses: Callable[[int], bool] = lambda nr: False, *, keep: bool = False
    ) -> None:
        self._upstream = upstream
        self._loses = loses
        self._keep = keep
        self.kept: list[bytes] = []  # all that came by, both ways, if asked for
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0
        self.answers = 0
        self.lost = 0
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
                    back.write(request)
                    answer = await self._answer(there, reader)
                    self.answers += 1
                    if self._keep:
                        self.kept += (request, answer)
                    if not answer or self._loses(self.answers):
                        self.lost += bool(answer)
                        break
                    writer.write(answer)
                    await writer.drain()

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
