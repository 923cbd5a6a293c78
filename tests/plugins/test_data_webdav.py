"""WebDAV storage: parents are made, sums compared, and the site's token goes where it belongs."""

from __future__ import annotations

import os
import ssl
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pytest
import trustme

from ailurus import token_discovery
from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from pilot.files.at_once import at_once
from pilot.ports import Check, JobError
from plugins.data import http
from plugins.data.http import Http, _adler32


class Dav(BaseHTTPRequestHandler):
    """A store that wants parents, and says a sum on request."""

    files: dict[str, bytes]
    directories: set[str]
    tokens: list[str | None]
    digest = ""
    silent_s = 0.0
    """How long the first sum of a file takes."""
    words = b""
    """What a success says."""
    looks = 0
    two = threading.Barrier(1)
    together = False
    by: list[tuple[str, int]]
    """The port of the client's end of each request."""

    def log_message(self, *_: object) -> None:
        pass

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.by.append(("PUT", self.client_address[1]))
        self.tokens.append(self.headers["Authorization"])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.rpartition("/")[0] not in self.directories:
            self._answer(409)
            return
        self.files[self.path] = body
        self._answer(200 if self.words else 201, length=len(self.words))
        self.wfile.write(self.words)

    def do_MKCOL(self) -> None:
        missing = self.path.rpartition("/")[0] not in self.directories
        known = self.path in self.directories
        if not missing:
            self.directories.add(self.path)
        self._answer(409 if missing else 405 if known else 201)

    def do_HEAD(self) -> None:
        data = self.files.get(self.path)
        if data is None:
            self._answer(404)
            return
        type(self).looks += 1
        self.by.append(("HEAD", self.client_address[1]))
        if self.silent_s and self.looks == 1:
            self.over.wait(self.silent_s)
        with suppress(threading.BrokenBarrierError):
            self.two.wait(0.2)
            type(self).together = True
        assert self.headers["Want-Digest"] == "adler32"
        self._answer(200, self.digest.format(f"{zlib.adler32(data):08x}"), len(data))

    def do_DELETE(self) -> None:
        self._answer(204 if self.files.pop(self.path, None) is not None else 404)

    def _answer(self, status: int, digest: str = "", length: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if digest:
            self.send_header("Digest", digest)
        self.end_headers()


@pytest.fixture
def dav(tmp_path: Path) -> Iterator[type[Dav]]:
    made = {"files": {}, "directories": {"", "/site"}, "tokens": [], "by": []}
    handler = type("Handler", (Dav,), made)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    handler.at = f"127.0.0.1:{server.server_port}/site"
    handler.ca = str(tmp_path / "ca.pem")
    handler.over = threading.Event()
    yield handler
    handler.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def put(dav: type[Dav], tmp_path: Path, *names: str, **options: object) -> None:
    made = Http(http_allow=[f"davs://{dav.at}"], ca=dav.ca, options=options)
    (tmp_path / "out").write_bytes(b"result")
    source = os.open(tmp_path / "out", os.O_RDONLY)
    try:
        for name in names:
            made.put(source, Url.parse(f"davs://{dav.at}/{name}"), lambda: None)
    finally:
        os.close(source)
        made._requests.anonymous.clear()


def test_missing_directories_are_made_beneath_what_the_site_allows(dav, tmp_path):
    put(dav, tmp_path, "a/b/out")
    assert dav.files == {"/site/a/b/out": b"result"}


@pytest.mark.parametrize("digest", ["adler32={}", "md5=x==, ADLER32={}", "", "adler32=nonsense"])
def test_a_sum_that_agrees_or_is_not_told_is_fine(dav, tmp_path, digest):
    dav.digest = digest
    put(dav, tmp_path, "out")
    assert "/site/out" in dav.files


def test_a_file_that_is_another_at_its_server_is_removed_and_said(dav, tmp_path):
    dav.digest = "adler32=00000001"
    with pytest.raises(JobError) as raised:
        put(dav, tmp_path, "out")
    assert raised.value.code is Code.PUT_ADLER_MISMATCH
    assert raised.value.transient
    assert dav.files == {}


def test_a_server_that_tells_the_sum_is_asked_nothing_else(dav, tmp_path):
    dav.digest, dav.words = "adler32={}", b":-)"
    put(dav, tmp_path, "out")
    assert dav.looks == 1


def test_a_connection_that_brought_a_sum_rests(dav, tmp_path):
    """Or XRootD takes the next request too early, and dies (decision 0310)."""
    put(dav, tmp_path, *(str(nr) for nr in range(5)))
    puts = {port for method, port in dav.by if method == "PUT"}
    sums = [port for method, port in dav.by if method == "HEAD"]
    assert len(puts) == 1
    assert len({*sums[:4]} - puts) == 4
    assert sums[4] == sums[0]


def test_a_sum_whose_answer_is_lost_is_asked_for_again(dav, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "DIGEST_S", 0.2)
    dav.silent_s, dav.digest = 30, "adler32=00000001"
    with pytest.raises(JobError) as raised:
        put(dav, tmp_path, "out")
    assert raised.value.code is Code.PUT_ADLER_MISMATCH
    assert dav.looks == 2


def test_a_server_is_asked_for_one_sum_at_a_time(dav, tmp_path):
    """Or a server that computes few at a time loses answers (decision 0310)."""
    dav.two = threading.Barrier(2)
    made = Http(http_allow=[f"davs://{dav.at}"], ca=dav.ca)
    (tmp_path / "out").write_bytes(b"result")

    def act(name: int, check: Check) -> None:
        with (tmp_path / "out").open("rb") as source:
            made.put(source.fileno(), Url.parse(f"davs://{dav.at}/{name}"), check)

    at_once(range(8), act, 4, slow=True)
    assert dav.looks == 8
    assert not dav.together
    made._requests.anonymous.clear()


def test_a_job_that_stops_waits_for_no_turn(dav, tmp_path):
    made = Http(http_allow=[f"davs://{dav.at}"], ca=dav.ca)
    (tmp_path / "out").write_bytes(b"result")

    def check() -> None:
        if dav.files:
            raise JobError(Code.KILLED_BY_SERVER, "stopped")

    url = Url.parse(f"davs://{dav.at}/out")
    with (
        made._one_sum.at(url.web, lambda: None),
        (tmp_path / "out").open("rb") as source,
        pytest.raises(JobError) as raised,
    ):
        made.put(source.fileno(), url, check)
    assert raised.value.code is Code.KILLED_BY_SERVER
    made._requests.anonymous.clear()


def test_a_job_that_stops_while_a_sum_is_computed_is_stopped(dav, tmp_path):
    """And its upload is not taken for one whose server tells no sum."""
    made = Http(http_allow=[f"davs://{dav.at}"], ca=dav.ca)
    (tmp_path / "out").write_bytes(b"result")
    dav.silent_s = 30

    def check() -> None:
        if dav.looks:
            raise JobError(Code.KILLED_BY_SERVER, "stopped")

    with (tmp_path / "out").open("rb") as source, pytest.raises(JobError) as raised:
        made.put(source.fileno(), Url.parse(f"davs://{dav.at}/out"), check)
    assert raised.value.code is Code.KILLED_BY_SERVER
    made._requests.anonymous.clear()


def test_a_server_that_takes_its_time_keeps_no_upload_to_another_waiting(dav, tmp_path):
    made = Http(http_allow=[f"davs://{dav.at}"], ca=dav.ca)
    (tmp_path / "out").write_bytes(b"result")

    checks = count()

    def check() -> None:
        assert next(checks) < 100, "it waits for the other one"

    slow = made._one_sum.at(Url.parse("https://slow/"), lambda: None)
    with slow, (tmp_path / "out").open("rb") as source:
        made.put(source.fileno(), Url.parse(f"davs://{dav.at}/out"), check)
    assert dav.looks == 1
    made._requests.anonymous.clear()


def test_the_sites_token_goes_to_its_own_storage_alone(dav, tmp_path):
    token = tmp_path / "token"
    token.write_text("abc.def\n")
    put(dav, tmp_path, "one", token_file=str(token), token_for=[f"davs://{dav.at}"])
    # It is renewed, and read anew.
    token.write_text("ghi")
    put(dav, tmp_path, "two", token_file=str(token), token_for=[f"https://{dav.at}"])
    put(dav, tmp_path, "three", token_file=str(token), token_for=[f"https://{dav.at}/elsewhere"])
    assert dav.tokens == ["Bearer abc.def", "Bearer ghi", None]


def test_a_token_that_is_looked_for_is_looked_for_at_each_file(dav, tmp_path, monkeypatch):
    token = tmp_path / f"bt_u{os.getuid()}"
    monkeypatch.setattr(token_discovery, "STARTED_WITH", {"XDG_RUNTIME_DIR": str(tmp_path)})
    site = {"token_file": token_discovery.DISCOVERED, "token_for": [f"davs://{dav.at}"]}
    for text in ("first\n", "renewed\n"):
        token.write_text(text)
        put(dav, tmp_path, text.strip(), **site)
    token.unlink()
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(JobError, match=f"finds no token: .*{tmp_path}") as raised:
        put(dav, tmp_path, "third", **site)
    assert "htgettoken" in raised.value.remedy
    monkeypatch.setattr(token_discovery, "STARTED_WITH", {"BEARER_TOKEN": "text"})
    put(dav, tmp_path, "third", **site)
    assert dav.tokens == ["Bearer first", "Bearer renewed", "Bearer text"]


def test_a_users_token_goes_in_place_of_the_sites_and_no_further_than_it(dav, tmp_path):
    (tmp_path / "token").write_text("the site's")
    site = {"token_file": str(tmp_path / "token"), "token_for": [f"davs://{dav.at}"]}
    made = Http(http_allow=[f"davs://{dav.at}", "http://127.0.0.1/"], ca=dav.ca, options=site)
    users = made.as_user("abc.def\n", "")
    (tmp_path / "out").write_bytes(b"result")
    with (tmp_path / "out").open("rb") as source:
        for name, one in (("theirs", users), ("ours", made)):
            one.put(source.fileno(), Url.parse(f"davs://{dav.at}/{name}"), lambda: None)
    assert dav.tokens == ["Bearer abc.def", "Bearer thesite's"]
    assert users._requests.identity.token(Url.parse("http://127.0.0.1/x")) == ""
    made._requests.anonymous.clear()


def test_a_token_never_goes_in_the_clear(tmp_path):
    (tmp_path / "token").write_text("abc")
    made = Http(options={"token_file": str(tmp_path / "token"), "token_for": ["http://h/"]})
    assert made._requests.identity.token(Url.parse("http://h/x")) == ""


def test_a_token_that_is_missing_is_said_with_its_remedy(dav, tmp_path):
    with pytest.raises(JobError, match=r"token .* cannot be read") as raised:
        put(dav, tmp_path, "o", token_file="/no/such/token", token_for=[f"davs://{dav.at}"])
    assert "token_file" in raised.value.remedy


def test_a_digest_is_read_only_whole():
    assert _adler32("adler32=1a") == 0x1A
    assert _adler32("xadler32=1a") is None
    assert _adler32("adler32=1234567890") is None
