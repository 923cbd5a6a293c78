"""What the supervisor reads of payloads: of their processes, and of the files that those keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from pilot.process import proc
from pilot.process.usage import Nameless, NodeUse, nameless, node_use, shared_memory_kb


class Sampler(Protocol):
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

    def nameless(self, pids: Iterable[int], directory: Path) -> Nameless:
        """What processes keep open without a name, in memory and on the device of `directory`."""

    def node_use(self, directory: Path) -> NodeUse:
        """What the whole node has in memory files, and on the file system of `directory`."""


class ProcSampler:
    """Reads /proc of this node."""

    scan = staticmethod(proc.scan)
    io_of = staticmethod(proc.io_of)
    pss_kb = staticmethod(proc.pss_kb)
    rss_shmem_kb = staticmethod(proc.rss_shmem_kb)
    shared_memory_kb = staticmethod(shared_memory_kb)
    node_use = staticmethod(node_use)

    def nameless(self, pids: Iterable[int], directory: Path) -> Nameless:
        try:
            device = directory.lstat().st_dev
        except OSError:
            device = -1
        return nameless(pids, device)
