"""What a job's thread may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pilot.ports import Container, Spawner
from pilot.reporter import Reporter
from pilot.slots import Slots
from pilot.spool import Journal
from pilot.stage import Stage
from pilot.watch import Supervisor


@dataclass(frozen=True)
class Kit:
    """The pilot's parts, handed to whoever needs them."""

    host: str
    directory: Path
    container: Container
    spawner: Spawner
    stage: Stage
    slots: Slots
    supervisor: Supervisor
    reporter: Reporter
    journal: Journal
