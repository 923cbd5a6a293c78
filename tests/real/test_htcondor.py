"""The edge on a real HTCondor: a pool of this machine, which belongs to an ordinary user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.real.batch_promises import Promises, sleepers
from tests.real.batch_rig import ROOT, System, until

pytestmark = [pytest.mark.batch, pytest.mark.timeout(180)]
FIXTURE = ROOT / "scripts" / "fixtures" / "htcondor"
CONDOR = Path(os.environ.get("AILURUS_HTCONDOR", ROOT / "build" / "htcondor"))
USER = "games" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name  # root may not submit


class HTCondor(System):
    def __init__(self, directory: Path) -> None:
        path = f"{CONDOR}/usr/bin:{os.environ['PATH']}"
        environment = {"CONDOR_CONFIG": str(directory / "condor_config"), "PATH": path}
        super().__init__("htcondor", environment, self._live, user=USER)
        self.directory = directory

    def _live(self) -> list[str]:
        wanted = ("-json", "-attributes", "AilurusTag,ProcId,JobStatus")
        answer = self.run(CONDOR / "usr/bin/condor_q", *wanted) or "[]"
        ads = msgspec.json.decode(answer)
        return [f"{ad['AilurusTag']}.{ad['ProcId']}" for ad in ads if ad["JobStatus"] in (1, 2, 5)]

    def fixture(self, verb: str, *more: object) -> None:
        subprocess.run(
            [FIXTURE, verb, self.directory, *map(str, more)], check=True, timeout=60,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def hang(self) -> None:
        self.fixture("signal", "STOP")

    def wake(self) -> None:
        self.fixture("signal", "CONT")

    def down(self) -> None:
        self.fixture("down")

    def up(self) -> None:
        self.fixture("up")

    def empty(self) -> None:
        self.run(CONDOR / "usr/bin/condor_rm", "-all", check=False)
        until(lambda: not self.live(), 30, "all jobs have gone")


@pytest.fixture(scope="module")
def htcondor(need) -> Iterator[HTCondor]:
    need(str(CONDOR / "usr/sbin/condor_master"), package="mmdebstrap", option="--htcondor")
    directory = Path(tempfile.mkdtemp(prefix="ailurus-htcondor-"))
    system = HTCondor(directory)
    system.fixture("start", USER)
    yield system
    system.fixture("stop")
    shutil.rmtree(directory)


@pytest.fixture
def system(htcondor: HTCondor) -> Iterator[HTCondor]:
    yield htcondor
    htcondor.empty()


class TestHTCondor(Promises):
    """Those of every batch system."""

    def test_a_held_worker_is_held_until_it_is_released(self, system):
        with sleepers(system, 1) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'starting'"), 30, "it runs")
            (row,) = rig.workers()
            system.run(CONDOR / "usr/bin/condor_hold", "-reason", "operator asked", row["batch_id"])
            until(lambda: rig.workers("phase = 'held'"), 30, "it is held")
            assert "operator asked" in rig.workers()[0]["diagnosis"]
            assert len(rig.workers()) == 1

    def test_an_evicted_worker_is_preempted_and_does_not_run_again(self, system):
        with sleepers(system, 1) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'starting'"), 30, "it runs")
            (row,) = rig.workers()
            system.run(CONDOR / "usr/bin/condor_vacate_job", "-fast", row["batch_id"])
            until(lambda: rig.workers("phase = 'ended'"), 40, f"it has ended: {rig.log()}")
            (old,) = rig.workers("phase = 'ended'")
            assert (old["batch_id"], old["ending"]) == (row["batch_id"], "preempted"), old
            until(lambda: rig.agrees(1), 40, "another one replaces it")

    @pytest.mark.parametrize("wrong", [{"requirements": "(("}, {"submit": ["nonsense"]}])
    def test_a_refusal_is_one_and_says_why(self, system, wrong):
        with sleepers(system, 1, slots={"std": {"extra": wrong}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'ended'"), 20, f"it is refused: {rig.log()}")
            assert rig.workers("phase = 'ended'")[0]["outcome"] == "rejected", rig.workers()
            assert not system.live()
