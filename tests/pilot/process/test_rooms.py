"""A guardian in namespaces of another process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pilot.ports import ProcessEnd, ProcessSpec
from pilot.process import cgroup, proc, rooms
from pilot.process.spawner import GuardedSpawner
from pilot.room_ports import (
    Bind,
    Closed,
    Directory,
    EmptyFile,
    Entrance,
    Memory,
    Only,
    Step,
    Symlink,
)
from tests.pilot.helpers import guarded, processes_with
from tests.rig.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")


@contextmanager
def made(
    spawner: GuardedSpawner, *steps: Step, users: bool = False, first: str = ":", **how: object
) -> Iterator[int]:
    """A room in the mount namespace of a process that only holds it. `users`: in a user namespace,
    as an ordinary user's. `first`: what that process does there before."""
    apart = ["-m", "-U", "-r"] if users else ["-m"]
    argv = ["/usr/bin/unshare", *apart, "/bin/sh", "-c", f"{first}; exec sleep 600"]
    key = spawner.spawn(ProcessSpec(argv=argv, tell=True), lambda _: None)
    until(lambda: spawner.pid(key) is not None)
    own = Path("/proc/self/ns/mnt").stat().st_ino
    path = Path(f"/proc/{spawner.pid(key)}/ns/mnt")
    until(lambda: path.stat().st_ino != own)
    until(lambda: path.parents[1].joinpath("comm").read_text() == "sleep\n")
    names = ("user", "mnt") if users else ("mnt",)
    fds = [os.open(path.with_name(name), os.O_RDONLY) for name in names]
    try:
        entrance = Entrance(namespaces=fds, steps=steps, **how)  # type: ignore[arg-type]
        yield spawner.enter(entrance, lambda _: None)
    finally:
        for fd in fds:
            os.close(fd)


def run(
    spawner: GuardedSpawner, room: int, script: str, out: Path, cgroup: Sequence[int] = ()
) -> int:
    ends, over = list[ProcessEnd](), threading.Event()

    def done(ended: ProcessEnd) -> None:
        ends.append(ended)
        over.set()

    order = ProcessSpec(argv=["/bin/sh", "-c", script], stdout=str(out), room=room, cgroup=cgroup)
    spawner.spawn(order, done)
    assert over.wait(20)
    return ends[0].exit_code


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as started:
        yield started


