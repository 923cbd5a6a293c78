"""What payloads take is counted wherever they put it, and attempt against what they asked for."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ailurus.loops import Loop
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile
from ailurus.protocol.resources import Resources
from pilot.clock import SystemClock
from pilot.files.stage import Stage
from pilot.node import sampler
from pilot.node.local import LocalNode
from pilot.node.shares import Slot
from pilot.node.supervisor import Supervisor
from pilot.ports import JobError
from pilot.process.proc import Process
from pilot.process.usage import AHEAD_BYTES, Disk, Nameless, NodeUse, charge, nameless
from pilot.run import Outcome, run
from pilot.samples import Sampled
from pilot.site import Limits, bounds_of
from pilot.workdir import Workdir
from plugins.container.bubblewrap import Bubblewrap
from plugins.data.file import File
from tests.pilot.attempts import attempt_of, container_setup
from tests.pilot.fakes import FakeClock, FakeReadings
from tests.pilot.helpers import guarded

MB = 1 << 20
ROOT = Path(__file__).parents[3]


def used(top: Path) -> int:
    disk = Disk((top,))
    while not disk.step():
        pass
    return disk.used


def sized(path: Path, size: int) -> Path:
    path.write_bytes(b"x" * size)
    return path


@pytest.mark.field("A16")
def test_a_file_of_many_names_counts_once(tmp_path: Path) -> None:
    sized(tmp_path / "a", 6 * MB)
    for name in ("b", "c"):
        (tmp_path / name).hardlink_to(tmp_path / "a")
    assert 6 * MB <= used(tmp_path) < 7 * MB


@pytest.mark.field("A14")
def test_a_hole_counts_for_nothing(
    tmp_path: Path,
) -> None:
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(3 << 30)
    assert used(tmp_path) < MB


@pytest.mark.field("A14")
def test_what_is_allocated_beyond_a_files_end_counts_unless_the_file_grows() -> None:
    blocks = SimpleNamespace(st_size=0, st_blocks=20 * MB // 512)
    assert charge(blocks) == 20 * MB
    assert charge(SimpleNamespace(st_size=10 * MB, st_blocks=20 * MB // 512)) < 11 * MB


def test_no_link_leads_a_walk_out(tmp_path: Path) -> None:
    """A directory that is seen in one step is a link to elsewhere in the next."""
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    (top / "seen" / "below").mkdir(parents=True)
    (elsewhere / "below").mkdir(parents=True)
    sized(elsewhere / "below" / "large", 5 * MB)
    (elsewhere / "shut").mkdir(mode=0)
    for replaced in (top / "seen", top):
        disk = Disk((top,))
        assert not disk.step(1)
        replaced.rename(tmp_path / f"was-{replaced.name}")
        replaced.symlink_to(elsewhere)
        while not disk.step(1):
            pass
        assert disk.used < MB
        replaced.unlink()
        (tmp_path / f"was-{replaced.name}").rename(replaced)
    assert (elsewhere / "shut").stat().st_mode & 0o777 == 0


@pytest.mark.field("A14")
def test_what_is_allocated_ahead_of_many_small_files_counts(tmp_path: Path) -> None:
    """`fallocate --keep-size` took sixteen times of what was counted."""
    for n in range(1500):
        with (tmp_path / f"{n}").open("wb") as file:
            ahead_of(file.fileno(), 64 << 10)
    allocated = sum(found.stat().st_blocks * 512 for found in tmp_path.iterdir())
    if allocated < 90 * MB:
        pytest.skip("this file system allocates nothing ahead")
    assert used(tmp_path) >= allocated - AHEAD_BYTES - 1600 * 4096


def ahead_of(fd: int, size: int) -> None:
    ctypes.CDLL(None).fallocate(fd, 1, ctypes.c_long(0), ctypes.c_long(size))  # FALLOC_FL_KEEP_SIZE


HIDDEN = """
import ctypes, os, subprocess, sys
from pilot.process.usage import nameless  # first: the interpreter may lie where only root can read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
hides = "import ctypes, os, sys; fd = os.memfd_create('m'); os.write(fd, b'x' * (3 << 20));" \\
    "ctypes.CDLL(None).prctl(4, 0); print('hidden', flush=True); sys.stdin.read()"
