"""Payloads of images in a real Apptainer, hostile ones included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from pilot.node.sampler import Sampler
from pilot.ports import JobError
from pilot.process.spawner import GuardedSpawner
from pilot.samples import Sampled
from plugins.container import driver, shown
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


def test_what_a_payload_writes_to_dev_counts_as_its_memory(job: Job, rootfs: Path) -> None:
    over = threading.Event()
    command = (
        "head -c 20000000 /dev/zero > /dev/x; head -c 20000000 /dev/zero > /dev/shm/x; sleep 60"
    )
    key = job.start(command, lambda ended: over.set(), image=str(rootfs))
    looking = Sampler()
    looking.watch("7.1", Sampled(memory_kb=1 << 20, directory=str(job.work), gpus=()))
    looking.started("7.1", key, lambda: job.spawner.pid(key))

    def counted() -> bool:
        return any(one.files_kb >= 39_000 for one in looking.look(time.monotonic()))

    try:
        until(counted, 20, "it is counted")
    finally:
        job.spawner.signal(key, signal.SIGKILL)
        over.wait(10)


def test_what_of_proc_tells_of_the_node_is_covered_as_in_bubblewrap(job: Job, rootfs: Path) -> None:
    assert shown.hidden()
    command = f"cat {' '.join(shown.hidden())} | wc -c; head -c 1 /proc/meminfo"
    assert job.run(command, image=str(rootfs)).exit_code == 0, job.said()
    assert job.stdout.read_text().split()[0] == "0"


@pytest.mark.field("S1")
def test_nothing_of_a_job_reaches_apptainers_own_command(job: Job, rootfs: Path) -> None:
    over = threading.Event()
    key = job.start(
        "env > seen; cat < go", lambda _: over.set(), environment=HOSTILE, image=str(rootfs)
    )
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


LISTED = """2 libs found in cache `/etc/ld.so.cache'
\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnvidia-ml.so.1
\tlibnvidia-ml.so.1 (libc6) => /lib/i386-linux-gnu/libnvidia-ml.so.1
\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1
\tlibcuda.so.1 (libc6,x86-64) => /opt/old/libcuda.so.1
\tlibGLX_nvidia.so.0 (libc6,x86-64) => /lib/x86_64-linux-gnu/libGLX_nvidia.so.0
\tlibcudart.so.12 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.12
\tlibc.so.6 (libc6,x86-64, OS ABI: Linux 3.2.0) => /lib/x86_64-linux-gnu/libc.so.6
Cache generated by: ldconfig (Debian GLIBC 2.36-9) stable release version 2.36
"""


def test_the_drivers_libraries_are_the_nodes_own() -> None:
    assert driver.libraries(LISTED, "x86_64") == {
        "libnvidia-ml.so.1": "/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "libcuda.so.1": "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "libGLX_nvidia.so.0": "/lib/x86_64-linux-gnu/libGLX_nvidia.so.0",
    }
    assert driver.libraries(LISTED, "aarch64") == {}


# Two devices that stand in for GPUs: of zeros, and of random numbers.
TWO_GPUS = """
import os, sys
from pathlib import Path
from tests.plugins import test_apptainer
for name, minor in (("nvidia0", 5), ("nvidia1", 8), ("nvidiactl", 3)):
    os.mknod(f"/dev/{name}", 0o20666, os.makedev(1, minor))
    os.chmod(f"/dev/{name}", 0o666)
test_apptainer.looks_at_gpus(*map(Path, sys.argv[1:]))
"""
PRIVATE_DEV = """
mount -t tmpfs none "$1"
for name in null zero full random urandom tty fuse pts shm; do
    if [ -d /dev/$name ]; then mkdir "$1/$name"; else touch "$1/$name"; fi
    mount --bind /dev/$name "$1/$name" || true
done
ln -s pts/ptmx "$1/ptmx"; ln -s /proc/self/fd "$1/fd"
ln -s fd/0 "$1/stdin"; ln -s fd/1 "$1/stdout"; ln -s fd/2 "$1/stderr"
mount --rbind "$1" /dev
shift; exec "$@"
"""


def looks_at_gpus(program: Path, images: Path, own: Path) -> None:
    """A payload with one of two GPUs: prints what it sees of them."""
    with guarded(forked=True) as spawner, pytest.MonkeyPatch.context() as patch:
        library = own / "libcuda.so.550"
        library.write_text("the driver")
        patch.setattr(driver, "nvidia", lambda: {str(library): f"{driver.PLACE}/libcuda.so.1"})
        job = _job(spawner, own, images, str(program))
        job.run(
            "ls /dev | grep nvidia; head -c 1 /dev/nvidia0 | wc -c; echo $LD_LIBRARY_PATH;"
            f" cat {driver.PLACE}/libcuda.so.1",
            image=str(images),
            environment={"LD_LIBRARY_PATH": "/mine"},
            devices=("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"),
        )
        sys.stdout.write(job.said())


@pytest.mark.skipif(os.geteuid() != 0, reason="makes devices, in a namespace of its own")
def test_a_payload_sees_its_own_gpus_and_no_other(
    tmp_path: Path, rootfs: Path, need: Callable[..., str]
) -> None:
    program = need("apptainer", option="--apptainer", where=f"{TREE}/build/apptainer/bin")
    (tmp_path / "dev").mkdir()
    own = tmp_path / "pilot"
    own.mkdir()
    apart = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", PRIVATE_DEV, "sh"]
    argv = [*apart, tmp_path / "dev", sys.executable, "-c", TWO_GPUS, program, rootfs, own]
    done = subprocess.run(argv, cwd=TREE, check=False, capture_output=True, text=True, timeout=60)
    seen = ["nvidia0", "nvidiactl", "1", f"/mine:{driver.PLACE}", "the driver"]
    assert done.stdout.split("\n") == seen, done.stderr


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
