"""A server that speaks XRootD's protocol until it does what a client should survive."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from contextlib import suppress
from typing import Any, Self

OK, ERROR, REDIRECT = 0, 4003, 4004
PROTOCOL, LOGIN, OPEN, READ, STAT, QUERY = 3006, 3007, 3010, 3013, 3017, 3001
HANDSHAKE_BYTES, HEAD_BYTES = 20, 24
NO_SUCH_FILE = 3011
WAYS = ("nonsense", "silent", "redirects", "short", "more", "endless answer", "bad size")


class HostileXRootD:
    """On a port of loopback, while the block runs; `way` is one of `WAYS`."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.redirects = 0
        self.over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Client)
        self._server.owner = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    owner: Any

    def handle_error(self, *_: object) -> None:
        """A client may leave whenever it likes."""


class _Client(socketserver.BaseRequestHandler):
    request: socket.socket
    server: _Server

    def handle(self) -> None:
        with suppress(OSError):
            self._serve(self.server.owner)

    def _serve(self, owner: HostileXRootD) -> None:
        self._read(HANDSHAKE_BYTES)
        if owner.way == "silent":
            owner.over.wait()
            return
        if owner.way == "nonsense":
            self.request.sendall(b"HTTP/1.1 200 OK\r\nServer: none\r\n\r\n" + b"\xff" * 4096)
            return
        self._answer(b"\0\0", OK, struct.pack("!II", 0x310, 1))
        while True:
            stream, kind, body, length = struct.unpack("!2sH16sI", self._read(HEAD_BYTES))
            self._read(length)
            self._asked(owner, stream, kind, body)

    def _asked(self, owner: HostileXRootD, stream: bytes, kind: int, body: bytes) -> None:
        size = {"bad size": -(1 << 62)}.get(owner.way, 1000)
        if kind == PROTOCOL:
            self._answer(stream, OK, struct.pack("!II", 0x310, 1))
        elif kind == LOGIN:
            self._answer(stream, OK, b"x" * 16)
        elif kind == OPEN and owner.way == "redirects":
            owner.redirects += 1
            self._answer(stream, REDIRECT, struct.pack("!I", owner.port) + b"127.0.0.1")
        elif kind == OPEN:
            self._answer(stream, OK, bytes(12) + f"1 {size} 16 0\0".encode())
        elif kind == STAT:
            self._answer(stream, OK, f"1 {size} 16 0\0".encode())
        elif kind == READ:
            self._data(owner, stream, *struct.unpack("!4xqi", body))
        elif kind == QUERY:
            self._answer(stream, ERROR, struct.pack("!I", NO_SUCH_FILE) + b"none\0")
        else:
            self._answer(stream, OK, b"")

    def _data(self, owner: HostileXRootD, stream: bytes, offset: int, length: int) -> None:
        if owner.way == "endless answer":
            self.request.sendall(struct.pack("!2sHI", stream, OK, 0x7FFFFFFF))
            while not owner.over.is_set():
                self.request.sendall(bytes(1 << 16))
        elif owner.way == "more":
            self._answer(stream, OK, bytes(length + 4096))
        else:
            self._answer(stream, OK, bytes(max(0, 500 - offset)))

    def _answer(self, stream: bytes, status: int, body: bytes) -> None:
        self.request.sendall(struct.pack("!2sHI", stream, status, len(body)) + body)

    def _read(self, length: int) -> bytes:
        found = b""
        while len(found) < length:
            piece = self.request.recv(length - len(found))
            if not piece:
                raise ConnectionResetError
            found += piece
        return found
