"""Batch systems that a test or a benchmark starts for itself, on loopback, and ends."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from tests.rig.batch import BIN, ROOT, System
from tests.rig.waiting import until

FIXTURES = ROOT / "scripts" / "fixtures"
CONDOR = Path(os.environ.get("AILURUS_HTCONDOR", ROOT / "build" / "htcondor"))
PBS_SERVER = os.environ.get("AILURUS_TEST_PBS", "")
PBS_STANDIN = ROOT / "tests" / "standins" / "pbs"
ME = pwd.getpwuid(os.getuid()).pw_name


class Fixture(System):
    """A system of scripts/fixtures."""

    directory: Path

    def fixture(self, verb: str, *more: object) -> None:
        command = [str(FIXTURES / self.kind), verb, str(self.directory), *map(str, more)]
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)

    def down(self, *daemon: str) -> None:
        self.fixture("down", *daemon)

    def up(self, *daemon: str) -> None:
        self.fixture("up", *daemon)


class Slurm(Fixture):
    """One controller and several slurmd."""

    def __init__(self, directory: Path) -> None:
        environment = {"SLURM_CONF": str(directory / "etc" / "slurm.conf")}
        super().__init__("slurm", environment, self._live, self._empty)
        self.directory = directory

    def _live(self) -> list[str]:
        argv = ("squeue", "--noheader", "--array", "--format=%j.%K", "--states")
        return self.run(*argv, "pending,running,suspended,completing,configuring").split()

    def _empty(self) -> None:
        self.run("scancel", "--me")
        until(lambda: not self.live(), 30, "all jobs have gone")

    def hang(self) -> None:
        self.fixture("signal", "slurmctld", "STOP")

    def wake(self) -> None:
        self.fixture("signal", "slurmctld", "CONT")


class HTCondor(Fixture):
    """A pool of this machine; it belongs to an ordinary user, since root may not submit."""

    def __init__(self, directory: Path) -> None:
        path = f"{CONDOR}/usr/bin:{os.environ['PATH']}"
        environment = {"CONDOR_CONFIG": str(directory / "condor_config"), "PATH": path}
        user = "games" if os.getuid() == 0 else ME
        super().__init__("htcondor", environment, self._live, self._empty, user=user)
        self.directory = directory

    def _live(self) -> list[str]:
        wanted = ("-json", "-attributes", "AilurusTag,ProcId,JobStatus")
        answer = self.condor("q", *wanted) or "[]"
        ads = msgspec.json.decode(answer)
        return [f"{ad['AilurusTag']}.{ad['ProcId']}" for ad in ads if ad["JobStatus"] in (1, 2, 5)]

    def lose(self) -> None:
        """Its machine loses power, and comes back."""
        self.fixture("lose")

    def condor(self, verb: str, *argv: object, check: bool = True) -> str:
        return self.run(CONDOR / "usr/bin" / f"condor_{verb}", *argv, check=check)

    def _empty(self) -> None:
        self.condor("rm", "-all", check=False)
        until(lambda: not self.live(), 30, "all jobs have gone")

    def hang(self) -> None:
        self.fixture("signal", "STOP")

    def wake(self) -> None:
        self.fixture("signal", "CONT")


class PBS(System):
    """A stand-in, or the server that AILURUS_TEST_PBS names by a command that runs its commands."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        prefix = shlex.split(PBS_SERVER) or ["env", f"PBS_STANDIN={directory}"]
        path = os.environ["PATH"] if PBS_SERVER else f"{PBS_STANDIN}:{BIN}:{os.environ['PATH']}"
        super().__init__("pbs", {"PATH": path}, self._live, self._empty, prefix=tuple(prefix))

    def _live(self) -> list[str]:
        answer = msgspec.json.decode(self.run("qstat", "-t", "-f", "-F", "json"))
        found = []
        for batch_id, job in answer.get("Jobs", {}).items():
            _, _, rest = batch_id.partition("[")
            index = rest.partition("]")[0]
            if (index or "[" not in batch_id) and job["job_state"] not in "FX":
                found.append(f"{job['Job_Name']}.{index or 0}")
        return found

    def _empty(self) -> None:
        if ids := self.run("qselect", "-u", self.user).split():
            self.run("qdel", *ids, check=False)
        until(lambda: not self.live(), 30, "all jobs have gone")

    def _flag(self, name: str, *, there: bool) -> None:
        if PBS_SERVER:
            raise RuntimeError(f"a real server is not ours to bring {name}")
        path = self.directory / name
        path.touch() if there else path.unlink()

    def hang(self) -> None:
        self._flag("hang", there=True)

    def wake(self) -> None:
        self._flag("hang", there=False)

    def nodes(self) -> list[str]:
        answer = msgspec.json.decode(self.run("pbsnodes", "-a", "-F", "json"))
        return list(answer["nodes"])

    def lose(self, node: str) -> None:
        """A node is gone, with all that runs there."""
        if PBS_SERVER:
            raise RuntimeError("a node of a real server is not ours to lose")
        self.run("lose", node)

    def find(self, node: str) -> None:
        """It is back."""
        (self.directory / "lost" / node).rmdir()

    def down(self) -> None:
        self._flag("down", there=True)

    def up(self) -> None:
        self._flag("down", there=False)


