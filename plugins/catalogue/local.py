"""A directory as a catalogue: data sets are files `SCOPE/NAME.json` in it, storages directories.

What Rucio would be asked is done here: a file that is to be staged is copied from another storage.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from ailurus import beneath
from ailurus.protocol.did import Did
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.url import Url
from ailurus.regular import NotRegular, open_regular
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
_OF_A_NAME = (
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EILSEQ,
    errno.ENOTEMPTY, errno.EEXIST,
)  # fmt: skip
COPIED = b"copied"
"""Written where it stands that a file is kept: it is our copy, to be deleted with it."""
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
        faults = []
        for key, did in enumerate(datasets):
            try:
                found = self._manifest(did)
                if found is not None and found.open:
                    self._store(did, replace(found, open=False))
            except NotDone as refused:
                faults.append(replace(refused.fault, key=key))
        return faults

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
            name: [at for at in sorted(self._storages) if self._has(at, name)] for name in files
        }

    def stage(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        faults = []
        for key, name in enumerate(files):
            try:
                rule = self._rule(where, name)
                # One that is there says whether the file was copied for it.
                if beneath.size_of(self._root, rule) is None:
                    with _explained(), beneath.replacing(self._root, rule):
                        pass
            except NotDone as refused:
                faults.append(replace(refused.fault, key=key))
        return faults

    def staged(self, files: Sequence[str], where: str) -> Mapping[str, str]:
        until, here = monotonic() + COPY_S, {}
        for name in files:
            if not self._has(where, name) and monotonic() < until:
                # Others come all the same; of this one the rule says that it does not.
                with suppress(NotDone):
                    self._copy(name, where)
            if self._has(where, name):
                here[name] = self._url(where, name)
        return here

    def let_go(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        faults = []
        for key, name in enumerate(files):
            try:
                rule = self._rule(where, name)
                with _explained(), suppress(FileNotFoundError):
                    # What was there before it was staged stays.
                    if beneath.read(self._root, rule) == COPIED:
                        beneath.remove(self._storage(where), _names(name))
                    beneath.remove(self._root, rule)
            except NotDone as refused:
                faults.append(replace(refused.fault, key=key))
        return faults

    def add_rule(self, did: str, where: str, lifetime_s: int | None) -> str:
        for fault in self.stage([did], where):
            raise NotDone(fault)
        return f"{did} at {where}"

    def rules_on(self, did: str) -> Sequence[ReplicationRule]:
        return [
            ReplicationRule(
                rule_id=f"{did} at {where}",
                where=where,
                state="OK" if self._has(where, did) else "STUCK",
                done=int(self._has(where, did)),
                moving=0,
                stuck=int(not self._has(where, did)),
                expires=None,
                problem="it lies in no other storage",
            )
            for where in sorted(self._storages)
            if beneath.size_of(self._root, self._rule(where, did)) is not None
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
        return (self._url(at, name) for at in sorted(self._storages) if self._has(at, name))

    def _copy(self, name: str, where: str) -> None:
        """Copy a file from another storage, if it is there; nobody sees half of it."""
        others = (at for at in sorted(self._storages) if at != where and self._has(at, name))
        source = next(others, None)
        if source is None:
            return
        names = _names(name)
        try:
            with (
                beneath.directory(self._storages[source], names[:-1]) as folder,
                os.fdopen(open_regular(names[-1], folder), "rb") as reading,
                beneath.replacing(self._storages[where], names) as fd,
                os.fdopen(os.dup(fd), "wb") as writing,
            ):
                shutil.copyfileobj(reading, writing, 1 << 20)
                # Before the copy is seen: who lets go of it has to know whose it is.
                with (
                    beneath.replacing(self._root, self._rule(where, name)) as rule,
                    os.fdopen(os.dup(rule), "wb") as saying,
                ):
                    saying.write(COPIED)
        except NotRegular as error:
            raise NotDone(Fault(key=0, reason=f"{source}: {error}", remedy="remove it")) from None
        except OSError as error:
            raise _failed(error) from None

    def _manifest(self, did: str) -> _Manifest | None:
        names = _file(did)
        try:
            return _read(beneath.read(self._root, names))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(error) from None
        except (NotRegular, msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = f"{self._root.joinpath(*names)}: {error}"
            raise NotDone(Fault(key=0, reason=reason, remedy="mend it")) from None

    def _store(self, did: str, manifest: _Manifest) -> None:
        try:
            with (
                beneath.replacing(self._root, _file(did)) as fd,
                os.fdopen(os.dup(fd), "wb") as file,
            ):
                file.write(_write(manifest))
                file.flush()
                os.fsync(fd)
        except OSError as error:
            raise _failed(error) from None

    def _rule(self, where: str, name: str) -> list[str]:
        """The file that says that we keep a file at a storage, and whether it is our copy."""
        self._storage(where)
        return [".rules", where, *_names(name)]

    def _has(self, where: str, name: str) -> bool:
        return beneath.size_of(self._storage(where), _names(name)) is not None

    def _url(self, where: str, name: str) -> str:
        return str(Url("file", "", str(self._storage(where).joinpath(*_names(name)))))

    def _storage(self, where: str) -> Path:
        if where not in self._storages:
            has = ", ".join(sorted(self._storages)) or "it has none"
            raise NotDone(
                Fault(key=0, reason=f"the catalogue has no storage {where}", remedy=f"has: {has}")
            )
        return self._storages[where]


def _names(did: str) -> list[str]:
    """An identifier as names of directories and a file. Raises NotDone for what cannot be that."""
    try:
        one = Did.parse(did)
    except AilurusError as error:
        raise NotDone(Fault(key=0, reason=error.message, remedy=error.remedy)) from None
    names = one.name.split("/")
    # Rucio has names that begin with a slash: here they would lead out of the storage.
    if not all(names):
        reason = f"{did} is no file beneath a directory"
        remedy = "let no name begin or end with a slash, or have two of them together"
        raise NotDone(Fault(key=0, reason=reason, remedy=remedy))
    return [one.scope, *names]


def _file(did: str) -> list[str]:
    """The manifest of a data set."""
    *parents, last = _names(did)
    return [*parents, f"{last}.json"]


@contextmanager
def _explained() -> Iterator[None]:
    """Raises CatalogueUnavailable or NotDone for an OSError within."""
    try:
        yield
    except OSError as error:
        raise _failed(error) from None


def _failed(error: OSError) -> CatalogueUnavailable | NotDone:
    """What an error means: names of users are refused for themselves, lest one of them stands in
    the way of all others."""
    if error.errno in _OF_A_NAME:
        reason = f"{error.filename}: {error.strerror}"
        remedy = "choose another name: files are called SCOPE/NAME here, data sets SCOPE/NAME.json"
        return NotDone(Fault(key=0, reason=reason, remedy=remedy))
    if error.errno in (errno.EACCES, errno.EPERM):
        reason = f"{error.filename}: {error.strerror}"
        remedy = "let the dispatcher's user write there"
        return NotDone(Fault(key=0, reason=reason, remedy=remedy, transient=True))
    reason = f"{error.filename}: {error.strerror}"
    return CatalogueUnavailable(reason, "look at that directory and at its file system")
