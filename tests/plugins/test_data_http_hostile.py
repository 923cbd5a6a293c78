"""Servers that answer what no server should: that costs one file its time, and no other its
contents."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from ailurus.wire.connection import MOST_INTERIM
from pilot.ports import JobError, Moved, ToGet
from plugins.data.http_requests import LARGE
from plugins.data.s3 import S3
from tests.plugins.http_stores import allowing, filled, nothing

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 102\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
Talk = Callable[[socket.socket, bytes, int], None]
"""Of a server: with a connection, the head of a request on it, and how many came before."""


def head_of(line: socket.socket) -> bytes:
    """The head of the next request; blank: there is none."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (got := line.recv(1)):
            return b""
        head += got
    return head


@contextmanager
def talking(talk: Talk) -> Iterator[str]:
    """The URL of a server that takes one connection after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    line, _ = listening.accept()
                    with line, suppress(OSError):
                        for number in itertools.count():
                            if not (head := head_of(line)):
                                break
                            talk(line, head, number)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def refusal(answer: Iterator[bytes] | list[bytes], into: int, most: int = 1 << 20) -> JobError:
    """What a download raises whose job may have `most` bytes."""

    def talk(line: socket.socket, head: bytes, number: int) -> None:
        del head, number
        for piece in answer:
            line.sendall(piece)
        # Before the next try.
        line.shutdown(socket.SHUT_WR)

    checks = itertools.count()

    def check() -> None:
        if os.fstat(into).st_size > most or next(checks) > 3:
            raise JobError(Code.STAGE_IN_TIMEOUT, "its time, or its room, is over")

    with talking(talk) as url, allowing(url) as transfer, pytest.raises(JobError) as raised:
        transfer.get(Url.parse(f"{url}/x"), into, check, md5=False)
    return raised.value


def test_interim_answers_are_passed_over_and_no_file_gets_anothers_contents(into: int) -> None:
    def talk(line: socket.socket, head: bytes, number: int) -> None:
        del number
        line.sendall(EARLY + whole(head.split()[1]))

    with talking(talk) as url, allowing(url) as transfer:
        for name in ("/first", "/second"):
            os.ftruncate(into, 0)
            os.lseek(into, 0, os.SEEK_SET)
            transfer.get(Url.parse(url + name), into, nothing, md5=False)
            assert os.pread(into, 100, 0) == name.encode()


def test_objects_of_s3_have_their_own_contents_likewise(tmp_path) -> None:
    def talk(line: socket.socket, head: bytes, number: int) -> None:
        del number
        line.sendall(EARLY + whole(head.split()[1]))

    told: list[object] = []
    with talking(talk) as url:
        mover = S3(S3.Options(endpoint=url, parallel=1))
        files = [ToGet(key=nr, url=f"s3://b/{nr}", path=str(tmp_path / str(nr))) for nr in (0, 1)]
        mover.get(files, told.append)
        mover._pool.clear()
    assert len([end for end in told if isinstance(end, Moved)]) == 2
    assert [(tmp_path / str(nr)).read_text() for nr in (0, 1)] == ["/b/0", "/b/1"]


def test_a_body_is_sent_after_interim_answers(into: int) -> None:
    data = filled(into, LARGE)
    got = bytearray()

    def talk(line: socket.socket, head: bytes, number: int) -> None:
        del number
        assert b"100-continue" in head
        line.sendall(EARLY + b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(got) < LARGE:
            got.extend(line.recv(1 << 16))
        line.sendall(EARLY + b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    with talking(talk) as url, allowing(url) as transfer:
        transfer.put(into, Url.parse(f"{url}/x"), nothing)
    assert bytes(got) == data


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 102 Processing\r\n\r\n" * (MOST_INTERIM + 1), whole(b"data")],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * (MOST_INTERIM + 1), whole(b"data")],
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", whole(b"data")],
        [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"],
        [b"nonsense " * 7000 + b"\r\n"],
        [b"HTTP/1.1 200 " + b"y" * 100_000],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"],
        [CHUNKED, b"nonsense\r\n"],
        [CHUNKED, b"5;" + b"x" * 100_000 + b"\r\nabcde\r\n0\r\n\r\n"],
        [CHUNKED, b"ffffffffffffffff\r\n" + b"x" * 100],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabcde"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nabcde"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"],
    ],
)
def test_what_cannot_be_read_is_an_error_that_can(into: int, answer: list[bytes]) -> None:
    error = refusal(answer, into)
    assert error.code is Code.STAGE_IN_FAILED
    assert error.transient
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (CHUNKED, b"1;" + b"x" * 10_000 + b"\r\na\r\n"),
        (CHUNKED, b"100000\r\n" + bytes(1 << 20) + b"\r\n"),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"X: " + b"y" * 10_000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", bytes(1 << 20)),
    ],
)
def test_what_does_not_end_ends_with_the_jobs_time_or_room(
    into: int, start: bytes, piece: bytes
) -> None:
    error = refusal(itertools.chain([start], itertools.repeat(piece)), into)
    assert error.code is Code.STAGE_IN_TIMEOUT
    assert os.fstat(into).st_size < 4 << 20
