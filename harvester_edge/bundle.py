"""The pilot as a file: checked, and copied once a build to where nodes find it.

`pilots/DIGEST/pilot`, so that a new build never changes what a waiting worker will start. A worker's
directory notes its build; one that neither a living worker nor the site file names any more is removed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from ailurus.protocol.errors import AilurusError
from harvester_edge.site import Site, expanded
from harvester_edge.whole import write_whole

NOTE = "build"


def place(site: Site) -> Path | None:
    """Where nodes find this site's file. None: the site names a program, or nothing."""
    return None if site.pilot.file is None else site.shared / "pilots" / _digest(site) / "pilot"


def hand_out(site: Site) -> None:
    """Copy it there, unless it is there. Raises AilurusError if it is not the one that is meant."""
    copy = place(site)
    if copy is None or site.pilot.file is None or copy.exists():
        return
    source = Path(expanded(site.pilot.file))
    text = source.read_bytes()
    if not hashlib.sha256(text).hexdigest().startswith(copy.parent.name):
        raise AilurusError(f"{source} changed while it was read", field="pilot.file")
    copy.parent.mkdir(parents=True, exist_ok=True)
    write_whole(copy, text, mode=0o755)


def note(site: Site, worker_place: Path) -> None:
    """Write down which build the workers of this order start."""
    if (copy := place(site)) is not None:
        write_whole(worker_place / NOTE, copy.parent.name.encode())


def tidy(site: Site, living: Iterable[Path]) -> list[str]:
    """Remove builds that no order in `living` starts; none while the site's own is not known."""
    builds = site.shared / "pilots"
    if not builds.is_dir():
        return []
    try:
        copy = place(site)
    except AilurusError:
        return []
    wanted = {path.read_text() for order in living if (path := order / NOTE).exists()}
    if copy is not None:
        wanted.add(copy.parent.name)
    old = [build for build in builds.iterdir() if build.name not in wanted]
    for build in old:
        shutil.rmtree(build, ignore_errors=True)
    return [build.name for build in old]


def _digest(site: Site) -> str:
    assert site.pilot.file is not None  # noqa: S101 - the callers asked
    source = Path(expanded(site.pilot.file))
    try:
        found = source.stat()
        digest = _sha256(source, found.st_ino, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise AilurusError(
            f"cannot read {source}: {error.strerror}",
            field="pilot.file",
            remedy="`scripts/build-pilot` makes it",
        ) from None
    if site.pilot.sha256 not in (None, digest):
        raise AilurusError(
            f"{source} has sha256 {digest}",
            field="pilot.sha256",
            remedy="put the file back that you checked, or check this one and write its sum here",
        )
    return digest[:16]


@cache
def _sha256(source: Path, *_seen: int) -> str:
    """Of the file as it was last seen: an edge looks at it in every cycle."""
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
