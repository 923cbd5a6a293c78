"""Inputs that come while payloads of their job run."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ailurus.protocol.job import InputFile
from pilot.ports import JobError
from pilot.workdir import Workdir
from tests.pilot.fakes import World

FILE = InputFile(name="d/in", url="file:///s/in")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.storage.files[FILE.url] = b"12345"
    return made


def failing(world: World, work: Workdir) -> str:
    with pytest.raises(JobError) as raised:
        world.kit.stage.bring(world.attempt(), work, FILE)
    return raised.value.message


def test_p5_an_input_that_comes_while_payloads_run_harms_nothing_outside(
    world, work, tmp_path, monkeypatch
):
    """A payload puts something where it belongs, and a link in place of the directory above."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "in").write_text("precious")
    create = Workdir.create

    def raced(self: Workdir, name: str, mode: int = 0o600) -> int:
        monkeypatch.setattr(Workdir, "create", create)
        (work.directory / "d").symlink_to(outside)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(Workdir, "create", raced)
    error = failing(world, work)
    assert "cannot make the input 'd/in'" in error
    assert (outside / "in").read_text() == "precious"


@pytest.mark.parametrize("there", [True, False])
def test_what_is_outside_is_told_to_no_payload(world, work, tmp_path, there):
    (work.directory / "d").symlink_to(tmp_path)
    if there:
        (tmp_path / "in").touch()
    error = failing(world, work)
    assert "a payload of the job has made something" in error
