"""Files beneath a directory in which others may write: reached without following a link."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ailurus.regular import open_regular

_Name = str | bytes

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a directory is opened that may not be a link."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def entered(here: int, names: Iterable[_Name], *, make: int | None = None) -> int:
    """The directory `names` beneath the open directory `here`, open; `here` is closed, whatever
    happens. `make`: those that are missing are made with this mode. Raises OSError: with ELOOP or
    ENOTDIR for a link."""
    try:
        for name in names:
            if make is not None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, make, dir_fd=here)
            below = os.open(name, DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


@contextlib.contextmanager
def directory(root: Path, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """The directory `names` beneath `root`, open; `make`: those that are missing are made. `root`
    itself may be a link. Raises OSError, as `entered`."""
    if make:
        root.mkdir(parents=True, exist_ok=True)
    above = os.open(root, DIRECTORY & ~os.O_NOFOLLOW)
    here = entered(above, names, make=0o777 if make else None)
    try:
        yield here
    finally:
        os.close(here)


def size_of(root: Path, names: Sequence[str]) -> int | None:
    """Bytes of the regular file `names` beneath `root`; None: there is none that can be reached."""
    try:
        with directory(root, names[:-1]) as parent:
            found = os.stat(names[-1], dir_fd=parent, follow_symlinks=False)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def read(root: Path, names: Sequence[str]) -> bytes:
    """What a regular file holds. Raises OSError, or NotRegular."""
    with (
        directory(root, names[:-1]) as parent,
        os.fdopen(open_regular(names[-1], parent), "rb") as file,
    ):
        return file.read()


def _part(name: str) -> str:
    """What a file is called until it is whole. It is no longer than any name may be, and it is the
    name of no other file: no identifier has a `~`."""
    # Late: agents come by here, and have no need of OpenSSL (decision 0526).
    from hashlib import sha256

    return f"~{sha256(os.fsencode(name)).hexdigest()[:32]}.part"


@contextlib.contextmanager
def replacing(root: Path, names: Sequence[str]) -> Iterator[int]:
    """A new file, open for writing, which takes the place of `names` beneath `root` when the block
    ends well: nobody sees half of it. One process writes a name at a time. Raises OSError."""
    with directory(root, names[:-1], make=True) as parent:
        part = _part(names[-1])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part, dir_fd=parent)
        fd = os.open(part, _NEW, 0o644, dir_fd=parent)
        try:
            yield fd
        except BaseException:
            os.unlink(part, dir_fd=parent)
            raise
        finally:
            os.close(fd)
        os.replace(part, names[-1], src_dir_fd=parent, dst_dir_fd=parent)


def remove(root: Path, names: Sequence[str]) -> None:
    """Remove a file, if it is there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), directory(root, names[:-1]) as parent:
        os.unlink(names[-1], dir_fd=parent)
