"""http transfers go where the site allows, and nowhere else, redirects included."""

from __future__ import annotations

import os
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import trustme

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from ailurus.wire import watched
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


@pytest.fixture
def pool() -> Iterator[type[Store]]:
    with serving(Pool) as made:
        yield made


@pytest.fixture
def door(pool) -> Iterator[type[Door]]:
    with serving(Door, location=f"{pool.url}/data/xyz?door=1") as made:
        yield made


@contextmanager
def allowing(*prefixes: str, **more: str) -> Iterator[Http]:
    made = Http(http_allow=prefixes, **more)
    yield made
    made._pool.clear()


def filled(into: int, size: int) -> bytes:
    data = os.urandom(size)
    os.write(into, data)
    return data


@pytest.mark.field("L2")
@pytest.mark.parametrize("size", [0, 10, 8 * http.LARGE])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_door_sends_the_file_on_to_its_pool(
    door, pool, into: int, status: int, size: int
) -> None:
    data = filled(into, size)
    door.status = status
    with allowing(door.url, pool.url) as transfer:
        copied = transfer.put(into, Url.parse(f"{door.url}/dir/1.0.out?authz=T"), nothing)
    assert pool.files == {"/data/xyz?door=1": data}
    assert (copied.size, copied.adler32) == (size, f"{zlib.adler32(data):08x}")
    assert door.asked == ["/dir/1.0.out?authz=T"]


@pytest.mark.field("L2")
@pytest.mark.parametrize(
    "manner",
    ["asks for no body", "knows no Expect", "ignores Expect", "closes at once", "reads the body"],
)
def test_a_large_file_reaches_the_pool_whatever_the_manners_of_the_door(
    door, pool, into: int, manner: str, monkeypatch
) -> None:
    monkeypatch.setattr(watched, "EXPECT_S", 0.2)
    data = filled(into, 8 * http.LARGE)
    door.manner = manner
    with allowing(door.url, pool.url) as transfer:
        copied = transfer.put(into, Url.parse(f"{door.url}/dir/out"), nothing)
    assert pool.files == {"/data/xyz?door=1": data}
    assert (copied.size, copied.adler32) == (len(data), f"{zlib.adler32(data):08x}")


@pytest.mark.field("L2")
def test_a_body_that_the_door_does_not_want_is_not_read(door, pool, into: int, monkeypatch) -> None:
    filled(into, 8 * http.LARGE)
    door.manner = "asks for no body"
    read = []
    real = os.read
    monkeypatch.setattr(http.os, "read", lambda fd, n: read.append(block := real(fd, n)) or block)
    with allowing(door.url, pool.url) as transfer:
        transfer.put(into, Url.parse(f"{door.url}/dir/out"), nothing)
    assert sum(map(len, read)) == 8 * http.LARGE


@pytest.mark.field("L2")
@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("{pool}/data/xyz", Code.STORAGE_FORBIDDEN),  # the pool is not in the list
        ("http://u:p@127.0.0.1:1/x", Code.STORAGE_FORBIDDEN),
        ("file:///etc/passwd", Code.STORAGE_FORBIDDEN),
        ("http://[::1/x", Code.STORAGE_FORBIDDEN),
        ("../../x", Code.STORAGE_FORBIDDEN),  # of the door, but not beneath what is allowed there
        ("{door}/dir/out", Code.STAGE_OUT_FAILED),  # for ever
    ],
)
@pytest.mark.parametrize("act", ["put", "delete"])
def test_a_door_leads_nowhere_else(door, pool, into: int, location: str, code: Code, act) -> None:
    filled(into, 10)
    door.location = location.format(pool=pool.url, door=door.url)
    url = Url.parse(f"{door.url}/dir/out")
    with allowing(f"{door.url}/dir") as transfer:
        do = transfer.delete if act == "delete" else lambda url: transfer.put(into, url, nothing)
        assert code_of(lambda: do(url)) is code
    assert (pool.asked, pool.files) == ([], {})
    assert len(door.asked) <= http.REDIRECTS + 1


@pytest.mark.field("L2")
def test_a_secret_goes_only_to_whom_it_was_given(door, pool, into: int) -> None:
    seen: list[str] = []
    pool.do_PUT = lambda self: (seen.append(f"{self.path} {self.headers}"), Store.do_PUT(self))
    filled(into, 10)
    door.location = f"{pool.url}/x"
    with allowing(door.url, pool.url) as transfer:
        transfer.put(into, Url.parse(f"{door.url}/dir/out?authz=S3CRET"), nothing)
    assert len(seen) == 1
    assert "S3CRET" not in seen[0]
    assert "authz" not in seen[0]


