"""Whether a payload is alive: any sign will do, and none is taken from a clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.submission import jobs_from
from pilot.node import sampler
from pilot.node.local import LocalNode
from pilot.node.supervisor import Supervisor
from pilot.node_ports import Order
from pilot.ports import Sandbox
from pilot.process import activity, proc
from pilot.process.activity import Signs
from pilot.process.spawner import GuardedSpawner
from pilot.process.usage import Disk
from pilot.site import Limits, bounds_of
from pilot.workdir import Workdir
from plugins.container.bare import Bare
from tests.pilot.attempts import attempt_of, container_setup
from tests.pilot.fakes import Started
from tests.pilot.helpers import guarded
from tests.rig.waiting import until


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


def stopped_by(
    spawner: GuardedSpawner,
    directory: Path,
    command: str,
    looping_s: float | None = None,
    *,
    alive: bool = False,
) -> Code | None:
    """What stops a payload in five looks, six seconds apart by the clock that they are told, at a
    limit of 15 s. `alive`: before each of them it does something."""
    attempt = attempt_of(command, looping_s=looping_s)
    node = LocalNode(Bare(container_setup()), spawner)
    supervisor = Supervisor(bounds_of(Limits(looping=15)), {"": node})
    with Workdir(directory / "attempt") as work:
        work.make()
        order = Order(
            name=attempt.name,
            spec=attempt.spec,
            argv=["/bin/sh", "-c", command],
            box=Sandbox(
                directory=str(work.directory),
                tmp=str(work.tmp),
                environment={"PATH": os.environ["PATH"]},
                memory_mb=attempt.spec.memory_mb,
            ),
            stdout=str(work.stdout),
            stderr=str(work.stderr),
        )
        ended: list[object] = []
        with supervisor.watching(attempt, work, [node]):
            payload = Started(node, node.start(order, ended.append))
            attempt.start_payload(lambda: payload)
            until(lambda: node.pid(payload.key))
            until(lambda: "touch" not in command or any(work.directory.iterdir()))
            began = time.monotonic()
            for look in range(1, 6):
                if alive:  # on a busy machine it may not come to anything in a moment
                    so_far = done(node.pid(payload.key), work)
                    until(lambda last=so_far: is_more(done(node.pid(payload.key), work), last))
                supervisor._look(began + 6 * look)
            error = attempt.stopped
            attempt.kill()
            until(lambda: ended)
    return error.code if error else None


def done(pid: int | None, work: Workdir) -> tuple[float, int, object]:
    """What a payload has done so far: CPU seconds, bytes moved, and what its files look like."""
    processes = proc.scan()
    tree = proc.trees(processes, [pid or 0])[pid or 0]
    files = [(path.name, path.stat().st_ctime_ns) for path in (work.stdout, work.stderr)]
    files.append(("", work.directory.stat().st_ctime_ns))
    for entry in os.scandir(work.directory):
        with suppress(FileNotFoundError):
            files.append((entry.name, entry.stat().st_ctime_ns))
    return (
        sum(processes[pid].cpu_s for pid in tree),
        sum(io.moved for pid in tree if (io := proc.io_of(pid)) is not None),
        sorted(files),
    )


def is_more(now: tuple[float, int, object], before: tuple[float, int, object]) -> bool:
    return now[0] - before[0] > 0.06 or now[1] - before[1] > 200_000 or now[2] != before[2]


@pytest.mark.field("L5")
@pytest.mark.parametrize(
    "command",
    [
        "touch -d 2031-01-01 m; while :; do echo line; sleep 0.02; done",
        "touch -d 2031-01-01 m; while :; do echo >> progress; sleep 0.02; done",
        "while :; do touch -d 2001-01-01 m; sleep 0.02; done",
        "while :; do mkdir a; sleep 0.02; rmdir a; sleep 0.02; mkdir a b; rmdir a b; done",
        "touch m; while :; do mv m n; sleep 0.02; mv n m; sleep 0.02; done",
        "while :; do :; done",
        "while :; do dd if=/dev/zero of=/dev/null bs=1M count=2 2>&-; sleep 0.02; done",
        "while :; do echo line >&2; sleep 0.02; done",
    ],
)
def test_a_payload_with_any_sign_of_life_lives(
    spawner: GuardedSpawner, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "SHARE", 100.0)
    monkeypatch.setattr(activity, "CPU_SHARE", activity.CPU_SHARE / 60)  # its clock is not ours
    assert stopped_by(spawner, tmp_path, command, alive=True) is None


@pytest.mark.field("L5")
@pytest.mark.parametrize(
    ("command", "own", "code"),
    [
        ("sleep 60", None, Code.LOOPING_JOB),
        ("while :; do sleep 0.1; done", None, Code.LOOPING_JOB),
        ("echo once; touch -d 2031-01-01 m; sleep 60", None, Code.LOOPING_JOB),
        ("sleep 60", 40.0, None),
        ("sleep 60", 0.0, None),
    ],
)
def test_one_without_is_ended_at_its_own_limit_or_the_sites(
    spawner: GuardedSpawner,
    tmp_path: Path,
    command: str,
    own: float | None,
    code: Code | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler, "SHARE", 100.0)
    assert stopped_by(spawner, tmp_path, command, own) is code


@pytest.mark.field("L5")
def test_a_job_says_its_limit_as_a_duration() -> None:
    tree = {
        "defaults": {"command": "true", "name": "a"},
        "jobs": [{"looping": "30m"}, {}, {"looping": 0}],
    }
    assert [job.looping_s for job in jobs_from(tree)] == [1800.0, None, 0.0]


@pytest.mark.field("L5")
def test_work_counts_between_two_looks_not_since_the_last_sign() -> None:
    found = Signs(0.0)
    found.worked("", 0.0, 0, 3600.0)
    assert found.alive_at == 0.0
    found.worked("", 5.0, 0, 3605.0)  # a burst after an hour
    assert found.alive_at == 3605.0
    found.worked("", 5.04, 50_000, 3610.0)  # a shell that polls
    assert found.alive_at == 3605.0
    found.worked("", 1.0, 10, 3615.0)  # a child ended that nobody waited for
    found.worked("", 1.2, 10, 3620.0)
    assert found.alive_at == 3620.0
    found.worked("", 1.2, 500_010, 3625.0)
    assert found.alive_at == 3625.0


@pytest.mark.field("L5")
def test_any_change_in_a_large_tree_is_seen_wherever_it_is(tmp_path: Path) -> None:
    for directory in range(5):
        (tmp_path / str(directory)).mkdir()
        for name in range(20):
            (tmp_path / str(directory) / str(name)).touch()
    disk = Disk((tmp_path,))

    def mark() -> int:
        while not disk.step(7):
            pass
        return disk.mark

    before = mark()
    assert mark() == before
    for directory in range(5):
        (tmp_path / str(directory) / "19").write_text("more")
        after = mark()
        assert after != before
        before = after
    os.utime(tmp_path / "0" / "0", (1, 1))
    assert mark() != before