made = subprocess.Popen(["unshare", "-U", "/usr/bin/python3", "-c", hides],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
made.stdout.readline()
try:
    os.listdir(f"/proc/{made.pid}/fd")
except PermissionError:
    print(nameless([made.pid], -1).memory)
made.communicate()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.real
@pytest.mark.field("A14")
def test_files_of_a_process_that_hides_them_count() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.strip(), done.stderr
    assert 3 * MB <= int(done.stdout) < 4 * MB


@pytest.mark.field("A14", "A15")
def test_every_inode_counts_in_a_tree_of_any_size(tmp_path: Path) -> None:
    """51,000 empty files were looked at in part only, so what came after them was free."""
    many, step = 2000, 900
    (tmp_path / "first").mkdir()
    for n in range(many // 2):
        os.mknod(tmp_path / "first" / f"{n}")
        (tmp_path / f"{n}").symlink_to("x")
    sized(tmp_path / "first" / "zz", 5 * MB)
    disk = Disk((tmp_path,))
    steps = 1
    while not disk.step(step):
        steps += 1
    assert steps == 3
    assert disk.used >= many * 4096 + 5 * MB


def test_a_walk_that_is_not_over_tells_at_least_what_it_found(tmp_path: Path) -> None:
    for name in "abc":
        sized(tmp_path / name, 2 * MB)
    disk = Disk((tmp_path,))
    assert not disk.step(2)
    assert disk.used >= 4 * MB


CLOSED = """
import ctypes, os, pathlib, sys
from pilot.process.usage import Disk  # first: the interpreter may lie where only root can read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
top = pathlib.Path(sys.argv[1])
(top / "a" / "b").mkdir(parents=True)
(top / "a" / "b" / "f").write_bytes(b"x" * (5 << 20))
(top / "a" / "b").chmod(0)
(top / "a").chmod(0o300)
disk = Disk((top,))
disk.step()
print(disk.used)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_directory_that_the_payload_closed_is_counted(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to("/tmp/pytest-of-root"):
            path.chmod(0o755)
    top = tmp_path / "top"
    top.mkdir(mode=0o777)
    top.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, top], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 5 * MB


def test_what_is_too_deep_to_be_counted_is_said(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    disk = Disk((tmp_path,))
    disk.step()
    assert disk.too_deep


@pytest.mark.field("A14", "A15")
def test_files_without_a_name_count_while_they_are_open(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    me = [os.getpid()]
    before = nameless(me, device)
    memory = os.memfd_create("m")
    os.write(memory, b"x" * 3 * MB)
    again = os.dup(memory)
    disk = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    os.write(disk, b"x" * 5 * MB)
    seen = nameless(me, device)
    for fd in (memory, again, disk):
        os.close(fd)
    assert 3 * MB <= seen.memory - before.memory < 4 * MB
    assert 5 * MB <= seen.disk - before.disk < 6 * MB


def test_files_without_a_name_are_searched_for_when_the_node_has_more_and_while_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none, some = Nameless(0, 0), Nameless(0, MB)
    little, more_disk = NodeUse(10_000, 10_000), NodeUse(10_000, 100_000)
    more_memory = NodeUse(15_000, 100_000)
    looks = [  # seconds, what the node has, what a search finds, whether there is one
        (10, little, none, True),
        (20, little, none, False),
        (30, more_disk, some, True),
        (40, more_disk, none, True),
        (50, more_disk, none, False),
        (60, more_memory, none, True),
        (70, little, none, False),
        (80, more_memory, none, True),
        (90, more_memory, none, False),
        (400, more_memory, none, True),
    ]
    monkeypatch.setattr(sampler, "SHARE", 100.0)
    clock, readings = FakeClock(), FakeReadings()
    readings.processes = {101: Process(1, 0.0, 0)}
    watch = sampler.Sampler(clock, readings)
    watch.watch("1.1", Sampled(memory_kb=1000, directory=str(tmp_path)))
    watch.started("1.1", "first", lambda: 101)
    for seconds, use, found, expected in looks:
        readings.node, readings.files = use, found
        before = readings.searches
        watch.look(clock.now + seconds)
        assert readings.searches == before + expected, seconds


@pytest.fixture(scope="module")
def box() -> Iterator[Any]:
    """A sandbox, a guardian and a supervisor that looks."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("no /usr/bin/python3 to try with")
    with guarded() as spawner:
        node = LocalNode(Bubblewrap(container_setup()), spawner)
        supervisor = Supervisor(bounds_of(Limits()), {"": node})
        loop = Loop("supervisor", None, time.monotonic)
        thread = threading.Thread(target=supervisor.run, args=(loop,))
        thread.start()
        yield SimpleNamespace(
            clock=SystemClock(), node=node, nodes={"": node}, supervisor=supervisor
        )
        supervisor.close()
        thread.join()


def ran(box: Any, directory: Path, program: str, **fields: Any) -> tuple[Outcome, str]:
    """How a Python program ends as a payload that asked for 100 MB of memory and of disk."""
    attempt = attempt_of("/usr/bin/python3 program.py", memory_mb=100, disk_mb=100, **fields)
    with Workdir(directory / "attempt") as work:
        work.make()
        (work.directory / "program.py").write_text(textwrap.dedent(program))
        return run(
            attempt, work, (Slot(Resources(cores=1)),), box
        ), work.stdout.read_text() + work.stderr.read_text()


WRITABLE = """
import os
for line in open("/proc/self/mountinfo"):
    place = line.split()[4]
    for name in ("", "/ailurus-try", "/a/b"):
        try:
            os.close(os.open(place + name, os.O_WRONLY | os.O_CREAT, 0o600))
            print("writable:" + place)
        except OSError:
            pass
for top in os.listdir("/"):
    for place in ("/" + top, "/" + top + "/tmp", "/" + top + "/shm"):
        try:
            os.close(os.open(place + "/ailurus-try", os.O_WRONLY | os.O_CREAT, 0o600))
            print("writable:" + os.path.realpath(place))
        except OSError:
            pass
"""
FILL = """
import os, sys, time
fd = {open}
try:
    for _ in range(300):
        os.write(fd, b"x" * (1 << 20))
except OSError as error:
    print("refused", error, flush=True)
    os._exit(9)
time.sleep(30)
"""


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.field("S2", "A14", "A15")
def test_nothing_that_a_payload_can_write_to_takes_more_than_it_asked_for(
    box: Any, tmp_path: Path
) -> None:
    outcome, said = ran(box, tmp_path, WRITABLE)
    assert outcome.error is None, said
    found = {line.partition(":")[2] for line in said.splitlines() if line.startswith("writable:")}
    work = str(tmp_path / "attempt" / "work")
    devices = {"/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/random", "/dev/urandom"}
    hidden = {place for place in found if place.startswith("/proc/")}  # /dev/null in their place
    assert {work, "/tmp", "/dev/shm"} <= found
    new = "os.open({!r}, os.O_WRONLY | os.O_CREAT)".format
    ways = {place: new(f"{place}/f") for place in found - devices - hidden}
    ways |= {
        place: new(f"{place}/f") for place in ("/", "/etc", "/run", "/var", "/var/tmp", "/dev")
    }
    ways["memfd"] = "os.memfd_create('x')"
    ways["unlinked"] = "os.open('.', os.O_TMPFILE | os.O_WRONLY)"
    ways["unlinked in memory"] = "os.open('/dev/shm', os.O_TMPFILE | os.O_WRONLY)"
    for place, way in ways.items():
        outcome, said = ran(box, tmp_path, FILL.format(open=way))
        assert outcome.error is not None, place
        if outcome.error.code not in (Code.WORKDIR_TOO_LARGE, Code.OVER_MEMORY):
            assert "Read-only" in said or "No space left" in said or "Permission" in said, (
                place,
                said,
            )


@pytest.mark.real
@pytest.mark.field("S2")
def test_a_payload_that_is_quicker_than_a_look_is_held_to_its_disk_as_well(
    box: Any, tmp_path: Path
) -> None:
    outcome, said = ran(
        box,
        tmp_path,
        "f = open('/var/tmp/f', 'wb'); [f.write(b'x' * (1 << 20)) for _ in range(200)]",
    )
    assert outcome.error is not None, said
    assert outcome.error.code is Code.WORKDIR_TOO_LARGE


@pytest.mark.real
def test_a_payload_that_is_quicker_than_a_look_is_held_to_its_output_as_well(
    tmp_path: Path,
) -> None:
    supervisor = Supervisor(bounds_of(Limits(stdout="1MB")), {})
    attempt = attempt_of("true")
    with Workdir(tmp_path / "attempt") as work:
        work.make()
        with supervisor.watching(attempt, work, []):
            sized(work.stdout, 3 * MB)
    assert attempt.stopped is not None
    assert attempt.stopped.code is Code.STDOUT_TOO_BIG


@pytest.mark.real
@pytest.mark.field("S2", "A14")
def test_files_in_memory_are_told_as_memory(box: Any, tmp_path: Path) -> None:
    attempt = attempt_of(
        "head -c 40M /dev/zero > /dev/shm/f; sleep 2.5", memory_mb=100, disk_mb=100
    )
    with Workdir(tmp_path / "attempt") as work:
        work.make()
        assert run(attempt, work, (Slot(Resources(cores=1)),), box).error is None
    assert attempt.usage.max_rss_kb >= 40 << 10


@pytest.mark.real
@pytest.mark.field("A16")
def test_inputs_count_beside_the_disk_whatever_was_declared(box: Any, tmp_path: Path) -> None:
    inputs = (InputFile(name="in", url="file:///in"),)
    attempt = attempt_of(
        "cp in out; ln in in2; ln in in3; sleep 2.5", memory_mb=100, disk_mb=100, inputs=inputs
    )
    with Workdir(tmp_path / "attempt") as work:
        work.make()
        sized(work.directory / "in", 90 * MB)
        outcome = run(attempt, work, (Slot(Resources(cores=1)),), box)
    assert outcome.error is None
    assert attempt.usage.disk_mb in (180, 181)


@pytest.mark.field("A14", "A15")
@pytest.mark.parametrize(
    ("sizes", "declared", "code"),
    [
        ([3, 3, 3], False, None),
        ([3, 30], False, Code.INPUTS_TOO_LARGE),
        ([6, 6], False, Code.INPUTS_TOO_LARGE),
        ([30], True, None),
    ],
)
def test_inputs_of_unknown_size_take_no_more_than_the_jobs_disk(
    tmp_path: Path, sizes: list[int], declared: bool, code: Code | None
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    inputs = tuple(
        InputFile(
            name=f"i{n}",
            url=f"file://{sized(root / str(n), size * MB)}",
            size=size * MB if declared else None,
        )
        for n, size in enumerate(sizes)
    )
    stage = Stage(lambda scheme: File(roots=[str(root)]), "", bounds_of(Limits()))
    with Workdir(tmp_path / "attempt") as work:
        work.make()
        attempt = attempt_of("true", disk_mb=10, inputs=inputs)
        if code is None:
            stage.stage_in(attempt, work)
            return
        with pytest.raises(JobError) as refused:
            stage.stage_in(attempt, work)
        assert refused.value.code is code
        assert used(work.path) < 15 * MB  # it stopped, and did not look afterwards
