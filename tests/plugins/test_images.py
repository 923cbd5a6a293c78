"""Images of jobs: which a site allows, what is in a SIF, and payloads in them, hostile images
included."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.errors import Code
from pilot.ports import JobError
from pilot.process.spawner import GuardedSpawner
from plugins.container import images, underlay
from plugins.container.sif import BadImage, FileSystem, file_system
from tests.pilot.helpers import guarded, processes_with, until
from tests.plugins import sifs
from tests.plugins.payloads import Job

SUPERBLOCK = sifs.superblock()
"""Of a squashfs of 128 bytes."""


def parsed(data: bytes) -> FileSystem:
    fd = os.memfd_create("image")
    try:
        os.write(fd, data)
        return file_system(fd)
    finally:
        os.close(fd)


def test_the_root_of_a_sif_is_found_by_its_table() -> None:
    other = sifs.descriptor(128, 40, kind=0x4001)
    data = sifs.pieces([other, sifs.descriptor(4096, 128)], SUPERBLOCK)
    assert parsed(data) == FileSystem(4096, 128)


def test_a_bare_squashfs_is_an_image_too() -> None:
    assert parsed(SUPERBLOCK) == FileSystem(0, 128)


@pytest.mark.parametrize(
    ("table", "data", "why"),
    [
        ([], SUPERBLOCK, "0 entries"),
        ([sifs.descriptor(4096, 128)] * 2, SUPERBLOCK, "2 root file systems"),
        ([sifs.descriptor(4096, 128, used=False)], SUPERBLOCK, "0 root file systems"),
        ([sifs.descriptor(4096, 128, role=3)], SUPERBLOCK, "0 root file systems"),
        ([sifs.descriptor(4096, 129)], SUPERBLOCK, "not lie within the file"),
        ([sifs.descriptor(4096, 2**63 - 1)], SUPERBLOCK, "not lie within the file"),
        ([sifs.descriptor(-4096, 96)], SUPERBLOCK, "not lie within the file"),
        ([sifs.descriptor(4096, -1)], SUPERBLOCK, "not lie within the file"),
        ([sifs.descriptor(4096, 120)], SUPERBLOCK, "longer than the file"),
        ([sifs.descriptor(4096, 128, system=2)], SUPERBLOCK, "ext3"),
        ([sifs.descriptor(4096, 128, system=5)], SUPERBLOCK, "encrypted"),
        ([sifs.descriptor(4096, 128)], bytes(128), "no squashfs"),
        ([sifs.descriptor(4096, 128, machine=b"06\0")], SUPERBLOCK, "ppc64le"),
        ([sifs.descriptor(4096, 128), sifs.descriptor(4096, 128, role=4)], SUPERBLOCK, "overlay"),
    ],
)
def test_p12_a_table_that_does_not_fit_its_file_is_refused(
    table: list[bytes], data: bytes, why: str
) -> None:
    with pytest.raises(BadImage, match=why):
        parsed(sifs.pieces(table, data))


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (sifs.superblock(2**60), "longer than the file"),
        (sifs.superblock(40), "longer than the file"),
        # squashfuse would take the memory of a block to read the first one
        (sifs.superblock(block=1 << 31, log=31), "blocks of 2147483648 bytes"),
        (sifs.superblock(block=1 << 20, log=17), "blocks of 1048576 bytes"),
        (sifs.superblock(block=0, log=0), "blocks of 0 bytes"),
        (sifs.superblock(compression=7), "no known way"),
        (sifs.superblock(version=(3, 1)), "version 3.1"),
        (sifs.superblock(ids=0), "tables"),
        (sifs.superblock(tables=(2**62, sifs.NO_TABLE, 96, 104, sifs.NO_TABLE, sifs.NO_TABLE)), "tables"),
        (sifs.superblock(tables=(120, sifs.NO_TABLE, 104, 96, sifs.NO_TABLE, sifs.NO_TABLE)), "tables"),
        (sifs.superblock(tables=(120, 0, 96, 104, sifs.NO_TABLE, sifs.NO_TABLE)), "tables"),
    ],
)  # fmt: skip
def test_p12_a_squashfs_that_claims_what_no_kernel_takes_is_refused(head: bytes, why: str) -> None:
    with pytest.raises(BadImage, match=why):
        parsed(sifs.pieces([sifs.descriptor(4096, 128)], head))


@pytest.mark.parametrize("head", [(2**62, 128), (1, 2**62), (1, -1), (1, 0), (-1, 128), (513, 128)])
def test_a_header_that_points_out_of_its_file_is_refused(head: tuple[int, int]) -> None:
    with pytest.raises(BadImage):
        parsed(sifs.header(*head, table=585 * 4).ljust(8192, b"\0"))


@given(st.data())
def test_p12_no_file_makes_the_reader_of_sifs_do_anything_but_refuse_it(
    data: st.DataObject,
) -> None:
    """Bytes changed at random, and cut anywhere: what is found lies in the file, or is refused."""
    whole = bytearray(sifs.pieces([sifs.descriptor(4096, 128)] * 2, SUPERBLOCK))
    for _ in range(data.draw(st.integers(0, 12))):
        at = data.draw(st.one_of(st.integers(0, 1300), st.integers(4096, len(whole) - 1)))
        whole[at] = data.draw(st.integers(0, 255))
    text = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found = parsed(text)
    except BadImage:
        return
    assert 0 <= found.offset <= found.offset + found.size <= len(text)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir(mode=0o755)
    (made / "good.sif").write_bytes(sifs.pieces([sifs.descriptor(4096, 128)], SUPERBLOCK))
    return made


def refused(name: str | Path, *roots: Path) -> JobError:
    with pytest.raises(JobError) as error:
        images.located(str(name), [str(root) for root in roots])
    assert error.value.field == "container"
    return error.value


def test_an_image_lies_in_one_of_the_sites_directories(site: Path, tmp_path: Path) -> None:
    found = images.located(f"{site}/good.sif", ["/nowhere", str(site)])
    assert (found.path, found.offset) == (f"{site}/good.sif", 4096)
    assert refused(site / "good.sif").code is Code.NOT_IMPLEMENTED
    outside = tmp_path / "images-of-others"
    outside.mkdir()
    assert refused(outside / "x.sif", site).code is Code.NOT_IMPLEMENTED
    assert refused(f"{site}/../x.sif", site).code is Code.NOT_IMPLEMENTED
    assert refused("good.sif", site).code is Code.NOT_IMPLEMENTED
    assert refused(site / "absent.sif", site).code is Code.IMAGE_NOT_FOUND


def test_p12_no_link_leads_out_of_the_sites_directories(site: Path, tmp_path: Path) -> None:
    (tmp_path / "job.sif").write_bytes((site / "good.sif").read_bytes())
    (site / "link.sif").symlink_to(tmp_path / "job.sif")
    (site / "up").symlink_to(tmp_path)
    (site / "latest.sif").symlink_to("good.sif")
    assert "leads out" in str(refused(site / "link.sif", site))
    assert "leads out" in str(refused(site / "up/job.sif", site))
    assert images.located(f"{site}/latest.sif", [str(site)]).path == f"{site}/good.sif"


@pytest.mark.parametrize("kind", ["fifo", "text", "empty", "cut"])
def test_what_is_no_image_is_refused_at_once(site: Path, kind: str) -> None:
    bad = site / "bad.sif"
    if kind == "fifo":
        os.mkfifo(bad)
    else:
        whole = (site / "good.sif").read_bytes()
        bad.write_bytes({"text": b"#!/bin/sh\n", "empty": b"", "cut": whole[:-1]}[kind])
    assert refused(bad, site).code is Code.IMAGE_UNUSABLE


def test_p12_an_image_that_another_user_may_change_is_refused(site: Path) -> None:
    image = site / "good.sif"
    image.chmod(0o666)
    assert "another user may change" in str(refused(image, site))
    image.chmod(0o644)
    below = site / "team"
    below.mkdir()
    below.chmod(0o777)
    (below / "x.sif").write_bytes(image.read_bytes())
    assert "another user may change" in str(refused(below / "x.sif", site))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_an_image_of_another_user_is_refused_unless_all_are_his(site: Path) -> None:
    os.chown(site / "good.sif", 4321, 4321)
    assert "another user may change" in str(refused(site / "good.sif", site))
    os.chown(site, 4321, 4321)
    assert images.located(f"{site}/good.sif", [str(site)]).offset == 4096


def words(seen: Path, places: list[str]) -> list[str]:
    return underlay.words(underlay.pieces(seen, places), "/R")


def test_what_leads_to_our_own_mounts_is_made_in_memory(tmp_path: Path) -> None:
    for name in ("etc", "opt/a", "var/lib/x", "usr/bin", "proc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "var/run").symlink_to("/run")
    made = words(tmp_path, ["/proc", "/var/lib/pilot/job"])
    pairs = {
        tuple(made[n : n + 3]) for n, word in enumerate(made) if word in ("--ro-bind", "--symlink")
    }
    assert pairs == {
        ("--ro-bind", "/R/opt", "/opt"), ("--ro-bind", "/R/usr", "/usr"),
        ("--symlink", "usr/bin", "/bin"), ("--symlink", "/run", "/var/run"),
    }  # fmt: skip
    made_here = {made[n + 1] for n, word in enumerate(made) if word == "--dir"}
    assert made_here == {"/etc", "/proc", "/var", "/var/lib", "/var/lib/x"}
    assert words(tmp_path, ["/proc", "/etc"]) == ["--ro-bind", "/R", "/"]


def test_a_link_of_the_image_on_the_way_to_our_mounts_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "var").symlink_to("/oldroot/root")
    (tmp_path / "proc").symlink_to("/oldroot/proc")
    made = words(tmp_path, ["/proc", "/var/pilot"])
    assert made == ["--dir", "/etc"]


def test_a_huge_directory_is_not_mounted_piece_by_piece(tmp_path: Path) -> None:
    for n in range(underlay.MOST + 1):
        (tmp_path / f"f{n}").touch()
    with pytest.raises(underlay.TooMany):
        underlay.pieces(tmp_path, ["/work"])


def test_links_of_an_image_are_followed_within_it(tmp_path: Path) -> None:
    sh = tmp_path / "usr/bin/sh"
    sh.parent.mkdir(parents=True)
    sh.touch(0o755)
    sh.chmod(0o755)
    (tmp_path / "bin").symlink_to("../../../usr/bin")
    (tmp_path / "loop").symlink_to("loop")
    assert images.resolved(tmp_path, "/bin/sh") == sh
    assert images.has_program(tmp_path, "/bin/sh")
    assert images.resolved(tmp_path, "/loop/sh") is None
    assert not images.has_program(tmp_path, "/bin/bash")


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


@pytest.fixture
def rootfs(site: Path, need: Callable[..., str]) -> Path:
    return sifs.rootfs(site / "rootfs", need("busybox", package="busybox-static"))


@pytest.fixture
def boxed(spawner: GuardedSpawner, tmp_path: Path, site: Path) -> Job:
    own = tmp_path / "pilot"
    own.mkdir()
    return Job(spawner, own, "bubblewrap", images=(str(site),))


@pytest.fixture(params=["directory", "sif"])
def image(
    request: pytest.FixtureRequest, rootfs: Path, site: Path, need: Callable[..., str]
) -> Callable[[], str]:
    """Makes the image of what is in `rootfs` by then."""
    if request.param == "directory":
        return lambda: str(rootfs)
    need("mksquashfs", package="squashfs-tools")
    need("squashfuse_ll", package="squashfuse")
    return lambda: str(sifs.sif(rootfs, site / "image.sif"))


@pytest.mark.real
def test_a_payload_has_the_image_as_its_root_and_its_own_directory(
    boxed: Job, image: Callable[[], str]
) -> None:
    ended = boxed.run(
        "cat /etc/image; pwd; echo out > out; echo tmp > /tmp/t; cat /var/tmp/t; id -u;"
        " echo > /etc/image; echo > /new; cat /proc/sys/kernel/ostype",
        image=image(),
    )  # fmt: skip
    said = boxed.stdout.read_text().splitlines()
    assert said == ["made for a test", str(boxed.work), "tmp", str(os.geteuid()), "Linux"], ended
    assert (boxed.work / "out").read_text() == "out\n"
    assert boxed.stderr.read_text().count("Read-only file system") == 2


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory where no image has any."""
    if not os.access("/srv", os.W_OK):
        pytest.skip("only root can make a directory beside the usual ones")
    with tempfile.TemporaryDirectory(dir="/srv") as name:
        yield Path(name)


