"""Giving a finished file its name, once: on file systems with hard links, and on those without."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import AnyStr

# Errors of a file system that lacks the call. EPERM also means that the directory is closed; then
# the next way fails with it too.
_LACKING = frozenset(
    (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK, errno.EXDEV)
)
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


def name_once(draft: AnyStr, name: AnyStr, *, directory: int | None = None) -> str:
    """Give the file `draft` the name `name` as well or instead, if nothing has it. Returns the way
    it was done: `link`, `renameat2`, or `claim`, whose file is empty for a moment.

    Both names lie on one file system, relative ones in the open `directory`. Raises
    FileExistsError, or OSError with the last way's reason.
    """
    ways: list[tuple[str, Callable[[AnyStr, AnyStr, int | None], None]]] = [
        ("link", _link),
        ("renameat2", _rename),
        ("claim", _claim),
    ]
    for way, act in ways:
        try:
            act(draft, name, directory)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _LACKING or way == "claim":
                raise
        else:
            return way
    raise AssertionError


def _link(draft: AnyStr, name: AnyStr, directory: int | None) -> None:
    os.link(draft, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)


def _rename(draft: AnyStr, name: AnyStr, directory: int | None) -> None:
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    at = _AT_FDCWD if directory is None else directory
    if call(at, os.fsencode(draft), at, os.fsencode(name), _RENAME_NOREPLACE) != 0:
        raise OSError(number := ctypes.get_errno(), os.strerror(number))


def _claim(draft: AnyStr, name: AnyStr, directory: int | None) -> None:
    """Create an empty file of that name, which only one can, and rename the finished file over
    it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o600, dir_fd=directory))
    try:
        os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(name, dir_fd=directory)
        raise


def synced(fd: int) -> None:
    """Write an open file or directory to disk, where the file system can. Raises OSError."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
