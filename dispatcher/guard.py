"""uvicorn's HTTP protocol with bounds: nobody holds memory or a connection by sending slowly or
without end. What is bounded by its content (a body) is bounded by `web.read_body`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

LONGEST_HEAD = 64 * 1024  # request line and header fields
LONGEST_MESSAGE = 96 * 1024 * 1024  # all bytes of one request, its chunks and trailers included
HEAD_S = 20.0  # a head that has begun, or a connection that says nothing, ends after this long
TICK_S = 1.0
PARTING_S = 0.5  # when we end, a connection that was just in use may bring one more request
_REFUSAL = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class State(ServerState):
    """What all connections share."""

    ending = False


class Server(uvicorn.Server):
    """uvicorn's server, which ends without failing a request: every answer from then on says that it
    is the last on its connection, and nobody is cut off who is just asking."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None] = lambda: None) -> None:
        """`ending` is called when it begins to end: it lets go who only waits."""
        self._ends = asyncio.Event()
        super().__init__(config)
        self.server_state: State = State()
        self._ending = ending

    @property
    def should_exit(self) -> bool:
        return self._ends.is_set()

    @should_exit.setter
    def should_exit(self, ends: bool) -> None:
        if ends:
            self._ends.set()

    async def main_loop(self) -> None:
        """Once a second, for the date; uvicorn's own ten times are ten times that the process wakes."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), TICK_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the caller's: uvicorn's would end the process before the store is closed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server_state.ending = True
        self._ending()  # they are answered below, on connections that are no longer kept
        await super().shutdown(sockets)


class _Joined:
    """The transport of one answer: its head goes out together with the first piece of its body, in one
    call of the system and one packet."""

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport, self._cycle = transport, cycle
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if not self._cycle.response_started:  # 100 Continue
            self._transport.write(data)
        elif self._head is None:
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._cycle.transport = self._transport

    def close(self) -> None:
        if self._head is not None:
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class Guarded(HttpToolsProtocol):
    """One connection. Between requests uvicorn's own keep-alive time-out applies."""

    server_state: State
    _in_head = False  # a head has begun and has not ended
    _bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        wait = PARTING_S if self.server_state.ending else HEAD_S
        self._timer = self.loop.call_later(wait, transport.close)

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
            self._settle()
            self._timer = self.loop.call_later(PARTING_S, self.transport.close)
        else:
            self.cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)  # before the parser: what ends a message begins the count anew
        super().data_received(data)
        if self._in_head:
            if self._bytes > LONGEST_HEAD and not self.transport.is_closing():
                self.transport.write(_REFUSAL)
                self.transport.close()
            elif self._timer is None:
                self._timer = self.loop.call_later(HEAD_S, self.transport.close)
        elif self._bytes > LONGEST_MESSAGE:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer after the body means nothing here
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._settle()
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # then nothing follows the head
            self.cycle.transport = _Joined(self.transport, self.cycle)  # type: ignore[assignment]
        if self.server_state.ending:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._bytes = 0
        super().on_message_complete()

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
