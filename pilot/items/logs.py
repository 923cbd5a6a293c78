"""The outputs of items: a pair of files a lane, used by one item after the other.

What an item wrote goes, with a line that says whose it is, to the streams of its job, so that it is
seen and kept as those are. Of each item the last characters are told with its end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pilot.workdir import Workdir, remove_tree, tail_of

MOST_BYTES = 256 << 10
"""Of one stream of one item; of more the end is kept."""
KEPT_BYTES = 64 << 20
"""Of all items on this node in one stream; those that failed may have as much again."""
TAIL_CHARACTERS = 2000
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Lanes:
    """Which pairs of files are in use."""

    def __init__(self, inside: str, outside: str, work: Workdir) -> None:
        """`inside`: the directory as a node that writes names it; `outside`: as it is here."""
        self._inside, self._outside, self._work = inside, outside, work
        self._free: list[int] = []
        self._count = 0
        self._kept = {"out": 0, "err": 0}

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        self._count += 1
        return self._count

    def paths(self, lane: int) -> tuple[str, str]:
        """Where the item of a lane writes."""
        return f"{self._inside}/.item-{lane}.out", f"{self._inside}/.item-{lane}.err"

    def give_back(self, lane: int, title: str, *, failed: bool) -> tuple[str, str]:
        """Keep what the item of a lane wrote; the ends of both streams."""
        self._free.append(lane)
        return (
            self._taken(lane, "out", self._work.stdout, title, failed=failed),
            self._taken(lane, "err", self._work.stderr, title, failed=failed),
        )

    def remove(self) -> None:
        """Leave none of the files."""
        for lane in range(1, self._count + 1):
            for name in ("out", "err"):
                _remove(Path(self._outside, f".item-{lane}.{name}"))

    def _taken(self, lane: int, name: str, kept: Path, title: str, *, failed: bool) -> str:
        path = f"{self._outside}/.item-{lane}.{name}"
        try:
            found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - thousands a second
            if not found.st_size and stat.S_ISREG(found.st_mode):
                return ""
            with _own(path) as fd:
                start, data = tail_of(fd, MOST_BYTES)
                if self._kept[name] < KEPT_BYTES * (1 + failed):
                    self._kept[name] += len(data)
                    _append(kept, title, start + len(data), data)
                os.ftruncate(fd, 0)
        except (OSError, ValueError):
            # An item has put something else there: the next one makes it anew.
            _remove(Path(path))
            return ""
        return data[-4 * TAIL_CHARACTERS :].decode("utf-8", "replace")[-TAIL_CHARACTERS:]


def _remove(path: Path) -> None:
    """Remove what is there, whatever an item has made of it."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        remove_tree(path)


@contextmanager
def _own(path: str) -> Iterator[int]:
    """A regular file without another name. Raises OSError, ValueError."""
    fd = os.open(path, _OPEN)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise ValueError(path)
        yield fd
    finally:
        os.close(fd)


def _append(path: Path, title: str, size: int, data: bytes) -> None:
    """Add what an item wrote to a stream of its job's."""
    more = f", the last {len(data)} of {size} bytes" if size > len(data) else ""
    end = b"" if data.endswith(b"\n") else b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"--- {title}{more}\n".encode() + data + end)
    finally:
        os.close(fd)
