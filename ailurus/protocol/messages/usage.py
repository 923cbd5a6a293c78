"""What a payload has used, as pilots report it and people see it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.fields import Label, Whole

MOST_NODES = 1000
"""Nodes of a payload whose usage is told apart."""


class NodeUsage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a payload has used on one of its nodes."""

    node: Label
    cpu_s: float = 0.0
    # What it has now.
    rss_kb: Whole = 0
    processes: Whole = 0
    gpu_memory_mb: Whole = 0
    max_rss_kb: Whole = 0
    read_bytes: Whole = 0
    write_bytes: Whole = 0
    gpu_s: float = 0.0


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a payload's process tree has used since its start (kB as PanDA counts them)."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    rss_kb: Whole = 0
    max_rss_kb: Whole = 0
    max_pss_kb: Whole = 0
    read_bytes: Whole = 0
    write_bytes: Whole = 0
    disk_mb: Whole = 0
    processes: Whole = 0
    # Device seconds for which its GPUs were busy, and MB of their memory, where their driver tells.
    gpu_s: float = 0.0
    gpu_memory_mb: Whole = 0
    max_gpu_memory_mb: Whole = 0
    # Bytes written to each stream, known when the payload has ended.
    stdout_bytes: Whole = 0
    stderr_bytes: Whole = 0
    # Where its pilot has several nodes, of each on which it runs.
    nodes: Annotated[tuple[NodeUsage, ...], Meta(max_length=MOST_NODES)] = ()
