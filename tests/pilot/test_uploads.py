"""Small files that users sent with their jobs, in the pilot: fetched once, compared, never lent."""

from __future__ import annotations

import os
import threading
from hashlib import sha256

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile
from ailurus.protocol.states import JobState
from ailurus.protocol.uploads import PIECE_BYTES, Upload
from ailurus.protocol.url import Url
from ailurus.wire.client import Refused, Unreachable
from pilot.ports import JobError
from pilot.upstream import uploads
from pilot.upstream.uploads import Uploads
from tests.pilot.fakes import World
from tests.pilot.helpers import Field

SCRIPT = b"#!/bin/sh\necho from the script\n"
LARGE = bytes(range(256)) * (PIECE_BYTES // 256) + b"end"


def named(contents: bytes, *, program: bool = False) -> Upload:
    return Upload(sha256(contents).hexdigest(), program=program)


class Bench:
    """Uploads of a pilot whose dispatcher has `files`."""

    def __init__(self, directory, *files: bytes) -> None:
        self.world = World(directory)
        self.files = {named(one).digest: one for one in files}
        self.world.link.answers["job_upload"] = self.answer
        self.kept = directory / "uploads"
        self.uploads = Uploads(self.world.link, self.kept, self.world.clock)  # type: ignore[arg-type]

    def answer(self, _: str, ask: m.UploadRequest) -> m.UploadPiece:
        whole = self.files[ask.digest]
        return m.UploadPiece(size=len(whole), piece=whole[ask.first : ask.first + PIECE_BYTES])

    def get(self, upload: Upload, path, check=lambda: None):
        into = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            transfer = self.uploads.of(self.world.attempt())
            return transfer.get(Url.parse(upload.url), into, check, md5=True)
        finally:
            os.close(into)

    @property
    def asked(self) -> int:
        return len(self.world.link.sent("job_upload"))


def test_a_file_comes_in_pieces_and_once_for_all_jobs(tmp_path):
    b = Bench(tmp_path, LARGE)
    copied = b.get(named(LARGE), tmp_path / "one")
    assert copied.size == len(LARGE)
    b.get(named(LARGE), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == LARGE
    assert b.asked == 2


def test_a_program_may_be_executed_and_what_is_kept_is_no_jobs(tmp_path):
    b = Bench(tmp_path, SCRIPT)
    b.get(named(SCRIPT, program=True), tmp_path / "program")
    b.get(named(SCRIPT), tmp_path / "text")
    assert (tmp_path / "program").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "text").stat().st_mode & 0o100
    (kept,) = b.kept.iterdir()
    assert kept.stat().st_nlink == 1
    assert kept.stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize("how", ["changed", "a link", "gone"])
def test_what_a_payload_did_to_it_reaches_no_other_job(tmp_path, how):
    b = Bench(tmp_path, SCRIPT)
    b.get(named(SCRIPT), tmp_path / "one")
    (kept,) = b.kept.iterdir()
    kept.unlink()
    if how == "changed":
        kept.write_bytes(b"#!/bin/sh\nrm -rf /\n")
    elif how == "a link":
        kept.symlink_to("/etc/passwd")
    b.get(named(SCRIPT), tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == SCRIPT
    assert b.asked == 2


def test_what_has_another_digest_is_refused_and_not_kept(tmp_path):
    b = Bench(tmp_path, SCRIPT)
    b.files[named(SCRIPT).digest] = b"something else"
    with pytest.raises(JobError, match="SHA-256") as failed:
        b.get(named(SCRIPT), tmp_path / "one")
    assert failed.value.transient
    assert not b.kept.exists()


def test_a_dispatcher_that_does_not_answer_is_waited_for_and_a_refusal_is_final(tmp_path):
    b = Bench(tmp_path, SCRIPT)
    away = iter([True, True])

    def answer(name: str, ask: m.UploadRequest) -> m.UploadPiece:
        if next(away, False):
            raise Unreachable("nobody answers")
        return b.answer(name, ask)

    b.world.link.answers["job_upload"] = answer
    b.get(named(SCRIPT), tmp_path / "one")
    assert b.asked == 3
    problem = m.Problem(title="this uploaded file is no longer kept", status=422)
    b.world.link.answers["job_upload"] = Refused(problem)
    with pytest.raises(JobError, match="no longer kept") as failed:
        b.get(named(LARGE), tmp_path / "two")
    assert (failed.value.code, failed.value.transient) == (Code.STAGE_IN_FAILED, False)


def test_jobs_that_begin_together_fetch_it_once(tmp_path):
    b = Bench(tmp_path, SCRIPT)
    begun, go_on = threading.Event(), threading.Event()

    def answer(name: str, ask: m.UploadRequest) -> m.UploadPiece:
        begun.set()
        go_on.wait(10)
        return b.answer(name, ask)

    b.world.link.answers["job_upload"] = answer
    waits = threading.Event()
    first = threading.Thread(target=b.get, args=(named(SCRIPT), tmp_path / "one"))
    second = threading.Thread(target=b.get, args=(named(SCRIPT), tmp_path / "two", waits.set))
    first.start()
    assert begun.wait(10)
    second.start()
    assert waits.wait(10)
    go_on.set()
    first.join(10)
    second.join(10)
    assert (tmp_path / "two").read_bytes() == SCRIPT
    assert b.asked == 1


def test_the_longest_unused_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_KEPT_BYTES", 10)
    b = Bench(tmp_path, b"aaaa", b"bbbb", b"cccc")
    for nr, one in enumerate((b"aaaa", b"bbbb", b"aaaa", b"cccc")):
        b.get(named(one), tmp_path / f"{nr}")
    kept = {path.name for path in b.kept.iterdir()}
    assert kept == {named(b"aaaa").digest, named(b"cccc").digest}


def test_a_real_pilot_without_shared_files_runs_what_came_with_its_jobs(field: Field) -> None:
    """The second job is the same pilot's, and has the file from there."""
    client = field.dispatcher.client
    url = client.upload_file(SCRIPT, program=True)
    assert client.upload_file(SCRIPT, program=True) == url
    more = client.upload_file(LARGE)
    inputs = (
        InputFile(name="run.sh", url=url, size=len(SCRIPT)),
        InputFile(name="data/large", url=more, size=len(LARGE)),
    )
    spoils = "./run.sh && wc -c < data/large && echo spoilt > run.sh"
    first = field.submit(spoils, inputs=inputs)
    second = field.submit(spoils, inputs=inputs)
    pilot = field.pilot("--max-jobs", "2")
    for job_id in (first, second):
        found = field.dispatcher.final(job_id)
        assert found.row.state is JobState.FINISHED, found
        said = field.dispatcher.log(job_id).split("\n")
        assert said[0] == "from the script"
        assert said[1].strip() == str(len(LARGE))
    assert pilot.ended() == 0
