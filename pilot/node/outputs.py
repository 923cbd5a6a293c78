"""What processes in a standing box write: a pair of files a seat, used by one after the other."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pilot.node_ports import NOTHING, Look, TaskOutput, Written
from pilot.workdir import remove_tree, tail_of

MOST_BYTES = 256 << 10
"""Of one stream of one process; of more the end is kept."""
KEPT_BYTES = 64 << 20
"""Of all processes of a box in one stream; those that failed may have as much again."""
SHORT_BYTES = 8000
"""Of each after that."""
LOOK_BYTES = 8 << 10
"""Of a stream at one look while its process runs."""
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Outputs:
    """The files of one box. One thread takes what is in them."""

    def __init__(self, inside: str, outside: str, node: str) -> None:
        """`inside`: the directory as the processes name it; `outside`: as it is here. Boxes of
        other nodes may have the same one."""
        self._inside, self._outside = inside, outside
        self._name = f".item-{node}-" if node else ".item-"
        self._seats: set[int] = set()
        self._kept = [0, 0]

    def paths(self, seat: int) -> tuple[str, str]:
        """Where the process of a seat writes."""
        self._seats.add(seat)
        return (
            f"{self._inside}/{self._name}{seat}.out",
            f"{self._inside}/{self._name}{seat}.err",
        )

    def take(self, seat: int, *, failed: bool) -> TaskOutput:
        """What the process of a seat wrote, once it has ended; then another may have the seat."""
        return self._taken(seat, 0, failed=failed), self._taken(seat, 1, failed=failed)

    def at_once(self, seat: int) -> TaskOutput | None:
        """As `take`, of a process that wrote nothing; None of any other."""
        try:
            for stream in (0, 1):
                found = os.stat(self._path(seat, stream), follow_symlinks=False)  # noqa: PTH116
                if found.st_size or not stat.S_ISREG(found.st_mode):
                    return None
        except OSError:
            return None
        return NOTHING, NOTHING

    def look(self, wanted: Look) -> TaskOutput:
        """What the process of a seat has written by now, from where it is wanted."""
        out, err = (self._seen(wanted.seat, stream, wanted.starts[stream]) for stream in (0, 1))
        return out, err

    def remove(self) -> None:
        """Leave none of the files."""
        for seat in self._seats:
            for stream in (0, 1):
                _remove(Path(self._path(seat, stream)))

    def _path(self, seat: int, stream: int) -> str:
        return f"{self._outside}/{self._name}{seat}.{('out', 'err')[stream]}"

    def _seen(self, seat: int, stream: int, start: int) -> Written:
        try:
            with _own(self._path(seat, stream)) as fd:
                data = os.pread(fd, LOOK_BYTES, start)
        except (OSError, ValueError):
            return NOTHING
        return Written(data, start + len(data))

    def _taken(self, seat: int, stream: int, *, failed: bool) -> Written:
        path = self._path(seat, stream)
        try:
            found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - thousands a second
            if not found.st_size and stat.S_ISREG(found.st_mode):
                return NOTHING
            most = MOST_BYTES if self._kept[stream] < KEPT_BYTES * (1 + failed) else SHORT_BYTES
            with _own(path) as fd:
                start, data = tail_of(fd, most)
                os.ftruncate(fd, 0)
        except (OSError, ValueError):
            # It has put something else there: the next one makes it anew.
            _remove(Path(path))
            return NOTHING
        self._kept[stream] += len(data)
        return Written(data, start + len(data))


def _remove(path: Path) -> None:
    """Remove what is there, whatever a process has made of it."""
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
