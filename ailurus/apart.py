"""Whether one path lies beneath another, whatever links or mounts lead there."""

from __future__ import annotations

import os

from msgspec import Struct

# The paths of its node that every sandbox shows.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_Id = tuple[int, int]


class Location(Struct, frozen=True):
    """A path as it was when it was looked at: by name, by name without links, and by the
    directories themselves, which a second mount or a file system without case shows under another
    name."""

    name: str
    real: str
    itself: _Id | None
    # Itself and all above it but the root, beneath which everything is by name.
    within: frozenset[_Id | None]

    def beneath(self, root: Location) -> bool:
        """Whether it is `root`, or lies beneath it."""
        if _within(self.name, root.name) or _within(self.real, root.real):
            return True
        return root.itself is not None and root.itself in self.within

    def overlaps(self, other: Location) -> bool:
        """Whether either lies beneath the other."""
        return self.beneath(other) or other.beneath(self)


def look(path: str) -> Location:
    """A path as it is now; it need not be there."""
    name = os.path.abspath(path)  # noqa: PTH100  text in, text out
    try:
        real = step = os.path.realpath(name)
    # A NUL in it, or half a character: no file has such a name.
    except ValueError:
        real = step = name
    within = set()
    while step != "/":
        within.add(_identity(step))
        step = os.path.dirname(step)  # noqa: PTH120  text in, text out
    return Location(name, real, _identity(real), frozenset(within))


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _identity(path: str) -> _Id | None:
    try:
        found = os.stat(path)  # noqa: PTH116  text in, text out
    # ValueError: a NUL in it.
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
