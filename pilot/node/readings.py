"""What the sampler reads of a node: its processes, and the files that those keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from pilot.process import proc
from pilot.process.usage import Nameless, NodeUse, nameless, node_use, shared_memory_kb


class Readings(Protocol):
    """Readings of one node. What cannot be read counts as nothing; no method raises."""

    def scan(self) -> Mapping[int, proc.Process]:
        """All processes by their process id."""

    def io_of(self, pid: int) -> proc.Io | None: ...

    def pss_kb(self, pids: Iterable[int]) -> proc.Mapped | None:
        """The memory of processes, with shared pages shared out; None if the kernel does not
        tell."""

    def rss_shmem_kb(self, pids: Iterable[int]) -> int:
        """What processes have mapped of files in memory; shared pages count once a process."""

    def shared_memory_kb(self, pid: int) -> int:
        """What the /dev/shm of a process has, where it has its own."""

    def nameless(self, pids: Iterable[int], device: int) -> Nameless:
        """What processes keep open without a name, in memory and on the file system `device`."""

    def node_use(self, directory: str) -> NodeUse:
        """What the whole node has in memory files, and on the file system of `directory`."""


class ProcReadings:
    """Reads /proc of this node."""

    scan = staticmethod(proc.scan)
    io_of = staticmethod(proc.io_of)
    pss_kb = staticmethod(proc.pss_kb)
    rss_shmem_kb = staticmethod(proc.rss_shmem_kb)
    shared_memory_kb = staticmethod(shared_memory_kb)
    nameless = staticmethod(nameless)
    node_use = staticmethod(node_use)
