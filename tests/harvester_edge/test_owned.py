"""Nobody else's code runs as the edge: directories are its own, and what nodes start is what it
wrote."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from ailurus.protocol.errors import AilurusError
from harvester_edge import owned, pilot_file, shared_files
from harvester_edge.daemon import sole
from harvester_edge.site import PilotPart

pytestmark = pytest.mark.field("A11")


@pytest.fixture
def umask():
    """A umask that leaves everything to everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def built_pilot(world, tmp_path: Path) -> Path:
    made = tmp_path / "built"
    made.write_bytes(b"#!/bin/sh\nexit 0\n")
    made.chmod(0o755)
    part = PilotPart(file=str(made))
    world.edge.site = msgspec.structs.replace(world.edge.site, pilot=part)
    return made


def test_nothing_that_is_made_is_open_to_others_whatever_the_umask(world, built_pilot, umask):
    shared = world.edge.site.shared
    world.dispatcher.jobs = 2
    world.cycle()
    assert world.batch.orders
    for one in [shared, *shared.rglob("*")]:
        if one.suffix in ("", ".json") and one.name != "alive":
            assert not one.stat().st_mode & owned.OTHERS_WRITE, one


@pytest.mark.parametrize("name", ["", "workers", "sites"])
@pytest.mark.parametrize("how", ["everybody's", "its group's", "another user's"])
def test_a_directory_that_others_may_write_to_starts_nobody(world, name, how, monkeypatch):
    path = world.edge.site.shared / name
    path.mkdir(exist_ok=True)
    if how == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
        expected = "belongs to user"
    else:
        path.chmod(0o777 if how == "everybody's" else 0o775)
        expected = f"others can write to {path}"
    world.dispatcher.jobs = 2
    decision = world.cycle()
    if name and how != "another user's":  # made by an older edge, in a directory of ours: put right
        assert decision.submit == {"std": 2}
        assert not path.stat().st_mode & owned.OTHERS_WRITE
        return
    assert (decision.submit, decision.binding.name) == ({}, "files")
    assert expected in decision.binding.why
    assert not world.batch.orders


def test_an_edge_does_not_begin_in_a_directory_of_everybody(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    with pytest.raises(AilurusError, match=r"mode 777.*chmod go-w"), sole(tmp_path / "state", "x"):
        pass


@pytest.mark.parametrize("spoil", ["changed", "truncated", "a link", "mode"])
def test_a_pilot_that_is_not_what_was_handed_out_is_put_back(world, built_pilot, tmp_path, spoil):
    world.dispatcher.jobs = 1
    world.cycle()
    copy = pilot_file.place(world.edge.site)
    good = copy.read_bytes()
    evil = b"#!/bin/sh\nexit 1\n"  # of the same length
    match spoil:
        case "changed":
            before = copy.stat()
            copy.write_bytes(evil)
            os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "truncated":
            copy.write_bytes(b"")
        case "a link":
            (tmp_path / "evil").write_bytes(good)
            copy.unlink()
            copy.symlink_to(tmp_path / "evil")
        case "mode":
            copy.chmod(0o777)
    world.cycle()
    assert not copy.is_symlink()
    assert copy.read_bytes() == good
    assert stat.S_IMODE(copy.stat().st_mode) == 0o755


def test_an_older_build_that_was_changed_is_taken_away(world, built_pilot):
    world.dispatcher.jobs = 1
    world.cycle()
    old = pilot_file.place(world.edge.site)
    built_pilot.write_bytes(b"#!/bin/sh\n# newer\n")
    world.cycle()
    assert old.exists()
    old.write_bytes(b"#!/bin/sh\ncat bootstrap\n")
    world.cycle()
    assert not old.exists()


def test_a_site_file_cut_to_nothing_is_written_again(world):
    world.dispatcher.jobs = 1
    world.cycle()
    told = shared_files.site_file(world.edge.site)
    good = told.read_bytes()
    told.write_bytes(b"")
    world.cycle()
    assert told.read_bytes() == good


def test_what_nodes_start_is_on_disk_before_anybody_is_told(world, built_pilot, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
    )
    pilot_file.hand_out(world.edge.site)
    shared_files.write_site_file(world.edge.site)
    copy, told = pilot_file.place(world.edge.site), shared_files.site_file(world.edge.site)
    hidden = [one.with_name(f".{one.name}.new") for one in (copy, told)]
    assert set(map(str, [*hidden, copy.parent, told.parent])) <= set(synced)


@pytest.mark.parametrize(("mode", "sha256"), [(0o775, False), (0o757, False), (0o775, True)])
def test_a_pilot_that_others_could_change_is_handed_out_only_by_its_sum(
    world, built_pilot, mode, sha256
):
    import hashlib

    built_pilot.chmod(mode)
    if sha256:
        known = hashlib.sha256(built_pilot.read_bytes()).hexdigest()
        part = PilotPart(file=str(built_pilot), sha256=known)
        world.edge.site = msgspec.structs.replace(world.edge.site, pilot=part)
    world.dispatcher.jobs = 1
    decision = world.cycle()
    assert (decision.binding.name == "files") is not sha256
    assert bool(world.batch.orders) is sha256


def test_a_program_that_others_could_change_starts_nowhere(world, tmp_path):
    program = tmp_path / "pilot"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    part = PilotPart(program=str(program))
    world.edge.site = msgspec.structs.replace(world.edge.site, pilot=part)
    world.dispatcher.jobs = 1
    assert "chmod go-w" in world.cycle().binding.why
    assert not world.batch.orders