class Local(System):
    """Processes of this machine: those that say in their environment which worker they are, of a
    site below the directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__("local", {}, self._live, self._empty)
        self._worker = re.compile(
            rb"AILURUS_BOOTSTRAP_FILE=%b/[^/]+/state/workers/(\w+)/(\d+)/bootstrap"
            % re.escape(os.fsencode(directory))
        )

    def _found(self) -> Iterator[tuple[int, str]]:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if match := self._worker.search((process / "environ").read_bytes()):
                    yield int(process.name), f"{match[1].decode()}.{match[2].decode()}"

    def _live(self) -> list[str]:
        return [name for _, name in self._found()]

    def _empty(self) -> None:
        for pid, _ in self._found():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.live(), 30, "all workers have gone")


@contextmanager
def slurm(nodes: int = 4, cores: int = 32, *more: str) -> Iterator[Slurm]:
    """`more`: "accounts", for a cluster that keeps them."""
    os.environ["PATH"] += ":/usr/sbin"
    with tempfile.TemporaryDirectory(prefix="ailurus-slurm-") as directory:
        system = Slurm(Path(directory))
        system.fixture("start", nodes, cores, *more)
        try:
            yield system
        finally:
            system.fixture("stop")


@contextmanager
def htcondor() -> Iterator[HTCondor]:
    directory = Path(tempfile.mkdtemp(prefix="ailurus-htcondor-"))
    system = HTCondor(directory)
    system.fixture("start", system.user)
    try:
        yield system
    finally:
        system.fixture("stop")
        shutil.rmtree(directory)


@contextmanager
def pbs() -> Iterator[PBS]:
    directory = Path(tempfile.mkdtemp(prefix="ailurus-pbs-"))
    try:
        yield PBS(directory)
    finally:
        for place in directory.glob("jobs/*/*/pid"):
            if (place.parent / "exit").exists():
                continue
            for record in (place, *place.parent.glob("task.*")):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(record.read_text()), signal.SIGKILL)
        shutil.rmtree(directory)


@contextmanager
def local() -> Iterator[Local]:
    """Its rigs are made below a directory of its own: others on this machine have workers, too."""
    usual = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="ailurus-local-") as directory:
        tempfile.tempdir = directory
        try:
            yield Local(Path(directory))
        finally:
            tempfile.tempdir = usual


SYSTEMS: dict[str, Callable[[], AbstractContextManager[System]]] = {
    "slurm": slurm,
    "htcondor": htcondor,
    "standin": pbs,
    "local": local,
}
