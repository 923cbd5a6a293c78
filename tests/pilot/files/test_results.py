"""The result document of a job, whatever a payload leaves in its place."""

from __future__ import annotations

import os

import pytest

from ailurus.protocol.errors import Code
from pilot.files.results import result_in
from pilot.flow import carry
from pilot.ports import JobError
from pilot.workdir import Workdir
from tests.pilot.fakes import World


@pytest.fixture
def work(tmp_path):
    made = Workdir(tmp_path / "job")
    made.make()
    with made:
        yield made


def refused(work: Workdir, name: str = "r.json") -> Code:
    with pytest.raises(JobError) as raised:
        result_in(work, name)
    assert raised.value.field == "result"
    assert not raised.value.transient
    return raised.value.code


@pytest.mark.parametrize(
    ("left", "result"),
    [
        (b'{ "mass": 91.19,\n "n": [1, 2] }\n', '{"mass":91.19,"n":[1,2]}'),
        (b'{"a": 1, "a": 2}', '{"a":2}'),
        (b'"\\u0000 \\u2028"', '"\\u0000\u2028"'.replace("0000", "0000 ")),
        (b"null", "null"),
    ],
)
def test_what_is_left_comes_in_one_form(work, left, result):
    (work.directory / "r.json").write_bytes(left)
    assert result_in(work, "r.json") == result


@pytest.mark.parametrize(
    "left",
    [
        b"", b"{", b"NaN", b"[1, 2]]", b"\xff", b'"\\ud800"', b"[" * 60_000, b"{'a': 1}",
        b"[" * 30_000 + b"]" * 30_000,
    ],
)  # fmt: skip
def test_what_is_no_json_fails_the_job(work, left):
    (work.directory / "r.json").write_bytes(left)
    assert refused(work) is Code.PAYLOAD_FAILED


def test_a_document_has_at_most_64_kib(work):
    (work.directory / "r.json").write_bytes(b'"' + b"x" * 65_534 + b'"')
    assert len(result_in(work, "r.json")) == 65_536
    (work.directory / "r.json").write_bytes(b'"' + b"x" * 65_535 + b'"')
    assert refused(work) is Code.OUTPUT_TOO_LARGE


def test_nothing_but_a_regular_file_of_the_jobs_directory_is_read(work, tmp_path):
    assert refused(work) is Code.MISSING_OUTPUT
    (tmp_path / "secret").write_text('"secret"')
    (work.directory / "link").symlink_to(tmp_path / "secret")
    (work.directory / "sub").symlink_to(tmp_path)
    (work.directory / "directory").mkdir()
    os.mkfifo(work.directory / "fifo")
    for name in ("link", "sub/secret", "directory", "fifo", "../secret"):
        assert refused(work, name) in {Code.OUTPUT_UNSAFE, Code.MISSING_OUTPUT}


def test_a_payload_that_leaves_none_has_failed(tmp_path):
    world = World(tmp_path)

    attempt = world.attempt(result="r.json")
    carry(attempt, world.kit)
    (report,) = world.reports()
    assert (report.finished, report.code, report.result) == (False, Code.MISSING_OUTPUT, "")
