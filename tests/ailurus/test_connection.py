"""Requests go out in one piece."""

from __future__ import annotations

import socket
import threading

import pytest

from ailurus.wire import connection
from ailurus.wire.client import Client

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
