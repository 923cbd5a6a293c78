"""The pilot as a file: checked, and copied once a build to where nodes find it.

`pilots/DIGEST/pilot`, so that a new build never changes what a waiting worker will start. A
worker's directory notes its build; one that neither a living worker nor the site file names any
more is removed. Each cycle looks whether the copies are what they were: nodes start them with the
edge's tokens.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ailurus.paths import expanded
from ailurus.protocol.errors import AilurusError
from harvester_edge import owned
from harvester_edge.files import write_whole
from harvester_edge.site import Site

NOTE = "build"
NAME = "pilot"


def place(site: Site) -> Path | None:
    """Where nodes find this site's file. None: the site names a program, or nothing."""
    return None if site.pilot.file is None else _builds(site) / _digest(site) / NAME


def hand_out(site: Site) -> bool:
    """Copy it there, unless it is there and is what its directory says; whether that was needed.
    Raises AilurusError if the file is not the one that is meant."""
    copy = place(site)
    if copy is None or site.pilot.file is None or _whole(copy):
        return False
    source = Path(expanded(site.pilot.file))
    text = source.read_bytes()
    if not hashlib.sha256(text).hexdigest().startswith(copy.parent.name):
        raise AilurusError(f"{source} changed while it was read", field="pilot.file")
    for directory in (_builds(site), copy.parent):
        owned.make(directory)
        owned.tighten(directory)
        if wrong := owned.not_ours(directory):
            raise AilurusError(wrong[0], field="paths.shared", remedy=wrong[1])
    write_whole(copy, text, mode=0o755, lasting=True)
    return True


def spoilt(site: Site) -> list[Path]:
    """Builds that are not what their directory says, taken away: workers that wait for one find no
    pilot, rather than somebody else's. The site's own is put back by `hand_out`."""
    bad = [one for one in _builds(site).glob(f"*/{NAME}") if not _whole(one)]
    for one in bad:
        one.unlink(missing_ok=True)
    return bad


def _builds(site: Site) -> Path:
    return site.shared / "pilots"


def _whole(copy: Path) -> bool:
    """Whether a copy is there, ours, and what its directory is named after."""
    try:
        found = copy.lstat()
        ours = found.st_uid == os.geteuid() and not found.st_mode & owned.OTHERS_WRITE
        return (
            stat.S_ISREG(found.st_mode)
            and ours
            and bool(found.st_mode & stat.S_IXUSR)
            and _sha256(copy, *_looks(found)).startswith(copy.parent.name)
        )
    except OSError:
        return False


def note(site: Site, worker_place: Path) -> None:
    """Write down which build the workers of this order start."""
    if (copy := place(site)) is not None:
        write_whole(worker_place / NOTE, copy.parent.name.encode())


def tidy(site: Site, living: Iterable[Path]) -> list[str]:
    """Remove builds that no order in `living` starts; none while the site's own is not known."""
    builds = _builds(site)
    if not builds.is_dir():
        return []
    try:
        copy = place(site)
    except AilurusError:
        return []
    wanted = {path.read_text("utf-8") for order in living if (path := order / NOTE).exists()}
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
        digest = _sha256(source, *_looks(found))
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
    if site.pilot.sha256 is None and (wrong := owned.foreign(source, found)):
        remedy = f"`chmod go-w {source}`, or write its `sha256:` beside it"
        raise AilurusError(wrong, field="pilot.file", remedy=remedy)
    if found.st_size == 0:
        raise AilurusError(f"{source} is empty", field="pilot.file", remedy="`scripts/build-pilot`")
    return digest[:16]


def _looks(found: os.stat_result) -> tuple[int, ...]:
    """By what a file is known not to have changed; nobody sets the last one."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=64)
def _sha256(source: Path, *_seen: int) -> str:
    """Of the file as it was last seen: an edge looks at it in every cycle."""
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
