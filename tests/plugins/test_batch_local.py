"""Workers as real processes: they begin once, outlive their edge, end as a batch system would
say."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from ailurus.protocol.worker import Ending, Phase
from harvester_edge.ports import Accepted, BatchError, Order, Rejected, Tag
from plugins.batch.local import RUN, WRAPPER, Local, LocalOptions, _signal
from tests.rig.waiting import until

TAG = Tag("axxxx0000000000")


@pytest.fixture
def root(tmp_path: Path):
    yield tmp_path
    for record in tmp_path.glob("*/*/running"):
        _signal(record.read_text().strip(), signal.SIGKILL)


def local(root: Path, clock=time.time) -> Local:
    return Local(LocalOptions(grace_s=1), root, "a", clock=clock)


def order(root: Path, script: str, count: int = 1, walltime_s: int = 60, tag: str = TAG) -> Order:
    for index in range(count):
        (root / tag / str(index)).mkdir(parents=True)
    return Order(
        script=f"#!/bin/sh\n{script}\n", directory=root / tag, count=count, cores=1, memory_mb=1,
        disk_mb=1, gpus=0, walltime_s=walltime_s,
    )  # fmt: skip


def wait_for(batch: Local, *phases: Phase, count: int = 1):
    for _ in range(200):
        seen = batch.listing()
        if len(seen) == count and all(one.phase in phases for one in seen):
            return seen
        time.sleep(0.05)
    raise AssertionError(f"still {seen}")


def began(root: Path, name: str = "running"):
    for _ in range(200):
        if found := sorted(root.glob(f"*/*/{name}")):
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {name}")


def test_workers_run_in_their_directory_and_know_their_index(root):
    batch = local(root)
    answer = batch.submit(order(root, 'echo "$AILURUS_INDEX $PWD"', count=3), TAG)
    assert answer == Accepted({n: f"{TAG}.{n}" for n in range(3)})
    seen = wait_for(batch, Phase.ENDED, count=3)
    assert {one.ending for one in seen} == {Ending.DONE}
    for index in range(3):
        place = root / TAG / str(index)
        assert (place / "stdout").read_text() == f"{index} {place}\n"


@pytest.mark.parametrize(
    ("script", "ending", "detail"),
    [
        ("exit 0", Ending.DONE, ""),
        ("echo oh no >&2; exit 3", Ending.FAILED, "exit code 3: oh no"),
        ("kill -9 $$", Ending.FAILED, "killed by signal 9"),
        ("kill -TERM $$", Ending.FAILED, "killed by signal 15"),
    ],
)
def test_the_end_is_told_as_it_was(root, script, ending, detail):
    batch = local(root)
    batch.submit(order(root, script), TAG)
    (seen,) = wait_for(batch, Phase.ENDED)
    assert seen.ending is ending
    assert seen.detail.startswith(detail)
    assert local(root).listing() == (seen,)


def test_the_walltime_ends_a_worker_that_ignores_term(root):
    batch = local(root)
    batch.submit(order(root, "trap '' TERM; while :; do sleep 0.1; done", walltime_s=1), TAG)
    (seen,) = wait_for(batch, Phase.ENDED)
    assert seen.ending in (Ending.WALLTIME, Ending.FAILED)
    (seen,) = wait_for(batch, Phase.ENDED)


def test_the_environment_of_the_edge_stays_with_the_edge(root, monkeypatch):
    monkeypatch.setenv("AILURUS_TOKEN_FILE", "/secret")
    monkeypatch.setenv("SOME_TOKEN", "x")
    batch = local(root)
    batch.submit(order(root, "env; ls /proc/self/fd"), TAG)
    wait_for(batch, Phase.ENDED)
    said = (root / TAG / "0" / "stdout").read_text()
    assert "/secret" not in said
    assert "TOKEN" not in said
    assert set(said.split()[-4:]) <= {"0", "1", "2", "3"}


def test_workers_outlive_the_process_that_submitted_them(root):
    one = order(root, "sleep 30")
    (root / "order").write_bytes(msgspec.json.encode(one, enc_hook=str))
    code = """
