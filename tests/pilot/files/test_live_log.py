"""What a pilot sends and keeps of payloads' output."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import Assignment, LogPieces, Problem, Registered
from ailurus.wire.client import Refused, Unreachable
from pilot.attempt import Attempt
from pilot.clock import SYSTEM
from pilot.files import live_log, log_tarball
from pilot.files.live_log import FINAL_BYTES, Follower
from pilot.ports import JobError
from pilot.upstream.log_sender import LogSender
from pilot.workdir import Workdir

pytestmark = pytest.mark.field("H2")


@pytest.fixture
def work(tmp_path: Path):
    made = Workdir(tmp_path / "1.1")
    made.make()
    return made


def attempt_of(work: Workdir, **fields) -> Attempt:
    spec = JobSpec(name="j", command="true", **fields)
    attempt = Attempt(Assignment(job_id=1, attempt_nr=1, report_key="k", spec=spec), lambda _: None)
    attempt.work = work
    return attempt


def sent(rest) -> list[tuple[str, int, str, bool]]:
    found = []
    while (piece := rest.first()) is not None:
        found.append((piece.stream, piece.offset, piece.text, piece.final))
        rest.sent()
    return found


def test_the_end_of_a_long_log_is_sent_though_nobody_watched(work):
    work.stdout.write_bytes(b"x" * 22_900_000 + b"the end\n")
    (only,) = sent(Follower(attempt_of(work)).rest())
    assert only[1] == 22_900_008 - FINAL_BYTES
    assert only[2].endswith("the end\n")
    assert only[3]


def test_what_a_watcher_has_got_is_not_sent_again(work):
    work.stdout.write_text("one\n")
    follower = Follower(attempt_of(work))
    assert [piece.text for piece in follower.news()] == ["one\n"]
    work.stdout.write_text("one\ntwo\n")
    assert sent(follower.rest()) == [("stdout", 4, "two\n", True)]


def test_all_of_it_is_sent_of_a_job_that_wants_its_whole_log(work):
    text = "é" * 400_000
    work.stdout.write_text(text)
    work.stderr.write_text("oh\n")
    rest = Follower(attempt_of(work, log="whole")).rest()
    work.stdout.unlink()  # as the end of the job does
    work.stderr.unlink()
    pieces = sent(rest)
    assert "".join(piece[2] for piece in pieces if piece[0] == "stdout") == text
    assert [piece[1] for piece in pieces][:2] == [0, live_log.PIECE_BYTES]
    assert [piece[3] for piece in pieces][-2:] == [True, True]
    rest.close()


def test_a_whole_log_beyond_the_bound_keeps_its_end_too(work, monkeypatch):
    monkeypatch.setattr(live_log, "WHOLE_BYTES", 100_000)
    work.stdout.write_bytes(b"x" * 500_000 + b"end")
    pieces = sent(Follower(attempt_of(work, log="whole")).rest())
    assert sum(len(piece[2]) for piece in pieces) == 100_000 + FINAL_BYTES
    assert pieces[-1][2].endswith("end")


def test_a_fifo_or_a_link_in_place_of_a_stream_is_not_read(work):
    os.mkfifo(work.stdout)
    work.stderr.symlink_to("/etc/passwd")
    assert sent(Follower(attempt_of(work)).rest()) == []


class Link:
    """A dispatcher that answers `log_pieces` as told: None, or an error to raise."""

    registered = Registered(worker_id=1, token="t", heartbeat_s=10.0, lease_s=30.0)

    def __init__(self) -> None:
        self.client = self.reports = self
        self.answer: AilurusError | None = None
        self.got: list[str] = []

    def call(self, name: str, ask: LogPieces, *, answer: object) -> None:
        if self.answer is not None:
            raise self.answer
        self.got += [piece.text for piece in ask.pieces]


@pytest.fixture
def sender():
    link = Link()
    made = LogSender(link, SYSTEM)
    return made, link


def ended(sender, work, text: str) -> None:
    work.stdout.write_text(text)
    sender.add_end(Follower(attempt_of(work)).rest())


def test_an_end_is_sent_again_until_somebody_takes_it(sender, work):
    one, link = sender
    ended(one, work, "the end\n")
    link.answer = Unreachable("nobody answers")
    assert one.send_ends() is link.answer
    assert one.has_ends
    link.answer = None
    assert one.send_ends() is None
    assert (link.got, not one.has_ends) == (["the end\n"], True)


def test_an_end_that_is_refused_holds_up_nothing(sender, work):
    one, link = sender
    ended(one, work, "the end\n")
    link.answer = Refused(Problem(title="no", status=410))
    assert one.send_ends() is None
    assert not one.has_ends


def test_ends_that_wait_take_a_bounded_part_of_the_memory(sender, work, monkeypatch):
    monkeypatch.setattr("pilot.upstream.log_sender.ENDS_BYTES", 100_000)
    one, _ = sender
    for _ in range(50):
        work.stdout.write_bytes(b"x" * 60_000 + b"last words")
        one.add_end(Follower(attempt_of(work)).rest())
    assert sum(rest.bytes for rest in one._ends) < 250_000
    assert all(rest.first().text.endswith("last words") for rest in one._ends)


class Store:
    """The storage of a site, as far as logs are its business."""

    has_default = True

    def __init__(self, logs: str) -> None:
        self.logs = logs

    def put(self, attempt, file, fd):
        return file.name


@pytest.mark.parametrize(
    ("policy", "log", "error", "kept"),
    [
        ("failed", "end", Code.PAYLOAD_FAILED, True),
        ("failed", "end", None, False),
        ("failed", "whole", None, True),
        ("failed", "end", Code.KILLED_BY_SERVER, False),
        ("all", "end", None, True),
        ("none", "end", Code.PAYLOAD_FAILED, False),
        ("none", "whole", None, False),
    ],
)
def test_whose_log_is_kept_is_the_sites_and_the_jobs_word(work, policy, log, error, kept):
    problem = None if error is None else JobError(error, "it broke")
    assert (
        bool(log_tarball.keep_log(attempt_of(work, log=log), work, Store(policy), problem)) is kept
    )


def members(work, **fields) -> dict[str, bytes]:
    into = io.BytesIO()
    log_tarball.write(attempt_of(work, **fields), work, into)
    into.seek(0)
    with tarfile.open(fileobj=into) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar.getmembers()}


def test_a_tarball_has_the_whole_output(work):
    work.stdout.write_bytes(b"y" * 5_000_000)
    (work.directory / "left.txt").write_text("left")
    found = members(work)
    assert len(found["1.1/stdout"]) == 5_000_000
    assert found["1.1/work/left.txt"] == b"left"


def test_what_a_tarball_lacks_is_said_in_it(work, monkeypatch):
    monkeypatch.setattr(log_tarball, "STREAM_BYTES", 1000)
    monkeypatch.setattr(log_tarball, "MEMBER_BYTES", 10)
    work.stdout.write_bytes(b"first" + b"y" * 50_000 + b"last")
    (work.directory / "big").write_text("0123456789abc")
    found = members(work)
    assert found["1.1/stdout"].startswith(b"first")
    assert b"\n[49009 bytes are not kept here]\n" in found["1.1/stdout"]
    assert found["1.1/stdout"].endswith(b"last")
    assert found["1.1/work/big"] == b"3456789abc"
    notes = found["1.1/pilot.log"].decode()
    assert "stdout has 50009 bytes" in notes
    assert "work/big: its first 3 bytes are not in this log" in notes
