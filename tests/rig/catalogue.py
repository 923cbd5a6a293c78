"""A catalogue of data in memory, for tests of what the dispatcher tells one."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from dispatcher.catalogue import messages
from dispatcher.ports import CatalogueUnavailable, Fault, NewFile


class InMemory:
    """Takes everything, unless it is told to refuse or to be away."""

    def __init__(self) -> None:
        self.files: dict[str, NewFile] = {}
        self.datasets: dict[str, list[str]] = {}
        self.open: set[str] = set()
        self.rules: list[str] = []
        self.told: list[str] = []
        self.refuse: dict[str, Fault] = {}
        self.away = ""

    async def ask(self, request: messages.Request) -> messages.Answer:
        """As the process of a catalogue would answer."""
        return messages.answer(self, request)

    def register(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        self._reached()
        for file in files:
            did = f"{file.scope}:{file.name}"
            self.told.append(did)
            if did not in self.refuse:
                known = self.files.setdefault(did, file)
                assert (known.size, known.guid) == (file.size, file.guid)
        return [replace(fault, key=file.key) for file in files if (fault := self._refused(file))]

    def attach(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        self._reached()
        for file in files:
            if file.dataset:
                self.open.add(file.dataset)
                content = self.datasets.setdefault(file.dataset, [])
                did = f"{file.scope}:{file.name}"
                content.extend([did] * (did not in content))
        return []

    def keep(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        self._reached()
        for file in files:
            rule = f"{file.dataset or file.name} at {file.rse}"
            self.rules.extend([rule] * (rule not in self.rules))
        return []

    def close(self, datasets: Sequence[str]) -> Sequence[Fault]:
        self._reached()
        self.open -= set(datasets)
        return []

    def _refused(self, file: NewFile) -> Fault | None:
        return self.refuse.get(f"{file.scope}:{file.name}")

    def _reached(self) -> None:
        if self.away:
            raise CatalogueUnavailable(self.away)
