"""A catalogue of data in memory, for tests of what the dispatcher tells one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from dispatcher.catalogue import messages
from dispatcher.ports import (
    CatalogueUnavailable,
    Contents,
    Fault,
    KnownFile,
    NewFile,
    NotDone,
    ReplicationRule,
)


class InMemory:
    """Takes everything, unless it is told to refuse or to be away."""

    def __init__(self) -> None:
        self.files: dict[str, NewFile] = {}
        self.datasets: dict[str, list[str]] = {}
        self.open: set[str] = set()
        self.rules: list[str] = []
        self.told: list[str] = []
        self.refuse: dict[str, Fault] = {}
        self.before: dict[str, Contents] = {}
        """What it knew before anybody told it, by identifier."""
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

    def resolve(self, did: str, most: int) -> Contents | None:
        self._reached()
        if did in self.refuse:
            raise NotDone(self.refuse[did])
        if did in self.before:
            return _some(self.before[did], most)
        names = self.datasets.get(did, [did] if did in self.files else [])
        known = (self.files[name] for name in names)
        files = tuple(
            KnownFile(name=f"{file.scope}:{file.name}", size=file.size, adler32=file.adler32)
            for file in known
        )
        kind = "dataset" if did in self.datasets else "file"
        found = Contents(kind=kind, open=did in self.open, files=files)
        return _some(found, most) if files else None

    def listing(self, did: str, after: str, most: int) -> Contents | None:
        found = self.resolve(did, 2**31)
        if found is None:
            return None
        files = sorted(found.files, key=lambda file: file.name)
        return replace(found, files=tuple(files)).page(after, most)

    def stage(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        for did in files:
            self.add_rule(did, where, None)
        return []

    def staged(self, files: Sequence[str], where: str) -> Mapping[str, str]:
        return {name: "" for name in files if self.files[name].rse == where}

    def let_go(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        gone = {f"{did} at {where}" for did in files}
        self.rules = [rule for rule in self.rules if rule not in gone]
        return []

    def replicas(self, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return {name: (self.files[name].rse,) for name in files}

    def add_rule(self, did: str, where: str, lifetime_s: int | None) -> str:
        self._reached()
        rule = f"{did} at {where}"
        self.rules.extend([rule] * (rule not in self.rules))
        return rule

    def rules_on(self, did: str) -> Sequence[ReplicationRule]:
        there = len(self.datasets.get(did, [did]))
        return [
            ReplicationRule(
                rule_id=rule, where=rule.split(" at ")[1], state="OK", done=there, moving=0,
                stuck=0, expires=None,
            )
            for rule in self.rules
            if rule.startswith(f"{did} at ")
        ]  # fmt: skip

    def _refused(self, file: NewFile) -> Fault | None:
        return self.refuse.get(f"{file.scope}:{file.name}")

    def _reached(self) -> None:
        if self.away:
            raise CatalogueUnavailable(self.away)


def _some(contents: Contents, most: int) -> Contents:
    files = contents.files[:most]
    return replace(contents, files=files, more=len(contents.files) - len(files))
