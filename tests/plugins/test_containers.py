"""What payloads get of a container, and what its own program gets of payloads: nothing."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

import plugins
from ailurus.protocol.job import JobSpec
from pilot import guardian
from pilot.ports import Box, Container, Ended, Grounds, JobError
from pilot.run import started_as
from pilot.spawner import GuardedSpawner
from tests.pilot.helpers import until

pytestmark = pytest.mark.real
PATH = "/usr/local/bin:/usr/bin:/bin"
CANARY = r"""
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    char exe[4096];
    long n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    int fd = open(WHERE, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd >= 0 && n > 0) { exe[n] = '\n'; (void)!write(fd, exe, n + 1); close(fd); }
}
unsigned la_version(unsigned v) { return v; }
"""
HOSTILE = {
    # the loader and libc
    "LD_PRELOAD": "./x.so", "LD_AUDIT": "./x.so", "LD_LIBRARY_PATH": ".", "LD_DEBUG": "all",
    "LD_DEBUG_OUTPUT": "./hostile-ld", "LD_BIND_NOW": "1", "LD_PROFILE": "x.so", "LD_ORIGIN_PATH": ".",
    "GLIBC_TUNABLES": "glibc.malloc.check=3", "MALLOC_PERTURB_": "1", "GCONV_PATH": "./hostile",
    "LOCPATH": "./hostile", "NLSPATH": "./hostile/%N", "LANGUAGE": "hostile", "LC_ALL": "hostile.UTF-8",
    "TMPDIR": "./hostile", "TZDIR": "./hostile", "HOSTALIASES": "./hostile", "RES_OPTIONS": "hostile",
    "LOCALDOMAIN": "hostile", "RESOLV_HOST_CONF": "./hostile", "GETCONF_DIR": "./hostile",
    # shells and what they start
    "BASH_ENV": "./hostile", "ENV": "./hostile", "IFS": "/", "SHELLOPTS": "xtrace", "BASHOPTS": "extdebug",
    "PS4": "$(touch hostile)", "PROMPT_COMMAND": "touch hostile", "CDPATH": "./hostile", "PATH": f".:{PATH}",
    # interpreters
    "PYTHONPATH": ".", "PYTHONSTARTUP": "./hostile", "PYTHONHOME": "", "PYTHONINSPECT": "1",
    "PYTHONBREAKPOINT": "hostile", "PYTHONWARNINGS": "all:0:hostile", "PERL5LIB": ".", "PERL5OPT": "-W",
    "RUBYOPT": "-w", "NODE_OPTIONS": "--no-warnings", "JAVA_TOOL_OPTIONS": "-Dhostile=1",
    # containers and launchers
    "BWRAP_ARGS": "--dev-bind / /", "APPTAINER_BIND": "/:/host", "APPTAINERENV_LD_PRELOAD": "./x.so",
    "SINGULARITY_BIND": "/:/host", "SLURM_CONF": "./hostile", "OMPI_MCA_plm_rsh_agent": "./hostile",
    "HYDRA_LAUNCHER_EXEC": "./hostile", "HOME": "./hostile", "PWD": "./hostile", "OLDPWD": "./hostile",
    "XDG_RUNTIME_DIR": "./hostile", "XDG_CONFIG_HOME": "./hostile",
}  # fmt: skip
"""What a loader, libc, a shell, an interpreter, a container or a launcher obeys."""


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    link, pid = guardian.start()  # not a subreaper: this process is pytest
    made = GuardedSpawner(link, pid)
    threading.Thread(target=made.listen, args=(lambda: None,), daemon=True).start()
    yield made
    made.close()


class Job:
    """A payload that a container of a site runs here."""

    def __init__(
        self, spawner: GuardedSpawner, directory: Path, name: str, **grounds: object
    ) -> None:
        own = directory / "container"
        own.mkdir()
        self.container: Container = plugins.load("container", name)(
            Grounds(directory=str(own), bare=True, **grounds)  # type: ignore[arg-type]
        )
        self.spawner = spawner
        self.work, self.tmp = directory / "work", directory / "tmp"
        self.stdout, self.stderr = directory / "stdout", directory / "stderr"
        for made in (self.work, self.tmp):
            made.mkdir()

    def start(
        self,
        command: str,
        done: Callable[[Ended], None],
        *,
        environment: Mapping[str, str] | None = None,
        memory_mb: int = 100,
        network: bool = False,
    ) -> int:
        box = Box(
            directory=str(self.work),
            tmp=str(self.tmp),
            environment={"PATH": PATH, **(environment or {})},
            memory_mb=memory_mb,
            network=network,
        )
        order = replace(
            started_as(self.container.wrap(["/bin/sh", "-c", command], box), "7.1"),
            stdout=str(self.stdout),
            stderr=str(self.stderr),
            status_fd=self.container.status_fd,
        )
        return self.spawner.spawn(order, done)

    def run(self, command: str, **more: object) -> Ended:
        over, results = threading.Event(), []

        def done(ended: Ended) -> None:
            results.append(ended)
            over.set()

        self.start(command, done, **more)  # type: ignore[arg-type]
        assert over.wait(20)
        return results[0]

    def said(self) -> str:
        return self.stdout.read_text() + self.stderr.read_text()


@pytest.fixture(params=sorted(plugins.TABLE["container"]))
def any_job(request: pytest.FixtureRequest, spawner: GuardedSpawner, tmp_path: Path) -> Job:
    return Job(spawner, tmp_path, request.param)


@pytest.fixture
def boxed(spawner: GuardedSpawner, tmp_path: Path) -> Job:
    return Job(spawner, tmp_path, "bubblewrap")


@pytest.mark.field("S1")
def test_no_variable_and_no_directory_of_a_job_reaches_the_program_of_its_container(
    any_job: Job, tmp_path: Path, need: Callable[..., str]
) -> None:
    """Looked at from outside while the payload runs: each process of its own that stands between."""
    canary = tmp_path / "canary"
    source = tmp_path / "x.c"
    source.write_text(CANARY)
    library = any_job.work / "x.so"
    where = f'-DWHERE="{canary}"'
    subprocess.run([need("gcc"), "-shared", "-fPIC", where, "-o", library, source], check=True)
    over = threading.Event()
    key = any_job.start(
        "env > seen; mv seen environment; read line < go",
        lambda _: over.set(),
        environment={**HOSTILE, "LD_DEBUG": ""},
    )
    os.mkfifo(any_job.work / "go")
    until((any_job.work / "environment").exists)
    top = until(lambda: any_job.spawner.pid(key))
    between = []
    for _ in range(any_job.container.depth):
        between.append(top)
        children = Path(f"/proc/{top}/task/{top}/children").read_text(encoding="utf-8").split()
        top = int(children[0])
    if between:  # the ones below are in the sandbox, and start nothing but the payload
        assert Path(f"/proc/{between[0]}/cwd").readlink() == Path("/")
    for pid in between:
        process = Path(f"/proc/{pid}")
        assert process.joinpath("environ").read_bytes() == b"AILURUS_ATTEMPT=7.1\0"
        assert "x.so" not in process.joinpath("maps").read_text()
        shown = process.joinpath("cmdline").read_bytes()
        assert not [name for name in HOSTILE if f"{name}\0".encode() in shown]
    (any_job.work / "go").write_text("on\n")
    assert over.wait(20)
    loaded_by = (
        {Path(line).name for line in canary.read_text().split()} if canary.exists() else set()
    )
    assert not any_job.container.private or not loaded_by  # the sandbox does not even see the place
    assert "bwrap" not in loaded_by
    inside = (any_job.work / "environment").read_text().splitlines()
    wanted = {
        f"{name}={HOSTILE[name]}" for name in ("LD_PRELOAD", "TMPDIR", "PYTHONPATH", "GCONV_PATH")
    }
    assert wanted <= set(inside)  # the payload itself has what its user asked for


@pytest.mark.field("S1")
def test_a_library_of_the_jobs_does_not_keep_the_sandbox_from_starting(boxed: Job) -> None:
    (boxed.work / "libc.so.6").write_text("no library")
    ended = boxed.run("true", environment={"LD_LIBRARY_PATH": "."})
    assert ended.exit_code == 127  # the payload's own shell cannot
    assert "/bin/sh" in boxed.said()
    assert "bwrap" not in boxed.said()


@pytest.mark.field("S1")
def test_a_large_environment_arrives_whole(boxed: Job) -> None:
    environment = {f"V{n}": "x" * 1000 for n in range(1200)} | {"BIG": "y" * 131_000}
    ended = boxed.run("env | wc -c; ls /proc/self/fd | wc -l", environment=environment)
    assert ended.exit_code == 0, boxed.said()
    size, descriptors = map(int, boxed.said().split())
    assert size > 1_300_000
    assert descriptors == 4  # 0 to 2, and the one with which ls looks


def test_more_variables_than_bubblewrap_takes_are_refused(boxed: Job) -> None:
    boxed.container.accepts(JobSpec(name="j", environment={f"V{n}": "" for n in range(2500)}))
    ended = boxed.run("true", environment={f"V{n}": "" for n in range(2500)})
    assert ended.exit_code == 0, boxed.said()
    with pytest.raises(JobError, match="2501 variables"):
        boxed.container.accepts(JobSpec(name="j", environment={f"V{n}": "" for n in range(2501)}))
