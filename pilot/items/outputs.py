"""What items leave: looked at as each ends, and taken to storage with the outputs of their job."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from ailurus.protocol import trees
from ailurus.protocol.errors import Code
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import OutputFile
from pilot.attempt import Attempt
from pilot.files.leaving import Leaving, leaving
from pilot.ports import JobError
from pilot.workdir import Workdir


class ItemOutputs:
    """The files of the items of one job."""

    def __init__(self, attempt: Attempt, work: Workdir, takes: Callable[[Leaving], bool]) -> None:
        """`takes`: whether a file is there, for storage; an optional one need not be. It raises
        JobError for what storage would not get."""
        self._attempt, self._work, self._takes = attempt, work, takes
        self._items: dict[str, int] = {}
        self._files: dict[str, OutputFile] = {}
        # Of outputs of the job itself.
        self._jobs = {trees.effective(file) for file in attempt.spec.outputs}

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """All that finished items have left."""
        return tuple(self._files.values())

    @property
    def items(self) -> dict[str, int]:
        """Whose they are, by their names in storage."""
        return self._items

    def ended(self, index: int, spec: ItemSpec) -> None:
        """An item has ended well: note what it left. Raises JobError if not all of that is
        there."""
        alone = replace(self._attempt.spec, outputs=spec.outputs)
        found = {one.file.name: one for one in leaving(alone, self._work, lambda: None)}
        for name, one in list(found.items()):
            if name in self._jobs:
                if trees.is_many(trees.effective(spec.outputs[one.index])):
                    del found[name]
                    continue
                raise JobError(
                    Code.PAYLOAD_FAILED,
                    f"{name!r} is an output of the job itself, and of this payload, too",
                    remedy="name it among the outputs of the job alone, or give the payload's "
                    "another name: hist_{item}.root",
                )
            if self._items.get(name, index) != index:
                raise JobError(
                    Code.PAYLOAD_FAILED,
                    f"payload {self._items[name]} has left {name!r} as well, and all of a job "
                    "share its directory",
                    remedy="give each its own names: hist_{item}.root",
                )
            if not one.directory and not self._takes(one):
                del found[name]
        beside = len(self._attempt.spec.outputs) + len(self._items)
        beside += sum(name not in self._items for name in found)
        if beside >= trees.MOST_FILES:
            raise JobError(
                Code.OUTPUT_TOO_LARGE,
                f"with it the payloads of its job leave {beside} files, of fewer than "
                f"{trees.MOST_FILES}",
                remedy="make several jobs, or one output of the job: `tree: archive`",
            )
        for name, one in found.items():
            self._items[name] = index
            self._files[name] = _declared(one, spec)


def _declared(one: Leaving, spec: ItemSpec) -> OutputFile:
    """An output as a job would declare it."""
    return spec.outputs[one.index] if one.directory else one.file
