"""http transfers go where the site allows, and nowhere else, redirects included."""

from __future__ import annotations

import os
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from ailurus.wire import watched
from pilot.ports import JobError
from plugins.data import http, http_requests, http_servers
from plugins.data.http import Http
from tests.plugins.http_stores import (
    DATA,
    Pool,
    Store,
    allowing,
    code_of,
    filled,
    nothing,
    serving,
)


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
    assert store.asked.count("/ok/round") == http_requests.REDIRECTS + 1


def test_f3_a_short_read_is_noticed(store, transfer: Http, into: int) -> None:
    url = Url.parse(store.url + "/ok/short")
    assert code_of(lambda: transfer.get(url, into, nothing, md5=False)) is Code.STAGE_IN_FAILED


def test_f3_a_stall_ends(store, transfer: Http, into: int, monkeypatch) -> None:
    monkeypatch.setattr(http_servers, "STALL_S", 0.5)
    hasty = Http(http_allow=[store.url + "/ok/"])
    began = time.monotonic()
    url = Url.parse(store.url + "/ok/stall")
    assert code_of(lambda: hasty.get(url, into, nothing, md5=False)) is Code.STAGE_IN_FAILED
    assert time.monotonic() - began < 2.5
    hasty._requests.anonymous.clear()


class NeverDone(Store):
    """It answers a byte at a time, and never ends."""

    def do_DELETE(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        with suppress(OSError):
            while True:
                self.wfile.write(b"x")
                time.sleep(0.02)


def test_a_removal_ends_however_slow_the_server_is(into: int, monkeypatch) -> None:
    monkeypatch.setattr(http, "DELETE_S", 0.3)
    with serving(NeverDone) as server, allowing(server.url) as transfer:
        url = Url.parse(f"{server.url}/a")
        assert code_of(lambda: transfer.delete(url)) is Code.STAGE_OUT_TIMEOUT


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
    filled(into, 8 * http_requests.LARGE)
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
        transfer._requests.anonymous.clear()
    with allowing(secure.url, ca=secure.ca) as transfer:
        assert transfer.get(url, into, nothing, md5=False).size == len(DATA)
        transfer.put(into, Url.parse(f"{secure.url}/out"), nothing)
        transfer._requests.anonymous.clear()
    assert secure.files["/out"] == DATA


@pytest.mark.field("W5")
def test_what_openssl_is_told_is_believed(secure, into: int, monkeypatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", secure.ca)
    with allowing(secure.url) as transfer:
        url = Url.parse(f"{secure.url}/data")
        assert transfer.get(url, into, nothing, md5=False).size == len(DATA)
        transfer._requests.anonymous.clear()


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
        transfer._requests.anonymous.clear()
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


def test_more_servers_than_are_kept_at_hand_are_asked_all_the_same(store, monkeypatch) -> None:
    monkeypatch.setattr(http_servers, "MOST", 1)
    with (
        serving(Store, files={"/ok/data": b"other"}) as other,
        allowing(f"{store.url}/ok/", f"{other.url}/ok/") as transfer,
    ):
        for server, size in ((store, len(DATA)), (other, 5), (store, len(DATA))):
            into = os.memfd_create("copy")
            url = Url.parse(server.url + "/ok/data")
            assert transfer.get(url, into, nothing, md5=False).size == size
            os.close(into)
