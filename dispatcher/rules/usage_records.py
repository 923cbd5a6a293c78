"""Rows of sums with names and types: what attempts took, and pilots were for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from dispatcher.ports import Tx

_encode = msgspec.json.Encoder().encode
OF_USAGE = (
    "part", "label", "owner", "queue", "site", "value", "outcome",
    "n", "wall_ms", "core_ms", "cpu_ms", "memory", "peak", "gpu", "gpu_ms",
)  # fmt: skip
"""The columns of a sum of attempts, its span apart."""
OF_PILOTS = ("site", "queue", "reason", "core_ms")
"""Those of a sum of pilots."""


class SizesRecord(Struct, frozen=True):
    """What a job asks for, and where its worker is: `usage.sizes`."""

    site: str
    worker_queue: str
    cores: int
    memory_mb: int
    gpus: int
    nodes: int
    """With other things in it (`shape.all`)."""


class UsageRecord(Struct, frozen=True):
    """What attempts with one outcome took: `usage.sums`. Times in ms, memory in MB × ms, GPUs in
    hundredths × ms."""

    who: str
    which: str
    place: str
    word: str
    outcome: str
    n: float
    wall_ms: float
    core_ms: float
    cpu_ms: float
    memory: float
    peak: float
    gpu: float
    gpu_ms: float


class UsedRecord(Struct, frozen=True):
    """Core-milliseconds that attempts with one outcome had asked for: `usage.over_time`."""

    at: float
    outcome: str
    core_ms: float


class PilotTimeRecord(Struct, frozen=True):
    """Core-milliseconds of pilots: `pilot_time.sums`."""

    which: str
    place: str
    reason: str
    core_ms: float


class OccupationRecord(Struct, frozen=True):
    """What a worker has told of its core-seconds: `worker.occupations`."""

    worker_id: int
    site: str
    queue: str
    occupancy: str | None


def sizes(tx: Tx, **of: int) -> SizesRecord:
    """What a job asks for, and where its worker is."""
    return SizesRecord(*tx.all("usage.sizes", **of)[0])


def sums(tx: Tx, **wanted: object) -> list[UsageRecord]:
    """What attempts took, in parts."""
    return [UsageRecord(*row) for row in tx.all("usage.sums", **wanted)]


def over_time(tx: Tx, **wanted: object) -> list[UsedRecord]:
    """The same by time, oldest first."""
    return [UsedRecord(*row) for row in tx.all("usage.over_time", **wanted)]


def pilot_sums(tx: Tx, **wanted: object) -> list[PilotTimeRecord]:
    """What became of pilots' core-seconds."""
    return [PilotTimeRecord(*row) for row in tx.all("pilot_time.sums", **wanted)]


def occupations(tx: Tx, worker_ids: Sequence[int]) -> list[OccupationRecord]:
    """What workers have told of their core-seconds."""
    if not worker_ids:
        return []
    rows = tx.all("worker.occupations", ids=_encode(worker_ids).decode())
    return [OccupationRecord(*row) for row in rows]


def taken(
    tx: Tx, table: str, span: str, before: float
) -> tuple[float, list[dict[str, Any]]] | None:
    """Delete the sums of the oldest hour or day from before a time, and return them."""
    (at,) = tx.all(f"{table}.due", span=span, before=before)[0]
    if at is None:
        return None
    names = OF_USAGE if table == "usage" else OF_PILOTS
    rows = tx.all(f"{table}.take", span=span, at=at)
    return at, list(named(names, rows))


def named(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Rows with the names of their columns."""
    return (dict(zip(names, row, strict=True)) for row in rows)
