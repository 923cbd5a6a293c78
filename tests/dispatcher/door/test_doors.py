"""A17: the same attacks at every door, with and without TLS: nobody grows us, keeps us or fills
us."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time

import pytest
import uvicorn

from ailurus import server as servers
from ailurus.logs import Log
from ailurus.server import ConnectionLimits, Guarded, Server
from harvester_edge.relay import http as relay_http
from harvester_edge.relay import keys
from harvester_edge.relay.door import Door as RelayDoor
from harvester_edge.relay.http import application
from tests.rig.waiting import eventually

pytestmark = pytest.mark.field("A17")
REPORT = "/api/ailurus/v1/worker/report"
HEAD = f"POST {REPORT} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
GOOD = f"{HEAD}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode()


class Nobody:
    """The pilots of a relay that knows none."""

    name = "here"


class Open:
    """A door that listens."""

    def __init__(self, app, tls, limits):
        self.limits = limits
        self.tls = tls
        files = {} if tls is None else {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]}
        config = uvicorn.Config(
            app, http=Guarded, ws="none", lifespan="off", log_config=None, **files
        )
        self.server = Server(config, limits=limits)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.writers = []

    async def __aenter__(self):
        self.serving = asyncio.create_task(self.server.serve(sockets=[self.socket]))
        await eventually(lambda: self.server.started)
        return self

    async def __aexit__(self, *_):
        for writer in self.writers:
            writer.transport.abort()
        self.server.should_exit = True
        await self.serving

    @property
    def where(self):
        return self.socket.getsockname()

    async def raw(self):
        """A connection on which nothing is said, TLS or not."""
        return await self._connected(None)

    async def talk(self):
        context = None
        if self.tls is not None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return await self._connected(context)

    async def _connected(self, context):
        pair = await asyncio.open_connection(*self.where, ssl=context)
        self.writers.append(pair[1])
        return pair

    async def answer(self):
        """The first bytes of the answer to a good request; blank: hung up."""
        try:
            reader, writer = await self.talk()
            writer.write(GOOD)
            said = await asyncio.wait_for(reader.read(12), 5)
            writer.close()
        except (ConnectionError, ssl.SSLError):
            return b""
        return said


@pytest.fixture(params=["dispatcher", "dispatcher tls", "relay", "relay tls"])
def opened(request, door, tmp_path):
    """Run a coroutine function with a door that is open."""
    app = door.app
    if request.param.startswith("relay"):
        app = application(RelayDoor(Nobody(), Log("relay")))
    tls = keys.made(tmp_path, "https://127.0.0.1") if "tls" in request.param else None

    def play(test, most=100):
        async def main():
            async with Open(app, tls, ConnectionLimits(most)) as one:
                await asyncio.wait_for(test(one), 20)

        asyncio.run(main())

    return play


async def closed(reader, within_s):
    """Whether the other side hangs up in time."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while await asyncio.wait_for(reader.read(65536), within_s):
            pass
    return True


async def empty(one):
    await eventually(lambda: one.limits.count == 0)


def test_who_asks_properly_is_answered(opened):
    async def test(one):
        assert (await one.answer()).startswith(b"HTTP/1.1 422")
        await empty(one)

    opened(test)


@pytest.mark.parametrize("line", [b"X-A: %s\r\n", b"%s"])
def test_a_head_without_end_is_cut_off_before_it_costs_memory(opened, line):
    async def test(one):
        reader, writer = await one.talk()
        writer.write(HEAD.encode())
        sent, piece = 0, line % (b"a" * 65536)
        with contextlib.suppress(ConnectionError, ssl.SSLError, BrokenPipeError):
            while sent < 400_000_000:
                writer.write(piece)
                sent += len(piece)
                await writer.drain()
                if reader.at_eof():
                    break
        assert sent < 40_000_000  # what sockets' and TLS's buffers hold
        assert (await one.answer()).startswith(b"HTTP/1.1 422")
        writer.transport.abort()
        await empty(one)

    opened(test)


@pytest.mark.parametrize("says", [b"", b"PO", HEAD.encode()])
def test_who_says_nothing_or_half_of_it_is_let_go(opened, monkeypatch, says):
    monkeypatch.setattr(servers, "HEAD_S", 0.2)
    monkeypatch.setattr(servers, "CLOSE_S", 0.2)

    async def test(one):
        reader, writer = await one.talk()
        writer.write(says)
        began = time.monotonic()
        assert await closed(reader, 5)
        assert time.monotonic() - began < 3
        await empty(one)

    opened(test)


