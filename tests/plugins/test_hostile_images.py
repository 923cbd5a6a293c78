"""P12: images that lie, are damaged or attack, in real runtimes. Whatever they do, the job fails
with a code that blames the image or its payload, and never the node."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ailurus.protocol.errors import NODES, AilurusError, Code
from ailurus.protocol.job import JobSpec
from pilot.ports import ContainerSetup, Image, JobError, ProcessEnd, ProcessSpec
from pilot.process.spawner import GuardedSpawner
from plugins.container import apptainer, images, mounts
from tests.pilot.helpers import guarded
from tests.plugins import sifs
from tests.plugins.payloads import Job

TREE = Path(__file__).resolve().parents[2]
HOSTILE_FILES = (
    "busybox-suid m 4755 4321 4321",
    "zero c 666 0 0 1 5",
    "disk b 666 0 0 7 0",
)
"""As mksquashfs makes them: a program of another user, the device of zeros, a disk."""


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


@pytest.fixture
def site(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def rootfs(tmp_path: Path, need: Callable[..., str]) -> Path:
    need("mksquashfs", package="squashfs-tools")
    need("squashfuse_ll", package="squashfuse")
    return sifs.rootfs(tmp_path / "rootfs", need("busybox", package="busybox-static"))


def job_in(
    runtime: str, spawner: GuardedSpawner, tmp_path: Path, need: Callable[..., str], **setup: object
) -> Job:
    if runtime == "apptainer":
        where = f"{TREE}/build/apptainer/bin"
        found = need("apptainer", option="--apptainer", where=where)
        setup["apptainer"] = str(Path(found).parent)
    own = tmp_path / "pilot"
    own.mkdir()
    return Job(spawner, own, runtime, images=(str(tmp_path / "images"),), **setup)


both = pytest.mark.parametrize(
    "runtime", ["bubblewrap", pytest.param("apptainer", marks=pytest.mark.slow)]
)


def outcome(job: Job, image: Path, command: str = "true") -> tuple[Code, ProcessEnd | None]:
    """The code with which a job would fail, and how its payload ended if it was started."""
    try:
        ended = job.run(command, image=str(image))
    except JobError as error:
        return error.code, None
    if job.container.ran(ended.status) or ended.errno:
        return (Code.OK if ended.exit_code == 0 else Code.PAYLOAD_FAILED), ended
    found = job.container.prepare(JobSpec(name="j", container=str(image)), lambda: None)
    error = job.container.blame(found, ended.exit_code)
    return (error.code if error else Code.CONTAINER_FAILED), ended


@pytest.mark.real
@both
def test_p12_a_program_of_another_user_and_devices_of_an_image_give_nothing(
    runtime: str,
    spawner: GuardedSpawner,
    tmp_path: Path,
    site: Path,
    rootfs: Path,
    need: Callable[..., str],
) -> None:
    (rootfs / "busybox-suid").write_bytes((rootfs / "bin/busybox").read_bytes())
    image = sifs.sif(rootfs, site / "image.sif", *HOSTILE_FILES)
    job = job_in(runtime, spawner, tmp_path, need)
    job.run(
        "ls -l /busybox-suid; /busybox-suid id -u;"
        " head -c 1 /zero && echo zero; head -c 1 /disk && echo disk",
        image=str(image),
    )
    lines = job.stdout.read_text().splitlines()
    assert lines[0].startswith("-rws"), job.said()
    assert lines[1:] == [str(os.geteuid())], job.said()


@pytest.mark.parametrize("seed", range(60))
def test_p12_an_image_that_is_cut_anywhere_is_refused(seed: int, site: Path) -> None:
    """But for the padding at its end."""
    head = sifs.superblock(8000)
    whole = sifs.pieces([sifs.descriptor(4096, 8192)], head + bytes(8192 - len(head)))
    image = site / "cut.sif"
    image.write_bytes(whole[: random.Random(seed).randrange(len(whole) - 192)])
    with pytest.raises(JobError) as error:
        images.located(str(image), [str(site)])
    assert error.value.code is Code.IMAGE_UNUSABLE
    assert not error.value.transient


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "seeds"), [("bubblewrap", 40), ("apptainer", 12)])
def test_p12_an_image_that_is_damaged_anywhere_is_never_the_nodes_fault(
    runtime: str,
    seeds: int,
    spawner: GuardedSpawner,
    tmp_path: Path,
    site: Path,
    rootfs: Path,
    need: Callable[..., str],
) -> None:
    whole = sifs.sif(rootfs, site / "whole.sif").read_bytes()
    tables, end = (int.from_bytes(whole[at : at + 8], "little") for at in (4096 + 64, 4096 + 40))
    job = job_in(runtime, spawner, tmp_path, need)
    found = []
    for seed in range(seeds):
        chance = random.Random(seed)
        data = bytearray(whole)
        # A few bytes anywhere, or some noise in the tables.
        for _ in range(chance.randrange(1, 30)):
            data[chance.randrange(4096, len(data))] = chance.randrange(256)
        if seed % 2:
            at = 4096 + chance.randrange(tables, end - 64)
            data[at : at + 64] = chance.randbytes(64)
        image = site / f"damaged-{seed}.sif"
        image.write_bytes(data)
        found.append(outcome(job, image)[0])
    assert not NODES.intersection(found), found
    assert set(found) <= {Code.OK, Code.IMAGE_UNUSABLE, Code.PAYLOAD_FAILED}
    assert Code.IMAGE_UNUSABLE in found
    assert outcome(job, site / "whole.sif")[0] is Code.OK


@pytest.mark.real
@both
@pytest.mark.parametrize("name", ["a:b.sif", "a,b:ro.sif", "docker:x.sif", "with a blank.sif"])
def test_p12_a_name_of_an_image_is_no_option(
    runtime: str,
    name: str,
    spawner: GuardedSpawner,
    tmp_path: Path,
    site: Path,
    rootfs: Path,
    need: Callable[..., str],
) -> None:
    image = sifs.sif(rootfs, site / name)
    job = job_in(runtime, spawner, tmp_path, need)
    ended = job.run("cat /etc/image", image=str(image))
    assert job.stdout.read_text() == "made for a test\n", (job.said(), ended)


@pytest.mark.real
@both
def test_p12_scripts_of_an_image_end_only_its_own_payload(
    runtime: str,
    spawner: GuardedSpawner,
    tmp_path: Path,
    site: Path,
    rootfs: Path,
    need: Callable[..., str],
) -> None:
    scripts = rootfs / ".singularity.d/env"
    scripts.mkdir(parents=True)
    (scripts / "90-environment.sh").write_text("echo $(id -u) >/tmp/ran; exit 3\n")
    job = job_in(runtime, spawner, tmp_path, need)
    code, ended = outcome(job, sifs.sif(rootfs, site / "image.sif"), "touch began")
    assert code in (Code.PAYLOAD_FAILED, Code.IMAGE_UNUSABLE)
    assert ended is not None
    assert not (job.work / "began").exists()


def test_p12_accounts_of_any_size_are_not_read(
    spawner: GuardedSpawner,
    tmp_path: Path,
    site: Path,
    need: Callable[..., str],
) -> None:
    """A terabyte that takes no disk."""
    busybox = need("busybox", package="busybox-static")
    image = sifs.rootfs(site / "rootfs", busybox)
    os.truncate(image / "etc/passwd", 1 << 40)
    job = job_in("bubblewrap", spawner, tmp_path, need)
    assert outcome(job, image)[0] is Code.OK


def test_an_image_that_keeps_its_mount_busy_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    killed = threading.Event()

    class Deaf:
        def spawn(self, order: ProcessSpec, done: Callable[[ProcessEnd], None]) -> int:
            raise NotImplementedError

        def pid(self, key: int) -> int | None:
            raise NotImplementedError

        def signal(self, key: int, number: int) -> None:
            assert (key, number) == (7, 9)
            killed.set()

    monkeypatch.setattr(mounts, "READY_S", 0.01)
    with mounts.Mounts(tmp_path, Deaf()).looked_at(mounts.Mounted(1, "/nowhere", 7)):
        assert killed.wait(10)


@pytest.mark.real
@both
def test_software_that_left_the_node_is_the_nodes_fault(
    runtime: str,
    spawner: GuardedSpawner,
    tmp_path: Path,
    site: Path,
    rootfs: Path,
    need: Callable[..., str],
) -> None:
    software = tmp_path / "software"
    software.mkdir()
    job = job_in(runtime, spawner, tmp_path, need, software=(str(software),))
    software.rmdir()
    assert outcome(job, sifs.sif(rootfs, site / "image.sif"))[0] is Code.BIND_FAILED


def test_root_without_a_loop_device_blames_no_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = apptainer.Apptainer.__new__(apptainer.Apptainer)
    made._setup = ContainerSetup(directory=str(tmp_path), user="somebody")
    monkeypatch.setattr(apptainer, "_has_loop_device", lambda: False)
    monkeypatch.setattr(made, "_tried", lambda: "")
    sif, directory = (Image(path="/images/x", mark="", offset=at) for at in (4096, -1))
    lacks, damaged = made.blame(sif, 255), made.blame(directory, 255)
    assert lacks is not None
    assert damaged is not None
    assert (lacks.code, lacks.transient) == (Code.NO_LOOP_DEVICE, True)
    assert damaged.code is Code.IMAGE_UNUSABLE


@pytest.mark.parametrize("key", ["software", "show"])
@pytest.mark.parametrize("path", ["/opt/a:b", "/opt/a,ro", "/opt/a b", '/opt/"a"'])
def test_apptainer_is_shown_no_path_that_it_would_read_as_options(
    tmp_path: Path, key: str, path: str
) -> None:
    (tmp_path / "apptainer").touch(0o755)
    (tmp_path / "apptainer").chmod(0o755)
    setup = {"directory": str(tmp_path), "user": "x", "apptainer": str(tmp_path), key: (path,)}
    with pytest.raises(AilurusError, match="takes no directory of such a name"):
        apptainer.Apptainer(ContainerSetup(**setup))
