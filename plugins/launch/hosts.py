"""Lists of nodes, as the programs that start processes read them."""

from __future__ import annotations

from collections.abc import Sequence

from pilot.node_ports import JobNode

HERE = "localhost"


def name_of(node: JobNode) -> str:
    return node.name or HERE


def openmpi(nodes: Sequence[JobNode], each: int) -> str:
    """A host file of Open MPI, and of most others."""
    return "".join(f"{name_of(node)} slots={each}\n" for node in nodes)


def hydra(nodes: Sequence[JobNode], each: int) -> str:
    """A host file of MPICH's hydra, and the hosts of Horovod."""
    return "".join(f"{name_of(node)}:{each}\n" for node in nodes)


def plain(nodes: Sequence[JobNode]) -> str:
    """A name a line."""
    return "".join(f"{name_of(node)}\n" for node in nodes)
