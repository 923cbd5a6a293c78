"""Files that nodes read from directories of the edge: the pilot's program and the site file; and
whether they are still as the edge left them."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ailurus.logs import Log
from ailurus.paths import directory_url, expanded, expanded_options
from ailurus.protocol.errors import AilurusError
from harvester_edge import credential, owned, pilot_file
from harvester_edge.files import write_whole
from harvester_edge.site import Site
from plugins import NAMED_OPTIONS


def directories(site: Site) -> list[tuple[Path, str]]:
    """Directories that must be the edge's alone, each with its key in the site file: tokens,
    scripts and pilots lie there."""
    shared = "paths.shared" if site.paths.shared else "paths.state"
    return [
        (site.state, "paths.state"),
        (site.shared, shared),
        *((site.shared / name, shared) for name in ("workers", "sites")),
        *([(site.credentials_directory, shared)] if site.credentials else []),
    ]


def own_directories(site: Site) -> None:
    """Make the edge's directories, or check those that are there. Raises AilurusError."""
    for path, key in directories(site):
        owned.own(path, key)


def fault(site: Site, log: Log) -> str:
    """Why nothing may be started from the edge's directories; empty: they are as the edge left
    them.

    What can be put right is put right, and logged.
    """
    for path, key in directories(site):
        if path not in (site.state, site.shared):
            owned.tighten(path)
        try:
            owned.own(path, key)
        except AilurusError as error:
            return str(error)
    try:
        bad = pilot_file.spoilt(site)
        pilot_file.hand_out(site)
        bad += _spoilt_site_files(site)
        pilot_program(site)
    except AilurusError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    for one in bad:
        log.warning("spoilt_file_taken_away", file=str(one))
    return ""


def _spoilt_site_files(site: Site) -> list[Path]:
    """Site files that are not what their name says, taken away; the site's own is written again."""
    current = site_file(site)
    bad = [one for one in current.parent.glob("*.json") if _digest12(one) != one.stem]
    for one in bad:
        one.unlink(missing_ok=True)
    if current in bad:
        write_site_file(site)
    return bad


def _digest12(file: Path) -> str:
    """The name that a site file of that content has; empty: it is no regular file."""
    try:
        if file.is_symlink():
            return ""
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


def pilot_program(site: Site) -> str:
    """The pilot that nodes start: the site's file or program, or the one installed beside this
    edge.

    Raises AilurusError if there is none, or others could replace it.
    """
    if (copy := pilot_file.place(site)) is not None:
        return str(copy)
    if site.pilot.program:
        program = Path(expanded(site.pilot.program))
        if program.exists() and (wrong := owned.foreign(program, program.stat())):
            raise AilurusError(wrong, field="pilot.program", remedy=f"chmod go-w {program}")
        return str(program)
    beside = Path(sys.executable).with_name("pilot")
    found = str(beside) if beside.exists() else shutil.which("pilot")
    if found is None:
        raise AilurusError(
            "no `pilot` is installed beside this edge", remedy="install ailurus[pilot]"
        )
    return found


def site_file(site: Site) -> Path:
    """The file with what pilots need to know of the site. Its name is the digest of its content, so
    that a worker keeps the configuration that it was submitted with."""
    return site.shared / "sites" / f"{hashlib.sha256(content(site)).hexdigest()[:12]}.json"


def write_site_file(site: Site) -> None:
    """Write the site file for pilots, if it is not there. Raises OSError."""
    path = site_file(site)
    if not path.exists():
        owned.make(path.parent)
        write_whole(path, content(site), lasting=True)


def content(site: Site, credentials: Mapping[str, str] | None = None) -> bytes:
    """What pilots are told of the site, as JSON, for which they need no YAML library.
    `credentials`: where they find them; None: in the edge's directory."""
    if credentials is None:
        credentials = {name: str(credential.place(site, name)) for name in site.credentials}
    told = {
        "schema": site.schema,
        "site": site.site,
        "slots": site.slots,
        "storage": msgspec.structs.replace(
            site.storage,
            roots=tuple(expanded(root) for root in site.storage.roots),
            http_proxy=site.storage.http_proxy or "",
            default_output=directory_url(site.storage.default_output),
            alternative_output=directory_url(site.storage.alternative_output),
            **{
                name: expanded_options(getattr(site.storage, name), credentials)
                for name in NAMED_OPTIONS
            },
            options={
                name: expanded_options(one, credentials)
                for name, one in site.storage.options.items()
            },
        ),
        "software": [expanded(path) for path in site.software],
        "container": msgspec.structs.replace(
            site.container,
            show=tuple(expanded(path) for path in site.container.show),
            images=tuple(expanded(path) for path in site.container.images),
            apptainer=expanded(site.container.apptainer or ""),
            cache=expanded(site.container.cache or ""),
        ),
        "limits": site.limits,
        "pilot": {
            "pin": site.pilot.pin,
            "allocation": site.pilot.allocation,
            "cgroups": site.pilot.cgroups,
            "agents": site.pilot.agents,
            "gpus": msgspec.structs.replace(
                site.pilot.gpus, mps=expanded(site.pilot.gpus.mps) if site.pilot.gpus.mps else None
            ),
        },
    }
    return msgspec.json.format(msgspec.json.encode(told))
