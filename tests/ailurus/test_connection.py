"""Requests go out in one piece."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
import urllib3

from ailurus.wire import connection, watched
from ailurus.wire.client import Client, Unreachable
from ailurus.wire.retry import Patience

LENGTH = {"Content-Length": "4"}
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture
def heard():
    """A server's address, and the pieces in which it hears each request."""
    pieces: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            one, _ = server.accept()
            with one:
                while piece := one.recv(1024 * 1024):
                    pieces.append(piece)
                    head, _, body = b"".join(pieces).partition(b"\r\n\r\n")
                    if len(body) >= int(head.lower().partition(b"content-length: ")[2].split()[0]):
                        one.sendall(ANSWER)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", pieces


def test_head_and_body_of_a_request_are_one_piece(heard):
    url, pieces = heard
    assert Client(url).request("POST", "/x", b'{"a": 1}') == (200, b"{}")
    (request,) = pieces
    assert request.startswith(b"POST /x HTTP/1.1\r\n")
    assert request.endswith(b'\r\n\r\n{"a": 1}')


class Body(watched.OfferedBody):
    def __init__(self, length: int, *pieces: bytes) -> None:
        self.length, self._pieces = length, pieces

    def pieces(self):
        yield from self._pieces


@pytest.mark.parametrize("sent", [(b"file",), (b"fi", b"le")])
def test_so_are_those_of_a_small_file_that_is_offered(heard, sent):
    url, pieces = heard
    with urllib3.PoolManager(retries=False) as pool:
        pool.pool_classes_by_scheme = watched.POOLS
        answer = pool.request("PUT", f"{url}/x", body=Body(4, *sent), headers=LENGTH)
    assert answer.status == 200
    assert b"\r\n\r\nfi" in pieces[0]
    assert b"".join(pieces).endswith(b"\r\n\r\nfile")


def test_the_head_goes_even_if_the_file_has_become_empty(heard):
    url, pieces = heard
    with urllib3.PoolManager(retries=False, timeout=1) as pool:
        pool.pool_classes_by_scheme = watched.POOLS
        with pytest.raises(urllib3.exceptions.TimeoutError):
            pool.request("PUT", f"{url}/x", body=Body(4), headers=LENGTH)
    assert pieces[0].endswith(b"\r\n\r\n")


def test_a_large_body_comes_whole(heard):
    url, pieces = heard
    body = b'"' + b"x" * (8 * connection.LARGEST) + b'"'
    assert Client(url).request("POST", "/x", body)[0] == 200
    assert b"".join(pieces).endswith(b"\r\n\r\n" + body)


def test_a_connection_is_kept_whatever_the_requests_carry(heard):
    url, pieces = heard
    client = Client(url, connections=1)
    for body in (b"{}", b"", b'{"b": 2}'):
        pieces.clear()
        assert client.request("POST", "/x", body)[0] == 200
        assert b"".join(pieces).endswith(b"\r\n\r\n" + body)


@pytest.fixture
def endless():
    """An address where every answer begins well and goes on as a test says: pieces, and the pause
    between."""
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()
    how = {"piece": b" ", "pause_s": 0.02}

    def answer(one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            one.recv(65536)
            one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            while not over.wait(how["pause_s"]):
                one.sendall(how["piece"])

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", how
    over.set()
    listener.close()


def test_an_answer_that_drips_keeps_nobody(endless):
    url, _ = endless
    began = time.monotonic()
    client = Client(url, patience=Patience(total_s=0.0)).until(began + 0.5)
    with pytest.raises(Unreachable, match="does not come to an end"):
        client.request("GET", "/")
    assert time.monotonic() - began < 5


def test_an_answer_without_an_end_fills_no_memory(endless, monkeypatch):
    url, how = endless
    how |= {"piece": b"[" * 100_000, "pause_s": 0.0}
    monkeypatch.setattr("ailurus.wire.client.MOST_BYTES", 1_000_000)
    with pytest.raises(Unreachable, match="an answer of more than"):
        Client(url, patience=Patience(total_s=0.0)).request("GET", "/")
