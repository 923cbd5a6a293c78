"""Parallel programs as jobs: by a whole pilot of three nodes, in sandboxes, from a real Slurm."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest
import yaml

from ailurus.protocol.states import JobState
from ailurus.protocol.submission import jobs_from
from tests.plugins.test_launch_real import EXAMPLES, MPI4PY, MPIS, ROOT, WORLD
from tests.real.test_head_pilot import Queue
from tests.rig import services
from tests.rig.batch_systems import Slurm
from tests.rig.nodes import Nodes
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.batch, pytest.mark.slow, pytest.mark.timeout(180)]


class Cluster(Queue):
    """Three nodes with one pilot, whose jobs see the programs of `software`."""

    def __init__(
        self,
        nodes: Nodes,
        slurm: Slurm,
        runtime: str,
        apptainer: str = "",
        *,
        site_software: str = "",
    ) -> None:
        """`apptainer`: the directory of its command; `site_software`: another name for what is in
        `software`."""
        super().__init__(nodes, slurm)
        self.software = nodes.directory / "software"
        self.software.mkdir()
        self.programs = nodes.directory / "programs"
        """What some nodes have in /usr/local/bin."""
        site = json.loads(self.site.read_text())
        self.images = nodes.directory / "images"
        self.images.mkdir()
        container = {"default": runtime, "bare": True, "images": [str(self.images)]}
        site["container"] = {**container, **({"apptainer": apptainer} if apptainer else {})}
        site["slots"]["s"]["memory"] = "4GiB"
        site["software"] = [site_software or str(self.software), str(ROOT)]
        self.site.write_text(json.dumps(site))

    @contextmanager
    def with_agents(self) -> Iterator[Self]:
        """The same with its pilot and both agents, until the block ends."""
        self.start()
        try:
            until(lambda: len(self.said("node_joined")) == 2, 30, "both agents are there")
            yield self
        finally:
            self.dispatcher.kill()

    def job(self, command: str, launcher: str, *, container: str = "", **options: Any) -> int:
        with self.nodes.network("n1"):
            return self.dispatcher.submit(
                command,
                queue="q",
                container=container,
                nodes=3,
                cores=2,
                memory_mb=2000,
                walltime_s=90,
                launcher=launcher,
                launcher_options=options,
            )

    def provide(self, name: str, program: str) -> None:
        """Have a program on the PATH of jobs."""
        (self.programs / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        (self.programs / name).chmod(0o755)

    def seen(self, job: int) -> tuple[JobState, str, str]:
        """How a job ended: its state, what it wrote, and what was said of it."""
        self.final([job], 90)
        with self.nodes.network("n1"):
            detail = self.dispatcher.client.show(job)
            out, err = self.dispatcher.log(job), self.dispatcher.log(job, "stderr")
        return detail.row.state, out, f"{detail} {err}"


@pytest.fixture(params=["bare", "bubblewrap"])
def on_three(
    request: pytest.FixtureRequest, nodes: Nodes, slurm_nodes: Slurm, need: Callable[..., str]
) -> Iterator[Cluster]:
    program = services.apptainer_needed(need).parent if request.param == "apptainer" else ""
    with Cluster(nodes, slurm_nodes, request.param, str(program)).with_agents() as made:
        yield made


def compiled(cluster: Cluster, compiler: str) -> str:
    source = cluster.software / "world.c"
    source.write_text(WORLD)
    program = cluster.software / compiler
    subprocess.run([compiler, source, "-o", program], check=True)
    return str(program)


def commands(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """By kind of MPI, what a user would write."""
    (cluster.software / "world.py").write_text(MPI4PY)
    for kind, (compiler, venv) in MPIS.items():
        if venv:
            yield kind, f"{ROOT}/{venv}/bin/python {cluster.software}/world.py"
        else:
            yield kind, compiled(cluster, compiler)


def test_mpi_jobs_of_each_kind_run_on_three_nodes_and_leave_nothing(
    on_three: Cluster, need: Callable[..., str]
) -> None:
    need("mpicc.openmpi", option="--mpi")
    for venv in (".venv-openmpi", ".venv-mpich"):
        need("python", where=f"{ROOT}/{venv}/bin", option="--mpi")
    need("mpicc.mpich", option="--mpi")
    jobs = {
        kind: on_three.job(command, "mpi", ranks_per_node=2) for kind, command in commands(on_three)
    }
    bad = on_three.job(f"{on_three.software}/mpicc.openmpi 7", "mpi", ranks_per_node=2)
    wrong = on_three.job(f"{on_three.software}/mpicc.openmpi", "mpi", mpirun="mpirun.mpich")
    for kind, job in jobs.items():
        state, out, diagnosis = on_three.seen(job)
        assert state is JobState.FINISHED, (kind, diagnosis)
        ranks, hosts = zip(*(line.split(" on ") for line in sorted(out.splitlines())), strict=True)
        assert ranks == tuple(f"rank {n} of 6" for n in range(6)), kind
        assert Counter(hosts) == {f"n{n}: 15": 2 for n in (1, 2, 3)}, kind
    state, _, diagnosis = on_three.seen(bad)
    assert state is JobState.FAILED
    assert re.search(r"rank 4 of 6, on n\d, ended with exit code 7", diagnosis), diagnosis
    state, _, diagnosis = on_three.seen(wrong)
    assert state is JobState.FAILED
    assert "mpirun.mpich is of mpich" in diagnosis
    for name in on_three.nodes.names:
        listed = on_three.nodes.run(
            name, "sh", "-c", "ps ax -o args | grep -E 'rank[.]sh|mpirun|[o]rted|hydra' || :"
        )
        assert "rank.sh" not in listed


RANKS = [f"rank {n} of 3: 3" for n in range(3)]
GUIDE = {
    "mpi": (".venv-openmpi", [f"rank {n} of 6: 15" for n in range(6)]),
    "torch": (".venv-torch", RANKS),
    "horovod": (".venv-torch", RANKS),
    "ray": (".venv-ray", ["n1 n2 n3"]),
}
"""By job file, the environment that its `python3` is of, and what it prints."""


@pytest.fixture
def as_guided(nodes: Nodes, slurm_nodes: Slurm) -> Iterator[Cluster]:
    """Nodes that have what the guide's jobs name, at the same paths."""
    made = Cluster(nodes, slurm_nodes, "bubblewrap", site_software="/opt/software")
    shutil.copytree(EXAMPLES, made.software, dirs_exist_ok=True)
    made.programs.mkdir()
    mounts = (
        f"mount --bind {made.programs} /usr/local/bin && mount -t tmpfs tmpfs /opt && "
        f"mkdir /opt/software && mount --bind {made.software} /opt/software"
    )
    for name in nodes.names:
        nodes.run(name, "sh", "-c", mounts)
    made.start()
    try:
        until(lambda: len(made.said("node_joined")) == 2, 30, "both agents are there")
        yield made
    finally:
        made.dispatcher.kill()


