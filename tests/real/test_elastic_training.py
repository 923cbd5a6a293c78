"""Trainings that lose a node and get it back, in jobs of a whole pilot."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from ailurus.protocol.states import JobState
from plugins.launch.torchrun import MEETING
from tests.plugins.test_launch_real import ROOT
from tests.real.test_parallel_jobs import Cluster
from tests.rig.batch_systems import FIXTURES, Slurm
from tests.rig.nodes import Nodes
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.batch, pytest.mark.slow, pytest.mark.timeout(300)]
# Gradients of all data at every step, so that the loss is that of one process. It goes on until it
# has had all worlds that it is to have, and a little longer.
TRAINING = """
import os, time, torch, horovod.torch as hvd
WORLDS, MORE, MOST = [3, 2, 3], 5, 600
torch.manual_seed(1)
x = torch.randn(60, 4)
y = x @ torch.tensor([1.0, -2.0, 3.0, 0.5]) + 0.1 * torch.randn(60)

def step(weights, rank, size, summed):
    mine = slice(rank, None, size)
    left = x[mine] @ weights - y[mine]
    return weights - 0.05 * summed(x[mine].T @ left) / 60

def loss(weights):
    return float(((x @ weights - y) ** 2).mean())

@hvd.elastic.run
def train(state):
    while state.more < MORE and state.steps < MOST:
        if not state.worlds or state.worlds[-1] != hvd.size():
            state.worlds = [*state.worlds, hvd.size()]
            if hvd.rank() == 0:
                print("world", *state.worlds, flush=True)
        summed = lambda part: hvd.allreduce(part, op=hvd.Sum)
        state.weights = step(state.weights, hvd.rank(), hvd.size(), summed)
        state.steps += 1
        state.more += state.worlds == WORLDS
        time.sleep(0.1)
        state.commit()

hvd.init()
state = hvd.elastic.TorchState(weights=torch.zeros(4), steps=0, more=0, worlds=[])
train(state)
if hvd.rank() == 0:
    alone = torch.zeros(4)
    for _ in range(state.steps):
        alone = step(alone, 0, 1, lambda part: part)
    print("loss", loss(state.weights), loss(alone), flush=True)
"""


@pytest.fixture
def on_three(nodes: Nodes, slurm_nodes: Slurm) -> Iterator[Cluster]:
    made = Cluster(nodes, slurm_nodes, "bubblewrap")
    # Slurm takes a node away from its job when it has missed it for so long.
    conf = slurm_nodes.directory / "etc/slurm.conf"
    conf.write_text(conf.read_text().replace("SlurmdTimeout=10\n", "SlurmdTimeout=300\n"))
    with nodes.network():
        slurm_nodes.run("scontrol", "reconfigure")
    with made.with_agents():
        yield made


def test_a_horovod_loses_a_node_and_gets_it_back_and_ends_with_the_loss_of_one_without(
    on_three: Cluster, nodes: Nodes, horovod: str
) -> None:
    script = on_three.software / "elastic.py"
    script.write_text(TRAINING)
    with nodes.network("n1"):
        job = on_three.dispatcher.submit(
            f"{horovod} {script}",
            queue="q",
            nodes=3,
            cores=2,
            memory_mb=2000,
            launcher="horovod",
            launcher_options={"elastic": True, "min_nodes": 2, "python": horovod},
            # A worker that waits for another than the lost one hears of the loss after that.
            environment={"HOROVOD_GLOO_TIMEOUT_SECONDS": "15"},
        )
    began(on_three, job, "world 3\n")
    nodes.kill("n3")
    began(on_three, job, "world 3 2\n")
    boot(on_three, "n3")
    # The pilot may be in the middle of a vain start of its agent.
    on_three.final([job], 120)
    state, out, diagnosis = on_three.seen(job)
    assert state is JobState.FINISHED, diagnosis
    worlds, losses = out.splitlines()[-2:]
    assert worlds == "world 3 2 3", out
    trained, alone = map(float, losses.split()[1:])
    assert trained == pytest.approx(alone, rel=1e-4)
    lost_and_found(on_three, job)


# Runs the guide's program slowly until it is let go.
HELD = """
import runpy, sys, time
from pathlib import Path
replace = Path.replace
def kept(self, target):
    replace(self, target)
    if not Path(sys.argv[1]).exists():
        time.sleep(0.1)
Path.replace = kept
runpy.run_path(sys.argv[2])
"""


def test_a_torchrun_loses_a_node_and_gets_it_back_and_ends_with_the_loss_of_one_without(
    on_three: Cluster, nodes: Nodes, torch: str
) -> None:
    held, go = on_three.software / "held.py", on_three.software / "go"
    held.write_text(HELD)
    program = ROOT / "examples/parallel/elastic.py"
    with nodes.network("n1"):
        job = on_three.dispatcher.submit(
            f"{torch} {held} {go} {program}",
            queue="q",
            nodes=3,
            cores=2,
            memory_mb=2000,
            launcher="torchrun",
            launcher_options={"elastic": True, "min_nodes": 2, "python": torch},
            environment={"PET_RDZV_CONF": MEETING.replace("=6", "=3").replace("=5", "=3")},
        )
    began(on_three, job, "3 workers go on from step 0\n")
    nodes.kill("n3")
    began(on_three, job, "2 workers go on")
    boot(on_three, "n3")
    began(on_three, job, "3 workers go on", 2)
    go.touch()
    on_three.final([job], 60)
    state, out, diagnosis = on_three.seen(job)
    assert state is JobState.FINISHED, diagnosis
    assert [line[0] for line in out.splitlines()] == ["3", "2", "3", "l"]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    with nodes.network("n1"):
        alone = subprocess.run(
            [torch, held, go, program],
            check=True, capture_output=True, text=True, cwd=on_three.directory, env=world,
        )  # fmt: skip
    assert out.splitlines()[-1] == alone.stdout.splitlines()[-1]
    lost_and_found(on_three, job)


def boot(cluster: Cluster, name: str) -> None:
    """Power on a machine, and what Slurm has on it."""
    cluster.nodes.boot(name)
    fixture = map(str, (FIXTURES / "slurm", "node", cluster.slurm.directory, name, "start"))
    subprocess.run([*fixture], check=True, timeout=60)


def lost_and_found(cluster: Cluster, job: int) -> None:
    """It was one attempt, and left nothing."""
    with cluster.nodes.network("n1"):
        detail = cluster.dispatcher.client.show(job)
    assert detail.row.attempt_nr == 1
    assert detail.row.diagnosis.startswith("its nodes changed while it ran: n3 was lost, n3 came")
    for name in cluster.nodes.names:
        assert "elastic.py" not in cluster.nodes.run(name, "sh", "-c", "ps ax -o args")


def written(cluster: Cluster, job: int, stream: str) -> str:
    """What the job's first attempt has written until now."""
    outputs = cluster.directory.glob(f"work/ailurus-*/{job}.1/{stream}")
    return "".join(output.read_text() for output in outputs)


def began(cluster: Cluster, job: int, line: str, times: int = 1) -> None:
    """Wait until the training has written this so often."""
    try:
        found = lambda: written(cluster, job, "stdout").count(line) == times  # noqa: E731
        until(found, 60, f"it writes {line!r}", every_s=0.2)
    except TimeoutError as error:
        with cluster.nodes.network("n1"):
            detail = cluster.dispatcher.client.show(job)
        told = written(cluster, job, "stderr")[-3000:]
        raise AssertionError(f"{error}: {told} {detail}") from None
