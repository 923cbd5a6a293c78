"""What payloads get of a container, and what its own program gets of payloads: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ailurus.protocol.job import JobSpec
from pilot.ports import JobError
from pilot.process.spawner import GuardedSpawner
from plugins.container import shown
from tests.pilot.helpers import guarded
from tests.pilot.hostile import HOSTILE, NAME_INTO, library
from tests.plugins.payloads import Job
from tests.rig.waiting import until

pytestmark = pytest.mark.real


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


@pytest.fixture(params=["bare", "bubblewrap"])
def any_job(request: pytest.FixtureRequest, spawner: GuardedSpawner, tmp_path: Path) -> Job:
    return Job(spawner, tmp_path, request.param)


@pytest.fixture
def boxed(spawner: GuardedSpawner, tmp_path: Path) -> Job:
    return Job(spawner, tmp_path, "bubblewrap")


@pytest.mark.field("S1")
def test_no_variable_and_no_directory_of_a_job_reaches_the_program_of_its_container(
    any_job: Job, tmp_path: Path, need: Callable[..., str]
) -> None:
    """Looked at from outside while the payload runs: each process of its own that stands
    between."""
    canary = tmp_path / "canary"
    library(need("gcc"), any_job.work / "x.so", NAME_INTO.replace("WHERE", str(canary)))
    over = threading.Event()
    key = any_job.start(
        "env > seen; mv seen environment; read line < go",
        lambda _: over.set(),
        environment=HOSTILE,
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


KEYS = """
import ctypes, errno, platform
first = {"x86_64": 248, "aarch64": 217, "ppc64le": 269, "s390x": 278, "riscv64": 217}[platform.machine()]
other_ways = [0x40000000] if platform.machine() == "x86_64" else []
libc = ctypes.CDLL(None, use_errno=True)
for way in [0, *other_ways]:
    for call in range(3):
        ctypes.set_errno(0)
        print(libc.syscall(way | first + call, 0, -3, 0), errno.errorcode[ctypes.get_errno()])
