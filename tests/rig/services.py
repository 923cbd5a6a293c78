"""Storage, a catalogue and a container runtime of scripts/fixtures, for tests: each as its own file
describes it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rig.batch import ROOT

FIXTURES = ROOT / "scripts" / "fixtures"
START_S = 120


class Service:
    """A service that runs in a directory of its own; `facts` is the file that it wrote there."""

    def __init__(self, kind: str, directory: Path, *, runs: bool = False) -> None:
        """`runs`: another has started it there."""
        self.kind, self.directory = kind, directory
        file = directory / f"{kind}.json" if runs else Path(self.ask("start"))
        self.facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))

    def ask(self, verb: str, *more: object) -> str:
        """What the fixture's verb prints.

        Raises RuntimeError with what it says where it fails.
        """
        argv = [str(FIXTURES / self.kind), verb, str(self.directory), *map(str, more)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=START_S)
        if done.returncode:
            raise RuntimeError(f"{verb} of {self.kind}: {done.stderr[-2000:]}")
        return done.stdout.strip()


@contextmanager
def running(kind: str) -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix=f"ailurus-{kind}-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # parts of it run as users of their own
        try:
            yield Service(kind, directory)
        finally:
            subprocess.run([FIXTURES / kind, "stop", directory], check=True, timeout=START_S)


def xrootd_needed(need: Callable[..., str]) -> None:
    """Skip where it is not; fail in CI. So do the others here."""
    need("xrootd", package="xrootd-server", option="--xrootd")
    need("xrdcp", package="xrootd-client", option="--xrootd")
    need("gfal-copy", package="gfal2-util-scripts", option="--xrootd")


def rucio_needed(need: Callable[..., str]) -> None:
    xrootd_needed(need)
    need("curl")
    need("initdb", package="postgresql", option="--postgres", where="/usr/lib/postgresql/*/bin")
    if not (ROOT / ".venv-rucio" / ".stamp").exists():
        why = "Rucio is not here: scripts/setup --rucio"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


def ceph_needed(need: Callable[..., str]) -> None:
    need("curl")
    for package in ("radosgw", "ceph-mon", "ceph-mgr", "ceph-osd"):
        need(package, option="--ceph")


def fuse_needed() -> None:
    """Skip where not every user may mount images; root opens the device to all."""
    device = Path("/dev/fuse")
    if not device.exists():
        pytest.skip("this machine has no /dev/fuse, by which images are mounted")
    if device.stat().st_mode & 0o006 != 0o006:
        if os.geteuid() != 0:
            pytest.skip("/dev/fuse is not open to all users: chmod 666 /dev/fuse, as root")
        device.chmod(0o666)


def apptainer_needed(need: Callable[..., str]) -> Path:
    """The path of the command."""
    fuse_needed()
    return Path(need("apptainer", option="--apptainer", where=f"{ROOT}/build/apptainer/bin"))


def physics_needed() -> None:
    """What the demo's payloads run in, with an image and without."""
    _here(".venv-physics", "--physics")
    _here("build/images/physics.sif", "--images")


def mpi_image_needed() -> Path:
    """An image with an MPI."""
    return _here("build/images/mpi.sif", "--images")


def _here(path: str, option: str) -> Path:
    if not (ROOT / path).exists():
        why = f"{path} is not here: scripts/setup {option}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return ROOT / path


def busybox_image(need: Callable[..., str], into: Path) -> Path:
    """The smallest image of containers/, as a SIF; it needs no Apptainer."""
    need("busybox", package="busybox-static", option="--apptainer")
    need("mksquashfs", package="squashfs-tools", option="--apptainer")
    image = into / "busybox.sif"
    subprocess.run([ROOT / "containers" / "busybox", image], check=True, capture_output=True)
    return image
