"""Directories and files from which programs start as the edge's user: whose they are, and who may
write there.

Whoever can write to `paths.shared` chooses what nodes run in the edge's name, with its bootstrap
tokens. So what the edge makes has a mode that no umask widens, and what it finds must be its own
and nobody else's to write to. Directories above it are the site's affair: `doctor` tells of those
that others may write to.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ailurus.protocol.errors import AilurusError

OTHERS_WRITE = 0o022


def own(path: Path, field: str) -> None:
    """Make a directory that is the edge's alone, or check the one that is there. Raises
    AilurusError."""
    try:
        make(path)
    except OSError as error:
        raise AilurusError(
            f"cannot make {path}: {error.strerror}", field=field, remedy="a directory of yours"
        ) from None
    if wrong := not_ours(path):
        raise AilurusError(wrong[0], field=field, remedy=wrong[1])


def make(path: Path, mode: int = 0o700) -> None:
    """Make a directory, and those above it that are missing, with that mode whatever the umask."""
    if path.is_dir():
        return
    make(path.parent, mode)
    # No umask adds to it.
    path.mkdir(mode=mode, exist_ok=True)


def not_ours(path: Path) -> tuple[str, str] | None:
    """What is wrong with a directory of the edge's, and what would help; also where it cannot be
    seen."""
    try:
        found = path.stat()
    except OSError as error:
        return f"cannot look at {path}: {error.strerror}", "a directory of yours"
    if not stat.S_ISDIR(found.st_mode):
        return f"{path} is no directory", "a directory of yours"
    if found.st_uid != os.geteuid():
        fault = f"{path} belongs to user {found.st_uid}, and this edge is user {os.geteuid()}"
        return fault, "a directory of its own user"
    if found.st_mode & OTHERS_WRITE:
        fault = f"others can write to {path} (mode {stat.S_IMODE(found.st_mode):o})"
        return fault, f"look at what lies there, then `chmod go-w {path}`"
    return None


def tighten(path: Path) -> None:
    """Take from others the right to write to a directory of ours, which an older edge may have left
    them."""
    try:
        found = path.stat()
        if found.st_uid == os.geteuid() and found.st_mode & OTHERS_WRITE:
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS_WRITE)
    except OSError:
        # The check that follows says why.
        return


def writable_above(path: Path) -> Iterator[Path]:
    """Directories above it in which somebody else may put another one in its place."""
    for above in path.resolve().parents:
        try:
            found = above.stat()
        except OSError:
            continue
        mode = found.st_mode
        if (mode & OTHERS_WRITE and not mode & stat.S_ISVTX) or found.st_uid not in (
            0,
            os.geteuid(),
        ):
            yield above


def foreign(file: Path, found: os.stat_result) -> str:
    """Why a program is not to be started as the edge's user; empty: nothing speaks against it."""
    if found.st_mode & OTHERS_WRITE:
        return f"others can write to {file} (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def token_remedy(scope: str, site: str = "SITE", path: str = "FILE") -> str:
    """How the token of an edge or a relay is made: a command that works as it is printed."""
    return f"`dispatcher token --subject {scope}-{site} --scope {scope} --site {site} --out {path}` makes one"
