"""What a job's thread may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pilot.clock import Clock
from pilot.files.stage import Stage
from pilot.node.slots import Slots
from pilot.node.supervisor import Supervisor
from pilot.node_ports import Node
from pilot.upstream.delegated import Delegation
from pilot.upstream.leases import Leases
from pilot.upstream.reporter import Reporter
from pilot.upstream.spool import Journal


@dataclass(frozen=True)
class Kit:
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
