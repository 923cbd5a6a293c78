"""Launchers start real programs on machines of namespaces, with `pilot-rsh` among them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from ailurus.protocol.launchers import HorovodOptions, MpiOptions, RayOptions, TorchrunOptions
from pilot.node_ports import Plan, Program
from plugins.launch.horovod import Horovod
from plugins.launch.mpi import Mpi
from plugins.launch.ray import Ray
from plugins.launch.torchrun import Torchrun
from tests.pilot.rsh.rig import Cluster, Ran, cluster
from tests.plugins.launches import launch
from tests.rig.nodes import Nodes

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/parallel"
WORLD = """
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
int main(int count, char **words) {
    int rank, size, sum, length;
    char name[MPI_MAX_PROCESSOR_NAME];
    MPI_Init(&count, &words);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(name, &length);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    printf("rank %d of %d on %s: %d\\n", rank, size, name, sum);
    fflush(stdout);
    if (count > 1 && rank == 4) exit(atoi(words[1]));
    if (count > 1) MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
"""
MPI4PY = (EXAMPLES / "world.py").read_text()

TORCH = (EXAMPLES / "ddp.py").read_text()
HOROVOD = (EXAMPLES / "train.py").read_text()


@pytest.fixture
def on_nodes(nodes: Nodes) -> Iterator[Cluster]:
    directory = nodes.directory / "payload"
    with cluster(directory, nodes.names, enter=nodes.command) as made:
        yield made


def run(cluster: Cluster, plan: Plan, job: Program, timeout_s: float = 30) -> Ran:
    directory = Path(job.directory)
    directory.mkdir()
    for name, text in plan.files.items():
        (directory / name).write_text(text)
    cluster.more |= plan.environment
    return cluster.run(plan.argv, job.nodes[0].name, timeout_s)


MPIS = {
    "openmpi4": ("mpicc.openmpi", ""),
    "openmpi5": ("", ".venv-openmpi"),
    "mpich5": ("", ".venv-mpich"),
}
# Debian's, over UCX: of runs that end well some stand still in MPI_Finalize (docs/decisions/0385).
MPICH4 = {"mpich4": ("mpicc.mpich", "")}


@pytest.mark.parametrize("kind", MPIS)
def test_the_ranks_of_each_mpi_find_each_other_on_three_nodes(
    kind: str,
    on_nodes: Cluster,
    nodes: Nodes,
    world: Callable[[str], str],
    need: Callable[..., str],
) -> None:
    compiler, venv = MPIS[kind]
    if venv:
        program = need("python", where=f"{ROOT}/{venv}/bin", option="--mpi")
    else:
        program = world(compiler)
    argv = [program, "-c", MPI4PY] if venv else [program]
    job = launch(nodes.directory / "launch", argv, program, names=nodes.names)
    ran = run(on_nodes, Mpi(MpiOptions(ranks_per_node=2)).plan(job), job)
    assert ran.code == 0, ran
    assert sorted(ran.out.splitlines()) == [f"rank {n} of 6 on n{1 + n // 2}: 15" for n in range(6)]


@pytest.fixture
def world(nodes: Nodes, need: Callable[..., str]) -> Callable[[str], str]:
    """Compile the program with one of MPI's compilers."""

    def compiled(compiler: str) -> str:
        program = str(nodes.directory / "world")
        (nodes.directory / "world.c").write_text(WORLD)
        with_mpi = need(compiler, option="--mpi")
        subprocess.run([with_mpi, f"{program}.c", "-o", program], check=True)
        return program

    return compiled


@pytest.mark.parametrize("kind", ["openmpi4", "mpich4"])
def test_the_exit_code_and_number_of_a_failing_rank_are_told(
    kind: str, on_nodes: Cluster, nodes: Nodes, world: Callable[[str], str]
) -> None:
    program = world((MPIS | MPICH4)[kind][0])
    job = launch(nodes.directory / "launch", [program, "7"], program, names=nodes.names)
    ran = run(on_nodes, Mpi(MpiOptions(ranks_per_node=2)).plan(job), job)
    assert ran.code == 7, ran
    assert ran.err.splitlines()[-1] == "mpi: rank 4 of 6, on n3, ended with exit code 7"


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("compiler", "starter", "says"),
    [
        ("mpicc.openmpi", "mpirun.mpich", "openmpi"),
        ("mpicc.mpich", "mpirun.openmpi", "mpich"),
    ],
)
def test_a_starter_of_another_mpi_is_an_error_that_says_so(
    compiler: str,
    starter: str,
    says: str,
    known: bool,
    on_nodes: Cluster,
    nodes: Nodes,
    world: Callable[[str], str],
) -> None:
    """Each rank would be a world of one, and end well. Where nobody could ask the program before,
    as if it is a script that starts it, its first rank is watched."""
    program = world(compiler)
    argv = [program] if known else ["/bin/sh", "-c", f"sleep 0; {program}"]
    job = launch(nodes.directory / "launch", argv, program if known else "", names=nodes.names)
    ran = run(on_nodes, Mpi(MpiOptions(ranks_per_node=2, mpirun=starter)).plan(job), job)
    assert ran.code == 255, ran
    last = ran.err.splitlines()[-1]
    assert last.startswith("mpi: ")
    assert says in last
    assert starter in last
    assert ("nothing on" if known else "did not find each other") in last