@pytest.mark.field("L1")
@pytest.mark.parametrize("allow", ["http://127.0.0.1:1", "http://127.0.0.2:1"])
def test_no_error_shows_what_a_url_has_of_secrets(into: int, allow: str) -> None:
    url = Url.parse("http://127.0.0.1:1/d/x?authz=S3CRET#S3CRET")
    with allowing(allow) as transfer:
        for act in (
            lambda: transfer.get(url, into, nothing, md5=False),
            lambda: transfer.put(into, url, nothing),
            lambda: transfer.delete(url),
        ):
            with pytest.raises(JobError) as caught:
                act()
            assert "S3CRET" not in f"{caught.value} {caught.value.remedy}"
            assert "127.0.0.1:1/d/x" in str(caught.value)


class Dripping(Store):
    """A byte now and then, for ever: of the answer's head, of its body, or taken from a request."""

    where = "body"

    def do_GET(self) -> None:
        if self.where != "silent":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            if self.where == "body":
                self.wfile.write(b"Content-Length: 1000000\r\n\r\n")
        with suppress(OSError):
            while not self.gone.wait(0.01):
                if self.where != "silent":
                    self.wfile.write(b"x")

    def do_PUT(self) -> None:
        with suppress(OSError):
            while not self.gone.wait(0.01):
                self.connection.recv(1)


