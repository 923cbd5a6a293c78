"""Reads job files. A fault is told with file, line and field: `z.yaml:7: jobs[2].cores: …`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, NoReturn

import yaml

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from ailurus.protocol.submission import MOST_JOBS, check, jobs_from
from ailurus.protocol.uploads import check_uploads
from dispatcher.cli.exits import DATA, CommandError
from dispatcher.cli.hints import paths_beside_parents, unknown_launchers
from dispatcher.cli.payloads import PayloadLists
from dispatcher.cli.treefile import TreeFile, value_of
from dispatcher.cli.uploads import UploadFiles

MOST_FAULTS = 20
"""That are told of one file."""
_IN_ENTRY = re.compile(r"(jobs\[0\])(?:\.(\w+))?")


class JobFiles:
    """The jobs of all files, checked together. Raises CommandError, with what is wrong in the
    entries of the first file that cannot be read, else with the first thing that is wrong among
    them."""

    def __init__(self, names: list[str]) -> None:
        self.payloads = PayloadLists()
        self.uploads = UploadFiles()
        self._files = [JobFile(name, self.payloads, self.uploads) for name in names]
        self.jobs: tuple[JobSpec, ...] = tuple(job for file in self._files for job in file.jobs)
        if len(self.jobs) > MOST_JOBS:
            raise CommandError(
                DATA, f"more than {MOST_JOBS} jobs", remedy="make several submissions of them"
            )
        try:
            check(self.jobs)
            check_uploads(self.jobs)
        except AilurusError as error:
            self.fault(error)

    def hints(self) -> Iterator[str]:
        """What is right and perhaps not meant."""
        for file in self._files:
            yield from file.hints()

    def fault(self, error: AilurusError) -> NoReturn:
        """Raise a fault of all jobs together at the file and entry it comes from."""
        found = re.match(r"jobs\[(\d+)\]", error.field)
        if found is None:
            raise error
        index = int(found[1])
        for file in self._files:
            if index < len(file.jobs):
                field = f"jobs[{file.entry_of(index)}]{error.field[found.end() :]}"
                file.fault(AilurusError(error.message, remedy=error.remedy, field=field))
            index -= len(file.jobs)
        raise error


class JobFile(TreeFile):
    """One file, its jobs, and where each thing in it stands."""

    def __init__(self, name: str, payloads: PayloadLists, uploads: UploadFiles) -> None:
        super().__init__(name)
        self._payloads = payloads.reader(self.base)
        self._uploads = uploads.reader(self.base)
        try:
            self.jobs = jobs_from(self.tree, self.base, self._payloads, self._uploads)
        except AilurusError as error:
            first, *further = (self._faults() if error.field else []) or [error]
            told = self.placed(first)
            told.further = [self.placed(one) for one in further]
            raise told from None

    def hints(self) -> Iterator[str]:
        """What is right and perhaps not meant, with the file's name."""
        paths = paths_beside_parents(self.jobs, self.base, os.path.lexists)
        for hint in chain(unknown_launchers(self.jobs), paths):
            yield f"{self.name}: {hint}"

    @staticmethod
    def _root(node: yaml.Node) -> str:
        if not isinstance(node, yaml.MappingNode):
            return "jobs"
        return "" if value_of(node, "jobs") is not None else "jobs[0]"

    def _faults(self) -> list[AilurusError]:
        """What is wrong in each entry, one fault a field: a field that is wrong is left out, and
        the rest read again. Empty where it is the file as a whole."""
        found: list[AilurusError] = []
        for entry in range(len(self._entries())):
            tree = self._one(entry)
            fields: dict[str, Any] = {}
            if isinstance(tree["jobs"][0], dict):
                fields |= {**(tree.pop("defaults") or {}), **tree["jobs"][0]}
                tree["jobs"] = [fields]
            told: set[str] = set()
            while len(found) < MOST_FAULTS:
                try:
                    jobs_from(tree, self.base, self._payloads, self._uploads)
                    break
                except AilurusError as error:
                    place = _IN_ENTRY.match(error.field)
                    if place is None:
                        return found
                    if error.field in told:
                        # It is missed because it was left out.
                        break
                    told.add(error.field)
                    field = f"jobs[{entry}]{error.field[place.end(1) :]}"
                    found.append(AilurusError(error.message, remedy=error.remedy, field=field))
                    if fields.pop(place[2], None) is None:
                        break
        return found

    def entry_of(self, index: int) -> int:
        """Which entry of the file made job number `index`: a sweep makes many of one."""
        for entry in range(len(self._entries())):
            one = self._one(entry)
            made = len(jobs_from(one, self.base, self._payloads, self._uploads))
            if index < made:
                return entry
            index -= made
        return 0

    def _entries(self) -> list[Any]:
        tree = (
            self.tree["jobs"] if isinstance(self.tree, dict) and "jobs" in self.tree else self.tree
        )
        return tree if isinstance(tree, list) else [tree]

    def _one(self, entry: int) -> dict[str, Any]:
        shared = (
            self.tree.get("defaults")
            if isinstance(self.tree, dict) and "jobs" in self.tree
            else None
        )
        return {"defaults": shared, "jobs": [self._entries()[entry]]}
