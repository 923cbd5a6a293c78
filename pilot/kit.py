"""What a job's thread may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pilot.clock import Clock
from pilot.files.stage import Stage
from pilot.node.slots import Slots
from pilot.node.supervisor import Supervisor
from pilot.ports import Container, Spawner
from pilot.upstream.delegated import Delegation
from pilot.upstream.reporter import Reporter
from pilot.upstream.spool import Journal


@dataclass(frozen=True)
class Kit:
    """The pilot's parts, which its threads share."""

    host: str
    clock: Clock
    directory: Path
    container: Container
    spawner: Spawner
    stage: Stage
    slots: Slots
    supervisor: Supervisor
    delegation: Delegation
    reporter: Reporter
    journal: Journal
