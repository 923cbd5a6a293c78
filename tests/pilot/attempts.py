"""Single payloads through the pilot's own parts, with neither pilot nor dispatcher around them."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import Assignment
from ailurus.protocol.resources import Resources
from pilot.attempt import Attempt
from pilot.clock import SYSTEM
from pilot.node.containers import user_name
from pilot.node.local import LocalNode
from pilot.node.shares import Slot
from pilot.node.supervisor import Supervisor
from pilot.ports import ContainerSetup, JobError
from pilot.process.spawner import GuardedSpawner
from pilot.run import Outcome, run
from pilot.site import Limits, bounds_of
from pilot.workdir import Workdir
from plugins.container.bare import Bare
from plugins.container.bubblewrap import Bubblewrap
from tests.pilot.helpers import guarded


def container_setup() -> ContainerSetup:
    """A site that allows everything. What containers need is in no work directory: those may be
    full."""
    own = tempfile.mkdtemp(prefix="container-")
    atexit.register(shutil.rmtree, own)
    return ContainerSetup(directory=own, user=user_name(), bare=True)


def attempt_of(
    command: str = "", of: tuple[int, int] = (1, 1), mark: str = "", **fields: Any
) -> Attempt:
    fields.setdefault("name", "job")
    spec = JobSpec(command=command, **fields)
    assignment = Assignment(job_id=of[0], attempt_nr=of[1], report_key="k", spec=spec, mark=mark)
    return Attempt(assignment, lambda attempt: None)


def kit_of(spawner: GuardedSpawner, container: Any = None, node: LocalNode | None = None) -> Any:
    node = node or LocalNode(container or Bubblewrap(container_setup()), spawner)
    return SimpleNamespace(
        node=node,
        nodes={node.name: node},
        clock=SYSTEM,
        supervisor=Supervisor(bounds_of(Limits()), {node.name: node}),
    )


def outcome_of(
    attempt: Attempt, directory: Path, spawner: GuardedSpawner, container: Any = None
) -> Outcome:
    """How the payload ends; what the work directory refuses counts as its end, too."""
    with Workdir(directory / "attempt") as work:
        try:
            work.make()
            attempt.work = work
            return run(attempt, work, (Slot(Resources(cores=1)),), kit_of(spawner, container))
        except JobError as error:
            return Outcome(exit_code=-1, error=error)


def open_up(directory: Path) -> None:
    """Let an ordinary user come as far as `directory`, which pytest made for root."""
    ours = Path(tempfile.gettempdir())
    for above in directory.parents:
        if above == ours or ours not in above.parents:
            return
        above.chmod(above.stat().st_mode | 0o011)


def main() -> None:
    """In a process of its own, which may have a file system, user or limits of its own."""
    told = msgspec.json.decode(sys.argv[1])
    if user := told.get("user"):
        os.setgid(user)
        os.setuid(user)
    with guarded(forked=True) as spawner:
        if (most := told.get("processes")) is not None:
            import resource

            resource.prlimit(spawner.guardian_pid, resource.RLIMIT_NPROC, (most, most))
        directory = Path(told["directory"])
        container = Bare(container_setup()) if told.get("bare") else None
        outcome = outcome_of(attempt_of(**told["job"]), directory, spawner, container)
    error = outcome.error
    said = {
        "exit": outcome.exit_code,
        "code": int(error.code) if error else 0,
        "transient": bool(error and error.transient),
        "message": str(error or ""),
    }
    print(msgspec.json.encode(said).decode())


if __name__ == "__main__":
    main()
