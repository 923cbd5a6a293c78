"""What a job's thread may use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from pilot.clock import Clock
from pilot.files.stage import Stage
from pilot.node.slots import Slots
from pilot.node.supervisor import Supervisor
from pilot.node_ports import Node
from pilot.upstream.delegated import Delegation
from pilot.upstream.leases import Leases
from pilot.upstream.reporter import Reporter
from pilot.upstream.spool import Journal


class Kit(Struct, frozen=True, kw_only=True, eq=False):
    """The pilot's parts, which its threads share."""

    host: str
    clock: Clock
    directory: Path
    node: Node
    """This machine."""
    nodes: Mapping[str, Node]
    """All nodes, by the names that slots have for them."""
    stage: Stage
    slots: Slots
    supervisor: Supervisor
    delegation: Delegation
    leases: Leases
    reporter: Reporter
    journal: Journal
