"""One pilot for three nodes, as an edge submits it to a real Slurm: jobs on all of them, jobs of
several, and a node that is lost."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from ailurus.protocol.api import WorkerRows, WorkersQuery
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import WorkerRow
from tests.rig.batch import BIN, QUEUE, Rig, clean
from tests.rig.batch_systems import Slurm
from tests.rig.nodes import HUB, Nodes
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.batch, pytest.mark.slow, pytest.mark.timeout(180)]
HEAD = {
    "nodes": 3,
    "pilots": "head",
    "cores": 4,
    "gpus": 2,
    "memory": "8GiB",
    "disk": "8GiB",
    "walltime": "1h",
}


@pytest.fixture
def rig(nodes: Nodes, slurm_nodes: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Dispatcher and edge on the hub; what they share with the nodes lies where all see it."""
    monkeypatch.setattr(tempfile, "tempdir", str(nodes.directory))
    with (
        nodes.network(),
        Rig(
            slurm_nodes, nodes.addresses[HUB], slots={"std": HEAD}, scaling={"max_total": 1}
        ) as rig,
    ):
        rig.edge()
        yield rig


def worker(rig: Rig) -> WorkerRow:
    (row,) = rig.client.call("workers", WorkersQuery(), answer=WorkerRows).workers
    return row


def all_nodes_are_free(rig: Rig) -> bool:
    rows = rig.client.call("workers", WorkersQuery(), answer=WorkerRows).workers
    return [sum(one.nodes for one in row.room.groups if one.cores == 4) for row in rows] == [3]


def submit(rig: Rig, count: int, seconds: float, **fields: Any) -> list[int]:
    """Jobs that write where they begin and that they end, each into a file of its own."""
    out = rig.directory / "out"
    command = "hostname >> {0}; {1}; sleep {2}; echo end >> {0}"
    show = "echo gpu $CUDA_VISIBLE_DEVICES >> {0}"
    jobs = [
        JobSpec(
            name=f"j{n}",
            command=command.format(out / str(n), show.format(out / str(n)), seconds),
            queue=QUEUE,
            memory_mb=10,
            disk_mb=10,
            **fields,
        )
        for n in range(count)
    ]
    return list(rig.client.submit(jobs).job_ids)


def written(rig: Rig) -> list[list[str]]:
    """The lines of each job."""
    files = [file for file in (rig.directory / "out").iterdir() if file.name.isdecimal()]
    return [file.read_text().splitlines() for file in files]


def test_one_worker_runs_jobs_on_all_nodes_of_its_allocation(rig, nodes):
    ids = submit(rig, 24, 0.5, gpus=1)
    assert rig.finished(ids, 60)
    lines = written(rig)
    assert {tuple(one[1:]) for one in lines} == {("gpu 0", "end"), ("gpu 1", "end")}
    assert {one[0] for one in lines} == {"n1", "n2", "n3"}
    row = worker(rig)
    assert row.host == "n1"
    assert row.total.together.cores == 12
    assert row.total.together.gpus == 6
    assert len(rig.system.live()) == rig.submissions == 1
    environment = {**clean(), **rig.system.environment}
    argv = [BIN / "harvester-edge", "doctor", "--config", rig.site_file]
    said = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
    assert "would take an allocation of 3 nodes, with one pilot for all" in said.stdout
    assert re.search(r"launchers: .*srun --mpi=.*pmi2", said.stdout), said.stdout


def test_a_node_without_power_costs_what_ran_there_and_that_runs_elsewhere(rig, nodes):
    rig.submit(1)
    until(lambda: all_nodes_are_free(rig), 30, "all nodes have an agent")
    ids = submit(rig, 36, 2)
    until(lambda: len(written(rig)) >= 12, 20, "all cores are in use")
    nodes.kill("n3")
    assert rig.finished(ids, 90)
    again = [one for one in written(rig) if len(one) != 3]
    assert len(again) <= 4
    assert all(one.count("end") == 1 for one in written(rig))
    assert worker(rig).ending is None
    assert len(rig.system.live()) == rig.submissions == 1, "the allocation goes on"


def test_a_node_that_is_cut_off_for_longer_than_its_lease_ends_nothing_twice(rig, nodes):
    rig.submit(1)
    until(lambda: all_nodes_are_free(rig), 30, "all nodes have an agent")
    ids = submit(rig, 24, 6)
    until(lambda: len(written(rig)) >= 12, 20, "all cores are in use")
    nodes.cut("n2")
    lost = [one for one in written(rig) if one[0] == "n2"]
    until(lambda: len(written(rig)) >= 16, 60, "its jobs run elsewhere, or others do")
    nodes.heal("n2")
    assert lost
    assert rig.finished(ids, 90)
    assert all(one.count("end") == 1 for one in written(rig))


def test_a_job_of_two_nodes_reaches_both_by_the_pilots_remote_shell(rig):
    rig.submit(1)
    until(lambda: all_nodes_are_free(rig), 30, "all nodes have an agent")
    out = rig.directory / "out" / "hosts"
    reach = f'for node in $(cat "$AILURUS_NODES"); do pilot-rsh "$node" hostname; done > {out}'
    (job,) = rig.submit(1, reach, nodes=2, cores=3, launcher="script")
    assert rig.finished([job], 60), rig.client.log(job).text
    hosts = out.read_text().split()
    assert len({*hosts}) == len(hosts) == 2
    assert {*hosts} <= {"n1", "n2", "n3"}
