"""The root file system of an image with places for what is mounted in it.

An image is read-only, and has no directory where a job's is. So where one is missing, the
directories on the way are made in memory, and what the image has in them is mounted there piece by
piece. What we mount wins: no link of the image lies on the way to it, since bubblewrap would follow
that outside.

An image that is mounted here gets such a root once, in the room of its mount; every payload's is
then one mount with all of that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from msgspec import Struct

from pilot.room_ports import Bind, Directory, EmptyFile, Memory, Step, Symlink

MOST = 500
"""Mounts and links. Without a room each costs a payload 0.1 ms, and bubblewrap takes 9000 words."""


class TooMany(Exception):
    """A directory of the image has more entries than can be mounted one by one."""


class Piece(Struct, frozen=True):
    """What the root has at `path`, of what the image has there."""

    path: str
    kind: Literal["directory", "tree", "file", "link", "nothing"]
    """A directory that is made, one that is mounted, …"""
    to: str = ""
    """Of a link."""


def pieces(seen: Path, places: Iterable[str]) -> list[Piece]:
    """What makes the file system `seen` a root with a directory or a place for one at each of
    `places`; nothing if it is one as it is. Raises TooMany and OSError."""
    missing = {place for place in places if not is_directory(seen, place)}
    if not missing:
        return []
    found = list(islice(_pieces(seen, "", missing), MOST + 1))
    if len(found) > MOST:
        raise TooMany(f"more than {MOST} entries in the directories on the way to {min(missing)}")
    return found


def words(pieces: Sequence[Piece], source: str) -> list[str]:
    """The root for bubblewrap, which finds the image at `source`."""
    found = [] if pieces else ["--ro-bind", source, "/"]
    for piece in pieces:
        if piece.kind in ("tree", "file"):
            found += ["--ro-bind", f"{source}{piece.path}", piece.path]
        elif piece.kind == "link":
            found += ["--symlink", piece.to, piece.path]
        elif piece.kind == "directory":
            found += ["--dir", piece.path]
    return found


def steps(
    pieces: Sequence[Piece], source: str, root: str, places: Iterable[str], files: Collection[str]
) -> list[Step]:
    """The root at the directory `root` in a room, made of what is at `source` there, with a
    directory at each of `places`, or a file if it is one of `files`: bubblewrap makes none in it.
    """
    found: list[Step] = [Memory(root)]
    there = {"", *(piece.path for piece in pieces if piece.kind != "nothing")}
    trees = tuple(f"{piece.path}/" for piece in pieces if piece.kind == "tree")
    for piece in pieces:
        here = f"{root}{piece.path}"
        if piece.kind == "link":
            found.append(Symlink(here, piece.to))
        elif piece.kind == "file":
            found += [EmptyFile(here), Bind(f"{source}{piece.path}", here)]
        elif piece.kind != "nothing":
            found.append(Directory(here))
            if piece.kind == "tree":
                found.append(Bind(f"{source}{piece.path}", here))
    for place in places:
        if not place.startswith(trees):
            parts = place.strip("/").split("/")
            for above in ("/" + "/".join(parts[: n + 1]) for n in range(len(parts))):
                if above not in there:
                    there.add(above)
                    kind = EmptyFile if above in files else Directory
                    found.append(kind(f"{root}{above}"))
    return found


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


def _pieces(seen: Path, below: str, missing: set[str]) -> Iterator[Piece]:
    """One for each entry of the directory `below` of the image."""
    with os.scandir(f"{seen}{below}") as entries:
        for entry in entries:
            path = f"{below}/{entry.name}"
            if path in missing:
                continue
            # An entry that is left out counts as well: a directory may have millions.
            yield from _piece(entry, seen, path, missing)


def _is_empty(directory: os.DirEntry[str]) -> bool:
    """Whether there is nothing in it to be mounted."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _piece(entry: os.DirEntry[str], seen: Path, path: str, missing: set[str]) -> Iterator[Piece]:
    on_the_way = any(place.startswith(f"{path}/") for place in missing)
    if entry.is_dir(follow_symlinks=False):
        if on_the_way:
            yield Piece(path, "directory")
            yield from _pieces(seen, path, missing)
        else:
            yield Piece(path, "directory" if _is_empty(entry) else "tree")
    elif on_the_way:
        yield Piece(path, "nothing")
    elif entry.is_symlink():
        yield Piece(path, "link", os.readlink(f"{seen}{path}"))  # noqa: PTH115 - text
    elif entry.is_file(follow_symlinks=False):
        yield Piece(path, "file")
    else:
        yield Piece(path, "nothing")
