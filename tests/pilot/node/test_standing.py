"""A box that stands for many processes of one payload."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest

from ailurus.protocol.job import JobSpec
from pilot.node.local import LocalNode
from pilot.node_ports import Finish, Order, Task
from pilot.ports import PATH, Sandbox
from pilot.process import cgroup, proc
from pilot.workdir import Workdir
from plugins.container.bubblewrap import Bubblewrap
from tests.pilot.attempts import container_setup
from tests.pilot.helpers import guarded


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a cgroup")
def test_what_runs_in_it_is_held_to_the_cgroup_of_its_payload(tmp_path: Path) -> None:
    groups = cgroup.find(f"box-{os.getpid()}", partial(proc.kin, os.getpid()), asked=True)
    if groups is None:
        pytest.skip("no cgroups can be made here")
    ends: SimpleQueue[Finish] = SimpleQueue()
    work = Workdir(tmp_path / "1.1")
    work.make()
    environment = {"PATH": PATH, "AILURUS_ATTEMPT": "1.1"}
    box = Sandbox(
        directory=str(work.directory),
        tmp=str(work.tmp),
        environment=environment,
        memory_mb=20,
        own=str(work.path),
    )
    spec = JobSpec(name="job", command="x", memory_mb=20)
    with guarded() as spawner:
        node = LocalNode(Bubblewrap(container_setup()), spawner, groups=groups)
        try:
            standing = node.stand(Order(name="1.1", spec=spec, argv=(), box=box))
            eats = ["/usr/bin/python3", "-c", "b'x' * (200 << 20)"]
            for argv in (eats, ["/bin/sh", "-c", "echo on"]):
                mark = {**environment, "AILURUS_ATTEMPT": f"1.1.{argv[0]}"}
                standing.start_all([(Task(argv=argv, environment=mark, lane=1), ends.put)])
                end = ends.get(timeout=20)
                said = end.take()[0].data
                assert (end.process.exit_code, said) == (
                    (-9, b"") if argv is eats else (0, b"on\n")
                )
            standing.close()
        finally:
            node.forget("1.1")
            node.close()
