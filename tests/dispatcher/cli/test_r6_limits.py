"""R6: a dispatcher whose descriptors or memory run out refuses what is too much, says so, and
recovers."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import pytest

from tests.rig.waiting import until

LIMIT = 64


@pytest.fixture
def confined(serve, tmp_path):
    """A dispatcher that may hold LIMIT descriptors and no more."""
    running = serve()
    limit = f"--nofile={LIMIT}:{LIMIT}"
    subprocess.run(["prlimit", "--pid", str(running.process.pid), limit], check=True)
    return running


def ready(server) -> bool:
    line = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    try:
        line.request("GET", "/readyz")
        with line.getresponse() as answer:
            answer.read()
        return answer.status == 200
    except OSError:  # it has not seen yet that the others are gone
        return False
    finally:
        line.close()


def let_go(line: socket.socket) -> bool:
    line.settimeout(0.05)
    with suppress(TimeoutError):
        with suppress(ConnectionError):
            return line.recv(1) == b""
        return True
    return False


def answered(line: socket.socket) -> bool:
    line.settimeout(10)
    with suppress(OSError):
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return line.recv(100).startswith(b"HTTP/1.1 200")
    return False


def test_r6_connections_beyond_the_descriptors_are_let_go_and_the_others_served(confined, tmp_path):
    address = urlsplit(confined.url)
    with ExitStack() as stack:
        lines = [
            stack.enter_context(socket.create_connection((address.hostname, address.port), 10))
            for _ in range(2 * LIMIT)
        ]
        until(lambda: sum(map(let_go, lines)) >= LIMIT)
        assert any(answered(line) for line in lines if not let_go(line))
        log = tmp_path / "serve.log"
        until(lambda: "descriptors_short" in log.read_text(), why="it says nothing")
    until(lambda: ready(confined), why="it does not recover")
    assert confined.process.poll() is None
    events = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines()]
    assert next(one for one in events if one["event"] == "descriptors_short")["limit"] == LIMIT
