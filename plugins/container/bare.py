"""No container: the payload runs as the pilot's own user, and can read what the pilot's user can.

Only where the site file says `container: {bare: true}`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from pilot.ports import Container, ContainerSetup, Direct, JobError, Sandbox


class Bare(Container):
    """Runs the command as it is."""

    name = "bare"
    private = False
    depth = 0
    status_fd = 0

    def __init__(self, setup: ContainerSetup) -> None:
        if not setup.bare:
            raise AilurusError(
                "this site does not allow payloads outside a container",
                field="container.bare",
                remedy="set `container: {bare: true}` in the site file, or make bubblewrap work",
            )

    def tmp(self, directory: str) -> str:
        return directory

    def accepts(self, spec: JobSpec) -> None:
        if spec.container:
            raise JobError(
                Code.NOT_IMPLEMENTED,
                f"this pilot cannot start the image {spec.container!r}",
                field="container",
                remedy="leave `container` out, or `container: {default: auto}` in the site file",
            )

    def ran(self, status: str) -> bool:
        return True

    def wrap(self, argv: Sequence[str], box: Sandbox) -> Direct:
        return Direct(argv=argv, environment=box.environment, directory=box.directory)

    def within(self, argv: Sequence[str], box: Sandbox) -> Direct:
        return self.wrap(argv, box)
