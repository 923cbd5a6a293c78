"""What any test may ask for."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from structlog.testing import capture_logs

from ailurus import logs
from tests.rig import nodes as machines
from tests.rig import services
from tests.rig.batch_systems import Slurm

# How long an example takes is the machine's affair.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def _no_fork() -> int:
    """What is forked from here gets threads of libraries that tests have loaded, and loses files to
    them."""
    raise AssertionError("the tests' process forks nothing: see tests/pilot/nursery.py")


os.fork = _no_fork
# A shell has what it starts in the background ignore this, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Leave a line of each test that failed where scripts/test prints them last: of what CI says
    only the end may be kept."""
    path = os.environ.get("AILURUS_FAILED_TESTS")
    if path and not hasattr(config, "workerinput"):
        stats = terminalreporter.stats
        with Path(path).open("a", encoding="utf-8") as out:
            for report in [*stats.get("failed", ()), *stats.get("error", ())]:
                crash = getattr(report.longrepr, "reprcrash", None)
                why = (crash.message if crash else str(report.longrepr)).splitlines() or [""]
                print(f"{report.nodeid} ({report.when}): {why[0][:200]}", file=out)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A program run inside a test configures the logs of this process; later tests want them
    back."""
    level = logging.getLogger("ailurus").level
    yield
    logs.deconfigure()
    logging.getLogger("ailurus").setLevel(level)


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """The lines that are logged during the test, as fields."""
    # Configures structlog, which the first line would do inside.
    logs._log_lines()
    with capture_logs() as lines:
        yield lines


@pytest.fixture(scope="session")
def need() -> Callable[..., str]:
    """Say where another project's program is: `need("wrk")`, `need("x", package="x-tools")`, and by
    what option `scripts/setup` brings it; `where` is a pattern of folders that are in nobody's
    PATH.

    A test without its program is skipped, and fails in CI: what nobody ever runs must not look
    green. It stays a skip where `scripts/setup` found that no such package exists.
    """
    listed = Path(sys.prefix, "absent-packages")
    absent = listed.read_text(encoding="utf-8").split() if listed.exists() else []

    def find(
        program: str, *, package: str | None = None, option: str = "--system", where: str = ""
    ) -> str:
        folders = sorted(map(str, Path("/").glob(where[1:]))) if where else []
        if path := shutil.which(program, path=os.pathsep.join([*folders, os.environ["PATH"]])):
            return path
        if (package or program) in absent:
            pytest.skip(f"{program}: no such package on this system's mirrors")
        why = f"{program} is not installed: scripts/setup {option}, as root"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)

    return find


@pytest.fixture(scope="session")
def torch(need: Callable[..., str]) -> str:
    """A Python that has PyTorch."""
    return need("python", where=f"{Path(__file__).parents[1]}/.venv-torch/bin", option="--torch")


@pytest.fixture(scope="session")
def horovod(torch: str) -> str:
    """A Python that has Horovod, too: its wheel may be in the making."""
    has = [torch, "-c", "import horovod"]
    if subprocess.run(has, check=False, capture_output=True).returncode:
        if os.environ.get("CI") != "true":
            pytest.skip("Horovod is not built: scripts/setup --horovod")
        subprocess.run(
            [Path(__file__).parents[1] / "scripts/setup", "--horovod"], check=True, timeout=900
        )
    return torch


@pytest.fixture(scope="session")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pilot as a file, built from this tree."""
    made = tmp_path_factory.mktemp("frozen") / "pilot"
    made.parent.chmod(0o755)
    build = [Path(__file__).parents[1] / "scripts/build-pilot", "--out", made]
    done = subprocess.run(build, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="session")
def xrootd(need: Callable[..., str]) -> Iterator[services.Service]:
    """Storage by root:// and davs://, as scripts/fixtures/xrootd tells."""
    services.xrootd_needed(need)
    with services.running("xrootd") as service:
        yield service


@pytest.fixture(scope="session")
def rucio(need: Callable[..., str]) -> Iterator[services.Service]:
    """A catalogue with storage of its own, as scripts/fixtures/rucio tells."""
    services.rucio_needed(need)
    with services.running("rucio") as service:
        yield service


@pytest.fixture(scope="session")
def ceph(need: Callable[..., str]) -> Iterator[services.Service]:
    """Storage by S3, as scripts/fixtures/ceph tells."""
    services.ceph_needed(need)
    with services.running("ceph") as service:
        yield service


@pytest.fixture(scope="session")
def apptainer(need: Callable[..., str]) -> Path:
    """The command of a real Apptainer."""
    return services.apptainer_needed(need)


@pytest.fixture(scope="session")
def busybox(need: Callable[..., str]) -> Iterator[Path]:
    """An image that anybody may read, with a shell and little more."""
    with tempfile.TemporaryDirectory(prefix="ailurus-image-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield services.busybox_image(need, directory)


@pytest.fixture
def nodes(need: Callable[..., str]) -> Iterator[machines.Nodes]:
    """Three machines of namespaces, up in half a second; a test may kill and cut them."""
    machines.nodes_needed(need)
    with machines.running(3) as running:
        yield running


@pytest.fixture
def slurm_nodes(nodes: machines.Nodes, need: Callable[..., str]) -> Iterator[Slurm]:
    """A Slurm on these three machines, of four cores each."""
    need("slurmctld", package="slurm-wlm", option="--slurm")
    with machines.slurm_on(nodes, cores=4) as slurm:
        yield slurm
