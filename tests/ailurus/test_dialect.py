"""What a server speaks is asked once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ailurus.wire.dialect import detect_dialect

NATIVE = {"/healthz": b'{"ok":true}'}
V1 = {"/api/v1/system/is_alive": b'{"success": true, "message": "", "data": null}'}
LEGACY = {"/server/panda/isAlive": b"alive=yes"}


@contextmanager
def server(pages: dict[str, bytes], seen: list[str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            body = pages.get(self.path)
            self.send_response(403 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"ERROR : method is forbidden")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("pages", "dialect", "questions"),
    [
        (NATIVE | V1 | LEGACY, "native", 1),
        (V1 | LEGACY, "v1", 2),
        (V1, "v1", 2),
        (LEGACY, "legacy", 3),
        ({}, "native", 3),
    ],
)
def test_the_best_dialect_that_a_server_speaks_is_taken(pages, dialect, questions):
    seen: list[str] = []
    with server(pages, seen) as url:
        assert detect_dialect(url) == dialect
    assert len(seen) == questions


def test_where_nobody_answers_yet_our_own_is_assumed_and_says_so_later():
    assert detect_dialect("http://127.0.0.1:1") == "native"
