"""The best that a node has for what a job asks.

no image             bubblewrap
an image             bubblewrap, which starts 8 to 15 times as many payloads a second as Apptainer
an image and GPUs    Apptainer where it is: it brings the driver's libraries into the image
no bubblewrap        Apptainer, for jobs with images
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from pilot.ports import (
    Check,
    Container,
    ContainerSetup,
    Direct,
    Image,
    JobError,
    Runtime,
    Sandbox,
)
from plugins.container.apptainer import Apptainer
from plugins.container.bubblewrap import Bubblewrap

Made = TypeVar("Made")
_log = Log("pilot.container")


class Auto(Container):
    """Chooses bubblewrap or Apptainer by the job; runs none outside a container."""

    name = "auto"
    private = True
    depth = Bubblewrap.depth
    status_fd = Bubblewrap.status_fd

    def __init__(self, setup: ContainerSetup) -> None:
        self._bubblewrap = _made(lambda: Bubblewrap(setup))
        self._make_apptainer = lambda: Apptainer(setup)
        self._apptainer: Apptainer | AilurusError | None = None
        self._lock = threading.Lock()
        if isinstance(self._bubblewrap, AilurusError) and isinstance(self._other(), AilurusError):
            raise self._bubblewrap

    def of(self, spec: JobSpec) -> Container:
        wants_apptainer = spec.container and spec.gpus
        if isinstance(self._bubblewrap, Bubblewrap) and not wants_apptainer:
            return self._bubblewrap
        other = self._other()
        if isinstance(other, Apptainer):
            return other
        return self._bubblewrap if isinstance(self._bubblewrap, Bubblewrap) else self

    def ran(self, status: str) -> bool:
        return False

    def tmp(self, directory: str) -> str:
        return directory

    def accepts(self, spec: JobSpec) -> None:
        self._chosen(spec).accepts(spec)

    def prepare(self, spec: JobSpec, check: Check) -> Image | None:
        return self._chosen(spec).prepare(spec, check)

    def wrap(self, argv: Sequence[str], box: Sandbox) -> Direct | Runtime:
        raise AssertionError("the runtime of the job wraps it")

    def _chosen(self, spec: JobSpec) -> Container:
        if (found := self.of(spec)) is not self:
            return found
        raise JobError(
            Code.CONTAINER_MISSING,
            "neither bubblewrap nor Apptainer works here",
            remedy="install one of them on this node; `harvester-edge doctor` tells what it lacks",
        )

    def _other(self) -> Apptainer | AilurusError:
        """Apptainer, tried when it is first needed: that takes a quarter of a second."""
        with self._lock:
            if self._apptainer is None:
                self._apptainer = _made(self._make_apptainer)
                if isinstance(self._bubblewrap, AilurusError) and isinstance(
                    self._apptainer, Apptainer
                ):
                    _log.warning(
                        "images_by_apptainer",
                        why=str(self._bubblewrap),
                        remedy="bubblewrap would start payloads in images 8 to 15 times as fast",
                    )
            return self._apptainer


def _made(make: Callable[[], Made]) -> Made | AilurusError:
    try:
        return make()
    except AilurusError as error:
        return error
