"""The guarded server of every HTTP door, the dispatcher's and the relay's: uvicorn with bounds.

A client that sends nothing, slowly or without end, or does not read its answer, keeps neither
memory nor a connection; no address takes all connections. TLS counts from the accepted connection
on, and a handshake has a time limit. The application bounds each body; here it has an end. No pilot
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

# Bytes of a request line and header fields.
LONGEST_HEAD = 64 * 1024
# Bytes of one request, its chunks and trailers included.
LONGEST_MESSAGE = 96 * 1024 * 1024
# For a head that has begun, and for a new connection to begin one.
HEAD_S = 20.0
# For all of a request: more than an application gives a body.
MESSAGE_S = 150.0
# For a client to read its answer.
STALLED_S = 60.0
# For TLS, from the connection on.
HANDSHAKE_S = 10.0
# For the end of TLS, and of a connection that was refused.
CLOSE_S = 2.0
# Descriptors that are no connection's.
RESERVE = 200
# One address may hold one in so many of all connections: a proxy, or a site behind one address.
SHARE = 2
TICK_S = 1.0
# When the server ends, a connection that was just in use may bring one more request.
LAST_REQUEST_S = 0.5
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


class ConnectionLimits:
    """Counts connections: at most `most`, and at most a share of them from one address."""

    def __init__(self, most: int | None = None) -> None:
        """`most`: None is what the descriptors of this process allow."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = max(soft - RESERVE, soft // 2) if most is None else most
        self.per_address = max(1, self.most // SHARE)
        self.by_address: Counter[str] = Counter()
        self.count = 0
        self._trouble = ThrottledLog(Log("server"))

    def admit(self, address: str) -> bool:
        """Whether one more connection of the address is accepted; it counts until `release`."""
        if self.count >= self.most or self.by_address[address] >= self.per_address:
            self._trouble.warning("connections_refused", f"{self.count} of {self.most}")
            return False
        self.by_address[address] += 1
        self.count += 1
        return True

    def release(self, address: str) -> None:
        self.count -= 1
        self.by_address[address] -= 1
        if self.by_address[address] <= 0:
            del self.by_address[address]


def address_of(peer: object) -> str:
    """The address by which a connection is counted; of IPv6 the /64 network, whose owner numbers
    its hosts at will."""
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    return ":".join(host.split(":")[:4])


class State(ServerState):
    """What all connections share."""

    ending = False

    def __init__(self, limits: ConnectionLimits | None = None) -> None:
        super().__init__()
        self.limits = limits or ConnectionLimits()


class Server(uvicorn.Server):
    """uvicorn's server, which ends without failing a request: every answer from then on is marked
    as the last on its connection, and no request under way is cut off."""

    def __init__(
        self,
        config: uvicorn.Config,
        ending: Callable[[], None] = lambda: None,
        limits: ConnectionLimits | None = None,
        loops: Tasks | None = None,
    ) -> None:
        """`ending` is called when it begins to end: it answers the requests that only wait. `loops`
        keep what accepts connections with TLS."""
        self._ends = asyncio.Event()
        super().__init__(config)
        self.server_state: State = State(limits)
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
        """Once a second, for the date; uvicorn's own ten times are ten times that the process
        wakes."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), TICK_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # They are the caller's: uvicorn's would end the process before the store is closed.
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit`; however this ends, no connection stays or is accepted any
        more."""
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
        # Requests that wait are answered below, on connections that are no longer kept.
        self._ending()
        await super().shutdown(sockets)


class _Accepting:
    """A listener with TLS. A connection counts from when it is accepted, so that handshakes that
    never end are bounded too."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext, server: Server) -> None:
        listener.setblocking(False)
        self._listener, self._tls, self._server = listener, tls, server
        self._limits = server.server_state.limits
        self._handshakes: set[asyncio.Task[None]] = set()
        self._task = server.loops.task("accept", self._accept)

    def close(self) -> None:
        for task in (self._task, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until no handshake is under way; uvicorn calls this."""
        await asyncio.gather(self._task, *self._handshakes, return_exceptions=True)

    async def _accept(self, kept: Loop) -> None:
        loop, trouble = asyncio.get_running_loop(), ThrottledLog(Log("server"))
        while True:
            kept.turned(None)
            try:
                one, peer = await loop.sock_accept(self._listener)
            except ConnectionError:
                continue
            # For instance, no descriptor is left.
            except OSError as error:
                trouble.warning("accept_failed", str(error))
                await asyncio.sleep(TICK_S)
                continue
            address = address_of(peer)
            if not self._limits.admit(address):
                one.close()
                continue
            task = loop.create_task(self._handshake(one, address))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _handshake(self, one: socket.socket, address: str) -> None:
        protocol = self._server.protocol()
        protocol.address = address
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                one,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=CLOSE_S,
            )
        # A time-out and faults of TLS are OSErrors.
        except (OSError, asyncio.CancelledError):
            one.close()
            protocol.leave()


class _HeadWithBody:
    """The transport of one answer: its head goes out together with the first piece of its body, in
    one call of the system and one packet."""

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport, self._cycle = transport, cycle
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        # 100 Continue.
        if not self._cycle.response_started:
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
    # A head has begun and has not ended.
    _in_head = False
    _bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    # The address that it counts for.
    address: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.address is None:
            address = address_of(transport.get_extra_info("peername"))
            if not self.server_state.limits.admit(address):
                transport.abort()
                return
            self.address = address
        wait = LAST_REQUEST_S if self.server_state.ending else HEAD_S
        self._timer = self.loop.call_later(wait, self._end_soon)

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
            self._settle()
            self._timer = self.loop.call_later(LAST_REQUEST_S, self.transport.close)
        else:
            self.cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        self.resume_writing()
        self.leave()
        super().connection_lost(exc)

    def leave(self) -> None:
        """Count it no more."""
        if self.address is not None:
            self.server_state.limits.release(self.address)
            self.address = None

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
            # A client that was refused may go on sending: it is ignored.
            return
        # Before the parser: the end of a message begins the count anew.
        self._bytes += len(data)
        super().data_received(data)
        if self._in_head:
            if self._bytes > LONGEST_HEAD and not self.transport.is_closing():
                self.transport.write(_REFUSAL)
                self._end_soon()
            elif self._timer is None:
                self._timer = self.loop.call_later(HEAD_S, self._end_soon)
        elif self._bytes > LONGEST_MESSAGE:
            self.transport.abort()
        # The rest of a body is still to come.
        elif self._bytes and self._timer is None:
            self._timer = self.loop.call_later(MESSAGE_S, self.transport.abort)

    def _end_soon(self) -> None:
        """Close; cut off a client that does not let go, for which TLS would wait."""
        self._settle()
        self.transport.close()
        self._timer = self.loop.call_later(CLOSE_S, self.transport.abort)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer after the body is ignored.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._settle()
        super().on_headers_complete()
        # Nothing follows the head of an answer to HEAD.
        if self.scope["method"] != "HEAD":
            joined = _HeadWithBody(self.transport, self.cycle)
            self.cycle.transport = joined  # type: ignore[assignment]
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
