"""Site files as PanDA's pilots know a site: queue data with Rucio as the copy tool, and storages.

Only what stands in the file itself is read: a profile that it `extends` has neither storage nor
slots of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.submission import explained
from ailurus.protocol.units import duration_s, size_mb

STORAGE = "AILURUS_DISK"
"""The file storage of --panda-storage: logs go there, whatever outputs do."""
_ACTIVITIES = ("pr", "pw", "read_lan", "read_wan", "write_lan", "write_wan", "default")
Text = str | int
log = Log("panda")


class _Protocols(Struct, frozen=True):
    """The schemes of a site's storage for each activity, the best first."""

    read_lan: tuple[str, ...] = ()
    read_wan: tuple[str, ...] = ()
    write_lan: tuple[str, ...] = ()
    write_wan: tuple[str, ...] = ()


class _Storage(Struct, frozen=True):
    rse: str = ""
    protocols: _Protocols = _Protocols()
    roots: tuple[str, ...] = ()
    http_allow: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()


class _Slot(Struct, frozen=True):
    queue: str = ""
    cores: int | None = None
    memory: Text | None = None
    disk: Text | None = None
    walltime: str | float | int | None = None


class _Site(Struct, frozen=True):
    """What of a site file concerns PanDA's pilots; `lint` looks at all the rest."""

    site: str = ""
    storage: _Storage = _Storage()
    slots: dict[str, _Slot] = {}


def queue_data(folder: Path | None, queue: str) -> dict[str, Any]:
    """What site files say of a queue, in CRIC's form; empty: nothing. Raises AilurusError where it
    may stand in one that cannot be used."""
    sites, faults = _all(folder)
    for site in sites:
        for slot in site.slots.values():
            if slot.queue == queue:
                return {**_size(slot), **_copying(site)}
    if faults:
        raise faults[0]
    return {}


def storages(folder: Path | None) -> dict[str, Any]:
    """The storages of sites that Rucio knows, in CRIC's form, by name; those in files that cannot
    be used are left out."""
    sites, faults = _all(folder)
    for fault in faults:
        log.warning("description_bad", file=fault.field, what=fault.message)
    return {
        site.storage.rse: _described(nr, site)
        for nr, site in enumerate(sites, 2)
        if site.storage.rse
    }


def check(folder: Path) -> None:
    """Raise AilurusError for the first site file that cannot be used."""
    for fault in _all(folder)[1]:
        raise fault


def _all(folder: Path | None) -> tuple[list[_Site], list[AilurusError]]:
    """The site files of a folder, and why some cannot be used."""
    sites, faults = [], []
    for file in sorted(folder.glob("*.yaml")) if folder is not None else ():
        try:
            status = file.stat()
            sites.append(_read(file, status.st_mtime_ns, status.st_size))
        except OSError as error:
            faults.append(_bad(file.name, f"cannot be read: {error.strerror}"))
        except AilurusError as fault:
            faults.append(fault)
    return sites, faults


@lru_cache(maxsize=1000)
def _read(file: Path, mtime_ns: int, size: int) -> _Site:
    """A site file; read again when it has changed."""
    import yaml

    try:
        site = msgspec.convert(yaml.safe_load(file.read_bytes()), _Site)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(file.name, f"is not YAML: {error}") from None
    except msgspec.ValidationError as error:
        fault = explained(error)
        raise _bad(f"{file.name}: {fault.field}", fault.message) from None
    for name, slot in site.slots.items():
        try:
            _size(slot)
        except AilurusError as wrong:
            raise _bad(f"{file.name}: slots.{name}", wrong.message) from None
    return site


def _size(slot: _Slot) -> dict[str, Any]:
    size = {
        "corecount": slot.cores,
        "maxrss": None if slot.memory is None else size_mb(slot.memory),
        "maxwdir": None if slot.disk is None else size_mb(slot.disk),
        "maxtime": None if slot.walltime is None else int(duration_s(slot.walltime)),
    }
    return {key: value for key, value in size.items() if value is not None}


def _copying(site: _Site) -> dict[str, Any]:
    """The keys by which a pilot moves a job's files by Rucio, and its log as without it."""
    storage = site.storage
    if not storage.rse:
        return {}
    reading = (*storage.protocols.read_lan, *storage.protocols.read_wan)
    schemes = {"pr": {"rucio": list(dict.fromkeys(reading))}} if reading else {}
    return {
        "site": site.site,
        "atlas_site": site.site,
        "gstat": site.site,
        "copytools": {"rucio": {}, "mv": {}},
        "acopytools": {**{key: ["rucio"] for key in _ACTIVITIES}, "pl": ["mv"]},
        "acopytools_schemas": schemes,
        "astorages": {**{key: [storage.rse] for key in _ACTIVITIES}, "pl": [STORAGE]},
        # The site's own replica comes first, as with our pilot; then any.
        "allow_wan": True,
    }


def _described(nr: int, site: _Site) -> dict[str, Any]:
    """A storage of Rucio: there, its own protocols decide where files are, and not those here."""
    protocols = {
        activity: [
            {"endpoint": endpoint, "path": path, "flavour": scheme.upper(), "id": nr}
            for scheme in schemes
            for endpoint, path in _places(site.storage, scheme)
        ]
        for activity, schemes in msgspec.structs.asdict(site.storage.protocols).items()
    }
    return {
        "id": nr,
        "name": site.storage.rse,
        "state": "ACTIVE",
        "site": site.site,
        "type": "DATADISK",
        "token": "",
        "is_deterministic": True,
        "arprotocols": protocols,
        "rprotocols": {},
        "resource": {},
    }


def _places(storage: _Storage, scheme: str) -> Iterator[tuple[str, str]]:
    """Doors of that scheme that the site file names, each with the path behind it."""
    if scheme == "file":
        yield from (("file://localhost", f"{root.rstrip('/')}/") for root in storage.roots)
    for url in (*storage.allow, *storage.http_allow):
        parts = urlsplit(url)
        if parts.scheme == scheme:
            yield f"{scheme}://{parts.netloc}", parts.path


def _bad(field: str, what: str) -> AilurusError:
    return AilurusError(what, field=field, remedy="mend it in the folder of --panda-queues")