def test_a_handshake_that_does_not_end_is_let_go(opened, monkeypatch):
    monkeypatch.setattr(servers, "HANDSHAKE_S", 0.2)
    monkeypatch.setattr(servers, "HEAD_S", 0.2)

    async def test(one):
        reader, _ = await one.raw()
        assert await closed(reader, 5)
        await empty(one)

    opened(test)


def test_a_body_that_drips_is_let_go(opened, monkeypatch):
    monkeypatch.setattr(servers, "MESSAGE_S", 0.3)

    async def test(one):
        reader, writer = await one.talk()
        writer.write(f"{HEAD}Content-Length: 1000\r\n\r\n{{".encode())
        ended = asyncio.create_task(closed(reader, 5))
        with contextlib.suppress(ConnectionError):
            while not ended.done():
                writer.write(b" ")
                await asyncio.sleep(0.05)
        assert await ended
        await empty(one)

    opened(test)


def test_the_relay_says_why_a_slow_body_was_not_taken(opened, monkeypatch, request):
    if "relay" not in request.node.callspec.id:
        pytest.skip("the dispatcher's own test is in test_door.py")
    monkeypatch.setattr(relay_http, "BODY_S", 0.2)

    async def test(one):
        reader, writer = await one.talk()
        writer.write(f"{HEAD}Content-Length: 1000\r\n\r\n{{".encode())
        assert (await asyncio.wait_for(reader.read(12), 5)) == b"HTTP/1.1 408"
        writer.close()

    opened(test)


@pytest.mark.parametrize(
    ("length", "status"), [("99999999999", b"413"), ("9" * 40, b"400"), ("400000000", b"413")]
)
def test_a_body_that_says_it_is_long_is_not_read(opened, length, status):
    async def test(one):
        reader, writer = await one.talk()
        writer.write(f"{HEAD}Content-Length: {length}\r\n\r\n".encode())
        said = await asyncio.wait_for(reader.read(12), 5)
        assert said[9:12] == status
        writer.transport.abort()

    opened(test)


def test_chunks_without_end_are_cut_off(opened):
    async def test(one):
        reader, writer = await one.talk()
        writer.write(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece, sent = b"10000\r\n" + b" " * 65536 + b"\r\n", 0
        answer = asyncio.create_task(closed(reader, 20))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while sent < 400_000_000 and not answer.done():
                writer.write(piece)
                sent += len(piece)
                await writer.drain()
                await asyncio.sleep(0)
        assert sent < 150_000_000
        assert await answer
        writer.transport.abort()
        await empty(one)

    opened(test)


def test_nobody_takes_all_connections(opened):
    """One address gets its share, and all together no more than there are; who leaves makes
    room."""

    async def test(one):
        held = [await one.raw() for _ in range(40)]
        await eventually(lambda: one.limits.count == one.limits.per_address)
        assert one.limits.per_address == 5
        refused = [await closed(reader, 5) for reader, _ in held[5:]]
        assert refused == [True] * 35
        assert await one.answer() == b""
        for _, writer in held:
            writer.close()
        await empty(one)
        assert (await one.answer()).startswith(b"HTTP/1.1 422")

    opened(test, most=10)


def test_an_answer_that_nobody_reads_is_given_up(door, monkeypatch):
    monkeypatch.setattr(servers, "STALLED_S", 0.2)

    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)

    async def main():
        async with Open(endless, None, ConnectionLimits(10)) as one:
            _, writer = await one.talk()
            writer.transport.pause_reading()
            writer.write(GOOD)
            await eventually(lambda: one.limits.count == 1)
            await asyncio.wait_for(empty(one), 10)
            writer.transport.abort()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.0.0.1", 1), "10.0.0.1"),
        (("2001:db8:1:2:aaaa::1", 1, 0, 0), "2001:db8:1:2"),
        (None, ""),
        ("/run/socket", ""),
    ],
)
def test_hosts_of_one_ipv6_network_are_one_address(peer, address):
    assert servers.address_of(peer) == address
