"""Servers behind TLS that stall, cut, lie and lead astray: no job waits for them longer than it
may, no credential goes to another, and what was cut is no file."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from ailurus.wire import opening
from pilot.ports import JobError
from plugins.data import http
from plugins.data.http import Http
from plugins.data.http_requests import LARGE
from tests.plugins.http_stores import filled, nothing
from tests.plugins.test_data_http_hostile import head_of, whole

CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
ABC = whole(b"abc")
Answer = Callable[[ssl.SSLSocket, bytes, int], bool]
"""Of a server: to the head of a request, of which so many came by that connection before; whether
more may."""


class Server:
    """One behind TLS, which notes who comes."""

    def __init__(self, answer: Answer | None, directory: Path) -> None:
        """`answer` None: it does not even shake hands."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / "ca.pem")
        self.ca = str(directory / "ca.pem")
        (directory / "token").write_text("s3cret")
        self.options = {"token_file": str(directory / "token")}
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self._tls)
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"https://localhost:{self.port}"
        self.connections = 0
        self.heads: list[bytes] = []
        self._lines: list[socket.socket] = []
        self._clients: list[Http] = []

    def client(self, **more: str) -> Http:
        options = {**self.options, "token_for": [f"{self.url}/"]}
        self._clients.append(Http(http_allow=[f"{self.url}/"], ca=self.ca, options=options, **more))
        return self._clients[-1]

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listening.accept()
                self.connections += 1
                self._lines.append(line)
                threading.Thread(target=self._talk, args=(line,), daemon=True).start()

    def _talk(self, line: socket.socket) -> None:
        if self._answer is None:
            return
        # Unlike a wrapped one that is closed, it says nothing of its end unless it is told to.
        with suppress(OSError), self._tls.wrap_socket(line, server_side=True) as secure:
            self._lines.append(secure)
            for number in itertools.count():
                if not (head := head_of(secure)):
                    return
                self.heads.append(head)
                if not self._answer(secure, head, number):
                    return

    def close(self) -> None:
        for client in self._clients:
            client._requests.anonymous.clear()
        for line in (self._listening, *self._lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[Answer | None], Server]]:
    made: list[Server] = []

    def start(answer: Answer | None) -> Server:
        made.append(Server(answer, tmp_path))
        threading.Thread(target=made[-1].serve, daemon=True).start()
        return made[-1]

    yield start
    for one in made:
        one.close()


def take_body(line: ssl.SSLSocket, head: bytes) -> None:
    left = int(head.partition(b"Content-Length: ")[2].split()[0])
    while left > 0:
        left -= len(line.recv(left)) or left


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def stopping(after_s: float) -> Callable[[], None]:
    """The check of a job that is stopped."""
    end = time.monotonic() + after_s

    def check() -> None:
        if time.monotonic() > end:
            raise JobError(Code.KILLED_BY_SERVER, "stopped")

    return check


@pytest.mark.parametrize("act", ["get", "put"])
def test_a_new_connection_without_an_answer_is_a_failure_and_no_loop(serving, into, act) -> None:
    """The handshake has shown that this connection was not one that a server had forgotten."""
    server = serving(lambda line, head, number: False)
    url = Url.parse(f"{server.url}/x")
    transfer = server.client()
    ways = {
        "get": lambda: transfer.get(url, into, stopping(2), md5=False),
        "put": lambda: transfer.put(into, url, stopping(2)),
    }
    with pytest.raises(JobError) as raised:
        ways[act]()
    assert raised.value.code in {Code.STAGE_IN_FAILED, Code.STAGE_OUT_FAILED}
    assert raised.value.transient
    assert server.connections == 1


@pytest.mark.parametrize("proxied", [False, True])
def test_a_stop_reaches_who_waits_for_a_handshake(serving, into, monkeypatch, *, proxied) -> None:
    monkeypatch.setattr(opening, "STEP_S", 0.05)
    server = serving(None)
    # To a proxy of the network it is the answer to CONNECT that does not come.
    more = {"http_proxy": f"http://127.0.0.1:{server.port}"} if proxied else {}
    with pytest.raises(JobError) as raised, within(2):
        server.client(**more).get(Url.parse(f"{server.url}/x"), into, stopping(0.2), md5=False)
    assert raised.value.code is Code.KILLED_BY_SERVER