@pytest.mark.real
def test_a_payload_in_an_image_may_have_its_directory_apart_from_its_agents(
    spawner: GuardedSpawner, tmp_path: Path, site: Path, image: Callable[[], str], shared: Path
) -> None:
    job = Job(spawner, tmp_path, "bubblewrap", images=(str(site),), jobs=str(shared))
    job.work = shared / "work"
    job.work.mkdir()
    assert job.run("echo out > out", image=image()).exit_code == 0, job.said()
    assert (job.work / "out").read_text() == "out\n"


@pytest.mark.real
def test_a_pilot_with_nothing_below_tmp_runs_payloads_in_an_image(
    spawner: GuardedSpawner, site: Path, image: Callable[[], str], shared: Path
) -> None:
    """As most pilots are, and no test's."""
    job = Job(spawner, shared, "bubblewrap", images=(str(site),))
    assert job.run("echo t > /tmp/t && cat /tmp/t", image=image()).exit_code == 0, job.said()


@pytest.mark.real
def test_payloads_share_one_mount_of_an_image(boxed: Job, image: Callable[[], str]) -> None:
    name = image()
    for _ in range(3):
        assert boxed.run("true", image=name).exit_code == 0, boxed.said()
    assert len(list(boxed.own.glob("container/image-?"))) == int(name.endswith(".sif"))


