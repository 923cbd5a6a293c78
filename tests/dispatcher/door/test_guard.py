"""H2: who sends slowly or nothing is let go, who sends properly is not."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvicorn

from ailurus import server as guard
from ailurus.server import Guarded, Server


@pytest.fixture
def talk(door, monkeypatch):
    """Say pieces to a server in this loop; what came back, and after how long it hung up."""
    monkeypatch.setattr(guard, "HEAD_S", 0.2)

    def said(*pieces: bytes, pause_s: float = 0.0) -> tuple[bytes, float]:
        async def conversation() -> tuple[bytes, float]:
            config = uvicorn.Config(
                door.app, http=Guarded, ws="none", lifespan="off", log_config=None
            )
            config.load()
            server = Server(config)
            loop = asyncio.get_running_loop()

            def protocol() -> Guarded:
                return Guarded(config, server.server_state, {})

            listening = await loop.create_server(protocol, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            began = time.monotonic()
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(pause_s)
            try:
                answer = await asyncio.wait_for(reader.read(), 1.0)
                return answer, time.monotonic() - began
            except TimeoutError:
                return b"", 99.0
            finally:
                writer.close()
                listening.close()
                await asyncio.sleep(0)

        return door.runner.run(conversation())

    return said


GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_connection_that_says_nothing_is_closed(talk):
    answer, after = talk()
    assert answer == b""
    assert after < 0.6


def test_a_head_that_never_ends_is_closed(talk):
    answer, after = talk(GOOD[:-2], pause_s=0.1)
    assert answer == b""
    assert after < 0.6


def test_a_second_head_that_never_ends_is_closed_too(talk):
    answer, after = talk(GOOD, GOOD[:-2], pause_s=0.05)
    assert answer.startswith(b"HTTP/1.1 200")
    assert after < 0.6


def test_a_connection_that_has_asked_properly_is_kept(talk):
    _, after = talk(GOOD, pause_s=0.05)
    assert after == 99.0


def test_pieces_of_a_proper_head_are_put_together(talk):
    answer, _ = talk(*[GOOD[at : at + 9] for at in range(0, len(GOOD), 9)], GOOD[:-2], pause_s=0.01)
    assert answer.startswith(b"HTTP/1.1 200")
