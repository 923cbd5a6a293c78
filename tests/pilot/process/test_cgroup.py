"""Cgroups of payloads: where they are made, what they hold, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pilot.node.local import LocalNode
from pilot.node_ports import Exit, Order
from pilot.ports import Sandbox
from pilot.process import cgroup, proc
from pilot.process.cgroup import BESIDE_BYTES, Groups
from pilot.process.spawner import GuardedSpawner
from plugins.container.bare import Bare
from plugins.container.bubblewrap import Bubblewrap
from tests.pilot.attempts import attempt_of, container_setup
from tests.pilot.helpers import guarded
from tests.rig.waiting import until

ME, GUARDIAN, STRANGER = 10, 11, 99


class Kernel:
    """A tree of files as the kernel would show it, on which nothing happens."""

    def __init__(self, root: Path, line: str, own: str, files: dict[str, str]) -> None:
        self.root, self.files = root, dict(files)
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(f"9:name=systemd:/\n{line}\n")
        self.own = root / "sys/fs/cgroup" / own
        self.own.parent.mkdir(parents=True)
        self.make(self.own)

    def make(self, directory: Path) -> None:
        directory.mkdir()
        for name, text in self.files.items():
            (directory / name).write_text(text)

    def find(self, asked: bool = True) -> Groups | None:
        return cgroup.find("i", lambda: (ME, GUARDIAN), asked=asked, root=self.root, make=self.make)

    def says(self, name: str) -> str:
        return (self.own / name).read_text()


V1 = {
    "cgroup.procs": f"{ME}",
    "memory.limit_in_bytes": "",
    "memory.memsw.limit_in_bytes": "",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "memory.use_hierarchy": "1",
}
V2 = {
    "cgroup.procs": f"{ME}",
    "cgroup.controllers": "cpu memory pids",
    "cgroup.subtree_control": "",
    "cgroup.type": "domain",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\n",
}


@pytest.fixture
def v1(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path, "4:memory:/slurm/job_1", "memory/slurm/job_1", V1)


@pytest.fixture
def v2(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path, "0::/user.slice/pilot.service", "user.slice/pilot.service", V2)


def test_version_1_limits_memory_and_swap_and_counts_kills(v1: Kernel) -> None:
    groups = v1.find()
    group = groups.group("1.1", 100 << 10)
    limit = str((102 << 20) + BESIDE_BYTES)
    assert v1.says("ailurus-i/1.1/memory.limit_in_bytes") == limit
    assert v1.says("ailurus-i/1.1/memory.memsw.limit_in_bytes") == limit
    assert group.oom_kills() == 3
    with cgroup.inside(group.entrance):
        assert v1.says("ailurus-i/1.1/cgroup.procs").startswith("0")
    assert v1.says("cgroup.procs").startswith("0")


def test_version_2_moves_the_pilot_into_a_leaf_before_it_limits_payloads(v2: Kernel) -> None:
    groups = v2.find()
    assert v2.says("ailurus-i/pilot/cgroup.procs") == str(ME)
    assert v2.says("cgroup.subtree_control") == "+memory"
    assert v2.says("ailurus-i/cgroup.subtree_control") == "+memory"
    group = groups.group("1.1", 100 << 10)
    assert v2.says("ailurus-i/1.1/memory.max") == str((102 << 20) + BESIDE_BYTES)
    assert v2.says("ailurus-i/1.1/memory.swap.max") == "0"
    assert group.oom_kills() == 2
    with cgroup.inside(group.entrance):
        assert v2.says("ailurus-i/1.1/cgroup.procs").startswith("0")
    assert v2.says("ailurus-i/pilot/cgroup.procs").startswith("0")


def test_version_1_makes_parts_below_the_payloads_own(v1: Kernel) -> None:
    v1.files["memory.max_usage_in_bytes"] = str(9 << 20)
    group = v1.find().group("1.1", 100 << 10, divided=True)
    part = group.part("1.1.7.1", 10 << 10)
    limit = str(10 * 1024 + 10 * 1024 // 50 << 10)
    assert int(v1.says("ailurus-i/1.1/1.1.7.1/memory.limit_in_bytes")) == int(limit) + BESIDE_BYTES
    with cgroup.inside(part.entrance):
        assert v1.says("ailurus-i/1.1/1.1.7.1/cgroup.procs").startswith("0")
    # The payload's own limit was reached, not this one.
    assert not part.was_full()
    (v1.own / "ailurus-i/1.1/1.1.7.1/memory.max_usage_in_bytes").write_text(str(26 << 20))
    assert part.was_full()


def test_version_2_has_no_process_in_a_cgroup_that_has_parts(v2: Kernel) -> None:
    group = v2.find().group("1.1", 100 << 10, divided=True)
    assert v2.says("ailurus-i/1.1/cgroup.subtree_control") == "+memory"
    with cgroup.inside(group.entrance):
        assert v2.says("ailurus-i/1.1/rest/cgroup.procs").startswith("0")
        assert not v2.says("ailurus-i/1.1/cgroup.procs").startswith("0")
    assert v2.says("ailurus-i/1.1/rest/memory.max") == "max"
    # What is killed in a part is the part's.
    (v2.own / "ailurus-i/1.1/rest/memory.events").write_text("oom 0\noom_kill 0\n")
    part = group.part("1.1.7.1", 10 << 10)
    assert (part.oom_kills(), group.oom_kills()) == (2, 0)
    assert part.was_full()


def test_what_still_runs_when_its_payload_is_over_keeps_its_cgroup_until_the_next(
    v1: Kernel,
) -> None:
    groups = v1.find()
    group = groups.group("1.1", 1000)
    # As the kernel refuses to remove one with processes, so does a file system one with files.
    groups.remove(group)
    assert (v1.own / "ailurus-i/1.1").exists()
    for file in (v1.own / "ailurus-i/1.1").iterdir():
        file.unlink()
    assert groups.group("2.1", 1000) is not None
    assert not (v1.own / "ailurus-i/1.1").exists()


def test_version_2_takes_back_what_it_did(v2: Kernel) -> None:
    v2.find().close()
    assert v2.says("cgroup.subtree_control") == "-memory"
    assert v2.says("cgroup.procs") == str(ME)


def test_what_a_guardian_has_removed_is_no_trouble_for_its_pilot(v2: Kernel) -> None:
    groups = v2.find()
    for path in (*groups.directory.glob("*/*"), *groups.directory.glob("*.*")):
        # As the kernel lets a cgroup be removed with its files.
        if path.name != "cgroup.procs":
            path.unlink()
    (groups.directory / "pilot/cgroup.procs").unlink()
    (groups.directory / "cgroup.procs").unlink()
    cgroup.leave_nothing(groups.directory, v2=True)
    assert not groups.directory.exists()
    assert v2.says("cgroup.subtree_control") == "-memory"
    groups.close()


def test_a_guardian_leaves_no_cgroup_of_a_pilot_that_was_killed(tmp_path: Path) -> None:
    directory = tmp_path / "ailurus-i"
    (directory / "1.1/rest").mkdir(parents=True)
    with guarded() as spawner:
        spawner.cgroups(directory, v2=False)
    assert not directory.exists()


def test_a_cgroup_with_somebody_elses_processes_is_let_be(v2: Kernel) -> None:
    (v2.own / "cgroup.procs").write_text(f"{ME}\n{STRANGER}")
    assert v2.find() is None
    assert sorted(path.name for path in v2.own.iterdir()) == sorted(V2)


@pytest.mark.parametrize("name", ["cgroup.type", "cgroup.controllers"])
def test_the_topmost_cgroup_and_one_without_memory_are_let_be(v2: Kernel, name: str) -> None:
    (v2.own / name).unlink()
    assert v2.find() is None


def test_a_kernel_that_refuses_gets_back_what_was_moved(v2: Kernel) -> None:
    (v2.own / "cgroup.subtree_control").unlink()
    assert v2.find() is None
    assert v2.says("cgroup.procs") == str(ME)


def test_where_cgroups_do_not_add_up_a_payload_stays_within_the_batch_systems(v1: Kernel) -> None:
    (v1.own / "memory.use_hierarchy").write_text("0")
    assert v1.find() is None


def test_one_that_cannot_be_limited_is_not_used(v1: Kernel) -> None:
    groups = v1.find()
    del v1.files["memory.limit_in_bytes"]
    assert groups.group("1.1", 1000) is None
    assert groups.group("1.1", 1000) is None


def test_a_kernel_that_counts_no_swap_limits_memory_alone(v1: Kernel) -> None:
    del v1.files["memory.memsw.limit_in_bytes"]
    assert v1.find().group("1.1", 1000) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="as an ordinary user all that is ours was delegated")
def test_root_takes_what_was_not_delegated_only_where_the_site_says_so(v1: Kernel) -> None:
    assert v1.find(asked=False) is None
    try:
        os.setxattr(v1.own, "trusted.delegate", b"1")
    except OSError:
        pytest.skip("this file system has no such attributes")
    assert v1.find(asked=False) is not None


def test_a_cgroup_outside_of_what_this_process_sees_is_none(tmp_path: Path) -> None:
    assert Kernel(tmp_path, "4:memory:/../other", "memory/other", V1).find() is None
    assert cgroup.find("i", tuple, root=tmp_path / "nothing") is None


# with a kernel ------------------------------------------------------------------------------------


@pytest.fixture
def groups() -> Iterator[Groups]:
    found = cgroup.find(f"test-{os.getpid()}", partial(proc.kin, os.getpid()), asked=True)
    if found is None:
        pytest.skip("no cgroups can be made here")
    yield found
    found.close()
    assert not found.directory.exists()


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


def ended(node: LocalNode, directory: Path, command: str, memory_mb: int) -> Exit:
    """How a payload ends that may have so much memory."""
    attempt = attempt_of(command, memory_mb=memory_mb)
    work, tmp = directory / "work", directory / "tmp"
    work.mkdir()
    tmp.mkdir()
    box = Sandbox(
        directory=str(work),
        tmp=str(tmp),
        environment={"PATH": "/usr/bin:/bin", "AILURUS_ATTEMPT": attempt.name},
        memory_mb=memory_mb,
        own=str(directory),
    )
    order = Order(
        name=attempt.name,
        spec=attempt.spec,
        argv=["/bin/sh", "-c", command],
        box=box,
        stdout=str(directory / "stdout"),
        stderr=str(directory / "stderr"),
    )
    ends: list[Exit] = []
    node.start(order, ends.append)
    until(lambda: ends)
    node.forget(attempt.name)
    return ends[0]


EATS_ALL = "exec /usr/bin/python3 -c 'b\"x\" * (200 << 20)'"


@pytest.mark.real
def test_the_kernel_ends_a_payload_that_takes_more_than_its_memory_and_that_is_told(
    groups: Groups, spawner: GuardedSpawner, tmp_path: Path
) -> None:
    node = LocalNode(Bubblewrap(container_setup()), spawner, groups=groups)
    end = ended(node, tmp_path, EATS_ALL, memory_mb=60)
    assert end.process.exit_code == 128 + signal.SIGKILL
    found = end.explain()
    assert (found.oom_kills, found.where) == (1, "in its own cgroup")
    assert not any(path.is_dir() for path in groups.directory.iterdir() if path.name != "pilot")


@pytest.mark.real
def test_a_child_that_the_kernel_kills_is_told_and_no_neighbours(
    groups: Groups, spawner: GuardedSpawner, tmp_path: Path
) -> None:
    node = LocalNode(Bubblewrap(container_setup()), spawner, groups=groups)
    end = ended(node, tmp_path, f"({EATS_ALL}); exit 7", memory_mb=60)
    assert end.process.exit_code == 7
    assert end.explain().oom_kills == 1
    other = tmp_path / "other"
    other.mkdir()
    end = ended(node, other, "kill -9 $$", memory_mb=60)
    assert end.process.exit_code == 128 + signal.SIGKILL
    assert end.explain().oom_kills == 0


@pytest.mark.real
def test_a_payload_in_a_sandbox_sees_no_file_of_its_cgroup(
    groups: Groups, spawner: GuardedSpawner, tmp_path: Path
) -> None:
    node = LocalNode(Bubblewrap(container_setup()), spawner, groups=groups)
    command = "ls /sys/fs/cgroup; find / -name cgroup.procs; mount -t cgroup2 none /tmp"
    assert ended(node, tmp_path, command, memory_mb=60).process.exit_code != 0
    assert (tmp_path / "stdout").read_text() == ""
    assert "/sys/fs/cgroup': No such file" in (tmp_path / "stderr").read_text()


@pytest.mark.real
def test_a_payload_without_a_sandbox_could_leave_its_cgroup_so_it_has_none(
    groups: Groups, spawner: GuardedSpawner, tmp_path: Path
) -> None:
    node = LocalNode(Bare(container_setup()), spawner, groups=groups)
    ended(node, tmp_path, "cat /proc/self/cgroup", memory_mb=60)
    assert "/ailurus-test-" not in (tmp_path / "stdout").read_text()
