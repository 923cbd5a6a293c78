"""Paths as a site file names them."""

from __future__ import annotations

import os
from pathlib import PurePath

from ailurus.paths import expanded

VOLATILE = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/var/run")  # noqa: S108  looked for, not used
"""Each machine has its own of these, and empties it."""


def beneath(path: str, root: str) -> bool:
    return PurePath(plain(path)).is_relative_to(plain(root))


def plain(path: str) -> str:
    """As the system takes it, but for links: they are another machine's, perhaps."""
    return "/" + os.path.normpath(expanded(path)).lstrip("/")
