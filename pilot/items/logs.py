"""What items wrote: with a line that says whose it is it goes to the streams of their job, so that
it is seen and kept as those are. Of each item the last characters are told with its end."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pilot.node_ports import TaskOutput, Written
from pilot.workdir import Workdir

KEPT_BYTES = 64 << 20
"""Of all items in one stream; those that failed may have as much again."""
TAIL_CHARACTERS = 2000


class Seats:
    """The numbers under which items run on a node: each is used by one after the other."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._count = 0

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        self._count += 1
        return self._count

    def give_back(self, seat: int) -> None:
        self._free.append(seat)


class JobStreams:
    """The streams of a job, and how much of its items is in them."""

    def __init__(self, work: Workdir) -> None:
        self._paths = work.stdout, work.stderr
        self._bytes = [0, 0]

    def add(self, title: str, wrote: TaskOutput, *, failed: bool) -> tuple[str, str]:
        """Keep what an item wrote; the ends of both streams."""
        for stream, one in enumerate(wrote):
            if one.data and self._bytes[stream] < KEPT_BYTES * (1 + failed):
                self._bytes[stream] += len(one.data)
                # The job's disk may be full: its items have their ends all the same.
                with suppress(OSError):
                    _append(self._paths[stream], title, one)
        return _tail(wrote[0]), _tail(wrote[1])


def _tail(one: Written) -> str:
    return one.data[-4 * TAIL_CHARACTERS :].decode("utf-8", "replace")[-TAIL_CHARACTERS:]


def _append(path: Path, title: str, one: Written) -> None:
    """Add what an item wrote to a stream of its job's."""
    data = one.data
    more = f", the last {len(data)} of {one.size} bytes" if one.size > len(data) else ""
    end = b"" if data.endswith(b"\n") else b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"--- {title}{more}\n".encode() + data + end)
    finally:
        os.close(fd)
