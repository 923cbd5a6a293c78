"""The log of an attempt: what is in it, what it leaves out and says so, and that it never costs the
report."""

from __future__ import annotations

import io
import tarfile

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, OutputFile
from pilot.files import log_tarball
from pilot.files.log_tarball import keep_log
from pilot.files.undeclared import undeclared
from pilot.ports import JobError
from pilot.site import Limits
from pilot.workdir import Workdir
from tests.pilot.fakes import World

WHY = JobError(Code.PAYLOAD_FAILED, "it failed")
NO_ROOM = JobError(Code.STAGE_OUT_FAILED, "full", transient=False)


def kept(world: World, work: Workdir, **fields: object) -> dict[str, bytes]:
    """The members of the log of a failed attempt."""
    keep_log(world.attempt(**fields), work, world.kit.stage, WHY)
    data = io.BytesIO(world.storage.files["file:///out/1.1.log.tgz"])
    with tarfile.open(fileobj=data) as tar:
        return {
            member.name.removeprefix("1.1/"): tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar.getmembers()
        }


def test_it_has_output_notes_and_what_was_left_but_no_inputs_and_outputs(world, work):
    work.stdout.write_bytes(b"out")
    for name in ("in", "o", "left"):
        (work.directory / name).write_bytes(name.encode())
    (work.tmp / "scratch").touch()
    members = kept(
        world,
        work,
        inputs=(InputFile(name="in", url="file:///i"),),
        outputs=(OutputFile(name="o"),),
    )
    assert set(members) == {"stdout", "work/left", "pilot.log"}
    assert members["stdout"] == b"out"
    assert b"it failed" in members["pilot.log"]


def test_files_of_a_data_set_are_inputs_and_nothing_that_was_left(world, work):
    (work.directory / "hits/day1").mkdir(parents=True)
    for name in ("hits/a.root", "hits/day1/b.root", "hits.txt"):
        (work.directory / name).write_bytes(b"x")
    spec = {"inputs": (InputFile(name="hits", url="rucio://mc:hits"),)}
    assert "hits.txt" in undeclared(world.attempt(**spec).spec, work)
    assert "a.root" not in undeclared(world.attempt(**spec).spec, work)
    assert set(kept(world, work, **spec)) == {"work/hits.txt", "pilot.log"}


def test_links_are_not_followed_and_closed_files_are_left_out(world, work, monkeypatch):
    (work.directory / "link").symlink_to("/etc/passwd")
    (work.directory / "closed").write_bytes(b"x")
    open_ = Workdir.open

    def closed(self: Workdir, name: str) -> int:
        if name == "closed":
            raise PermissionError(13, "Permission denied")
        return open_(self, name)

    monkeypatch.setattr(Workdir, "open", closed)
    assert set(kept(world, work)) == {"pilot.log"}


def test_long_files_and_many_files_are_cut_and_the_log_says_so(world, work, monkeypatch):
    monkeypatch.setattr(log_tarball, "MEMBER_BYTES", 10)
    monkeypatch.setattr(log_tarball, "MEMBERS", 3)
    for number in range(5):
        (work.directory / f"f{number}").write_bytes(b"x" * 10 + b"end-of-one")
    members = kept(world, work)
    assert [data for name, data in members.items() if name != "pilot.log"] == [b"end-of-one"] * 3
    assert b"its first 10 bytes are not in this log" in members["pilot.log"]
    assert b"there may be more files" in members["pilot.log"]


@pytest.mark.parametrize("error", [NO_ROOM, OSError(28, "full")])
def test_a_log_that_cannot_be_kept_is_a_note(world, work, error):
    world.storage.failures.append(error)
    attempt = world.attempt()
    assert keep_log(attempt, work, world.kit.stage, WHY) == ()
    assert any("no log tarball" in note and "full" in note for note in attempt.notes)


def test_without_storage_or_directory_there_is_none(world, work):
    nowhere = world.kit_with(Limits(), default="").stage
    assert keep_log(world.attempt(), work, nowhere, WHY) == ()
    gone = Workdir(work.path / "gone")
    assert keep_log(world.attempt(), gone, world.kit.stage, WHY) == ()
    assert world.storage.files == {}
