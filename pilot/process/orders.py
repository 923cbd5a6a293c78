"""What the pilot tells a guardian, and what a guardian tells the pilot.

pilot → guardian   Spawn, Enter, Signal, Until, Cgroups      guardian → pilot   Started, ProcessEnd
what gathers goes in one frame, and that something started is no news worth a frame of its own;
the frame of an order that needs descriptors brings them, in the order of their orders
"""

from __future__ import annotations

import time

import msgspec

from pilot.ports import ProcessEnd
from pilot.room_ports import Step


class Spawn(msgspec.Struct, array_like=True, tag=True):
    """Start a program."""

    key: int
    argv: list[str]
    environment: dict[str, str]
    directory: str
    stdout: str
    stderr: str
    cpus: list[int]
    depth: int
    status_fd: int = 0
    arguments: bytes = b""
    filter: bytes = b""
    socket: bool = False
    tell: bool = False
    cgroup: bool = False
    """Two descriptors come: the cgroup that it is started in, and the guardian's own."""


class Enter(msgspec.Struct, array_like=True, tag=True):
    """Fork a guardian into namespaces of another process. Its descriptors: its socket, then the
    namespaces as they are to be entered, then the lists of children of processes that get orphans
    there."""

    key: int
    namespaces: int
    reapers: int = 0
    steps: list[Step] = []
    """What is made there first."""
    spared: list[int] = []
    """Children of the reapers that belong to the namespaces themselves."""
    confined: bool = False
    """Without any capability from then on, for itself and all that it starts."""
    filter: bytes = b""
    """Which system calls it and all that it starts have; empty: all."""


class Signal(msgspec.Struct, array_like=True, tag=True):
    key: int
    number: int


class Until(msgspec.Struct, array_like=True, tag=True):
    """Of an agent: kill all there is at this time, unless it is put off before. Whenever the
    guardian ends, the directory goes, too: nobody else may be left to remove it."""

    at: float
    """By `boot_s`."""
    directory: str


class Cgroups(msgspec.Struct, array_like=True, tag=True):
    """Where the pilot has cgroups: the guardian removes them when it ends."""

    directory: str
    v2: bool


class Started(msgspec.Struct, array_like=True, tag=True):
    key: int
    pid: int
    lacks: str = ""
    """Of a room: what it could not be made without, and why not; blank: it is as it was asked."""


Message = Spawn | Enter | Signal | Until | Cgroups
Answer = Started | ProcessEnd


def boot_s() -> float:
    """Seconds that go on while the machine is suspended: a lease does, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