def test_a_stop_reaches_who_waits_for_a_connection(into, monkeypatch) -> None:
    monkeypatch.setattr(opening, "STEP_S", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        there = full.getsockname()
        # Further ones are not answered.
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(there)
        url = f"http://127.0.0.1:{there[1]}/x"
        transfer = Http(http_allow=[url])
        with pytest.raises(JobError) as raised, within(2):
            transfer.get(Url.parse(url), into, stopping(0.2), md5=False)
        for one in waiting:
            one.close()
    assert raised.value.code is Code.KILLED_BY_SERVER


def test_a_removal_has_its_time_from_the_handshake_on(serving, monkeypatch) -> None:
    monkeypatch.setattr(opening, "STEP_S", 0.05)
    monkeypatch.setattr(http, "DELETE_S", 0.2)
    server = serving(None)
    with pytest.raises(JobError, match="was not removed within") as raised, within(2):
        server.client().delete(Url.parse(f"{server.url}/x"))
    assert raised.value.code is Code.STAGE_OUT_TIMEOUT


def cut(line: ssl.SSLSocket) -> None:
    """End a connection as somebody on the way could."""
    with socket.socket(fileno=os.dup(line.fileno())) as below:
        below.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("told", [False, True])
def test_only_who_says_so_ends_a_file_of_unknown_length(serving, into, *, told) -> None:
    def answer(line: ssl.SSLSocket, head: bytes, number: int) -> bool:
        del head, number
        line.sendall(b"HTTP/1.1 200 OK\r\n\r\nabc")
        if told:
            line.unwrap()
        else:
            cut(line)
        return False

    server = serving(answer)
    url = Url.parse(f"{server.url}/x")
    if told:
        assert server.client().get(url, into, nothing, md5=False).size == 3
        return
    with pytest.raises(JobError, match="cut") as raised:
        server.client().get(url, into, nothing, md5=False)
    assert raised.value.transient


def test_a_kept_connection_that_was_cut_costs_no_file(serving, into) -> None:
    def answer(line: ssl.SSLSocket, head: bytes, number: int) -> bool:
        del head
        if number:
            cut(line)
            return False
        line.sendall(ABC)
        return True

    server = serving(answer)
    transfer = server.client()
    for _ in range(3):
        transfer.get(Url.parse(f"{server.url}/x"), into, nothing, md5=False)
    assert server.connections == 3


def test_a_server_that_refused_a_body_may_wait_for_it_and_gets_no_other_request(
    serving, into
) -> None:
    def answer(line: ssl.SSLSocket, head: bytes, number: int) -> bool:
        del number
        # A large one is announced, and refused before it is sent.
        line.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        return b"100-continue" in head

    server = serving(answer)
    transfer = server.client()
    for size in (LARGE, 10):
        os.ftruncate(into, 0)
        os.lseek(into, 0, os.SEEK_SET)
        filled(into, size)
        with pytest.raises(JobError, match="HTTP 403"):
            transfer.put(into, Url.parse(f"{server.url}/x"), nothing)
    assert server.connections == 2


def test_what_a_success_does_not_say_to_its_end_is_a_success(serving, into, monkeypatch) -> None:
    monkeypatch.setattr("plugins.data.http_requests.WORDS_S", 0.1)

    def answer(line: ssl.SSLSocket, head: bytes, number: int) -> bool:
        del number
        if head.startswith(b"PUT"):
            take_body(line, head)
            line.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nwo")
        else:
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nwo")
        return True

    server = serving(answer)
    filled(into, 10)
    with within(5):
        server.client().put(into, Url.parse(f"{server.url}/x"), stopping(8))
        server.client().delete(Url.parse(f"{server.url}/x"))


def test_a_file_that_is_said_to_be_elsewhere_is_not_looked_for_there(serving, into) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:

        def answer(line: ssl.SSLSocket, head: bytes, number: int) -> bool:
            del number
            if head.startswith(b"HEAD"):
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
                return True
            take_body(line, head)
            there = f"https://localhost:{elsewhere.getsockname()[1]}/y"
            line.sendall(CREATED.replace(b"Created", f"Created\r\nLocation: {there}".encode()))
            return True

        server = serving(answer)
        filled(into, 10)
        server.client().put(into, Url.parse(f"{server.url}/x".replace("https", "davs")), nothing)
        elsewhere.settimeout(0.1)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_a_sum_that_comes_a_letter_at_a_time_is_not_waited_for(serving, into, monkeypatch) -> None:
    # Connect and handshake count, too, on a machine that does much else.
    monkeypatch.setattr(http, "DIGEST_S", 1.0)

    def answer(line: ssl.SSLSocket, head: bytes, number: int) -> bool:
        del number
        if head.startswith(b"PUT"):
            take_body(line, head)
            line.sendall(CREATED)
            return True
        for letter in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200:
            line.sendall(bytes([letter]))
            time.sleep(0.05)
        return False

    server = serving(answer)
    filled(into, 10)
    with within(6):
        server.client().put(into, Url.parse(f"{server.url}/x".replace("https", "davs")), nothing)
    # It was asked twice, as one that loses its answer.
    assert [head.split()[0] for head in server.heads] == [b"PUT", b"HEAD", b"HEAD"]


@pytest.mark.parametrize(
    "there",
    [
        "https://s3cret@localhost:{port}/y",
        "https://localhost:{port}\\@elsewhere/y",
        "//127.0.0.1:{port}/y",
        "https://[::1]:{port}/y",
        "https://localhost.:{port}/y",
        "https://elsewhere#@localhost:{port}/y",
        "http://localhost:{port}/y",
        "https://localhost:{port}/a/%2e%2e/y",
        "https://localhost:0{port}/y",
        "https://localhost/y",
    ],
)
def test_no_redirect_leads_to_another_place_than_the_site_allows(serving, into, there) -> None:
    def answer(line: ssl.SSLSocket, head: bytes, number: int) -> bool:
        del head, number
        location = there.format(port=server.port).encode()
        line.sendall(b"HTTP/1.1 307 X\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location)
        return True

    server = serving(answer)
    with pytest.raises(JobError) as raised:
        server.client().get(Url.parse(f"{server.url}/x"), into, nothing, md5=False)
    assert raised.value.code is Code.STORAGE_FORBIDDEN
    assert "s3cret" not in str(raised.value)
    assert len(server.heads) == 1


def test_nothing_is_said_to_a_server_whose_certificate_is_anothers(serving, into) -> None:
    server = serving(lambda line, head, number: False)
    # The certificate has the name alone.
    url = server.url.replace("localhost", "127.0.0.1")
    options = {**server.options, "token_for": [url]}
    transfer = Http(http_allow=[url], ca=server.ca, options=options)
    with pytest.raises(JobError, match="CERTIFICATE_VERIFY_FAILED"):
        transfer.get(Url.parse(f"{url}/x"), into, nothing, md5=False)
    assert server.heads == []