def test_a_job_without_any_mpi_says_what_lacks(tmp_path: Path) -> None:
    with cluster(tmp_path / "payload", ["q1"]) as made:
        job = launch(tmp_path / "launch", ["./program"], "./program", names=["q1"])
        made.more["PATH"] = "/nonexistent"
        ran = run(made, Mpi(MpiOptions()).plan(job), job)
    assert (ran.code, ran.out) == (255, "")
    assert ran.err.startswith(
        "mpi: nothing on the job's PATH starts ranks: there is no mpirun and no mpiexec; name one"
    )


TRAININGS = {
    "torchrun": (TORCH, lambda python: Torchrun(TorchrunOptions(python=python))),
    "torchrun-elastic": (
        TORCH,
        lambda python: Torchrun(TorchrunOptions(python=python, elastic=True)),
    ),
    "horovod-gloo": (HOROVOD, lambda python: Horovod(HorovodOptions(python=python))),
    "horovod-mpi": (
        HOROVOD,
        lambda python: Horovod(HorovodOptions(python=python, controller="mpi")),
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("kind", TRAININGS)
def test_a_training_has_a_worker_on_each_of_three_nodes(
    kind: str, on_nodes: Cluster, nodes: Nodes, request: pytest.FixtureRequest
) -> None:
    text, launcher = TRAININGS[kind]
    python = request.getfixturevalue("horovod" if text is HOROVOD else "torch")
    (nodes.directory / "train.py").write_text(text)
    argv = [python, str(nodes.directory / "train.py")]
    job = launch(nodes.directory / "launch", argv, python, names=nodes.names)
    ran = run(on_nodes, launcher(python).plan(job), job, timeout_s=150)
    assert ran.code == 0, ran
    assert sorted(ran.out.splitlines()) == [f"rank {n} of 3: 3" for n in range(3)]


def test_the_worker_of_a_training_that_fails_is_told(tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", '[ "$RANK" != 4 ] || exit 7; sleep 30']
    with cluster(tmp_path / "payload") as made:
        job = launch(tmp_path / "launch", argv)
        ran = run(made, Torchrun(TorchrunOptions(ranks_per_node=2)).plan(job), job)
    assert (ran.code, ran.out) == (7, "")
    assert ran.err == "launch: rank 4 of 6, on q3, ended with exit code 7\n"


# Its exit code is the job's.
RAY = (EXAMPLES / "driver.py").read_text() + "\nraise SystemExit(5)\n"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_ray_is_the_jobs_own_over_three_nodes_and_ends_with_its_driver(
    on_nodes: Cluster, nodes: Nodes, need: Callable[..., str]
) -> None:
    (nodes.directory / "driver.py").write_text(RAY)
    python = need("python", where=f"{ROOT}/.venv-ray/bin", option="--ray")
    argv = [python, str(nodes.directory / "driver.py")]
    for name in nodes.names:
        # As in a sandbox: short, and of the node.
        on_nodes.nodes[name].own["TMPDIR"] = "/tmp"
    job = launch(nodes.directory / "launch", argv, names=nodes.names, cores=2)
    job = replace(
        job,
        nodes=[replace(node, address=nodes.addresses[node.name]) for node in job.nodes],
    )
    plan = Ray(RayOptions(python=python, object_store_mb=80)).plan(job)
    ran = run(on_nodes, plan, job, timeout_s=150)
    assert ran.code == 5, ran
    assert ran.out.split() == ["n1", "n2", "n3"]