@pytest.mark.real
def test_the_image_says_its_variables_and_the_job_has_the_last_word(
    boxed: Job, rootfs: Path, image: Callable[[], str]
) -> None:
    scripts = rootfs / ".singularity.d/env"
    scripts.mkdir(parents=True)
    (scripts / "90-environment.sh").write_text("export PATH=/opt/bin:/bin A=image B=image\n")
    wanted = {"B": 'job\'s\n"own" $(touch x) `touch y`, \\', "C": "job"}
    ended = boxed.run('echo "$PATH $A $C"; printf %s "$B"', environment=wanted, image=image())
    assert ended.exit_code == 0, boxed.said()
    assert boxed.said() == f"/opt/bin:/bin image job\n{wanted['B']}"
    assert list(boxed.work.iterdir()) == []


@pytest.mark.real
def test_a_mount_is_seen_by_nobody_else_and_made_again_when_its_process_is_killed(
    boxed: Job, rootfs: Path, site: Path, need: Callable[..., str]
) -> None:
    need("mksquashfs", package="squashfs-tools")
    need("squashfuse_ll", package="squashfuse")
    name = str(sifs.sif(rootfs, site / "image.sif"))
    assert boxed.run("true", image=name).exit_code == 0, boxed.said()
    (pid,) = processes_with(f"{boxed.own}/container/image-1")
    assert str(boxed.own) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not processes_with(f"{boxed.own}/container/image-1"))
    until(lambda: boxed.run("true", image=name).exit_code == 0)
    assert len(processes_with(f"{boxed.own}/container/image-2")) == 1
