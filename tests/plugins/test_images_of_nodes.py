"""A payload of several nodes in an image: called as its node, with its network interfaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pilot.helpers import guarded
from tests.plugins import sifs
from tests.plugins.test_hostile_images import both, job_in
from tests.rig import services


@both
@pytest.mark.parametrize("kind", ["image", "directory"])
def test_libraries_of_mpi_find_the_interfaces_of_the_node(
    runtime: str, kind: str, tmp_path: Path, need: Callable[..., str]
) -> None:
    services.fuse_needed()
    need("mksquashfs", package="squashfs-tools")
    need("squashfuse_ll", package="squashfuse")
    (tmp_path / "images").mkdir()
    busybox = need("busybox", package="busybox-static")
    root = sifs.rootfs(tmp_path / "images" / "root", busybox)
    image = sifs.sif(root, tmp_path / "images" / "image.sif") if kind == "image" else root
    with guarded() as spawner:
        job = job_in(runtime, spawner, tmp_path, need)
        look = "uname -n; ls /sys/class/net; ls -d /sys/devices/system/cpu; touch /sys/class/own"
        ended = job.run(look, image=str(image), host="n7", network=True)
    said = job.stdout.read_text().split()
    assert said == [
        "n7",
        *sorted(one.name for one in Path("/sys/class/net").iterdir()),
        "/sys/devices/system/cpu",
    ], job.said()
    assert ended.exit_code == 1, "nothing is written there"
