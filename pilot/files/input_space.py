"""How many bytes the inputs of a job may bring: each as many as are declared, and all others
together what the job's disk has."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from msgspec import Struct

from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile
from ailurus.protocol.url import Url
from pilot.ports import Check, JobError
from pilot.process.usage import ENTRY_BYTES, charge
from pilot.progress import StagingProgress

_LARGER = "is it the file that is meant? Declare the `size` that it has, or none"


class Wanted(Struct, frozen=True, kw_only=True):
    """One file of a job's inputs."""

    field: str
    name: str
    """In the job's directory; it may have sub-directories."""
    url: Url
    file: InputFile
    """What is declared of it, by the job or by the catalogue that lists it."""


class InputSpace:
    """How many bytes each input may bring: as many as are declared, and all others together what
    the job's disk has left."""

    def __init__(
        self, wanted: Sequence[Wanted], left: int, progress: StagingProgress | None = None
    ) -> None:
        self._wanted, self._left, self._progress = wanted, left, progress
        self._bytes: dict[int, int] = {}

    def check(self, key: int, moved_bytes: int) -> None:
        """Note how many bytes of an input have come. Raises JobError for too many."""
        self._bytes[key] = moved_bytes
        if self._progress is not None:
            self._progress.moved(self._wanted[key].name, moved_bytes)
        file = self._wanted[key].file
        if file.size is not None:
            if moved_bytes > file.size:
                raise JobError(
                    Code.STAGE_IN_FAILED,
                    f"{file.name} has more than the {file.size} bytes declared",
                    remedy=_LARGER,
                    transient=False,
                )
            return
        open_ = [key for key in self._bytes if self._wanted[key].file.size is None]
        if sum(self._bytes[key] for key in open_) > self._left:
            raise JobError(
                Code.INPUTS_TOO_LARGE,
                f"inputs without a declared size have more than the {self._left} bytes that the "
                "job's disk and the site's `limits.inputs` have for them",
                remedy="declare their `size`, which counts beside `disk`, or ask for more `disk`",
            )


class SharedSpace:
    """What the disk of a job has for inputs of undeclared size, several of which may come at
    once."""

    def __init__(self, total: int) -> None:
        self._total, self._taken = total, 0
        self._by_name: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, name: str, taken: int) -> int:
        """Note what an input takes so far, bytes; how many it may take beside the others."""
        with self._lock:
            self._taken += taken - self._by_name.get(name, 0)
            self._by_name[name] = taken
            return self._total - self._taken + taken

    @property
    def left(self) -> int:
        """Bytes that none has taken."""
        return self._total - self._taken


def bounded(
    file: InputFile, into: int, space: SharedSpace, check: Check, moved: Callable[[int], None]
) -> Check:
    """`check`, which also tells `moved` the bytes so far, and raises JobError when the file `into`
    takes more of the node's disk than the declared size of the input, or than `space` has for
    it."""

    def both() -> None:
        check()
        found = os.fstat(into)
        moved(found.st_size)
        taken = charge(found)
        if file.size is not None:
            if taken > file.size + ENTRY_BYTES:
                raise JobError(
                    Code.STAGE_IN_FAILED,
                    f"{file.name} has more than the {file.size} bytes declared",
                    remedy=_LARGER,
                )
        elif taken > (most := space.take(file.name, taken)) + ENTRY_BYTES:
            raise JobError(
                Code.INPUTS_TOO_LARGE,
                f"{file.name} has more than the {most} bytes that the job's disk has left for "
                "inputs whose size is not declared",
                remedy="declare the `size` of the input, which counts beside `disk`, or ask for "
                "more `disk`",
            )

    return both
