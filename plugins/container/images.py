"""The image that a job names, as it lies on this node, and whether it is to be trusted to stay so.

Jobs may name what lies beneath the directories that the site lists. No link leads out of these,
and nobody but root, the pilot's own user and the owner of the listed directory may change what is
found: else another user could put another image in its place between a look at it and its start. On
a file system that is read-only here (CVMFS) nobody changes anything.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ailurus.protocol.errors import Code
from pilot.blame import Target, job_error
from pilot.ports import Image, JobError
from plugins.container.sif import BadImage, file_system

REFERENCES = ("docker://", "oras://")
_LINKS = 40
_EXECUTABLE = 0o111


def is_reference(name: str) -> bool:
    """Whether `name` is of a registry, and no path."""
    return name.startswith(REFERENCES)


def allowed(name: str, roots: Sequence[str]) -> None:
    """Refuse a name that no look at the file system could make one of the site's images. Raises
    JobError."""
    path = os.path.normpath(name)
    if not name.startswith("/") or "\0" in name:
        raise _refused(f"the image {name!r} is neither a path nor a docker:// or oras:// reference")
    if not any(_beneath(path, root) for root in roots):
        where = f"the site's images lie beneath {', '.join(roots)}" if roots else (
            "this site lists no directory of images (`container.images` of its site file)"
        )  # fmt: skip
        raise _refused(f"the image {name} is not one of the site's: {where}")


def located(name: str, roots: Sequence[str]) -> Image:
    """The image at the path `name`. Raises JobError."""
    allowed(name, roots)
    real = os.path.realpath(name)
    root = next((top for top in map(os.path.realpath, roots) if _beneath(real, top)), None)
    if root is None:
        raise _refused(f"the image {name} leads out of the site's directories of images")
    try:
        opened = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise JobError(
            Code.IMAGE_NOT_FOUND,
            f"there is no image {name} on this node",
            field="container",
            remedy="is it there on other nodes, and is its file system mounted here?",
        ) from None
    except OSError as error:
        raise job_error(
            error, f"cannot open the image {name}", Target.JOB, code=Code.IMAGE_NOT_FOUND,
            field="container",
        ) from None  # fmt: skip
    try:
        _unchangeable(real, root, name)
        return _image(opened, real, name)
    finally:
        os.close(opened)


def _image(opened: int, real: str, name: str) -> Image:
    found = os.fstat(opened)
    mark = f"{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}:{found.st_size}"
    if stat.S_ISDIR(found.st_mode):
        return Image(path=real, mark=mark)
    if not stat.S_ISREG(found.st_mode):
        raise unusable(name, "it is neither a file nor a directory")
    try:
        return Image(path=real, mark=mark, offset=file_system(opened).offset)
    except BadImage as error:
        raise unusable(name, str(error)) from None
    except OSError as error:
        raise job_error(
            error, f"cannot read the image {name}", Target.STORAGE, field="container"
        ) from None


def unusable(name: str, why: str) -> JobError:
    """What a job whose image is at fault fails with."""
    return JobError(
        Code.IMAGE_UNUSABLE,
        f"the image {name} cannot be run: {why}",
        field="container",
        remedy="build or copy it again; `apptainer sif list` shows what is in a SIF",
    )


def _refused(what: str) -> JobError:
    return JobError(
        Code.NOT_IMPLEMENTED,
        what,
        field="container",
        remedy="name one of the site's images, or leave `container` out for the site's own system",
    )


def _beneath(path: str, root: str) -> bool:
    top = os.path.normpath(root)
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def _unchangeable(real: str, root: str, name: str) -> None:
    """Refuse an image that another user may change or replace. Raises JobError."""
    trusted = {0, os.geteuid()}
    with suppress(OSError):
        trusted.add(Path(root).stat().st_uid)
    here = Path(real)
    for path in (here, *(one for one in here.parents if _beneath(str(one), root))):
        try:
            found = path.lstat()
            if os.statvfs(path).f_flag & os.ST_RDONLY:
                continue
        except OSError as error:
            raise job_error(
                error, f"cannot look at {path}", Target.JOB, code=Code.IMAGE_NOT_FOUND,
                field="container",
            ) from None  # fmt: skip
        sticky = path != here and found.st_mode & stat.S_ISVTX
        if found.st_uid not in trusted or (found.st_mode & 0o022 and not sticky):
            raise JobError(
                Code.IMAGE_UNUSABLE,
                f"another user may change {path} while the image {name} is in use",
                field="container",
                remedy=f"chown it to root or to the pilot's user, and chmod go-w {path}",
            )


def resolved(root: Path, path: str) -> Path | None:
    """Where `path` leads within the file system at `root`, as a process with that root would find
    it; None: nowhere. The answer is beneath `root` and no link."""
    todo, here, links = [part for part in path.split("/") if part][::-1], Path(root), 0
    while todo:
        part = todo.pop()
        if part == "..":
            here = here.parent if here != root else here
            continue
        if part == ".":
            continue
        step = here / part
        try:
            found = step.lstat()
            if not stat.S_ISLNK(found.st_mode):
                here = step
                continue
            target = os.readlink(step)  # noqa: PTH115 - text in, text out
        except OSError:
            return None
        if (links := links + 1) > _LINKS:
            return None
        here = root if target.startswith("/") else here
        todo += [one for one in target.split("/") if one][::-1]
    return here


def has_program(root: Path, path: str) -> bool:
    """Whether the file system at `root` has a program at `path`."""
    if (found := resolved(root, path)) is None:
        return False
    with suppress(OSError):
        mode = found.lstat().st_mode
        return stat.S_ISREG(mode) and bool(mode & _EXECUTABLE)
    return False
