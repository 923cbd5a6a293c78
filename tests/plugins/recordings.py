"""Recorded answers of real batch systems, played to a plugin in place of its commands."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harvester_edge.ports import BatchError, Order
from plugins.batch.commands import CommandMissing, Ran

RECORDED = Path(__file__).parents[1] / "recorded"


def recorded(system: str, stem: str) -> Ran:
    """The recording of that name: exit status, stdout and stderr."""
    place = RECORDED / system
    with (place / "index.tsv").open() as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        code = next(int(row["rc"]) for row in rows if row["file"] == stem)

    def text(kind: str) -> str:
        path = place / f"{stem}.{kind}"
        return path.read_text() if path.exists() else ""

    return Ran(code, text("out"), text("err"))


@dataclass
class Player:
    """Gives the next answer, or raises it; keeps what it was asked."""

    answers: list[Ran | BatchError]
    asked: list[list[str]] = field(default_factory=list)

    def __call__(self, argv: Sequence[str]) -> Ran:
        self.asked.append(list(argv))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BatchError):
            raise answer
        return answer


HUNG = BatchError("it did not answer within 60 s")
MISSING = CommandMissing("cannot run it: No such file or directory")


def order(place: Path, count: int = 1, **more: object) -> Order:
    usual = {"script": "#!/bin/sh\n", "cores": 4, "memory_mb": 2000, "disk_mb": 100, "gpus": 0}
    return Order(**{**usual, "walltime_s": 7200, "directory": place, "count": count, **more})
