"""A copy has two sides, and an error says which of them lacks what."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.url import Url
from pilot.files.stage import Stage
from pilot.ports import JobError
from pilot.site import Limits, bounds_of
from pilot.workdir import Workdir
from plugins.data.file import File
from plugins.data.http import Http
from tests.pilot.attempts import attempt_of, open_up


@pytest.fixture
def full() -> Iterator[int]:
    """A file on a node without space."""
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("this user may not write to /dev/full here")
    fd = os.open("/dev/full", os.O_WRONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def door() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/dir/in.root"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.field("W9", "L4")
@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_full_node_at_stage_in_is_not_the_storages(
    scheme: str, full: int, door: str, tmp_path: Path
) -> None:
    (tmp_path / "in.root").write_text("hello")
    url = f"file://{tmp_path}/in.root" if scheme == "file" else door
    transfer: Any = File(roots=[str(tmp_path)]) if scheme == "file" else Http(http_allow=[door])
    with pytest.raises(JobError) as error:
        transfer.get(Url.parse(url), full, lambda: None, md5=False)
    assert (error.value.code, error.value.transient) == (Code.NO_LOCAL_SPACE, True)
    assert error.value.message.startswith("this node has no space")


@pytest.mark.field("W9", "L4")
@pytest.mark.parametrize(
    ("side", "code", "owner"),
    [
        ("readv", Code.RESOURCE_UNAVAILABLE, "this node"),
        ("write", Code.STAGE_OUT_FAILED, "the storage"),
    ],
)
def test_stage_out_says_which_disk_fails(
    side: str, code: Code, owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "out").write_text("hello")
    source = os.open(tmp_path / "out", os.O_RDONLY)
    monkeypatch.setattr(os, side, fails)
    with pytest.raises(JobError) as error:
        File(roots=[str(tmp_path)]).put(
            source, Url.parse(f"file://{tmp_path}/s/1.1.out"), lambda: None
        )
    monkeypatch.undo()
    os.close(source)
    assert (error.value.code, error.value.transient) == (code, True)
    assert error.value.message.startswith(owner)
    assert not list((tmp_path / "s").iterdir())


def stage() -> Stage:
    return Stage(lambda scheme: File(), "", bounds_of(Limits()))


def staged_out(work: Workdir) -> JobError:
    attempt = attempt_of("true", outputs=(OutputFile(name="o", url="file:///s"),))
    with pytest.raises(JobError) as error:
        stage().stage_out(attempt, work)
    return error.value


@pytest.mark.field("W9")
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_an_unreadable_output_is_said_to_be_unreadable(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    open_up(tmp_path)
    os.seteuid(64_321)
    try:
        with Workdir(tmp_path / "attempt") as work:
            work.make()
            (work.directory / "o").write_text("secret")
            (work.directory / "o").chmod(0)
            error = staged_out(work)
    finally:
        os.seteuid(0)
    assert (error.code, error.transient) == (Code.OUTPUT_UNSAFE, False)
    assert "may not read it" in error.message
    assert "chmod" in error.remedy


@pytest.mark.field("W9", "L4")
@pytest.mark.parametrize(
    ("number", "transient", "word"),
    [
        (errno.EMFILE, True, "descriptor"),
        (errno.ESTALE, True, "network file system"),
        (errno.EIO, True, "disk"),
        (errno.ELOOP, False, "link"),
        (errno.ENXIO, False, "socket"),
    ],
)
def test_an_output_that_cannot_be_opened_is_the_nodes_or_the_jobs(
    number: int, transient: bool, word: str
) -> None:
    def fails(name: str) -> int:
        raise OSError(number, os.strerror(number))

    error = staged_out(SimpleNamespace(open=fails))  # type: ignore[arg-type]
    assert error.transient is transient
    assert word in error.message


@pytest.mark.field("L4")
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EROFS, errno.EACCES]
)
def test_an_input_that_cannot_be_made_is_the_nodes(number: int) -> None:
    def fails(name: str) -> int:
        raise OSError(number, os.strerror(number))

    attempt = attempt_of("true", inputs=(InputFile(name="x", url="file:///s/x"),))
    attempt.wakeup = SimpleNamespace(wait=lambda seconds: None)  # type: ignore[assignment]
    work: Any = SimpleNamespace(create=fails, directory=Path("/no/such"))
    with pytest.raises(JobError) as error:
        stage().stage_in(attempt, work)
    assert error.value.transient
    assert error.value.message.startswith("this node")
    assert error.value.field == "inputs[0]"


def test_a_failed_stage_out_leaves_none_of_its_outputs(tmp_path: Path) -> None:
    outputs = (OutputFile(name="a"), OutputFile(name="gone", optional=True), OutputFile(name="b"))
    attempt = attempt_of("true", outputs=outputs)
    files = File(roots=[str(tmp_path)])
    made = Stage(lambda scheme: files, f"file://{tmp_path}/s", bounds_of(Limits()))
    with Workdir(tmp_path / "attempt") as work:
        work.make()
        (work.directory / "a").write_text("1")
        with pytest.raises(JobError, match="left no file 'b'"):
            made.stage_out(attempt, work)
    assert list((tmp_path / "s").iterdir()) == []
