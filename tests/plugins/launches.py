"""What tests hand to launchers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pilot.node_ports import JobNode, Program


def launch(
    directory: Path,
    argv: Sequence[str],
    executable: str = "",
    *,
    names: Sequence[str] = ("q1", "q2", "q3"),
    cores: int = 4,
    gpus: int = 0,
) -> Program:
    return Program(
        argv=argv,
        executable=executable,
        nodes=[
            JobNode(name=name, address=f"10.0.0.{n}", cores=cores, memory_mb=2000, gpus=gpus)
            for n, name in enumerate(names, 1)
        ],
        directory=str(directory),
        mark="17.1",
    )
