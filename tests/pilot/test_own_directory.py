"""A pilot's own directory, and what the next one removes of those before it."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from pilot import own_directory
from pilot.upstream.adoption import Adoption
from tests.pilot.fakes import World

DEAD, LIVING = "d" * 16, "1" * 16


def left_in(workdir: Path) -> set[str]:
    return {path.name for path in workdir.iterdir()}


def dies(workdir: Path, instance: str = DEAD) -> Path:
    """A pilot that is killed before a job has come."""
    with own_directory.made(workdir, instance) as directory:
        (directory / "agents.key").touch()
    return directory


def test_what_a_dead_pilot_left_goes_and_a_living_one_s_stays(tmp_path):
    dies(tmp_path)
    with own_directory.made(tmp_path, LIVING) as living:
        own_directory.sweep(tmp_path)
        assert left_in(tmp_path) == {living.name}
    own_directory.sweep(tmp_path)
    assert left_in(tmp_path) == set()


def test_reports_other_directories_and_links_stay(tmp_path):
    """And an earlier version's, which has no lock and whose pilot may live."""
    (dies(tmp_path) / own_directory.SPOOL).mkdir()
    (tmp_path / f"ailurus-{'e' * 16}").mkdir()
    (tmp_path / "ailurus-images-0").mkdir()
    elsewhere = dies(tmp_path / "elsewhere")
    (tmp_path / f"ailurus-{'f' * 16}").symlink_to(elsewhere)
    before = left_in(tmp_path)
    own_directory.sweep(tmp_path)
    assert left_in(tmp_path) == before
    assert left_in(elsewhere) == {"lock", "agents.key"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_another_user_s_directory_stays(tmp_path):
    theirs = dies(tmp_path)
    for path in (theirs, theirs / "lock"):
        os.chown(path, 12345, 12345)
    own_directory.sweep(tmp_path)
    assert left_in(tmp_path) == {theirs.name}


def test_a_pilot_of_another_node_whose_lock_is_not_seen_here_keeps_its_directory(
    tmp_path, monkeypatch
):
    """As on Lustre with `localflock`, or NFS with `nolock`. A dead one's goes after a month, where
    locks are seen at once."""
    local = [True]
    monkeypatch.setattr(own_directory, "locks_are_local", lambda _: local[0])
    with monkeypatch.context() as patched:
        patched.setattr("socket.gethostname", lambda: "n2")
        theirs, seen = dies(tmp_path), dies(tmp_path / "seen")
    own_directory.sweep(tmp_path)
    assert left_in(tmp_path) == {theirs.name, "seen"}
    local[0] = False
    own_directory.sweep(tmp_path / "seen")
    assert not seen.exists()
    local[0] = True
    long_ago = time.time() - own_directory.ELSEWHERE_S - 1
    os.utime(theirs / "lock", (long_ago, long_ago))
    own_directory.sweep(tmp_path)
    assert left_in(tmp_path) == {"seen"}


@pytest.mark.parametrize(
    ("mounted", "local"),
    [
        ("lustre 10.0.0.1@tcp:/scratch rw,flock,lazystatfs", False),
        ("lustre 10.0.0.1@tcp:/scratch rw,localflock,lazystatfs", True),
        ("nfs4 server:/home rw,vers=4.2,local_lock=none", False),
        ("nfs server:/home rw,vers=3,nolock,local_lock=all", True),
        ("beegfs beegfs_nodev rw,cfgFile=/etc/beegfs/beegfs-client.conf", True),
        ("ext4 /dev/sda1 rw", False),
    ],
)
def test_a_mount_says_whether_other_nodes_see_locks(tmp_path, mounted, local):
    device = tmp_path.stat().st_dev
    ours = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 27 0:0 / /proc rw - beegfs proc rw\n"
        f"40 27 {ours} / {tmp_path} rw,relatime shared:1 - {mounted}\n"
    )
    assert own_directory.locks_are_local(tmp_path, mounts) is local
    assert not own_directory.locks_are_local(tmp_path, tmp_path / "none")


def test_where_there_are_no_locks_nobody_is_taken_for_dead(tmp_path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patched:
        patched.setattr("pilot.own_directory.fcntl.flock", none)
        directory = dies(tmp_path)
    own_directory.sweep(tmp_path)
    assert left_in(tmp_path) == {directory.name}


def test_a_pilot_that_adopts_sweeps_its_work_directory(world: World, tmp_path):
    workdir = tmp_path / "work"
    dies(workdir)
    Adoption(world.spool, world.kit.reporter, world.clock, workdir).look()
    assert left_in(workdir) == set()


def test_a_work_directory_that_is_made_is_open_to_no_group(tmp_path):
    """With umask 002, as many a site has it, others of the group could swap a pilot's directory."""
    before = os.umask(0o002)
    try:
        own_directory._make_above(tmp_path / "site" / "work")
    finally:
        os.umask(before)
    for made in (tmp_path / "site", tmp_path / "site" / "work"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        own_directory._make_above(tmp_path / "file")
