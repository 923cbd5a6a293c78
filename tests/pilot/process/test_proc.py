"""What is read of /proc: numbers where they are, nothing where they are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.process import kill, oom, proc


def test_a_command_may_hold_blanks_and_parentheses():
    tick, page_kb = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE") // 1024
    times = f"{tick} {2 * tick} {3 * tick} {4 * tick}"
    text = f"7 (a b) (c) S 5 7 7 0 -1 4194560 1 2 3 4 {times} 20 0 1 0 9 100 30 1 2 3"
    found = proc.parse_stat(text.encode())
    assert (found.parent, found.cpu_s, found.rss_kb) == (5, 10.0, 30 * page_kb)


def test_a_scan_has_this_process_and_its_parent():
    found = proc.scan()
    assert found[os.getpid()].parent == os.getppid()
    assert found[os.getpid()].rss_kb > 1000


def test_trees_hold_all_below_a_root_and_nothing_of_a_root_that_is_gone():
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1}
    processes = {pid: proc.Process(parent, 0.0, 0) for pid, parent in parents.items()}
    trees = proc.trees(processes, [10, 20, 99])
    assert {root: sorted(tree) for root, tree in trees.items()} == {
        10: [10, 11, 12],
        20: [20],
        99: [],
    }


def test_io_and_memory_of_this_process_are_told_and_of_one_that_is_gone_are_not():
    me, gone = os.getpid(), 2**22 + 1
    assert proc.io_of(gone) is None
    assert proc.io_of(me) is None or proc.io_of(me).moved > 0
    mapped = proc.pss_kb([me, gone])
    assert mapped is None or mapped.all > mapped.shmem
    assert proc.pss_kb([gone]) is None
    assert proc.rss_shmem_kb([gone]) == 0
    assert proc.shmem_kb() >= 0


def test_the_io_of_a_child_passes_to_the_parent_that_waits_for_it(tmp_path):
    """On this, the sums of the supervisor stand."""
    if proc.io_of(os.getpid()) is None:
        pytest.skip("this kernel does not count I/O by process")
    writes = (
        "import sys; print(open(sys.argv[1], 'wb').write(bytes(5_000_000)), flush=True); input()"
    )
    command = [sys.executable, "-c", writes, tmp_path / "file"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        alone = proc.io_of(os.getpid()).moved
        assert proc.io_of(child.pid).moved >= 5_000_000
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert proc.io_of(os.getpid()).moved - alone < 5_000_000
        child.wait()
        assert proc.io_of(os.getpid()).moved - alone >= 5_000_000


def test_a_counter_is_found_by_its_whole_name(tmp_path):
    file = tmp_path / "events"
    file.write_bytes(b"oom 1\noom_kill 22\noom_kill_x 3\n")
    assert proc.counter(str(file), b"oom_kill") == 22
    assert proc.counter(str(file), b"high") is None
    assert proc.counter(str(tmp_path), b"oom_kill") is None  # a directory opens, and is not read


@pytest.mark.parametrize(
    ("cgroups", "files", "expected"),
    [
        ("0::/a/b\n", ["a/b/memory.events"], "a/b/memory.events"),
        ("0::/a/b\n", ["memory.events"], "memory.events"),
        ("0::/\n", ["memory.events"], "memory.events"),
        (
            "5:cpu:/x\n4:memory,pids:/a\n0::/\n",
            ["memory/a/memory.oom_control"],
            "memory/a/memory.oom_control",
        ),
        ("4:memory:/a\n", [], None),
        ("5:cpu:/x\n", ["memory.events"], None),
    ],
)
def test_the_kernels_kills_are_counted_for_this_workers_cgroup_or_the_node(
    tmp_path, cgroups, files, expected
):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"oom_kill 3\n")
    found = oom.counter_of(cgroups, str(tmp_path))
    if expected is None:
        assert found == ("/proc/vmstat", "on this node")
    else:
        assert found == (f"{tmp_path}/{expected}", "in this worker's cgroup")


def test_only_kills_since_the_beginning_count(tmp_path, monkeypatch):
    file = tmp_path / "memory.events"
    file.write_bytes(b"oom_kill 3\n")
    monkeypatch.setattr(oom, "_counter", lambda: (str(file), "here"))
    kills = oom.OomKills()
    assert kills.since() == (0, "here")
    file.write_bytes(b"oom_kill 5\n")
    assert kills.since() == (2, "here")
    file.unlink()
    assert kills.since() == (0, "here")


def test_a_process_option_that_the_kernel_refuses_is_an_error():
    with pytest.raises(OSError, match="prctl failed"):
        kill._prctl(-1, 0)


def test_the_processes_below_one_are_found_with_their_depth():
    below = dict(kill._descendants(os.getppid(), kill.Proc()))
    assert below[os.getpid()] == 1
    assert Path(f"/proc/{os.getpid()}").exists()
