"""The edge on a real Slurm: one controller and several slurmd, on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.batch_promises import Promises, sleepers
from tests.real.batch_rig import BIN, ROOT, System, as_user, clean, until

pytestmark = [pytest.mark.batch, pytest.mark.timeout(180)]
FIXTURE = ROOT / "scripts" / "fixtures" / "slurm"
NODES = 3


class Slurm(System):
    def __init__(self, directory: Path) -> None:
        conf = directory / "etc" / "slurm.conf"
        super().__init__("slurm", {"SLURM_CONF": str(conf)}, self._live)
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
    need("slurmctld", package="slurm-wlm", option="--slurm")
    need("munged", package="munge", option="--slurm")
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

    def test_a_lost_node_ends_its_workers_and_no_others(self, system):
        with sleepers(system, 2, backend={"options": {"exclusive": True}}) as rig:
            rig.edge()
            until(lambda: len(rig.workers("phase = 'starting'")) == 2, 30, "both run, each alone")
            before = rig.known()
            node = system.run("squeue", "--noheader", "--format=%N|%j.%K", "--array").split()[0]
            name, _, lost = node.partition("|")
            system.fixture("node", name, "kill")
            try:
                until(lambda: rig.workers("phase = 'ended'"), 90, "the loss is seen")
            finally:
                system.fixture("node", name, "start")
            (row,) = rig.workers("phase = 'ended'")
            assert f"{row['intent']}.{row['index']}" == lost
            assert row["ending"] == "node_fail", row
            until(lambda: rig.agrees(2), 40, "another one replaces it")
            assert set(before) - {lost} < set(rig.known())

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ({"partition": "nosuch"}, "Invalid partition"),
            ({"constraint": "nosuch"}, "Invalid feature"),
            ({"reservation": "nosuch"}, "reservation"),
            ({"submit": ["--nosuch"]}, "unrecognized option"),
            ({"submit": ["--mem=900G"]}, "node configuration is not available"),
            ({"partition": "short"}, "time limit is invalid"),  # the slot asks for an hour
        ],
    )
    def test_a_refusal_is_one_and_says_why(self, system, wrong, reason):
        with sleepers(system, 1, slots={"std": {"extra": wrong}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'ended'"), 20, f"it is refused: {rig.log()}")
            row = rig.workers("phase = 'ended'")[0]
            assert row["outcome"] == "rejected", row
            assert reason in row["diagnosis"]
            assert not system.live()

    def test_the_doctor_asks_slurm_about_each_slot_and_submits_nothing(self, system):
        slots = {
            "wrong": {"queue": "real", "cores": 1, "memory": "100M", "disk": "1M", "walltime": "1h",
                      "extra": {"partition": "nosuch"}},
        }  # fmt: skip
        with sleepers(system, 1, slots=slots) as rig:
            command = [*as_user(system.user), BIN / "harvester-edge", "doctor", "--json"]
            argv = [*command, "--config", rig.directory / "site.yaml"]
            env = {**clean(), **system.environment, "HOME": str(rig.directory / "home")}
            ran = subprocess.run(argv, capture_output=True, env=env, timeout=60, check=False)
            found = {one["about"]: one for one in json.loads(ran.stdout)["findings"]}
            assert ran.returncode == 78
            assert found["slot std"]["verdict"] == "good", found
            assert found["slot wrong"]["verdict"] == "bad"
            assert "nvalid partition" in found["slot wrong"]["said"]
            assert found["batch system"]["verdict"] == "good"
            assert found["dispatcher"]["verdict"] == "good"
            assert not system.live()

    def test_a_held_worker_is_held_until_it_is_released(self, system):
        with sleepers(system, 1, backend={"options": {"submit": ["--hold"]}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'held'"), 20, "it is held")
            (row,) = rig.workers()
            assert row["diagnosis"] == "JobHeldUser"
            system.run("scontrol", "release", row["batch_id"])
            until(lambda: rig.workers("phase = 'starting'"), 30, "it runs")
            assert len(rig.workers()) == 1

    def test_a_worker_that_an_admin_requeues_is_the_same_worker(self, system):
        with sleepers(system, 1, backend={"options": {"submit": ["--requeue"]}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'starting'"), 20, "it runs")
            (row,) = rig.workers()
            system.run("scontrol", "requeue", row["batch_id"])
            until(lambda: rig.workers("phase = 'queued'"), 20, "it waits again")
            until(lambda: rig.workers("phase = 'starting'"), 40, "it runs again")
            assert [one["batch_id"] for one in rig.workers()] == [row["batch_id"]]

    def test_a_hung_munge_changes_no_verdict(self, system):
        def munge(number):
            system.fixture("signal", "munged", number)

        self._silence(system, lambda: munge("STOP"), lambda: munge("CONT"))
