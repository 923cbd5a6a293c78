"""The edge on PBS. No Debian mirror has a PBS server, so this is a stand-in (tests/standins/pbs), unless
AILURUS_TEST_PBS names a real one: a command that runs qsub, qstat, qselect and qdel there ("ssh login", or
`env` where they are at hand). A worker's directory must then be on a file system that both see: TMPDIR."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.real.batch_promises import Promises, sleepers
from tests.real.batch_rig import ROOT, System, until

pytestmark = [pytest.mark.batch, pytest.mark.timeout(180)]
REAL = os.environ.get("AILURUS_TEST_PBS", "")
STANDIN = ROOT / "tests" / "standins" / "pbs"


class PBS(System):
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        prefix = shlex.split(REAL) or ["env", f"PBS_STANDIN={directory}"]
        path = os.environ["PATH"] if REAL else f"{STANDIN}:{os.environ['PATH']}"
        super().__init__("pbs", {"PATH": path}, self._live, prefix=tuple(prefix))

    def _live(self) -> list[str]:
        answer = msgspec.json.decode(self.run("qstat", "-t", "-f", "-F", "json"))
        found = []
        for batch_id, job in answer.get("Jobs", {}).items():
            _, _, rest = batch_id.partition("[")
            index = rest.partition("]")[0]
            if (index or "[" not in batch_id) and job["job_state"] not in "FX":
                found.append(f"{job['Job_Name']}.{index or 0}")
        return found

    def _flag(self, name: str, *, there: bool) -> None:
        if REAL:
            pytest.skip(f"AILURUS_TEST_PBS is a real server, which is not ours to bring {name}")
        path = self.directory / name
        path.touch() if there else path.unlink()

    def hang(self) -> None:
        self._flag("hang", there=True)

    def wake(self) -> None:
        self._flag("hang", there=False)

    def down(self) -> None:
        self._flag("down", there=True)

    def up(self) -> None:
        self._flag("down", there=False)

    def empty(self) -> None:
        if ids := self.run("qselect", "-u", self.user).split():
            self.run("qdel", *ids, check=False)
        until(lambda: not self.live(), 30, "all jobs have gone")


@pytest.fixture(scope="module")
def pbs() -> Iterator[PBS]:
    directory = Path(tempfile.mkdtemp(prefix="ailurus-pbs-"))
    yield PBS(directory)
    for record in directory.glob("jobs/*/*/pid"):
        if not (record.parent / "exit").exists():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(record.read_text()), signal.SIGKILL)
    shutil.rmtree(directory)


@pytest.fixture
def system(pbs: PBS) -> Iterator[PBS]:
    yield pbs
    pbs.empty()


class TestPBS(Promises):
    """Those of every batch system."""

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ({"queue": "nosuch"}, "Unknown queue"),
            ({"chunk": "nosuch=1"}, "Unknown resource"),
            ({"submit": ["-l", "walltime=nonsense"]}, "Illegal attribute"),
        ],
    )
    def test_a_refusal_is_one_and_says_why(self, system, wrong, reason):
        with sleepers(system, 1, slots={"std": {"extra": wrong}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'ended'"), 20, f"it is refused: {rig.log()}")
            row = rig.workers("phase = 'ended'")[0]
            assert row["outcome"] == "rejected", row
            assert reason in row["diagnosis"]

    def test_a_held_worker_is_held(self, system):
        with sleepers(system, 1, backend={"options": {"submit": ["-h"]}}) as rig:
            rig.edge()
            until(lambda: rig.workers("phase = 'held'"), 20, "it is held")
