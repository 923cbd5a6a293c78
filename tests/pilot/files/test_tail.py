"""The end of a file of a job that runs, or a sentence that says why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilot.files.tail import MOST, tail
from pilot.workdir import Workdir
from tests.pilot.attempts import attempt_of


@pytest.fixture
def attempt(tmp_path: Path):
    made = attempt_of("true")
    made.work = Workdir(tmp_path / "1.1")
    made.work.make()
    return made


@pytest.mark.parametrize("name", ["stdout", "stderr", "work-file", "sub/deep"])
def test_the_end_of_a_file_is_shown(attempt, name):
    inside = {"stdout": attempt.work.stdout, "stderr": attempt.work.stderr}
    path = inside.get(name, attempt.work.directory / name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"a" * 10 + b"b" * MOST)
    assert tail(attempt, name) == "b" * MOST


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "has no file"),
        ("link", "not a regular file"),
        ("../../etc/passwd", "not a regular file"),
        ("/etc/passwd", "not a regular file"),
        (".", "not a regular file"),
        ("", "not a regular file"),
    ],
)
def test_what_is_no_file_of_the_job_is_not_shown(attempt, name, why):
    (attempt.work.directory / "link").symlink_to("/etc/passwd")
    assert why in tail(attempt, name)


def test_a_job_without_a_directory_has_no_files():
    assert "no directory yet" in tail(attempt_of("true"), "stdout")
