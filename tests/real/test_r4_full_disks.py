"""R4: the disks of pilot and edge fill up and are freed again: nothing accepted is lost or run
twice."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.rig import history
from tests.rig.programs import Rig, null_job
from tests.rig.waiting import until

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root"),
]


SITE = {"scaling": {"max_total": 2, "max_queued": 2, "per_cycle": 2, "idle_exit": "2s"}}


@pytest.fixture
def small_disk(tmp_path):
    """A directory with room for 8 MB."""
    tmp_path.chmod(0o755)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    """Leave not a byte free; what to remove to free it again."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert os.statvfs(disk).f_bavail == 0
    return ballast


def jobs(rig, n):
    return list(rig.client.submit([null_job(nr, command="sleep 0.2") for nr in range(n)]).job_ids)


def endings(rig):
    return {ending for (ending,) in rig.rows("select ending from worker")}


def finished_once(rig, ids):
    assert set(rig.client.wait(ids, 60).states.values()) == {"finished"}
    assert history.attempts(rig) == {"finished": len(ids)}


def test_r4_an_edge_without_room_for_its_book_submits_nothing_and_goes_on_when_there_is(small_disk):
    with Rig(**SITE) as rig:
        (rig.directory / "state").symlink_to(small_disk)
        edge = rig.start_edge()
        until(lambda: rig.client.overview().sites, 20, "the edge has its site")
        ballast = fill(small_disk)
        ids = jobs(rig, 4)
        until(lambda: "disk is full" in edge.log.read_text(), 20, "it says why it does nothing")
        time.sleep(2)
        assert not rig.workers()
        assert edge.alive
        ballast.unlink()
        finished_once(rig, ids)


def test_r4_an_edge_whose_disk_fills_up_while_pilots_run_keeps_them(small_disk):
    with Rig(**SITE) as rig:
        (rig.directory / "state").symlink_to(small_disk)
        edge = rig.start_edge()
        ids = jobs(rig, 40)
        rig.warm(2)
        ballast = fill(small_disk)
        finished_once(rig, ids)
        until(lambda: not rig.workers(), 30, "idle pilots leave")
        ballast.unlink()
        until(lambda: endings(rig) == {"idle_exit"}, 30, "the edge hears of it")
        assert edge.alive
        finished_once(rig, ids + jobs(rig, 2))


def test_r4_a_pilot_without_room_for_its_spool_still_reports(small_disk):
    # kept apart, or it has a spool of its own beside its jobs
    with Rig(container={"default": "bubblewrap", "bare": False}) as rig:
        pilot = rig.pilot("--spool", str(small_disk / "spool"))
        rig.warm()
        ballast = fill(small_disk)
        finished_once(rig, jobs(rig, 6))
        ballast.unlink()
        more = jobs(rig, 2)
        assert set(rig.client.wait(more, 60).states.values()) == {"finished"}
        assert pilot.alive
        assert "spool_failed" in pilot.log.read_text()
        pilot.stop()
        assert not list((small_disk / "spool").glob("*.journal"))
