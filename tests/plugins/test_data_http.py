"""http transfers go where the site allows, and nowhere else, redirects included."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from pilot.ports import JobError
from plugins.data import http
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


@pytest.fixture
def store() -> Iterator[type[Store]]:
    handler = type(
        "Handler", (Store,), {"files": {"/ok/data": DATA, "/no/data": DATA}, "asked": []}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def transfer(store) -> Iterator[Http]:
    made = Http(http_allow=[store.url + "/ok/"])
    yield made
    made._pool.clear()


@pytest.fixture
def into(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def nothing() -> None:
    """The check of a job that nobody stops."""


def code_of(act) -> Code:
    with pytest.raises(JobError) as caught:
        act()
    return caught.value.code


def test_a_file_is_measured_on_the_way(store, transfer: Http, into: int, tmp_path: Path) -> None:
    copied = transfer.get(Url.parse(store.url + "/ok/data"), into, nothing, md5=True)
    assert (tmp_path / "copy").read_bytes() == DATA
    assert (copied.size, copied.adler32) == (len(DATA), f"{zlib.adler32(DATA):08x}")
    assert copied.md5


@pytest.mark.parametrize(
    "url",
    [
        "{url}/no/data",
        "{url}/okay/data",
        "{url}/ok/../no/data",
        "{url}/ok/%2e%2e/no/data",
        "{url}/ok/%2e%2e%2fno/data",
        "{url}/ok\\..\\no",
        "{url}/ok/%2E%2E/no/data",
        "http://127.0.0.1:1/ok/data",
        "http://user@{host}/ok/data",
        "http://{host}@localhost/ok/data",
        "https://{host}/ok/data",
        "http:///ok/data",
    ],
)
def test_f4_what_the_list_does_not_cover_is_never_asked(
    store, transfer: Http, into: int, url: str
) -> None:
    url = Url.parse(url.format(url=store.url, host=store.url.removeprefix("http://")))
    for act in (
        lambda: transfer.get(url, into, nothing, md5=False),
        lambda: transfer.put(into, url, nothing),
        lambda: transfer.delete(url),
    ):
        assert code_of(act) is Code.STORAGE_FORBIDDEN
    assert store.asked == []


@pytest.mark.parametrize(
    "target",
    ["{url}/no/data", "|no|data", "file:|||etc|passwd", "http:||localhost:1|ok|x", "..|no|data"],
)
def test_f4_a_redirect_out_is_refused(store, transfer: Http, into: int, target: str) -> None:
    target = target.format(url=store.url.replace("/", "|"))
    url = Url.parse(f"{store.url}/ok/to:{target.replace('/', '|')}")
    assert code_of(lambda: transfer.get(url, into, nothing, md5=False)) is Code.STORAGE_FORBIDDEN
    assert all(path.startswith("/ok/") for path in store.asked)
    assert os.fstat(into).st_size == 0


def test_f4_a_redirect_inside_is_followed_but_not_forever(store, transfer: Http, into: int) -> None:
    assert transfer.get(
        Url.parse(store.url + "/ok/to:|ok|data"), into, nothing, md5=False
    ).size == len(DATA)
    url = Url.parse(store.url + "/ok/round")
    assert code_of(lambda: transfer.get(url, into, nothing, md5=False)) is Code.STAGE_IN_FAILED
    assert store.asked.count("/ok/round") == http.REDIRECTS + 1


def test_f3_a_short_read_is_noticed(store, transfer: Http, into: int) -> None:
    url = Url.parse(store.url + "/ok/short")
    assert code_of(lambda: transfer.get(url, into, nothing, md5=False)) is Code.STAGE_IN_FAILED


def test_f3_a_stall_ends(store, transfer: Http, into: int, monkeypatch) -> None:
    monkeypatch.setattr(http, "STALL_S", 0.5)
    hasty = Http(http_allow=[store.url + "/ok/"])
    began = time.monotonic()
    url = Url.parse(store.url + "/ok/stall")
    assert code_of(lambda: hasty.get(url, into, nothing, md5=False)) is Code.STAGE_IN_FAILED
    assert time.monotonic() - began < 2.5
    hasty._pool.clear()


def test_statuses_become_codes(store, transfer: Http, into: int) -> None:
    with pytest.raises(JobError) as busy:
        transfer.get(Url.parse(store.url + "/ok/busy"), into, nothing, md5=False)
    assert busy.value.transient
    missing = Url.parse(store.url + "/ok/missing")
    assert code_of(lambda: transfer.get(missing, into, nothing, md5=False)) is Code.NO_SUCH_FILE


def test_f5_an_output_is_put_once(store, transfer: Http, into: int) -> None:
    os.write(into, b"hello")
    os.lseek(into, 0, os.SEEK_SET)
    url = Url.parse(store.url + "/ok/out")
    assert transfer.put(into, url, nothing).adler32 == f"{zlib.adler32(b'hello'):08x}"
    assert store.files["/ok/out"] == b"hello"
    os.lseek(into, 0, os.SEEK_SET)
    with pytest.raises(JobError) as again:
        transfer.put(into, url, nothing)
    assert not again.value.transient
    transfer.delete(url)
    transfer.delete(url)
    assert "/ok/out" not in store.files


def test_nobody_there(transfer: Http, into: int) -> None:
    alone = Http(http_allow=["http://127.0.0.1:1/"])
    act = lambda: alone.get(Url.parse("http://127.0.0.1:1/x"), into, nothing, md5=False)  # noqa: E731
    assert code_of(act) is Code.STAGE_IN_FAILED
