"""A box that stands for many processes of one payload."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest

from ailurus.protocol.job import JobSpec
from ailurus.protocol.payloads import Payloads
from pilot.node.local import LocalNode
from pilot.node_ports import Finish, MemoryLoss, Order, Standing, Task
from pilot.ports import PATH, Sandbox
from pilot.process import cgroup, proc
from pilot.workdir import Workdir
from plugins.container.bubblewrap import Bubblewrap
from tests.pilot.attempts import container_setup
from tests.pilot.helpers import guarded

ENVIRONMENT = {"PATH": PATH, "AILURUS_ATTEMPT": "1.1"}
EATS = "python3 -c 'b\"x\" * (200 << 20)'"


@pytest.fixture
def node() -> Iterator[LocalNode]:
    groups = cgroup.find(f"box-{os.getpid()}", partial(proc.kin, os.getpid()), asked=True)
    if groups is None:
        pytest.skip("no cgroups can be made here")
    with guarded() as spawner:
        made = LocalNode(Bubblewrap(container_setup()), spawner, groups=groups)
        yield made
        # What is still ending keeps it.
        made.forget("1.1")
    made.close()
    assert not groups.directory.exists()


def box_of(node: LocalNode, directory: Path, memory_mb: int) -> Standing:
    work = Workdir(directory / "1.1")
    work.make()
    box = Sandbox(
        directory=str(work.directory),
        tmp=str(work.tmp),
        environment=ENVIRONMENT,
        memory_mb=memory_mb,
        own=str(work.path),
    )
    payloads = Payloads(list="x", count=9)
    spec = JobSpec(name="job", command="x", memory_mb=memory_mb, payloads=payloads)
    return node.stand(Order(name="1.1", spec=spec, argv=(), box=box), lambda: None)


def task(number: int, line: str, memory_mb: int = 0) -> Task:
    environment = {**ENVIRONMENT, "AILURUS_ATTEMPT": f"1.1.{number}.1"}
    argv = ["/bin/sh", "-c", line]
    return Task(argv=argv, environment=environment, seat=number, memory_mb=memory_mb)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a cgroup")
def test_what_runs_in_it_is_held_to_the_cgroup_of_its_payload(
    node: LocalNode, tmp_path: Path
) -> None:
    ends: SimpleQueue[Finish] = SimpleQueue()
    standing = box_of(node, tmp_path, 20)
    standing.start_all([(task(1, f"exec {EATS}"), ends.put)])
    end = ends.get(timeout=20)
    assert (end.process.exit_code, end.memory) == (-9, MemoryLoss(0, 1, own=False))
    standing.start_all([(task(1, "echo on; exit 3"), ends.put)])
    end = ends.get(timeout=20)
    assert (end.process.exit_code, end.take()[0].data, end.memory) == (3, b"on\n", None)
    standing.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a cgroup")
def test_one_with_a_limit_of_its_own_is_held_to_it_and_its_neighbour_lives(
    node: LocalNode, tmp_path: Path
) -> None:
    ends: dict[int, Finish] = {}
    told: SimpleQueue[int] = SimpleQueue()

    def done(number: int, finish: Finish) -> None:
        ends[number] = finish
        told.put(number)

    lines = {
        1: (f"exec {EATS}", 30),
        2: (f"({EATS}); exit 7", 30),
        3: (EATS, 300),
        4: (EATS, 0),
        5: ("kill -9 $$", 30),
    }
    standing = box_of(node, tmp_path, 900)
    tasks = [
        (task(number, line, memory_mb), partial(done, number))
        for number, (line, memory_mb) in lines.items()
    ]
    standing.start_all(tasks)
    for _ in lines:
        told.get(timeout=30)
    standing.close()
    own = MemoryLoss(0, 1, own=True)
    assert {number: (end.process.exit_code, end.memory) for number, end in ends.items()} == {
        1: (-9, own), 2: (7, own), 3: (0, None), 4: (0, None), 5: (-9, None),
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a cgroup")
def test_many_with_cgroups_are_started_at_once(node: LocalNode, tmp_path: Path) -> None:
    """As many descriptors go with no message, and all of them once ended as by a lost guardian."""
    ends: SimpleQueue[Finish] = SimpleQueue()
    standing = box_of(node, tmp_path, 900)
    standing.start_all(
        [(task(number, "exit 0", number % 2 * 50), ends.put) for number in range(130)]
    )
    assert {ends.get(timeout=30).process.errno for _ in range(130)} == {0}
    standing.close()


def test_one_that_stops_all_others_stops_them_for_a_moment(tmp_path: Path) -> None:
    ends: SimpleQueue[tuple[int, Finish]] = SimpleQueue()
    with guarded() as spawner:
        node = LocalNode(Bubblewrap(container_setup()), spawner)
        standing = box_of(node, tmp_path, 20)
        ready = "for n in 2 3; do until test -e $n; do sleep 0.01; done; done"
        # Where processes of others are seen it would stop these, too.
        alone = f"test ! -e /proc/{os.getpid()}"
        lines = {1: f"{ready}; {alone} && kill -STOP -1"}
        lines |= {n: f": > {n}; until test -e go; do sleep 0.01; done" for n in (2, 3)}
        standing.start_all([(task(n, line), partial(_put, ends, n)) for n, line in lines.items()])
        number, end = ends.get(timeout=20)
        assert (number, end.process.exit_code) == (1, 0)
        (Workdir(tmp_path / "1.1").directory / "go").touch()
        rest = [ends.get(timeout=20) for _ in range(2)]
        assert {(n, end.process.exit_code) for n, end in rest} == {(2, 0), (3, 0)}
        standing.close()
        node.close()


def _put(ends: SimpleQueue[tuple[int, Finish]], number: int, end: Finish) -> None:
    ends.put((number, end))
