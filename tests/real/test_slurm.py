"""The edge on a real Slurm: one controller and several slurmd, on loopback."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.batch_promises import Promises
from tests.real.batch_rig import ROOT, System, until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(180)]
FIXTURE = ROOT / "scripts" / "fixtures" / "slurm"
NODES = 3


class Slurm(System):
    def __init__(self, directory: Path) -> None:
        conf = directory / "etc" / "slurm.conf"
        super().__init__("slurm", {}, {"SLURM_CONF": str(conf)}, self._live)
        self.directory = directory

    def _live(self) -> list[str]:
        argv = ("squeue", "--noheader", "--array", "--format=%j.%K", "--states")
        return self.run(*argv, "pending,running,suspended,completing,configuring").split()

    def fixture(self, verb: str, *more: object) -> None:
        subprocess.run(
            [FIXTURE, verb, self.directory, *map(str, more)], check=True, timeout=60,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def hang(self) -> None:
        self.fixture("signal", "slurmctld", "STOP")

    def wake(self) -> None:
        self.fixture("signal", "slurmctld", "CONT")

    def down(self) -> None:
        self.fixture("down")

    def up(self) -> None:
        self.fixture("up")

    def empty(self) -> None:
        self.run("scancel", "--me")
        until(lambda: not self.live(), 30, "all jobs have gone")


@pytest.fixture(scope="module")
def slurm(need) -> Iterator[Slurm]:
    os.environ["PATH"] += ":/usr/sbin"
    need("slurmctld", package="slurm-wlm")
    need("munged", package="munge")
    with tempfile.TemporaryDirectory(prefix="ailurus-slurm-") as directory:
        system = Slurm(Path(directory))
        system.fixture("start", NODES, 32)
        yield system
        system.fixture("stop")


@pytest.fixture
def system(slurm: Slurm) -> Iterator[Slurm]:
    yield slurm
    slurm.empty()


class TestSlurm(Promises):
    """Those of every batch system."""
