"""Writing a file so that nobody ever sees a part of it."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: bytes, mode: int = 0o644, *, lasting: bool = False) -> None:
    """Write `path` in one step, with exactly that mode. `lasting`: it is on disk when this returns,
    so that a loss of power leaves no empty file of that name. One writer at a time. Raises OSError,
    which names `path`."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123
            # Whatever the umask.
            os.fchmod(file.fileno(), mode)
            file.write(text)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
    # A full disk names no file.
    except OSError as error:
        new.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    new.replace(path)
    if lasting:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
