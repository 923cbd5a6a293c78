"""Rooms: namespaces of another process, in which programs are started without a program in between
that enters them.

The pilot's guardian forks a guardian into a room, once; from then on a start there costs what it
costs anywhere. It ends with the guardian, and with it all that it started.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Bind(Struct, frozen=True, array_like=True, tag=True):
    """What is at `source` is at `target`, too, read-only: a file on a file, a directory on one.
    No link is followed on the way to the target."""

    source: str
    target: str


class Memory(Struct, frozen=True, array_like=True, tag=True):
    """A file system in memory on a directory."""

    target: str


class Closed(Struct, frozen=True, array_like=True, tag=True):
    """What is mounted at `target` is read-only from here on."""

    target: str


class Directory(Struct, frozen=True, array_like=True, tag=True):
    path: str


class EmptyFile(Struct, frozen=True, array_like=True, tag=True):
    """An empty one, on which another can be mounted."""

    path: str


class Symlink(Struct, frozen=True, array_like=True, tag=True):
    path: str
    to: str


class Only(Struct, frozen=True, array_like=True, tag=True):
    """Of all that is mounted there, what is at these paths stays, with what is mounted below it;
    one that is missing is left out. Links in the root directory stay, too.

    Each sandbox copies what is mounted, and bubblewrap reads the list of it at each mount of its
    own, so a room without the node's other file systems is for speed: where it cannot be had the
    room has all of them."""

    paths: tuple[str, ...]


Step = Bind | Memory | Closed | Directory | EmptyFile | Symlink | Only


class Entrance(Struct, frozen=True, kw_only=True):
    """How a room is entered."""

    namespaces: Sequence[int]
    """Open, in the order in which they are entered."""
    steps: Sequence[Step] = ()
    """What is made there first."""
    reapers: Sequence[int] = ()
    """Lists of children (`/proc/PID/task/PID/children`), open, of the processes that get orphans in
    there."""
    spared: Sequence[int] = ()
    """Of those children, the room's own."""
    confined: bool = False
    """Whether nothing started there may have or get a capability."""
    filter: bytes = b""
    """A program that says which system calls there are for all of it; empty: all."""
