"""No container: the payload runs as the pilot's user, after everything else on the node."""

from __future__ import annotations

from collections.abc import Sequence

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from pilot.ports import Container, ContainerSetup, Direct, JobError, Sandbox


class Lowest(Container):
    """Runs payloads by nice(1)."""

    name = "lowest"
    private = False
    depth = 0
    status_fd = 0

    def __init__(self, setup: ContainerSetup) -> None:
        if not setup.bare:
            raise AilurusError("this site does not allow payloads outside a container")

    def tmp(self, directory: str) -> str:
        return directory

    def accepts(self, spec: JobSpec) -> None:
        if spec.container:
            raise JobError(Code.NOT_IMPLEMENTED, "no image can be started", field="container")

    def ran(self, status: str) -> bool:
        return True

    def wrap(self, argv: Sequence[str], box: Sandbox) -> Direct:
        return Direct(
            argv=["/usr/bin/nice", "-n", "19", *argv],
            environment=box.environment,
            directory=box.directory,
        )