"""


@pytest.mark.field("S1")
def test_a_payload_has_no_keyrings(boxed: Job) -> None:
    """They hold Kerberos tickets and AFS tokens of the pilot's login, and know no namespace of a
    sandbox."""
    (boxed.work / "keys.py").write_text(KEYS, encoding="utf-8")
    ended = boxed.run("/usr/bin/python3 keys.py")
    assert ended.exit_code == 0, boxed.said()
    assert set(boxed.said().splitlines()) == {"-1 ENOSYS"}


def test_more_variables_than_bubblewrap_takes_are_refused(boxed: Job) -> None:
    boxed.container.accepts(JobSpec(name="j", environment={f"V{n}": "" for n in range(2500)}))
    ended = boxed.run("true", environment={f"V{n}": "" for n in range(2500)})
    assert ended.exit_code == 0, boxed.said()
    with pytest.raises(JobError, match="2501 variables"):
        boxed.container.accepts(JobSpec(name="j", environment={f"V{n}": "" for n in range(2501)}))


@pytest.mark.field("A25")
def test_a_site_may_refuse_the_network(spawner: GuardedSpawner, tmp_path: Path) -> None:
    shut = Job(spawner, tmp_path, "bubblewrap", network=False)
    shut.container.accepts(JobSpec(name="j"))
    with pytest.raises(JobError, match="no network") as refused:
        shut.container.accepts(JobSpec(name="j", network=True))
    assert refused.value.field == "network"


NAMESPACE = "unshare {way} sh -c 'mkdir m; mount -t {kind} none m && echo mounted'"


@pytest.mark.field("A6")
@pytest.mark.parametrize("kind", ["cgroup2", "tmpfs", "proc"])
@pytest.mark.parametrize("way", ["-Urm", "-UrmC", "-m", "-rmp --fork"])
def test_a_payload_makes_no_namespace_and_mounts_nothing(boxed: Job, way: str, kind: str) -> None:
    ended = boxed.run(NAMESPACE.format(way=way, kind=kind))
    assert ended.exit_code != 0
    assert "mounted" not in boxed.said()


@pytest.mark.field("A6")
def test_a_site_may_allow_user_namespaces(spawner: GuardedSpawner, tmp_path: Path) -> None:
    nested = Job(spawner, tmp_path, "bubblewrap", user_namespaces=True)
    ended = nested.run("unshare -U true && echo made")
    assert "made" in nested.said() or "max_user_namespaces" in nested.said(), ended


@pytest.mark.field("W3")
@pytest.mark.parametrize("network", [False, True])
def test_programs_find_what_they_need_of_a_node(boxed: Job, network: bool) -> None:
    ended = boxed.run(
        "set -ex; getent hosts localhost; getent hosts $(uname -n); getent passwd $(id -u);"
        " getent group $(id -g); test -e /sys/devices/system/cpu/possible; ls -ld /tmp /var/tmp /dev/shm",
        network=network,
    )
    assert ended.exit_code == 0, boxed.said()


@pytest.mark.field("W3")
def test_lscpu_works(boxed: Job, need: Callable[..., str]) -> None:
    assert boxed.run(need("lscpu")).exit_code == 0, boxed.said()


UNKNOWN = """
import os, sys, tempfile
from pathlib import Path
os.setgroups([]); os.setgid(4321); os.setuid(4321)
from pilot.node.containers import user_name
from plugins.container.shown import etc
own = Path(tempfile.mkdtemp()) / "etc"
list(etc(own, user_name()))
print((own / "passwd").read_text().splitlines()[-1])
print((own / "group").read_text().splitlines()[-1])
"""


@pytest.mark.field("W3")
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_user_whom_no_file_of_the_node_knows_has_a_name_in_the_sandbox() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNKNOWN], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["user4321:x:4321:4321::/tmp:/bin/sh", "user4321:x:4321:"]


@pytest.mark.field("W3")
def test_what_is_shown_of_etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian keeps the configuration of Java, R and TeX there; a site adds its own; no secret is
    shown."""
    node, own = tmp_path / "node", tmp_path / "own"
    for name in (
        "java-17-openjdk",
        "R",
        "texmf",
        "ssl/certs",
        "ssl/private",
        "condor",
        "sudoers.d",
    ):
        (node / name).mkdir(parents=True)
    for name in (
        "passwd",
        "shadow",
        "os-release",
        "site.conf",
        "krb5.keytab",
        "ssl/private/key.pem",
    ):
        (node / name).write_text("root:x:0:0::/root:/bin/sh\n" if name == "passwd" else name)
    (node / "bashrc").write_text("only root's")
    (node / "bashrc").chmod(0o600)
    (node / "localtime").symlink_to(node / "os-release")
    monkeypatch.setattr(shown, "_HERE", str(node))
    show = (f"{node}/condor", f"{node}/site.conf", f"{node}/absent", "/opt/elsewhere")
    mounted = dict(shown.etc(own, "somebody", show))
    assert all((own / name).is_dir() for name in ("java-17-openjdk", "R", "texmf"))
    assert {str(node / name) for name in ("ssl/certs", "condor")} <= set(mounted)
    assert mounted[str(own)] == str(node)
    assert not [path for path in mounted if "private" in path or "sudoers" in path]
    assert {path.name for path in own.iterdir() if path.is_file()} == {
        "passwd", "group", "os-release", "localtime", "site.conf", "hosts", "resolv.conf", "gai.conf",
    }  # fmt: skip
    assert (own / "passwd").read_text().startswith("root:x:0:0")


@pytest.mark.field("W3")
def test_a_site_shows_more_paths(spawner: GuardedSpawner, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "f").write_text("seen")
    job = Job(spawner, tmp_path, "bubblewrap", show=(str(more), "/no/such/place"))
    ended = job.run(f"cat {more}/f; echo > {more}/g")
    assert ended.exit_code != 0
    assert "seen" in job.said()
    assert not (more / "g").exists()


def test_a_payload_speaks_to_what_is_behind_the_pipes_of_a_directory_among_its_devices(
    any_job: Job, tmp_path: Path
) -> None:
    """As a client of MPS does, whose daemon is outside."""
    pipes = tmp_path / "mps"
    pipes.mkdir()
    os.mkfifo(pipes / "control")
    heard = os.open(pipes / "control", os.O_RDONLY | os.O_NONBLOCK)
    try:
        any_job.run(f"echo hello > {pipes}/control", devices=(str(pipes),))
        assert os.read(heard, 100) == b"hello\n"
    finally:
        os.close(heard)
