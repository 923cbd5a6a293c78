"""An allocation with one pilot on a real Slurm: what the edge submits, what the pilot's plugin
reads of it, and how agents outlive a node there."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from harvester_edge.ports import Accepted, Order, Tag
from plugins.batch.commands import Run, runner
from plugins.batch.slurm import Slurm, SlurmOptions
from tests.rig import batch_systems
from tests.rig.nodes import Nodes
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.batch, pytest.mark.slow]
TAG = Tag("aabcdhead")

# What stands for a pilot: it tells what it reads, and starts agents that only beat.
HEAD = """
import json, pathlib, subprocess, sys, time
from pilot.agents.allocation import allocation_of

directory = pathlib.Path(sys.argv[1])
allocation = allocation_of()
shares = allocation.nodes()
beat = 'while :; do echo >> "$0/beats.$(hostname)"; sleep 0.1; done'
started = [
    subprocess.Popen(one.argv, env=one.environment)
    for one in allocation.starters(["sh", "-c", beat, str(directory)], [s.name for s in shares])
]
told = [[s.name, s.address, s.cores, s.memory_mb, s.gpus] for s in shares]
(directory / "told.part").write_text(json.dumps([told, allocation.seconds_left()]))
(directory / "told.part").rename(directory / "told")
while not [one for one in started if one.poll() is not None]:
    time.sleep(0.1)
(directory / "over").touch()
(directory / "codes").write_text(json.dumps([one.wait() for one in started]))
"""


def commands(slurm: batch_systems.Slurm, nodes: Nodes) -> Run:
    run = runner(20.0, ("SLURM_CONF",))

    def on_the_hub(argv):
        with nodes.network(), pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
            return run(argv)

    return on_the_hub


def beats(directory: Path, name: str) -> int:
    file = directory / f"beats.{name}"
    return file.stat().st_size if file.exists() else 0


def goes_on(directory: Path, *names: str) -> None:
    before = {name: beats(directory, name) for name in names}

    def went_on():
        return all(beats(directory, name) > before[name] + 20 for name in names)

    until(went_on, 10, f"agents go on: {', '.join(names)}")


@pytest.fixture
def head(nodes, slurm_nodes):
    """An allocation of three nodes with an agent on each: its directory, and its batch system."""
    place = nodes.directory / "order"
    (place / "0").mkdir(parents=True)
    (place / "head.py").write_text(HEAD)
    script = shlex.join([sys.executable, str(place / "head.py"), str(place)])
    order = Order(
        script=f"#!/bin/sh\nexec {script}\n", directory=place, count=1, nodes=3, head=True,
        cores=3, memory_mb=1000, disk_mb=1, gpus=1, walltime_s=600,
    )  # fmt: skip
    batch = Slurm(SlurmOptions(), nodes.directory, "aabcd", run=commands(slurm_nodes, nodes))
    accepted = batch.submit(order, TAG)
    assert isinstance(accepted, Accepted), accepted
    assert len(accepted.ids) == 1
    until((place / "told").exists, 20, "the pilot tells its nodes")
    until(lambda: all(beats(place, name) for name in nodes.names), 10, "an agent on each node")
    yield place, batch
    batch.cancel(list(accepted.ids.values()))


def test_agents_outlive_a_node_that_the_allocation_loses(nodes, slurm_nodes, head):
    place, batch = head
    told, seconds_left = json.loads((place / "told").read_text())
    assert told == [[name, name, 3, 1000, 1] for name in ("n1", "n2", "n3")]
    assert 500 < seconds_left <= 600
    assert [(one.tag, one.index) for one in batch.listing()] == [(TAG, 0)]

    nodes.kill("n3")
    with nodes.network():
        down = ("sinfo", "--noheader", "--nodes=n3", "--format=%T")
        until(lambda: slurm_nodes.run(*down).startswith("down"), 30, "Slurm misses the node")
    gone = beats(place, "n3")
    goes_on(place, "n1", "n2")
    assert beats(place, "n3") == gone
    (row,) = batch.listing()
    assert row.ending is None


@pytest.fixture
def patient_slurm(nodes, slurm_nodes):
    """A Slurm that misses no node which comes back within minutes, as at most sites."""
    conf = slurm_nodes.directory / "etc/slurm.conf"
    conf.write_text(conf.read_text().replace("SlurmdTimeout=10\n", "SlurmdTimeout=300\n"))
    with nodes.network():
        slurm_nodes.run("scontrol", "reconfigure")


@pytest.mark.usefixtures("patient_slurm")
def test_agents_outlive_a_node_that_comes_back_before_slurm_has_missed_it(nodes, slurm_nodes, head):
    """srun aborts the whole step of a node without power that has come back without its task."""
    place, batch = head
    # Nobody is told that its connections are gone.
    nodes.cut("n3")
    nodes.kill("n3")
    nodes.boot("n3")
    slurm_nodes.fixture("node", "n3", "start")
    until((place / "over").exists, 60, "the step of the node that came back has ended")
    goes_on(place, "n1", "n2")
    (row,) = batch.listing()
    assert row.ending is None