@pytest.mark.field("A18")
@pytest.mark.parametrize(
    ("act", "where"), [("get", "body"), ("get", "head"), ("get", "silent"), ("put", "body")]
)
def test_a_stop_reaches_a_server_that_drips(into: int, act: str, where: str, monkeypatch) -> None:
    monkeypatch.setattr(watched, "STEP_S", 0.05)
    monkeypatch.setattr(watched, "EXPECT_S", 0.05)
    filled(into, 8 * http.LARGE)
    os.lseek(into, 0, os.SEEK_SET)
    began, gone = time.monotonic(), threading.Event()

    def stop() -> None:
        if time.monotonic() > began + 0.2:
            raise JobError(Code.KILLED_BY_SERVER, "stop")

    with serving(Dripping, where=where, gone=gone) as server, allowing(server.url) as transfer:
        url = Url.parse(f"{server.url}/x")
        do = (
            (lambda: transfer.get(url, into, stop, md5=False))
            if act == "get"
            else (lambda: transfer.put(into, url, stop))
        )
        try:
            assert code_of(do) is Code.KILLED_BY_SERVER
            assert time.monotonic() - began < 1.5
        finally:
            gone.set()


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[type[Store]]:
    """A store whose certificate only `ca` signed."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    with serving(Pool, tls=context, ca=str(tmp_path / "ca.pem")) as made:
        made.files["/data"] = DATA
        yield made


@pytest.mark.field("W5")
def test_the_pilots_authority_is_believed_of_inputs_and_outputs(secure, into: int) -> None:
    url = Url.parse(f"{secure.url}/data")
    with allowing(secure.url) as transfer:
        with pytest.raises(JobError, match="CERTIFICATE_VERIFY_FAILED") as refused:
            transfer.get(url, into, nothing, md5=False)
        assert "--ca" in refused.value.remedy
        transfer._secure.clear()
    with allowing(secure.url, ca=secure.ca) as transfer:
        assert transfer.get(url, into, nothing, md5=False).size == len(DATA)
        transfer.put(into, Url.parse(f"{secure.url}/out"), nothing)
        transfer._secure.clear()
    assert secure.files["/out"] == DATA


@pytest.mark.field("W5")
def test_what_openssl_is_told_is_believed(secure, into: int, monkeypatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", secure.ca)
    with allowing(secure.url) as transfer:
        url = Url.parse(f"{secure.url}/data")
        assert transfer.get(url, into, nothing, md5=False).size == len(DATA)
        transfer._secure.clear()


@pytest.mark.field("A18")
def test_a_stop_reaches_a_silent_server_behind_tls(secure, into: int, monkeypatch) -> None:
    monkeypatch.setattr(watched, "STEP_S", 0.05)
    began, gone = time.monotonic(), threading.Event()
    secure.do_GET = lambda _: gone.wait(5)

    def stop() -> None:
        if time.monotonic() > began + 0.2:
            raise JobError(Code.KILLED_BY_SERVER, "stop")

    with allowing(secure.url, ca=secure.ca) as transfer:
        url = Url.parse(f"{secure.url}/x")
        assert code_of(lambda: transfer.get(url, into, stop, md5=False)) is Code.KILLED_BY_SERVER
        transfer._secure.clear()
    gone.set()


class Proxy(Store):
    """What is asked for goes to nobody: the answer says that the proxy was asked."""

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Proxy-Authorization')}")
        self._answer(200, b"by proxy")


@pytest.mark.field("W5")
def test_a_proxy_is_used_by_the_sites_word_and_by_no_other(store, into: int, monkeypatch) -> None:
    url = Url.parse(f"{store.url}/ok/data")
    with serving(Proxy) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with allowing(store.url) as transfer:
            assert transfer.get(url, into, nothing, md5=False).size == len(DATA)
        assert proxy.asked == []
        named = proxy.url.replace("//", "//u:p@")
        with allowing(store.url, http_proxy=named) as transfer:
            assert transfer.get(url, into, nothing, md5=False).size == len("by proxy")
        assert proxy.asked == [f"{url.sent} Basic dTpw"]


class Mute(Pool):
    """It takes the first file and says nothing, or that it could not."""

    def do_PUT(self) -> None:
        if self.asked:
            super().do_PUT()
            return
        self.asked.append(self.path)
        self.files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))[: self.kept]
        if self.status:
            self._answer(self.status)
        self.close_connection = True

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.files[self.path])))
        self.end_headers()


@pytest.mark.field("L2")
@pytest.mark.parametrize("size", [10, 2 * http.LARGE])
@pytest.mark.parametrize("status", [0, 500])
def test_a_file_that_arrived_without_an_answer_is_not_lost(
    into: int, size: int, status: int
) -> None:
    data = filled(into, size)
    with serving(Mute, status=status, kept=None) as server, allowing(server.url) as transfer:
        url = Url.parse(f"{server.url}/57.1.out")
        with pytest.raises(JobError) as first:
            transfer.put(into, url, nothing)
        assert first.value.transient
        copied = transfer.put(into, url, nothing)
    assert (copied.size, copied.adler32) == (size, f"{zlib.adler32(data):08x}")


@pytest.mark.field("L2")
@pytest.mark.parametrize(("kept", "tried"), [(5, True), (None, False)])
def test_a_file_that_is_not_ours_or_not_whole_is_none(into: int, kept, *, tried: bool) -> None:
    data = filled(into, 10)
    with serving(Mute, status=0, kept=kept) as server, allowing(server.url) as transfer:
        url = Url.parse(f"{server.url}/57.1.out")
        if tried:
            assert code_of(lambda: transfer.put(into, url, nothing)) is Code.STAGE_OUT_FAILED
        else:
            server.files["/57.1.out"] = data
            server.asked.append("")
        with pytest.raises(JobError, match="exists already") as again:
            transfer.put(into, url, nothing)
        assert not again.value.transient


class Portal(Pool):
    """It says yes to whatever it is asked, with a page."""

    def do_PUT(self) -> None:
        if not self.eager:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, b"<html>Please log in</html>")
        self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_PUT()


class Talker(Pool):
    """A store that answers success with words of its own."""

    def do_PUT(self) -> None:
        self.files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"stored")

    def do_HEAD(self) -> None:
        self.send_response(self.head)
        self.send_header(
            "Content-Length", str(len(self.files[self.path]) if self.head == 200 else 0)
        )
        self.end_headers()


@pytest.mark.field("L2")
@pytest.mark.parametrize("eager", [False, True])
def test_a_portal_that_says_yes_to_everything_has_no_output(into: int, *, eager: bool) -> None:
    """A page of a portal with status 200 was taken for a stored file: finished, and the output
    lost."""
    filled(into, 50 * http.LARGE if eager else 10)
    with (
        serving(Portal, eager=eager) as server,
        allowing(server.url) as transfer,
        pytest.raises(JobError) as refused,
    ):
        transfer.put(into, Url.parse(f"{server.url}/57.1.out"), nothing)
    assert refused.value.code is Code.STAGE_OUT_FAILED
    assert refused.value.transient


@pytest.mark.field("L2")
@pytest.mark.parametrize("head", [200, 403, 405])
def test_a_store_that_answers_with_words_is_believed(into: int, head: int) -> None:
    data = filled(into, 10)
    with serving(Talker, head=head) as server, allowing(server.url) as transfer:
        copied = transfer.put(into, Url.parse(f"{server.url}/57.1.out"), nothing)
    assert copied.size == len(data)


@pytest.mark.field("L2")
@pytest.mark.parametrize(("status", "passing"), [(202, True), (204, False)])
def test_an_answer_without_the_file_is_no_input(into: int, status: int, *, passing: bool) -> None:
    class Empty(Pool):
        def do_GET(self) -> None:
            self._answer(status)

    with (
        serving(Empty) as server,
        allowing(server.url) as transfer,
        pytest.raises(JobError) as refused,
    ):
        transfer.get(Url.parse(f"{server.url}/in"), into, nothing, md5=False)
    assert (refused.value.code, refused.value.transient) == (Code.STAGE_IN_FAILED, passing)
