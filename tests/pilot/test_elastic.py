"""A payload that goes on without nodes that are lost, and with those that come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.resources import Resources
from pilot.agents.remote import lost
from pilot.attempt import Attempt
from pilot.clock import SYSTEM
from pilot.node.slots import Slots
from pilot.node.supervisor import Supervisor
from pilot.process.proc import Process
from pilot.process.spawner import GuardedSpawner
from pilot.run import Outcome, run
from pilot.site import Limits, bounds_of
from pilot.workdir import Workdir
from tests.pilot.agents.cluster import Cluster
from tests.pilot.attempts import attempt_of
from tests.pilot.helpers import guarded
from tests.pilot.node.watch import MB, ROOT, Watch, watch_of
from tests.rig.waiting import until

EACH = Resources(cores=1, memory_mb=10_000, disk_mb=10_000)
# In the place of Horovod's driver: tells what it is told, and what becomes of a worker.
DRIVER = """#!/bin/sh
here=$2 first=$3 seen='' worker=''
while :; do
    now=$(cat "$here/nodes")
    if [ "$now" != "$seen" ]; then
        seen=$now
        echo $now
        if [ -z "$worker" ]; then
            ("$AILURUS_PILOT_RSH" n3 'echo began; sleep 300'; echo "worker $?") &
            worker=$!
        fi
        case $now in *'n3 4'*)
            wait
            "$AILURUS_PILOT_RSH" n3 'echo again'
            exit ;;
        esac
    fi
    sleep 0.05
done
"""


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


class Job:
    """An elastic job of three agents, which all are this machine."""

    def __init__(self, directory: Path, spawner: GuardedSpawner, least: int) -> None:
        self.cluster = Cluster(directory, spawner, names=("n1", "n2", "n3"))
        self.cluster.losing = self._lose
        self.slots = Slots()
        driver = directory / "driver"
        driver.write_text(DRIVER)
        driver.chmod(0o700)
        options: Any = {"elastic": True, "min_nodes": least, "python": str(driver)}
        self.attempt = attempt_of(
            "true", nodes=3, disk_mb=10, launcher="horovod", launcher_options=options
        )
        self.work = Workdir(self.cluster.shared / "1.1")
        self.outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        for name in ("n1", "n2", "n3"):
            self.join(name)
        self.work.make()
        self._thread.start()
        until(lambda: "began" in self.said())

    def join(self, name: str) -> None:
        self.cluster.agent(name)
        self.slots.join(name, EACH)

    def kill(self, name: str) -> None:
        self.cluster.agents[name].kill()

    def said(self) -> list[str]:
        return self.work.stdout.read_text().splitlines() if self.work.stdout.exists() else []

    def ended(self) -> Outcome:
        self._thread.join(20)
        assert self.outcome is not None, self.work.stderr.read_text()
        return self.outcome

    def _run(self) -> None:
        nodes = self.cluster.nodes
        kit: Any = SimpleNamespace(
            node=nodes["n1"],
            nodes=nodes,
            clock=SYSTEM,
            slots=self.slots,
            supervisor=Supervisor(bounds_of(Limits()), nodes),
        )
        with self.slots.placed(self.attempt) as placement:
            self.outcome = run(self.attempt, self.work, placement, kit)

    def _lose(self, name: str, why: str) -> None:
        for attempt in self.slots.leave(name):
            attempt.lose(name, lost(name, why))


@pytest.fixture
def job(tmp_path: Path, spawner: GuardedSpawner) -> Iterator[Job]:
    made = Job(tmp_path, spawner, least=2)
    yield made
    made.attempt.stop(lost("all", "the test is over"))
    made.cluster.end()


def test_it_goes_on_without_a_node_and_with_that_which_comes_again(job: Job) -> None:
    job.start()
    job.kill("n3")
    until(lambda: "n1 1 n2 2" in job.said())
    job.join("n3")
    assert job.ended() == Outcome(exit_code=0)
    said = job.said()
    assert [line for line in said if line.startswith("n1")] == [
        "n1 1 n2 2 n3 3",
        "n1 1 n2 2",
        "n1 1 n2 2 n3 4",
    ]
    assert "worker 255" in said
    assert said[-1] == "again"
    notes = " ".join(job.attempt.notes)
    assert "goes on without n3" in notes
    assert "goes on with n3, too" in notes
    assert job.attempt.node_changes == ["n3 was lost", "n3 came"]
    assert job.slots.room() == job.slots.total


@pytest.mark.parametrize("names", [("n1",), ("n3", "n2")])
def test_it_ends_with_its_first_node_and_with_fewer_than_it_needs(
    job: Job, names: tuple[str, ...]
) -> None:
    job.start()
    for name in names:
        job.kill(name)
        until(lambda name=name: name in dict(job.cluster.left))
    error = job.ended().error
    assert error is not None
    assert error.code is Code.LOST_HEARTBEAT
    assert error.transient
    assert names[-1] in error.message


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    yield from watch_of(tmp_path)


def test_what_was_used_on_a_node_that_was_lost_counts_and_what_it_held_does_not(
    watch: Watch,
) -> None:
    watch.uses(rss_mb=50, cpu_s=10)
    watch.after(5)
    attempt: Attempt = watch.attempt
    watch.supervisor.lose(attempt, watch.node.name)
    watch.after(5)
    assert attempt.usage.cpu_s == 10
    watch.supervisor.gain(attempt, watch.node, ())
    watch.start()
    watch.readings.processes = {ROOT + 1: Process(1, 3.0, 20 * MB)}
    watch.after(60)
    assert (attempt.usage.cpu_s, attempt.usage.rss_kb // 1024) == (13, 20)
