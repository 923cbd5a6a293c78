"""Payloads of images in a real Apptainer, hostile ones included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from pilot.ports import JobError
from pilot.process.spawner import GuardedSpawner
from tests.pilot.helpers import guarded
from tests.pilot.hostile import HOSTILE
from tests.plugins import sifs
from tests.plugins.payloads import Job
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow]
TREE = Path(__file__).resolve().parents[2]


@pytest.fixture
def rootfs(tmp_path: Path, need: Callable[..., str]) -> Path:
    return sifs.rootfs(tmp_path / "images", need("busybox", package="busybox-static"))


@pytest.fixture
def job(tmp_path: Path, need: Callable[..., str]) -> Iterator[Job]:
    where = f"{TREE}/build/apptainer/bin"
    found = need("apptainer", option="--apptainer", where=where)
    own = tmp_path / "pilot"
    own.mkdir()
    with guarded() as spawner:
        yield _job(spawner, own, tmp_path / "images", found)


def _job(spawner: GuardedSpawner, own: Path, images: Path, program: str) -> Job:
    return Job(
        spawner, own, "apptainer", images=(str(images),), apptainer=str(Path(program).parent)
    )


def test_a_payload_has_the_image_and_its_own_directory(job: Job, rootfs: Path) -> None:
    ended = job.run(
        "cat /etc/image; pwd; echo out > out; echo t > /tmp/t; cat /var/tmp/t; ls /proc/self/fd | wc -l;"
        " ls /root /home; exit 42",
        image=str(rootfs),
    )
    said = job.stdout.read_text().splitlines()
    assert said[:4] == ["made for a test", str(job.work), "t", "4"], job.said()
    assert ended.exit_code == 42
    assert job.container.ran(ended.status)
    assert (job.work / "out").read_text() == "out\n"


@pytest.mark.field("S1")
def test_nothing_of_a_job_reaches_apptainers_own_command(job: Job, rootfs: Path) -> None:
    over = threading.Event()
    key = job.start(
        "env > seen; cat < go", lambda _: over.set(), environment=HOSTILE, image=str(rootfs)
    )
    import os

    os.mkfifo(job.work / "go")
    until((job.work / "seen").exists)
    pid = until(lambda: job.spawner.pid(key))
    process = Path(f"/proc/{pid}")
    names = {
        line.partition("=")[0]
        for line in process.joinpath("environ").read_text().split("\0")
        if line
    }
    assert process.joinpath("cwd").readlink() == Path("/")
    assert not [
        line for line in process.joinpath("environ").read_text().split("\0") if "hostile" in line
    ]
    assert "APPTAINERENV_LD_PRELOAD" not in names
    assert "LD_PRELOAD" not in names
    (job.work / "go").write_text("on\n")
    assert over.wait(20)
    inside = (job.work / "seen").read_text().splitlines()
    assert {"TMPDIR=./hostile", "PYTHONPATH=.", "APPTAINERENV_LD_PRELOAD=./x.so"} <= set(inside)


@pytest.mark.parametrize("value", ["a,b", "two\nlines", 'it\'s "q" $(touch x) `touch y`', "\\"])
def test_a_variable_arrives_as_it_is(job: Job, rootfs: Path, value: str) -> None:
    ended = job.run('printf %s "$V"', environment={"V": value}, image=str(rootfs))
    assert ended.exit_code == 0, job.said()
    assert job.stdout.read_text() == value


@pytest.mark.field("A6")
@pytest.mark.parametrize(
    "attempt",
    ["unshare -Ur true", "mount -t tmpfs none /tmp", "echo x > /proc/sys/kernel/hostname",
     "echo > /etc/image", "mknod d b 7 0 && head -c 1 d"],
)  # fmt: skip
def test_a_payload_gets_out_of_nothing(job: Job, rootfs: Path, attempt: str) -> None:
    ended = job.run(attempt, image=str(rootfs))
    assert job.container.ran(ended.status), job.said()
    assert ended.exit_code != 0, job.said()


def test_a_hostile_start_of_an_image_is_its_own_fault(job: Job, rootfs: Path) -> None:
    shell = rootfs / "bin/sh"
    shell.unlink()
    shell.write_text("#!/bin/nothing\n")
    shell.chmod(0o755)
    ended = job.run("true", image=str(rootfs))
    assert not job.container.ran(ended.status)
    image = job.container.prepare(JobSpec(name="j", container=str(rootfs)), lambda: None)
    error = job.container.blame(image, ended.exit_code)
    assert isinstance(error, JobError)
    assert error.code is Code.IMAGE_UNUSABLE
