"""Ends of items that the dispatcher has not acknowledged, on disk before they are told: of a pilot
that is killed the next one tells them, so nothing that finished is done again.

Beside the spool's journal each job has a file: a line for each batch of ends. What is acknowledged
goes when the file has grown long.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import msgspec

from ailurus.protocol.messages.items import MOST_NEWS, ItemEnd

LONG_BYTES = 1 << 20
_encode = msgspec.json.Encoder().encode
_line = msgspec.json.Decoder(list[ItemEnd])


class Untold:
    """The ends of one job's items."""

    def __init__(self, path: Path | None) -> None:
        """`path`: where they are kept; None: nowhere but here."""
        self._path = path
        self._ends: deque[ItemEnd] = deque()
        self._fd = -1
        self._size = 0
        if path is not None:
            self._fd = _created(path)

    def add(self, ends: Sequence[ItemEnd]) -> None:
        """Note ends; with a disk that is full only here."""
        self._ends.extend(ends)
        if self._fd >= 0:
            data = _encode(ends) + b"\n"
            with contextlib.suppress(OSError):
                if os.write(self._fd, data) == len(data):
                    self._size += len(data)
                else:
                    # Half a line would spoil the next one, too.
                    os.ftruncate(self._fd, self._size)

    def first(self, most: int = MOST_NEWS) -> tuple[ItemEnd, ...]:
        return tuple(islice(self._ends, most))

    def told(self, count: int) -> None:
        """The first `count` of them are acknowledged."""
        for _ in range(count):
            self._ends.popleft()
        if self._size > LONG_BYTES:
            self._shorten()

    def __len__(self) -> int:
        return len(self._ends)

    def close(self, *, remove: bool) -> None:
        """Leave the file to whoever goes on with it, or remove it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if remove and self._path is not None:
            self._path.unlink(missing_ok=True)

    def _shorten(self) -> None:
        """Write what is left beside it, and put that in its place."""
        assert self._path is not None  # noqa: S101 - it has a size
        beside = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            fd = _created(beside)
            data = _encode(list(self._ends)) + b"\n"
            try:
                if os.write(fd, data) == len(data):
                    beside.replace(self._path)
                    self._fd, fd, self._size = fd, self._fd, len(data)
            finally:
                os.close(fd)


def left_by(path: Path, most: int = MOST_NEWS) -> tuple[ItemEnd, ...]:
    """The last ends that a dead pilot left at `path`: those before have been told, or are done
    again."""
    found: deque[ItemEnd] = deque(maxlen=most)
    with contextlib.suppress(OSError), path.open("rb") as file:
        for text in file:
            # The last one may be torn.
            with contextlib.suppress(msgspec.MsgspecError):
                found.extend(_line.decode(text))
    return tuple(found)


def path_of(journal: Path, attempt: str) -> Path:
    """Where a journal's pilot keeps the ends of an attempt's items."""
    return journal.with_name(f"{journal.stem}-{attempt}.items")


def _created(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)
