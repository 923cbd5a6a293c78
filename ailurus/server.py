"""The guarded server of every HTTP door, the dispatcher's and the relay's: uvicorn with bounds.

Nobody holds memory or a connection by saying nothing, by sending slowly or without end, or by not reading
what is answered; nobody takes all connections. TLS is counted from the accepted connection on, and a
handshake has its time. How long a body may be is the application's to say; here it has an end. No pilot
imports this.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ailurus.logs import Log, ThrottledLog
from ailurus.loops import Loop
from ailurus.tasks import Tasks

LONGEST_HEAD = 64 * 1024  # request line and header fields
LONGEST_MESSAGE = 96 * 1024 * 1024  # all bytes of one request, its chunks and trailers included
HEAD_S = 20.0  # a head that has begun, or a connection that says nothing, ends after this long
MESSAGE_S = 150.0  # for all of a request: more than an application gives a body
STALLED_S = 60.0  # an answer that its client does not read
HANDSHAKE_S = 10.0  # for TLS, from the connection on
GOODBYE_S = 2.0  # for the end of TLS, and of a connection that was refused
RESERVE = 200  # descriptors that are no connection's
# One address may hold one in so many of all connections: a proxy, or a site behind one address.
SHARE = 2
TICK_S = 1.0
PARTING_S = 0.5  # when we end, a connection that was just in use may bring one more request
_REFUSAL = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Crowd:
    """Who is connected: at most `most`, and at most a share of them from one address."""

    def __init__(self, most: int | None = None) -> None:
        """`most`: None is what the descriptors of this process allow."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = max(soft - RESERVE, soft // 2) if most is None else most
        self.each = max(1, self.most // SHARE)
        self.here: Counter[str] = Counter()
        self.count = 0
        self._trouble = ThrottledLog(Log("server"))

    def enters(self, address: str) -> bool:
        """Whether one more connection of the address is let in."""
        if self.count >= self.most or self.here[address] >= self.each:
            self._trouble.warning("connections_refused", f"{self.count} of {self.most}")
            return False
        self.here[address] += 1
        self.count += 1
        return True

    def leaves(self, address: str) -> None:
        self.count -= 1
        self.here[address] -= 1
        if self.here[address] <= 0:
            del self.here[address]


def address_of(peer: object) -> str:
    """The address by which a connection is counted; of IPv6 the /64 network, whose owner numbers its hosts
    at will."""
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    return ":".join(host.split(":")[:4])


class State(ServerState):
    """What all connections share."""

    ending = False

    def __init__(self, crowd: Crowd | None = None) -> None:
        super().__init__()
        self.crowd = crowd or Crowd()


class Server(uvicorn.Server):
    """uvicorn's server, which ends without failing a request: every answer from then on says that it
    is the last on its connection, and nobody is cut off who is just asking."""

    def __init__(
        self,
        config: uvicorn.Config,
        ending: Callable[[], None] = lambda: None,
        crowd: Crowd | None = None,
        loops: Tasks | None = None,
    ) -> None:
        """`ending` is called when it begins to end: it answers the requests that only wait. `loops` keep what
        accepts connections with TLS."""
        self._ends = asyncio.Event()
        super().__init__(config)
        self.server_state: State = State(crowd)
        self.loops = loops or Tasks(Log("server"))
        self.servers: list[asyncio.base_events.Server] = []
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

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit`; however this ends, nobody is let in any more, or connected."""
        try:
            await super().serve(sockets)
        finally:
            for server in self.servers:
                server.close()
            for connection in list(self.server_state.connections):
                connection.transport.abort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on `sockets`. uvicorn's own would give a handshake a minute, and count none."""
        loop = asyncio.get_running_loop()
        self.servers = []
        for one in sockets or []:
            if self.config.ssl is None:
                server = await loop.create_server(
                    self.protocol, sock=one, backlog=self.config.backlog
                )
            else:
                server = _Accepting(one, self.config.ssl, self)  # type: ignore[assignment]
            self.servers.append(server)
        self.started = True

    def protocol(self) -> Guarded:
        """The protocol of a new connection."""
        return Guarded(config=self.config, server_state=self.server_state, app_state={})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server_state.ending = True
        self._ending()  # they are answered below, on connections that are no longer kept
        await super().shutdown(sockets)


class _Accepting:
    """A listener with TLS. A connection counts from when it is accepted, so that nobody fills the door
    with handshakes that never end."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext, server: Server) -> None:
        listener.setblocking(False)
        self._listener, self._tls, self._server = listener, tls, server
        self._crowd = server.server_state.crowd
        self._joining: set[asyncio.Task[None]] = set()
        self._task = server.loops.task("accept", self._accept)

    def close(self) -> None:
        for task in (self._task, *self._joining):
            task.cancel()

    async def wait_closed(self) -> None:
        """As uvicorn asks of a server: until nobody is being let in."""
        await asyncio.gather(self._task, *self._joining, return_exceptions=True)

    async def _accept(self, kept: Loop) -> None:
        loop, trouble = asyncio.get_running_loop(), ThrottledLog(Log("server"))
        while True:
            kept.turned(None)
            try:
                one, peer = await loop.sock_accept(self._listener)
            except ConnectionError:
                continue
            except OSError as error:  # no descriptor is left, say
                trouble.warning("accept_failed", str(error))
                await asyncio.sleep(TICK_S)
                continue
            address = address_of(peer)
            if not self._crowd.enters(address):
                one.close()
                continue
            task = loop.create_task(self._join(one, address))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

    async def _join(self, one: socket.socket, address: str) -> None:
        protocol = self._server.protocol()
        protocol.entered = address
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                one,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=GOODBYE_S,
            )
        except (OSError, asyncio.CancelledError):  # a time-out and faults of TLS are OSErrors
            one.close()
            protocol.leave()


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
    _stalled: asyncio.TimerHandle | None = None
    entered: str | None = None
    """The address that it was let in for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.entered is None:
            address = address_of(transport.get_extra_info("peername"))
            if not self.server_state.crowd.enters(address):
                transport.abort()
                return
            self.entered = address
        wait = PARTING_S if self.server_state.ending else HEAD_S
        self._timer = self.loop.call_later(wait, self._end_soon)

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
            self._settle()
            self._timer = self.loop.call_later(PARTING_S, self.transport.close)
        else:
            self.cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        self.resume_writing()
        self.leave()
        super().connection_lost(exc)

    def leave(self) -> None:
        """It counts no more."""
        if self.entered is not None:
            self.server_state.crowd.leaves(self.entered)
            self.entered = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # a client that was refused may go on sending: it is ignored
        self._bytes += len(data)  # before the parser: what ends a message begins the count anew
        super().data_received(data)
        if self._in_head:
            if self._bytes > LONGEST_HEAD and not self.transport.is_closing():
                self.transport.write(_REFUSAL)
                self._end_soon()
            elif self._timer is None:
                self._timer = self.loop.call_later(HEAD_S, self._end_soon)
        elif self._bytes > LONGEST_MESSAGE:
            self.transport.abort()
        elif self._bytes and self._timer is None:  # the rest of a body is still to come
            self._timer = self.loop.call_later(MESSAGE_S, self.transport.abort)

    def _end_soon(self) -> None:
        """Close; cut off a client that does not let go, for which TLS would wait."""
        self._settle()
        self.transport.close()
        self._timer = self.loop.call_later(GOODBYE_S, self.transport.abort)

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
        self._settle()
        super().on_message_complete()

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
