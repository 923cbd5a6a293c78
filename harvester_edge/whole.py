"""Writing a file so that nobody ever sees a part of it."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: bytes, mode: int = 0o644) -> None:
    """Write `path` in one step. One writer at a time."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123
        file.write(text)
    new.replace(path)
