"""Opening files that somebody else may have made, or put in the place of another."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MOST_BYTES = 4 << 20
"""Of a file of settings."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotRegular(ValueError):
    """A directory, a FIFO, a device or a socket stands where a file should be, or a file of no
    sensible length."""


def open_regular(name: str | bytes | Path, directory: int | None = None) -> int:
    """Open a regular file for reading, and return its descriptor.

    No link is followed and no writer of a FIFO is waited for. `directory` is an open directory that
    `name` is in. Raises NotRegular, or OSError: with ELOOP if `name` is a link.
    """
    fd = os.open(name, _READ, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        shown = os.fsdecode(name)
        raise NotRegular(f"{shown!r} is not a regular file")
    return fd


def settings_in(path: Path) -> bytes:
    """What a file of settings says that a user or an administrator named, or that a link at `path`
    leads to. Raises OSError, or NotRegular: what has no end or no writer is not waited for."""
    with os.fdopen(open_regular(os.path.realpath(path)), "rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise NotRegular(f"{str(path)!r} has more than {MOST_BYTES >> 20} MiB")
    return text
