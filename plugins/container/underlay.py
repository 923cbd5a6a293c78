"""The root file system of an image with places for what is mounted in it.

An image is read-only, and has no directory where a job's is. So where one is missing, the
directories on the way are made in memory, and what the image has in them is mounted there piece by
piece. What we mount wins: no link of the image lies on the way to it, since bubblewrap would follow
that outside.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

MOST = 500
"""Mounts and links. Each costs a payload 0.1 ms, and bubblewrap takes 9000 words."""


class TooMany(Exception):
    """A directory of the image has more entries than can be mounted one by one."""


def words(seen: Path, source: str, places: Iterable[str]) -> list[str]:
    """What bubblewrap mounts to have the file system `seen` (which it finds at `source`) as its
    root, with a directory or a place for one at each of `places`. Raises TooMany and OSError."""
    missing = {place for place in places if not is_directory(seen, place)}
    if not missing:
        return ["--ro-bind", source, "/"]
    pieces = list(islice(_pieces(seen, source, "", missing), MOST + 1))
    if len(pieces) > MOST:
        raise TooMany(f"more than {MOST} entries in the directories on the way to {min(missing)}")
    return [word for piece in pieces for word in piece]


def is_directory(seen: Path, place: str) -> bool:
    """Whether the file system has a directory at `place`, and no link on the way."""
    return _kind(seen, place, stat.S_ISDIR)


def is_file(seen: Path, place: str) -> bool:
    """Likewise a regular file."""
    return _kind(seen, place, stat.S_ISREG)


def _kind(seen: Path, place: str, wanted: Callable[[int], bool]) -> bool:
    parts = [part for part in place.split("/") if part]
    here = seen
    for n, part in enumerate(parts):
        here /= part
        try:
            mode = here.lstat().st_mode
        except OSError:
            return False
        if not (wanted if n == len(parts) - 1 else stat.S_ISDIR)(mode):
            return False
    return True


def _pieces(seen: Path, source: str, below: str, missing: set[str]) -> Iterator[list[str]]:
    """One mount or link for each entry of the directory `below` of the image."""
    with os.scandir(f"{seen}{below}") as entries:
        for entry in entries:
            path = f"{below}/{entry.name}"
            if path in missing:
                continue
            # An entry that is left out counts as well: a directory may have millions.
            yield from _piece(entry, seen, source, path, missing)


def _is_empty(directory: os.DirEntry[str]) -> bool:
    """Whether there is nothing in it to be mounted."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _piece(
    entry: os.DirEntry[str], seen: Path, source: str, path: str, missing: set[str]
) -> Iterator[list[str]]:
    on_the_way = any(place.startswith(f"{path}/") for place in missing)
    if entry.is_dir(follow_symlinks=False):
        if on_the_way:
            yield ["--dir", path]
            yield from _pieces(seen, source, path, missing)
        elif _is_empty(entry):
            yield ["--dir", path]
        else:
            yield ["--ro-bind", f"{source}{path}", path]
    elif on_the_way:
        yield []
    elif entry.is_symlink():
        yield ["--symlink", os.readlink(f"{seen}{path}"), path]  # noqa: PTH115 - text
    elif entry.is_file(follow_symlinks=False):
        yield ["--ro-bind", f"{source}{path}", path]
    else:
        yield []
