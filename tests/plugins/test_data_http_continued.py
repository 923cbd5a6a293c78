"""A download that breaks off goes on where it stood, of the same file or not at all; a connection
serves many files, and one that the server forgot costs none."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from pilot.ports import JobError
from plugins.data.http_bodies import Version
from tests.plugins.http_stores import DATA, Pool, allowing, filled, nothing, serving

OTHER = os.urandom(len(DATA) - 100_000)
TAG, TIME, LATER = '"one"', "Mon, 30 Nov 2026 09:00:00 GMT", "Mon, 30 Nov 2026 09:00:01 GMT"


class Breaking(Pool):
    """Its first answers end half-way; `manner` says what it does when it is asked for the rest."""

    manner, breaks, step, tag = "continues", 1, 500_000, TAG

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.asked.append(f"{wanted} {self.headers.get('If-Range', '')}".strip())
        at = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        data, tag = DATA, self.tag
        if wanted and self.manner in {"has another", "lies of another"}:
            data, tag = OTHER, '"two"'
        whole = not wanted or self.manner in {"ignores ranges", "has another"}
        if wanted and self.manner == "is gone":
            self._answer(404)
            return
        self.send_response(200 if whole else 206)
        if tag:
            self.send_header("ETag", tag)
        at = 0 if whole else at
        if not whole and self.manner == "sends more":
            data += b"more"
        if not whole:
            first = at + (self.manner == "begins elsewhere")
            total = len(DATA if self.manner == "sends more" else data)
            total += self.manner == "has another length"
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(data) - at))
        self.end_headers()
        if len(self.asked) <= self.breaks:
            self.wfile.write(data[at : at + self.step])
            self.close_connection = True
        else:
            self.wfile.write(data[at:])


def broken(into: int, **manners: object) -> tuple[JobError | None, list[str]]:
    """What a download from such a server raises, and what it asked for."""
    with serving(Breaking, **manners) as server, allowing(server.url) as transfer:
        try:
            copied = transfer.get(Url.parse(f"{server.url}/x"), into, nothing, md5=True)
        except JobError as error:
            return error, server.asked
        assert copied.size == os.fstat(into).st_size
    return None, server.asked


def test_a_download_goes_on_where_it_broke_off(into: int, tmp_path: Path) -> None:
    error, asked = broken(into)
    assert error is None
    assert asked == ["", 'bytes=500000- "one"']
    assert (tmp_path / "copy").read_bytes() == DATA


def test_it_goes_on_while_there_is_progress_and_no_longer(into: int) -> None:
    error, asked = broken(into, breaks=3, step=200_000)
    assert error is None
    assert asked[-1].startswith("bytes=600000-")
    os.ftruncate(into, 0)
    os.lseek(into, 0, os.SEEK_SET)
    error, asked = broken(into, breaks=9, step=0)
    assert error is not None
    assert error.transient
    assert asked == [""]


@pytest.mark.parametrize(("manner", "data"), [("ignores ranges", DATA), ("has another", OTHER)])
def test_what_comes_whole_again_is_taken_from_its_start(
    into: int, tmp_path: Path, manner: str, data: bytes
) -> None:
    error, _ = broken(into, manner=manner)
    assert error is None
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("manner", ["lies of another", "begins elsewhere", "has another length"])
def test_what_is_not_the_rest_of_the_same_file_is_not_taken(into: int, manner: str) -> None:
    error, asked = broken(into, manner=manner)
    assert error is not None
    assert (error.code, error.transient) == (Code.STAGE_IN_FAILED, True)
    assert len(asked) == 2
    assert os.fstat(into).st_size == 500_000


def test_more_than_the_server_said_is_not_taken(into: int) -> None:
    error, _ = broken(into, manner="sends more")
    assert error is not None
    assert (error.code, error.transient) == (Code.STAGE_IN_FAILED, True)


def test_a_file_that_has_gone_meanwhile_does_not_exist(into: int) -> None:
    error, _ = broken(into, manner="is gone")
    assert error is not None
    assert error.code is Code.NO_SUCH_FILE


@pytest.mark.parametrize("tag", ["", 'W/"one"'])
def test_a_file_that_cannot_be_told_from_another_begins_anew(into: int, tag: str) -> None:
    error, asked = broken(into, tag=tag)
    assert error is not None
    assert error.transient
    assert asked == [""]


@pytest.mark.parametrize(
    ("headers", "mark"),
    [
        ({"ETag": TAG, "Last-Modified": TIME, "Date": LATER}, TAG),
        ({"Last-Modified": TIME, "Date": LATER}, TIME),
        ({"Last-Modified": TIME, "Date": TIME}, ""),
        ({"Last-Modified": TIME}, ""),
        ({"Last-Modified": "long ago", "Date": LATER}, ""),
        ({"Last-Modified": TIME.replace("2026", "9" * 20), "Date": LATER}, ""),
        ({"Last-Modified": TIME, "Date": LATER.replace("GMT", "+" + "9" * 20)}, ""),
        ({"ETag": TAG, "Content-Length": "9" * 5000}, TAG),
        ({"ETag": TAG, "Content-Length": "10", "Transfer-Encoding": "chunked"}, TAG),
        ({}, ""),
    ],
)
def test_a_time_marks_a_file_only_once_it_is_past(headers: dict[str, str], mark: str) -> None:
    assert Version.of(headers) == Version(mark, None)


@pytest.mark.parametrize(
    ("size", "headers", "same"),
    [
        (10, {"ETag": TAG, "Content-Range": "bytes 4-9/10"}, True),
        (10, {"ETag": TAG, "Content-Range": "bytes 4-9/*"}, True),
        (10, {"ETag": TAG, "Content-Range": "bytes 4-8/10"}, False),
        (10, {"ETag": TAG, "Content-Range": "bytes */10"}, False),
        (10, {"ETag": TAG}, False),
        (10, {"ETag": TAG, "Content-Range": f"bytes 4-9/{'1' * 5000}"}, False),
        (10, {"ETag": TAG, "Content-Range": f"bytes {'4' * 5000}-9/10"}, False),
        (10, {"Content-Range": "bytes 4-9/10"}, False),
        (None, {"ETag": TAG, "Content-Range": "bytes 4-9/10"}, False),
    ],
)
def test_the_rest_of_a_file_says_so(size: int | None, headers: dict[str, str], *, same) -> None:
    assert Version(TAG, size).continued(headers, 4) is same


def test_the_rest_by_time_need_not_repeat_it() -> None:
    assert Version(TIME, 10).continued({"Content-Range": "bytes 4-9/10"}, 4)
    changed = {"Content-Range": "bytes 4-9/10", "Last-Modified": LATER}
    assert not Version(TIME, 10).continued(changed, 4)


class Counting(Pool):
    """It notes who comes by which connection; `forgets`: it closes each after one answer, and does
    not say so."""

    forgets = False

    def setup(self) -> None:
        super().setup()
        self.asked.append("connected")

    def do_PUT(self) -> None:
        super().do_PUT()
        self.close_connection |= self.forgets

    def do_HEAD(self) -> None:
        self._answer(200 if self.path in self.files else 404)


def test_one_connection_serves_many_files(into: int) -> None:
    filled(into, 10)
    with serving(Counting) as server, allowing(server.url) as transfer:
        for number in range(5):
            url = Url.parse(f"{server.url}/{number}")
            transfer.put(into, url, nothing)
            os.lseek(into, 0, os.SEEK_SET)
            transfer.delete(url)
    assert server.asked.count("connected") == 1


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_connection_that_the_server_forgot_costs_no_file(into: int, size: int) -> None:
    filled(into, size)
    with serving(Counting, forgets=True) as server, allowing(server.url) as transfer:
        for number in range(5):
            transfer.put(into, Url.parse(f"{server.url}/{number}"), nothing)
    assert len(server.files) == 5
    assert server.asked.count("connected") == 5


class Keeping(Pool):
    """It breaks off in the middle of an upload, and keeps what came."""

    def do_PUT(self) -> None:
        self.asked.append("PUT")
        self.files[self.path] = self.rfile.read(1000)
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def test_half_an_upload_is_removed(into: int) -> None:
    filled(into, 64_000_000)
    with (
        serving(Keeping) as server,
        allowing(server.url) as transfer,
        pytest.raises(JobError) as caught,
    ):
        transfer.put(into, Url.parse(f"{server.url}/x"), nothing)
    assert caught.value.transient
    assert server.files == {}
