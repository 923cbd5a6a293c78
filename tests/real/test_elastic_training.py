"""A Horovod training that loses a node and gets it back, in a job of a whole pilot."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from ailurus.protocol.states import JobState
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
    made.start()
    try:
        until(lambda: len(made.said("node_joined")) == 2, 30, "both agents are there")
        yield made
    finally:
        made.dispatcher.kill()


def test_a_training_loses_a_node_and_gets_it_back_and_ends_with_the_loss_of_one_without(
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
    nodes.boot("n3")
    fixture = map(str, (FIXTURES / "slurm", "node", on_three.slurm.directory, "n3", "start"))
    subprocess.run([*fixture], check=True, timeout=60)
    # The pilot may be in the middle of a vain start of its agent.
    on_three.final([job], 120)
    state, out, diagnosis = on_three.seen(job)
    assert state is JobState.FINISHED, diagnosis
    worlds, losses = out.splitlines()[-2:]
    assert worlds == "world 3 2 3", out
    trained, alone = map(float, losses.split()[1:])
    assert trained == pytest.approx(alone, rel=1e-4)
    with nodes.network("n1"):
        detail = on_three.dispatcher.client.show(job)
    assert detail.row.attempt_nr == 1
    assert detail.row.diagnosis.startswith("its nodes changed while it ran: n3 was lost, n3 came")
    for name in nodes.names:
        listed = nodes.run(name, "sh", "-c", "ps ax -o args")
        assert "elastic.py" not in listed


def began(cluster: Cluster, job: int, line: str) -> None:
    """Wait until the training has written this."""

    def written(stream: str) -> str:
        outputs = cluster.directory.glob(f"work/ailurus-*/{job}.1/{stream}")
        return "".join(output.read_text() for output in outputs)

    try:
        until(lambda: line in written("stdout"), 60, f"it writes {line!r}", every_s=0.2)
    except TimeoutError as error:
        with cluster.nodes.network("n1"):
            detail = cluster.dispatcher.client.show(job)
        raise AssertionError(f"{error}: {written('stderr')[-3000:]} {detail}") from None
