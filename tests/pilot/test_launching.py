"""A payload on several nodes of agents, started as its launcher plans it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Resources
from pilot.launching import RemoteShells, executable, planned, variables
from pilot.node.local import LocalNode
from pilot.node.shares import Slot
from pilot.node_ports import JobNode
from pilot.payload import Part, Payload
from pilot.ports import PATH, Sandbox
from pilot.process.spawner import GuardedSpawner
from pilot.run import run
from pilot.site import ContainerChoice, Site
from pilot.workdir import Workdir
from plugins.container.bubblewrap import Bubblewrap
from tests.pilot.agents.cluster import Cluster
from tests.pilot.attempts import attempt_of, container_setup, kit_of
from tests.pilot.helpers import guarded

ON_ALL = """
while read -r node; do "$AILURUS_PILOT_RSH" "$node" 'echo "$WHO on $(uname -n)"; echo err >&2'; done \\
    <"$AILURUS_NODES"
pilot-rsh n2 'exit 7'
"""


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


class Job:
    """A job of two nodes, of which each is an agent on this machine."""

    def __init__(self, cluster: Cluster, spec: JobSpec, argv: list[str]) -> None:
        self.work = Workdir(cluster.shared / "1.1")
        self.work.make()
        nodes = [cluster.agent(name) for name in ("n1", "n2")]
        seen = [JobNode(name=one.name, address="", cores=2, memory_mb=100) for one in nodes]
        plan = planned(spec, "1.1", argv, seen, self.work)
        parts = []
        for node in nodes:
            tmp = node.tmp("1.1", "")
            inside = node.container.of(spec).tmp(tmp)
            environment = {
                "PATH": PATH,
                "TMPDIR": inside,
                "WHO": node.name,
                "AILURUS_ATTEMPT": "1.1",
                **variables(plan, self.work, node.name, inside),
            }
            box = Sandbox(
                directory=str(self.work.directory),
                tmp=tmp,
                environment=environment,
                memory_mb=100,
                network=True,
                host=node.name,
            )
            parts.append(Part(node, box))
        payload = Payload("1.1", spec, parts)
        with RemoteShells(payload, parts):
            payload.begin(plan.argv, str(self.work.stdout), str(self.work.stderr))
            assert payload.over.wait(30)
        assert payload.exit is not None
        self.code = payload.exit.process.exit_code


@pytest.mark.parametrize("runtime", ["bare", "bubblewrap"])
def test_the_first_process_starts_others_in_the_jobs_sandbox_on_each_node(
    tmp_path: Path, spawner: GuardedSpawner, runtime: str
) -> None:
    site = Site(container=ContainerChoice(default=runtime, bare=True))
    made = Cluster(tmp_path, spawner, site=site)
    try:
        spec = JobSpec(name="job", command="x", nodes=2, launcher="script")
        job = Job(made, spec, ["/bin/sh", "-c", ON_ALL])
    finally:
        made.end()
    said = job.work.stdout.read_text(), job.work.stderr.read_text()
    assert job.code == 7, said
    if runtime == "bubblewrap":
        assert said == ("n1 on n1\nn2 on n2\n", "err\nerr\n")
    else:
        assert [line.split()[0] for line in said[0].splitlines()] == ["n1", "n2"]


ON_ITSELF = """
read -r node <"$AILURUS_NODES"
pilot-rsh -x "$node" "echo '$node:'" '"$(cat)${PWD##*/}"; exit 7' || echo "$?"
pilot-rsh n1 true
"""


def test_a_job_of_one_node_of_an_allocation_is_alone_as_on_a_node_without_one(
    tmp_path: Path, spawner: GuardedSpawner
) -> None:
    """Its sandbox is not called as the node is: a name of the node would be another machine's."""
    node = LocalNode(Bubblewrap(container_setup()), spawner, name="n1", address="192.0.2.1")
    kit = kit_of(spawner, node=node)
    attempt = attempt_of(ON_ITSELF, launcher="script")
    with Workdir(tmp_path / "attempt") as work:
        work.make()
        attempt.work = work
        outcome = run(attempt, work, (Slot(Resources(cores=1), node="n1"),), kit)
        assert work.stdout.read_text() == f"localhost: {work.directory.name}\n7\n"
        assert "one node" in work.stderr.read_text()
    assert outcome.exit_code == 255


@pytest.mark.parametrize(
    ("fields", "program"),
    [
        ({"command": "./go --fast 'a b'"}, "./go"),
        ({"command": "OMP_NUM_THREADS=2 exec python3 train.py"}, "python3"),
        ({"command": "$GO now"}, ""),
        ({"command": "(cd x; ./go)"}, ""),
        ({"command": "it's not closed"}, ""),
        ({"script": "#!/usr/bin/env python3\nimport mpi4py\n"}, "python3"),
        ({"script": "#!/opt/bin/python -u\n"}, "/opt/bin/python"),
        ({"script": "#!/bin/sh\n./go\n"}, "/bin/sh"),
        ({"script": "./go\n"}, ""),
    ],
)
def test_the_program_of_a_job_is_known_as_far_as_its_text_says(
    fields: dict[str, str], program: str
) -> None:
    assert executable(JobSpec(name="job", **fields)) == program  # type: ignore[arg-type]
