"""Stores and doors on loopback, each with its manners, for the tests of http transfers."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from ailurus.protocol.errors import Code
from pilot.ports import JobError
from plugins.data.http import Http

DATA = os.urandom(1_000_003)


class Store(BaseHTTPRequestHandler):
    """A small web store with bad manners on request."""

    files: dict[str, bytes]
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = unquote(self.path.rsplit("/", 1)[1])
        if name.startswith("to:"):
            self.send_response(302)
            self.send_header("Location", name[3:].replace("|", "/"))
            self.end_headers()
        elif name == "round":
            self.send_response(302)
            self.send_header("Location", "/ok/round")
            self.end_headers()
        elif name == "short":
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA[:-1000])
            self.close_connection = True
        elif name == "stall":
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"123456789")
            self.wfile.flush()
            time.sleep(3)
        elif self.path in self.files:
            self._answer(200, self.files[self.path])
        else:
            self._answer(503 if name == "busy" else 404)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["If-None-Match"] == "*" and self.path in self.files:
            self._answer(412)
            return
        self.files[self.path] = body
        self._answer(201)

    def do_DELETE(self) -> None:
        self._answer(204 if self.files.pop(self.path, None) is not None else 404)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def nothing() -> None:
    """The check of a job that nobody stops."""


def code_of(act) -> Code:
    with pytest.raises(JobError) as caught:
        act()
    return caught.value.code


class Pool(Store):
    """A pool node: it takes what its door sends."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.asked.append(self.path)
        super().do_PUT()


class Door(Store):
    """A door, as dCache and XRootD have them: it sends writers to a pool, in one of several
    manners."""

    protocol_version = "HTTP/1.1"
    status, location, manner = 307, "", "reads the body"

    def handle_expect_100(self) -> bool:
        if self.manner == "asks for no body":
            self._redirect()
            self.close_connection = True
            return False
        if self.manner == "knows no Expect":
            self._answer(417)
            self.close_connection = True
            return False
        return True if self.manner == "ignores Expect" else super().handle_expect_100()

    def do_PUT(self) -> None:
        if self.manner == "closes at once":
            self.close_connection = True
        else:
            self.rfile.read(int(self.headers["Content-Length"]))
        self._redirect()

    def do_DELETE(self) -> None:
        self._redirect()

    def _redirect(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Location", self.location)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving(
    kind: type[Store], tls: ssl.SSLContext | None = None, **more: object
) -> Iterator[type[Store]]:
    handler = type("Handler", (kind,), {"files": {}, "asked": [], **more})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # a client that does not trust us
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    handler.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def allowing(*prefixes: str, **more: str) -> Iterator[Http]:
    made = Http(http_allow=prefixes, **more)
    yield made
    made._requests.anonymous.clear()


def filled(into: int, size: int) -> bytes:
    data = os.urandom(size)
    os.write(into, data)
    return data