def test_the_job_files_of_the_guide_run_as_they_are_printed(
    as_guided: Cluster, horovod: str, need: Callable[..., str]
) -> None:
    need("python", where=f"{ROOT}/.venv-openmpi/bin", option="--mpi")
    need("python", where=f"{ROOT}/.venv-ray/bin", option="--ray")
    for name, (venv, printed) in GUIDE.items():
        # The program of the job's PATH, which is another one for each.
        for program, run in (("python3", "python"), ("mpirun", "mpirun")):
            as_guided.provide(program, f"{ROOT}/{venv}/bin/{run}")
        with as_guided.nodes.network("n1"):
            tree = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
            (job,) = as_guided.dispatcher.client.submit(jobs_from(tree)).job_ids
        state, out, diagnosis = as_guided.seen(job)
        assert state is JobState.FINISHED, (name, diagnosis)
        assert sorted(re.sub(r" on n\d", "", out).splitlines()) == printed, name
    for name in as_guided.nodes.names:
        listed = as_guided.nodes.run(name, "sh", "-c", "ps ax -o args")
        assert "raylet" not in listed
        assert "rendezvous" not in listed


@pytest.mark.parametrize("on_three", ["bubblewrap", "apptainer"], indirect=True)
def test_an_mpi_job_runs_in_an_image_on_three_nodes(
    on_three: Cluster, need: Callable[..., str]
) -> None:
    """By the MPI of the image, and by one of the site's that its `software` brings."""
    services.fuse_needed()
    need("squashfuse_ll", package="squashfuse", option="--apptainer")
    image = shutil.copy(services.mpi_image_needed(), on_three.images)
    sites = need("python", where=f"{ROOT}/.venv-openmpi/bin", option="--mpi")
    script = on_three.software / "world.py"
    script.write_text(MPI4PY)
    jobs = [
        on_three.job(f"{python} {script}", "mpi", container=image, ranks_per_node=2)
        for python in ("python3", sites)
    ]
    for job in jobs:
        state, out, diagnosis = on_three.seen(job)
        assert state is JobState.FINISHED, diagnosis
        ranks, hosts = zip(*(line.split(" on ") for line in sorted(out.splitlines())), strict=True)
        assert ranks == tuple(f"rank {n} of 6" for n in range(6)), diagnosis
        assert Counter(hosts) == {f"n{n}: 15": 2 for n in (1, 2, 3)}
