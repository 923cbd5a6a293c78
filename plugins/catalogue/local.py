"""A directory as a catalogue: data sets are files `SCOPE/NAME.json` in it, storages directories.

What Rucio would be asked is done here: a file that is to be staged is copied from another storage.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from ailurus.protocol.did import Did
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.url import Url
from dispatcher.ports import (
    CatalogueUnavailable,
    Contents,
    Fault,
    KnownFile,
    NewFile,
    NotDone,
    ReplicationRule,
)

_Path = Annotated[str, Meta(pattern=r"^/[^\x00]*$", max_length=4000)]
COPY_S = 5.0
"""For so long files are copied in one call; the next go on."""


class LocalOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The catalogue as it is written in the dispatcher's file."""

    directory: _Path
    """Of the manifests."""
    storages: dict[Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,60}(?!\n)$")], _Path] = {}
    """By name: in each, a file lies at `SCOPE/NAME`."""


class _File(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A file in a manifest."""

    name: str
    """`scope:name`."""
    size: int | None = None
    adler32: str = ""
    guid: str = ""
    events: int | None = None
    url: str = ""
    """Where it can be read; blank: it lies in one of the storages."""


class _Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """A data set."""

    open: bool = False
    files: tuple[_File, ...] = ()


_read = msgspec.json.Decoder(_Manifest).decode
_write = msgspec.json.Encoder().encode


class Local:
    """The port `Catalogue` on a directory. Nobody but one dispatcher, and whoever fills it, writes
    there."""

    Options = LocalOptions

    def __init__(self, options: LocalOptions) -> None:
        self._root = Path(options.directory)
        self._storages = {name: Path(path) for name, path in options.storages.items()}

    def register(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        return self._each(files, lambda file: self._put(f"{file.scope}:{file.name}", file))

    def attach(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        return self._each(
            [file for file in files if file.dataset], lambda file: self._put(file.dataset, file)
        )

    def keep(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        return []

    def close(self, datasets: Sequence[str]) -> Sequence[Fault]:
        for did in datasets:
            found = self._manifest(did)
            if found is not None and found.open:
                self._store(did, replace(found, open=False))
        return []

    def resolve(self, did: str, most: int) -> Contents | None:
        return self.listing(did, "", most)

    def listing(self, did: str, after: str, most: int) -> Contents | None:
        manifest = self._manifest(did)
        if manifest is None:
            return None
        named = {file.name: file for file in manifest.files}
        files = tuple(self._known(named[name]) for name in sorted(named))
        kind = "file" if list(named) == [did] and not manifest.open else "dataset"
        contents = Contents(kind=kind, open=manifest.open, files=files)
        return contents.page(after, most)

    def replicas(self, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return {
            name: [at for at in sorted(self._storages) if self._path(at, name).is_file()]
            for name in files
        }

    def stage(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        faults = []
        for key, name in enumerate(files):
            try:
                rule = self._rule(where, name)
                rule.parent.mkdir(parents=True, exist_ok=True)
                rule.touch()
            except OSError as error:
                raise _away(error) from None
            except NotDone as refused:
                faults.append(replace(refused.fault, key=key))
        return faults

    def staged(self, files: Sequence[str], where: str) -> Mapping[str, str]:
        until, here = monotonic() + COPY_S, {}
        for name in files:
            path = self._path(where, name)
            if not path.is_file() and monotonic() < until:
                self._copy(name, path)
            if path.is_file():
                here[name] = _url(path)
        return here

    def let_go(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        for name in files:
            rule = self._rule(where, name)
            with suppress(FileNotFoundError):
                # What was there before it was staged has something in no rule of ours.
                if rule.read_bytes() == b"copied":
                    self._path(where, name).unlink(missing_ok=True)
                rule.unlink()
        return []

    def add_rule(self, did: str, where: str, lifetime_s: int | None) -> str:
        self.stage([did], where)
        return f"{did} at {where}"

    def rules_on(self, did: str) -> Sequence[ReplicationRule]:
        return [
            ReplicationRule(
                rule_id=f"{did} at {where}",
                where=where,
                state="OK" if self._path(where, did).is_file() else "STUCK",
                done=int(self._path(where, did).is_file()),
                moving=0,
                stuck=int(not self._path(where, did).is_file()),
                expires=None,
                problem="it lies in no other storage",
            )
            for where in sorted(self._storages)
            if self._rule(where, did).is_file()
        ]

    def _each(self, files: Sequence[NewFile], what: Callable[[NewFile], None]) -> Sequence[Fault]:
        faults = []
        for file in files:
            try:
                what(file)
            except NotDone as refused:
                faults.append(replace(refused.fault, key=file.key))
        return faults

    def _put(self, did: str, file: NewFile) -> None:
        name = f"{file.scope}:{file.name}"
        found = self._manifest(did) or _Manifest()
        if any(one.name == name for one in found.files) and (did == name or found.open):
            return
        new = _File(name, file.size, file.adler32, file.guid)
        kept = tuple(one for one in found.files if one.name != name)
        self._store(did, _Manifest(open=did != name, files=(*kept, new)))

    def _known(self, file: _File) -> KnownFile:
        url = file.url or next(self._urls(file.name), "")
        return KnownFile(
            name=file.name,
            size=file.size,
            adler32=file.adler32,
            guid=file.guid,
            events=file.events,
            url=url,
        )

    def _urls(self, name: str) -> Iterator[str]:
        for at in sorted(self._storages):
            if (path := self._path(at, name)).is_file():
                yield _url(path)

    def _copy(self, name: str, path: Path) -> None:
        """Copy a file from another storage, if it is there; nobody sees half of it."""
        others = (self._path(at, name) for at in sorted(self._storages))
        source = next((one for one in others if one != path and one.is_file()), None)
        if source is None:
            return
        where = next(at for at in self._storages if self._path(at, name) == path)
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, part)
            # Before the copy is seen: who lets go of it has to know whose it is.
            self._rule(where, name).write_bytes(b"copied")
            part.replace(path)
        except OSError as error:
            raise _away(error) from None

    def _manifest(self, did: str) -> _Manifest | None:
        path = self._file(did)
        try:
            return _read(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _away(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotDone(Fault(key=0, reason=f"{path}: {error}", remedy="mend it")) from None

    def _store(self, did: str, manifest: _Manifest) -> None:
        path = self._file(did)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(_write(manifest))
            part.replace(path)
        except OSError as error:
            raise _away(error) from None

    def _file(self, did: str) -> Path:
        one = _parsed(did)
        return self._root / one.scope / f"{one.name}.json"

    def _rule(self, where: str, name: str) -> Path:
        one = _parsed(name)
        self._storage(where)
        return self._root / ".rules" / where / one.scope / one.name

    def _path(self, where: str, name: str) -> Path:
        one = _parsed(name)
        return self._storage(where) / one.scope / one.name

    def _storage(self, where: str) -> Path:
        if where not in self._storages:
            has = ", ".join(sorted(self._storages)) or "it has none"
            raise NotDone(
                Fault(key=0, reason=f"the catalogue has no storage {where}", remedy=f"has: {has}")
            )
        return self._storages[where]


def _parsed(did: str) -> Did:
    """Raises NotDone for what is no identifier: it becomes a path."""
    try:
        return Did.parse(did)
    except AilurusError as error:
        raise NotDone(Fault(key=0, reason=error.message, remedy=error.remedy)) from None


def _url(path: Path) -> str:
    return str(Url("file", "", str(path)))


def _away(error: OSError) -> CatalogueUnavailable:
    return CatalogueUnavailable(f"{error.filename}: {error.strerror}")
