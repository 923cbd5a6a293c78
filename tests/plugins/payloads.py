"""A payload in a container, without a pilot around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

import plugins
from ailurus.protocol.job import JobSpec
from pilot.node.local import started_as
from pilot.ports import PATH, Container, ContainerSetup, ProcessEnd, Sandbox
from pilot.process.spawner import GuardedSpawner


class Job:
    """A payload that a container of a site runs here."""

    def __init__(
        self, spawner: GuardedSpawner, directory: Path, name: str, **setup: object
    ) -> None:
        own = directory / "container"
        own.mkdir()
        self.container: Container = plugins.load("container", name)(
            ContainerSetup(  # type: ignore[misc]
                **{
                    "directory": str(own),
                    "user": "somebody",
                    "bare": True,
                    "spawner": spawner,
                    **setup,
                }  # type: ignore[arg-type]
            )
        )
        self.spawner = spawner
        self.own = directory
        self.work, self.tmp = directory / "work", directory / "tmp"
        self.stdout, self.stderr = directory / "stdout", directory / "stderr"
        for made in (self.work, self.tmp):
            made.mkdir()

    def start(
        self,
        command: str,
        done: Callable[[ProcessEnd], None],
        *,
        environment: Mapping[str, str] | None = None,
        memory_mb: int = 100,
        network: bool = False,
        host: str = "",
        image: str = "",
        devices: tuple[str, ...] = (),
    ) -> int:
        spec = JobSpec(name="j", container=image)
        container = self.container.of(spec)
        box = Sandbox(
            directory=str(self.work),
            tmp=str(self.tmp),
            environment={"PATH": PATH, **(environment or {})},
            memory_mb=memory_mb,
            network=network,
            host=host,
            devices=devices,
            image=container.prepare(spec, lambda: None),
            own=str(self.own),
        )
        order = replace(
            started_as(container.wrap(["/bin/sh", "-c", command], box), "7.1"),
            stdout=str(self.stdout),
            stderr=str(self.stderr),
            depth=container.depth,
            status_fd=container.status_fd,
        )
        return self.spawner.spawn(order, done)

    def run(self, command: str, **more: object) -> ProcessEnd:
        over, results = threading.Event(), []

        def done(ended: ProcessEnd) -> None:
            results.append(ended)
            over.set()

        self.start(command, done, **more)  # type: ignore[arg-type]
        assert over.wait(20)
        return results[0]

    def said(self) -> str:
        return self.stdout.read_text() + self.stderr.read_text()