def test_a_program_in_a_room_sees_what_was_mounted_there_and_nobody_else_does(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    place, source = tmp_path / "place", tmp_path / "source"
    place.mkdir()
    source.write_text("seen")
    steps = (
        Memory(str(place)), Directory(f"{place}/in"), EmptyFile(f"{place}/in/it"),
        Symlink(f"{place}/to", "in"), Bind(str(source), f"{place}/in/it"),
        Closed(str(place)),
    )  # fmt: skip
    with made(spawner, *steps) as room:
        out = tmp_path / "out"
        assert run(spawner, room, f"cat {place}/to/it", out) == 0
        assert out.read_text() == "seen"
        assert run(spawner, room, f"touch {place}/new || echo > {place}/in/it", out) != 0
    assert list(place.iterdir()) == []


def test_no_link_leads_a_mount_elsewhere(spawner: GuardedSpawner, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with (
        pytest.raises(OSError, match=r"Not a directory|Too many|such file|Invalid"),
        made(spawner, Memory(f"{tmp_path}/link")),
    ):
        pass
    (tmp_path / "real" / "below").mkdir()
    with (
        pytest.raises(OSError, match=r"Not a directory|Too many|such file|Invalid"),
        made(spawner, Memory(f"{tmp_path}/link/below")),
    ):
        pass


@pytest.mark.parametrize("users", [False, True])
def test_a_room_may_leave_out_what_else_the_node_has_mounted(
    spawner: GuardedSpawner, tmp_path: Path, users: bool
) -> None:
    lib, out = Path("/lib").resolve(), tmp_path / "out"
    kept = (str(tmp_path), f"{tmp_path}/below", "/usr", str(lib), "/missing", "/dev", "/proc")
    with made(spawner, Only(kept), users=users) as room:
        script = f"exec 2>&1; cd /; echo *; cat /proc/self/mountinfo; echo > {tmp_path}/new"
        assert run(spawner, room, script, out) == 0
    names, *mounts = out.read_text().splitlines()
    links = {entry.name for entry in Path("/").iterdir() if entry.is_symlink()}
    assert set(names.split()) == {tmp_path.parts[1], "dev", "proc", "sys", "usr", *links}
    seen = {line.split()[4] for line in mounts}
    below = {path for path in seen if path.startswith(("/dev/", "/proc/"))}
    assert seen - below == {"/", "/usr", "/dev", "/proc", str(tmp_path)}
    assert (tmp_path / "new").exists()


def test_a_room_that_keeps_what_it_should_leave_out_says_so_and_why(
    spawner: GuardedSpawner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The kernel changes no root whose mounts others share.
    with made(spawner, Only((str(tmp_path), "/usr")), first="mount --make-rshared /") as room:
        assert run(spawner, room, "cat /proc/self/mountinfo", tmp_path / "out") == 0
    assert " / /proc " in (tmp_path / "out").read_text()
    (line,) = [one.message for one in caplog.records if "room_made_in_part" in one.message]
    assert "the node's other file systems are still mounted there" in line
    assert "pivot_root: Invalid argument" in line


def test_a_room_keeps_each_proc_of_which_a_sandbox_may_need_the_whole(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    place, kept = tmp_path / "clean proc", tmp_path / "kept"
    place.mkdir()
    kept.mkdir()
    # As in a container: something covers a part of /proc, and a whole one is elsewhere.
    first = f"mount -t proc proc '{place}'; mount --bind /dev/null /proc/uptime"
    only = Only((str(kept), "/usr", str(Path("/lib").resolve()), "/dev", "/proc"))
    with made(spawner, only, first=first) as room:
        script = f"cat '{place}/uptime' >&2; unshare -Urpf --mount-proc echo new"
        assert run(spawner, room, script, kept / "out") == 0
    assert (kept / "out").read_text() == "new\n"


def test_what_a_room_keeps_is_opened_once_however_often_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    found = [*rooms._opened([str(tmp_path), f"{tmp_path}/below", str(tmp_path)])]
    for _, fd in found:
        os.close(fd)
    assert [path for path, _ in found] == [str(tmp_path)]


def test_a_confined_room_has_no_capability_and_gets_none(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with made(spawner, confined=True) as room:
        assert run(spawner, room, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status", out) == 0
    said = dict(line.split(":\t") for line in out.read_text().splitlines())
    assert said.pop("NoNewPrivs") == "1"
    assert set(said) == {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    assert set(said.values()) == {"0" * 16}


def test_a_program_in_a_room_is_held_to_its_cgroup(spawner: GuardedSpawner, tmp_path: Path) -> None:
    groups = cgroup.find(f"room-{os.getpid()}", partial(proc.kin, os.getpid()), asked=True)
    if groups is None:
        pytest.skip("no cgroups can be made here")
    eats = "exec /usr/bin/python3 -c 'b\"x\" * (200 << 20)'"
    with made(spawner, Memory("/sys/fs/cgroup"), confined=True) as room:
        group = groups.group("1.1", 60 << 10)
        assert run(spawner, room, eats, tmp_path / "out", group.entrance) == -signal.SIGKILL
        assert group.oom_kills() == 1
        assert run(spawner, room, eats, tmp_path / "out") == 0
        group.remove()
    groups.close()
    assert not groups.directory.exists()


def test_p6_what_runs_in_a_room_ends_with_it(spawner: GuardedSpawner) -> None:
    mark, ends = f"room-{os.getpid()}", list[ProcessEnd]()
    with made(spawner) as room:
        order = ProcessSpec(
            argv=["/bin/sh", "-c", "setsid sleep 600 & sleep 600"],
            environment={"AILURUS_ATTEMPT": mark},
            room=room,
            tell=True,
        )
        key = spawner.spawn(order, ends.append)
        until(lambda: len(processes_with(mark)) == 3)
        assert spawner.pid(key) in processes_with(mark)
        spawner.signal(room, signal.SIGKILL)
        until(lambda: not processes_with(mark), 10)
        until(lambda: bool(ends))
        assert ends[0].errno


def test_a_signal_reaches_what_runs_in_a_room(spawner: GuardedSpawner) -> None:
    with made(spawner) as room:
        ends: list[ProcessEnd] = []
        key = spawner.spawn(ProcessSpec(argv=["/bin/sleep", "600"], room=room), ends.append)
        spawner.signal(key, signal.SIGTERM)
        until(lambda: bool(ends))
    assert ends[0].exit_code == -signal.SIGTERM


def test_a_room_that_has_ended_costs_nothing_more(spawner: GuardedSpawner) -> None:
    with made(spawner) as room:
        assert len(spawner._listeners) == 1
        spawner.signal(room, signal.SIGKILL)
        until(lambda: not spawner._listeners)
    until(lambda: not spawner._rooms)


def test_a_program_that_is_stopped_in_a_room_goes_on(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    """Nobody else in there could let it."""
    with made(spawner) as room:
        out = tmp_path / "out"
        assert run(spawner, room, "kill -STOP $$; echo on; exit 4", out) == 4
        assert out.read_text() == "on\n"


VFORK = """
import ctypes, os, platform, signal
clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
# CLONE_VFORK without shared memory.
if ctypes.CDLL(None).syscall(clone, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
os._exit(3)
"""


@pytest.mark.slow
def test_a_program_whose_child_is_stopped_before_its_exec_goes_on(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    """It waits in the kernel, and nobody is told of it."""
    with made(spawner) as room:
        script = tmp_path / "vfork.py"
        script.write_text(VFORK)
        out = tmp_path / "out"
        assert run(spawner, room, f"exec python3 {script}", out) == 3
