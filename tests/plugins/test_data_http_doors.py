"""Doors that lead to pools, answers that get lost, and portals that say yes to everything."""

from __future__ import annotations

import os
import zlib

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.url import Url
from ailurus.wire import watched
from pilot.ports import JobError
from plugins.data import http_bodies, http_requests
from tests.plugins.http_stores import (
    Pool,
    Store,
    allowing,
    code_of,
    filled,
    nothing,
    serving,
)


@pytest.mark.field("L2")
@pytest.mark.parametrize("size", [0, 10, 8 * http_requests.LARGE])
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
    data = filled(into, 8 * http_requests.LARGE)
    door.manner = manner
    with allowing(door.url, pool.url) as transfer:
        copied = transfer.put(into, Url.parse(f"{door.url}/dir/out"), nothing)
    assert pool.files == {"/data/xyz?door=1": data}
    assert (copied.size, copied.adler32) == (len(data), f"{zlib.adler32(data):08x}")


@pytest.mark.field("L2")
def test_a_body_that_the_door_does_not_want_is_not_read(door, pool, into: int, monkeypatch) -> None:
    filled(into, 8 * http_requests.LARGE)
    door.manner = "asks for no body"
    read = []
    real = os.read
    monkeypatch.setattr(
        http_bodies.os, "read", lambda fd, n: read.append(block := real(fd, n)) or block
    )
    with allowing(door.url, pool.url) as transfer:
        transfer.put(into, Url.parse(f"{door.url}/dir/out"), nothing)
    assert sum(map(len, read)) == 8 * http_requests.LARGE


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
    assert len(door.asked) <= http_requests.REDIRECTS + 1


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
@pytest.mark.parametrize("size", [10, 2 * http_requests.LARGE])
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
def test_what_arrived_in_part_before_a_server_fell_silent_is_written_anew(into: int) -> None:
    data = filled(into, 10)
    with serving(Mute, status=0, kept=5) as server, allowing(server.url) as transfer:
        url = Url.parse(f"{server.url}/57.1.out")
        for _ in range(2):
            with pytest.raises(JobError) as caught:
                transfer.put(into, url, nothing)
            assert caught.value.transient
        assert transfer.put(into, url, nothing).size == 10
        assert server.files["/57.1.out"] == data


@pytest.mark.field("L2")
def test_a_file_that_is_not_ours_is_left_alone(into: int) -> None:
    data = filled(into, 10)
    with serving(Mute, status=0, kept=None) as server, allowing(server.url) as transfer:
        url = Url.parse(f"{server.url}/57.1.out")
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
    filled(into, 50 * http_requests.LARGE if eager else 10)
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
