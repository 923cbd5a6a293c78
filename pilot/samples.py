"""What the sampler of a node tells the judge of all nodes: readings, and no verdict."""

from __future__ import annotations

from msgspec import Struct

from ailurus.protocol.fields import Amount, Seconds


class Sampled(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What is measured of a payload on one node: all processes below those that the node started
    for it."""

    memory_kb: int
    """Its limit on this node. Shared pages are shared out only above it, since that is dear."""
    directory: str
    """The job's. Files without a name that the payload keeps open count on its file system."""
    local: tuple[str, ...] = ()
    """Directories of this node which the payload alone uses."""
    gpus: tuple[str, ...] = ()
    """UUIDs of its GPUs that NVML knows."""


class LocalFiles(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What a payload has in its node-local directories."""

    used_bytes: Amount = 0
    mark: int = 0
    """Another one than before when any file was made, changed or removed."""
    walks: Amount = 0
    """How often all of the directories have been read."""
    too_deep: bool = False
    """A path is too long for the kernel, so what is beneath it cannot be counted."""


class Sample(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What one payload has on one node at one look."""

    key: str
    """Of the payload."""
    cpu_s: Seconds = 0.0
    """Of the processes that there are, with that of children they waited for, so it may shrink; and
    of what ended that the node itself had started."""
    rss_kb: Amount = 0
    """Mapped memory, pages that are shared once a process, and files in memory beside that."""
    used_kb: Amount | None = None
    """The same with shared pages shared out; None: not measured this time."""
    files_kb: Amount = 0
    """Of that, files in memory, by name or without."""
    read_bytes: Amount = 0
    """From storage, by the processes that there are and the children they waited for."""
    write_bytes: Amount = 0
    """To storage, likewise."""
    moved_bytes: Amount = 0
    """By read, write and their like, to and from any file, pipe or socket."""
    processes: Amount = 0
    nameless_bytes: Amount = 0
    """On the job's file system, of files without a name."""
    local: LocalFiles | None = None
    """None: it has no node-local directories."""
    gpu_s: Seconds = 0.0
    """Device seconds for which its GPUs were busy so far, as far as NVML told."""
    gpu_memory_mb: Amount = 0
