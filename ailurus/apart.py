"""Whether one path lies beneath another, whatever links or mounts lead there."""

from __future__ import annotations

import os
from collections.abc import Iterator

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""What every sandbox shows of its node."""


def beneath(path: str, root: str) -> bool:
    """Whether `path` is `root` or lies beneath it: by name, by name without links, or by the directory
    itself, which a second mount or a file system without case shows under another name."""
    path, root = os.path.abspath(path), os.path.abspath(root)  # noqa: PTH100  text in, text out
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    if _within(path, root) or _within(real, real_root):
        return True
    found = _identity(real_root)
    return found is not None and any(_identity(one) == found for one in _upwards(real))


def overlap(one: str, other: str) -> bool:
    """Whether either lies beneath the other."""
    return beneath(one, other) or beneath(other, one)


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  text in, text out
    except (OSError, ValueError):  # ValueError: a NUL in it
        return None
    return found.st_dev, found.st_ino


def _upwards(path: str) -> Iterator[str]:
    """The path and the directories above it, but for the root of all: it is above everything by name."""
    while path != "/":
        yield path
        path = os.path.dirname(path)  # noqa: PTH120  text in, text out