import sys, pathlib, msgspec
from plugins.batch.local import Local, LocalOptions
from harvester_edge.ports import Order
root = pathlib.Path(sys.argv[1])
order = msgspec.json.decode((root / "order").read_bytes(), type=Order, dec_hook=lambda t, v: t(v))
Local(LocalOptions(), root, "a").submit(order, sys.argv[2])
"""
    subprocess.run(
        [sys.executable, "-c", code, str(root), TAG],
        check=True,
        env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    (running,) = began(root)
    (seen,) = local(root).listing()
    assert seen.phase is Phase.STARTING
    pid = int(running.read_text().split()[0])
    assert os.getsid(pid) != os.getsid(0)


def test_a_search_for_an_order_that_never_began_makes_sure_that_it_never_will(root):
    """The edge was killed between writing the directory and starting the wrapper."""
    one = order(root, "touch ../../began", count=2)
    batch = local(root)
    (one.directory / "0" / "script").write_text(one.script)
    assert batch.find(TAG) == ()
    # A wrapper that was only slow begins after that: it may not.
    subprocess.run(
        ["sh", "-c", WRAPPER, "w", str(one.directory / "0"), "60", "1", "0", RUN], check=False
    )
    assert not (root / "began").exists()
    assert batch.listing() == ()


def test_a_search_finds_what_began_although_nothing_was_recorded(root):
    """The edge was killed between starting the wrapper and writing anything about it."""
    batch = local(root)
    batch.submit(order(root, "sleep 30", count=2), TAG)
    began(root, "claim")
    for _ in range(100):
        if len(list(root.glob("*/*/running"))) == 2:
            break
        time.sleep(0.05)
    for spawned in root.glob("*/*/spawned"):
        spawned.unlink()
    assert {(one.index, one.phase) for one in local(root).find(TAG)} == {
        (0, Phase.STARTING), (1, Phase.STARTING),
    }  # fmt: skip


def test_a_pid_that_was_used_again_is_not_ours(root):
    batch = local(root)
    batch.submit(order(root, "sleep 30"), TAG)
    (running,) = began(root)
    pid, _, boot = running.read_text().split()
    other = os.getpid()
    for name in ("running", "claim", "spawned"):
        (running.parent / name).write_text(f"{other} 12345 {boot}")
    (seen,) = batch.listing()
    assert seen.phase is Phase.ENDED
    assert "no exit record" in seen.detail
    local(root).cancel([seen.batch_id])  # would be us
    os.kill(int(pid), signal.SIGKILL)


def test_a_record_of_before_a_reboot_is_dead(root):
    batch = local(root)
    batch.submit(order(root, "sleep 30"), TAG)
    (running,) = began(root)
    pid, start, _ = running.read_text().split()
    for name in ("running", "claim", "spawned"):
        (running.parent / name).write_text(f"{pid} {start} another-boot")
    (seen,) = batch.listing()
    assert (seen.phase, seen.ending) == (Phase.ENDED, Ending.FAILED)
    os.kill(int(pid), signal.SIGKILL)


def test_a_killed_wrapper_does_not_hide_the_pilot(root):
    batch = local(root)
    batch.submit(order(root, "sleep 30"), TAG)
    (running,) = began(root)
    os.kill(int((running.parent / "claim").read_text().split()[0]), signal.SIGKILL)
    (seen,) = batch.listing()
    assert seen.phase is Phase.STARTING


def test_cancel_asks_then_kills(root):
    now = [time.time()]
    batch = local(root, lambda: now[0])
    said = root / TAG / "0" / "stdout"
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done"
    batch.submit(order(root, script), TAG)
    began(root)
    until(lambda: said.read_text() == "ready\n")
    (seen,) = batch.listing()
    batch.cancel([seen.batch_id])
    until(lambda: said.read_text() == "ready\nasked\n")
    assert batch.listing()[0].phase is Phase.STARTING
    now[0] += 2
    batch.cancel([seen.batch_id])
    (seen,) = wait_for(batch, Phase.ENDED)
    assert seen.ending is Ending.CANCELLED


def test_jobs_of_other_sites_are_not_listed(root):
    other = Tag("bxxxx0000000000")
    batch = local(root)
    batch.submit(order(root, "exit 0", tag=other), other)
    began(root, "ended")
    assert batch.listing() == ()


def test_a_full_disk_is_a_rejection_and_an_unreadable_one_no_answer(root, monkeypatch):
    one = order(root, "exit 0")
    (one.directory / "0").rmdir()
    assert isinstance(local(root).submit(one, TAG), Rejected)
    (root / TAG / "0").mkdir()

    def torn(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("plugins.batch.local.read_tail", torn)
    with pytest.raises(BatchError, match="Input/output error"):
        local(root).listing()


@pytest.mark.parametrize("name", ["spawned", "claim", "running", "ended", "cancelled", "stderr"])
@pytest.mark.parametrize("what", ["zeros", "words", "numbers", "fifo", "link", "directory"])
def test_a_spoilt_record_of_one_worker_holds_up_no_other(tmp_path, name, what):
    root = tmp_path
    batch = local(root)
    for tag in ("aspoilt", "awhole"):
        place = order(root, "exit 0", tag=tag).directory / "0"
        for record in ("spawned", "claim", "running"):
            (place / record).write_text("1 2 no-such-boot\n")
        (place / "ended").write_text("3 1790000000\n")
        (place / "stderr").write_text("no such program\n")
    spoilt = root / "aspoilt" / "0" / name
    spoilt.unlink(missing_ok=True)
    match what:
        case "zeros":
            spoilt.write_bytes(bytes(20))
        case "words":
            spoilt.write_bytes(b"\xff\xfe not a number")
        case "numbers":
            spoilt.write_text("9" * 5000)
        case "fifo":
            os.mkfifo(spoilt)
        case "link":
            spoilt.symlink_to("/dev/zero")
        case "directory":
            spoilt.mkdir()
    (root / "aspoilt" / "777").touch()
    whole = {one.tag: one for one in batch.listing()}[Tag("awhole")]
    assert (whole.ending, whole.detail) == (Ending.FAILED, "exit code 3: no such program")
    batch.cancel([one.batch_id for one in batch.listing()])
