"""`scripts/demo --data rucio`, typed as its users type it: what it finds, what Rucio has of it in
the end, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from tests.pilot.helpers import processes_with
from tests.rig import rucio as at
from tests.rig import services
from tests.rig.batch import ROOT
from tests.rig.services import Service
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
NOBODY = 65534
JOBS = 2
DATASETS = {
    "zmumu.simulated": ["mc_1.root", "mc_2.root"],
    "zmumu.ntuples": ["data.root", "merged.root"],
    "zmumu.results": ["z_peak.json", "z_peak.png"],
}
INPUT = "uproot-Zmumu.root"
PLACES = os.pathsep.join([os.environ["PATH"], str(ROOT / "build/apptainer/bin")])


class Demo:
    """One run of it, in a directory that its services' users may enter."""

    def __init__(self, directory: Path, user: int | None) -> None:
        self.directory, self._user = directory, user

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        argv = [ROOT / "scripts/demo", "--dir", self.directory, *options]
        with (self.directory.parent / "said").open("ab") as said:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )

    def ends(self, *options: str) -> int:
        """The exit code of a run."""
        return self.start("--data", "rucio", "--jobs", str(JOBS), *options).wait(240)

    @property
    def said(self) -> str:
        return (self.directory.parent / "said").read_text(encoding="utf-8")

    def left(self) -> list[int]:
        """Processes that are its own."""
        mark = str(self.directory)
        found = processes_with(mark)
        for cwd in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if str(cwd.readlink()).startswith(mark):
                    found.append(int(cwd.parent.name))
        return found


@pytest.fixture(params=["root", "ordinary"])
def demo(request: pytest.FixtureRequest, need: Callable[..., str]) -> Iterator[Demo]:
    user = NOBODY if request.param == "ordinary" and os.geteuid() == 0 else None
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("only root starts services as users of their own")
    services.rucio_needed(need)
    services.fuse_needed()
    services.physics_needed()
    top = Path(tempfile.mkdtemp(prefix="ailurus-demo-"))
    top.chmod(0o755)
    directory = top / "run"
    directory.mkdir()
    os.chown(directory, user or -1, user or -1)
    made = Demo(directory, user)
    yield made
    if made.left():
        made.start("--stop").wait(60)
    shutil.rmtree(top)


def jobs_of(demo: Demo) -> list[Any]:
    """All about the jobs, as the dispatcher has it."""
    site = yaml.safe_load((demo.directory / "site.yaml").read_text(encoding="utf-8"))
    token = TokenFile(demo.directory / "queue.admin-token")
    client = Client(site["dispatcher"]["url"], token)
    return [client.show(row.job_id) for row in client.jobs().jobs]


def test_the_peak_is_found_and_all_of_it_is_in_rucio(demo: Demo) -> None:
    assert demo.ends("--keep") == 0, demo.said
    found = json.loads((demo.directory / "z_peak.json").read_text(encoding="utf-8"))
    assert 90.2 < found["mass_gev"] < 91.2
    assert found["mass_uncertainty_gev"] < 0.3
    assert (demo.directory / "z_peak.png").read_bytes().startswith(b"\x89PNG")

    rucio = Service("rucio", demo.directory / "rucio", runs=True)
    known = {name: at.known(rucio, f"user.alice:{name}") for name in DATASETS}
    for name, files in DATASETS.items():
        about = known[name]
        assert about is not None
        assert about["open"] is False
        # user.alice:STORE.JOB.ATTEMPT.NAME
        assert sorted(did.split(".", 4)[4] for did, *_ in about["files"]) == files
    held_against_storage(rucio, known)
    held_against_traces(rucio, [did for about in known.values() for did, *_ in about["files"]])
    runtimes = {one.runtime for job in jobs_of(demo) for one in job.attempts}
    assert runtimes == {"apptainer" if shutil.which("apptainer", path=PLACES) else "bubblewrap"}

    assert demo.start("--stop").wait(60) == 0
    assert until(lambda: not demo.left())


def held_against_storage(rucio: Service, known: dict[str, Any]) -> None:
    """What the catalogue says of files is what lies in storage, and rules keep it there."""
    store = Path(rucio.facts["xrootd"]["store"])
    for about in known.values():
        for did, size, adler32 in about["files"]:
            (path,) = store.rglob(did.partition(":")[2])
            content = path.read_bytes()
            assert path.is_relative_to(store / "rucio-root")
            assert (len(content), f"{zlib.adler32(content):08x}") == (size, adler32)
        file = at.known(rucio, about["files"][0][0])
        assert file is not None
        assert file["rules"] == [["panda", "ROOT", "OK", True]]
        assert [set(where) for where in file["replicas"].values()] == [{"ROOT"}]


def held_against_traces(rucio: Service, outputs: list[str]) -> None:
    """Each transfer of the pilots was told to Rucio: inputs came by davs and by root, outputs went
    by root."""

    def done(name: str, what: str) -> set[tuple[str, str]]:
        return {
            (one["protocol"], one["remoteSite"])
            for one in at.traces(rucio, name)
            if (one["account"], one["eventType"], one["clientState"]) == ("pilot", what, "DONE")
        }

    assert done(INPUT, "download") == {("davs", "DAVS")}
    for did in outputs:
        name = did.partition(":")[2]
        assert done(name, "upload") == {("root", "ROOT")}
        if not name.endswith((".png", ".json")):
            assert done(name, "download") == {("root", "ROOT")}


@pytest.mark.parametrize("demo", ["root"], indirect=True)
def test_a_failed_job_ends_all_of_it(demo: Demo) -> None:
    assert demo.ends("--events", "0") == 1
    assert "(simulate-1) failed" in demo.said
    assert until(lambda: not demo.left())


@pytest.mark.parametrize("demo", ["ordinary"], indirect=True)
@pytest.mark.parametrize("moment", ["rucio/db", "rucio/rucio.json", "work/*"])
def test_ctrl_c_ends_all_of_it_whenever_it_comes(demo: Demo, moment: str) -> None:
    process = demo.start("--data", "rucio", "--jobs", str(JOBS))
    until(lambda: list(demo.directory.glob(moment)), 120, f"{moment} is there")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert "nothing is left running" in demo.said
    assert until(lambda: not demo.left())
