"""A measured figure, what it is held against, and how it is shown."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct


class Figure(Struct, frozen=True, kw_only=True):
    """One line of output. `ratio` is ours to the peer's; the target is on it where there is a
    peer."""

    name: str
    ours: float
    unit: str = ""
    peer: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None  # None: shown for information, no target
    note: str = ""
    seed: int | None = None
    machine: str = ""


def machine() -> str:
    """This machine in words."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{os.cpu_count()} cores, {round(pages / 1024**3)} GiB"


def figure(
    name: str,
    ours: float,
    unit: str = "",
    *,
    peer: float | None = None,
    at_most: float | None = None,
    at_least: float | None = None,
    note: str = "",
    seed: int | None = None,
) -> Figure:
    """A figure; a target is on the ratio where there is a peer, else on ours."""
    ratio = ours / peer if peer else None
    judged = ours if ratio is None else ratio
    times = "" if ratio is None else " × peer"
    target, met = "", None
    if at_most is not None:
        target, met = f"≤ {at_most:g}{times}", judged <= at_most
    if at_least is not None:
        target, met = f"≥ {at_least:g}{times}", judged >= at_least
    return Figure(
        name=name,
        ours=_rounded(ours),
        unit=unit,
        peer=None if peer is None else _rounded(peer),
        ratio=None if ratio is None else _rounded(ratio),
        target=target,
        met=met,
        note=note,
        seed=seed,
        machine=machine(),
    )


def _rounded(value: float) -> float:
    """Four digits: more would be noise."""
    if not value or not math.isfinite(value):
        return value
    return round(value, max(0, 3 - math.floor(math.log10(abs(value)))))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def say(one: Figure) -> None:
    """One JSON line on stdout, at once."""
    sys.stdout.write(msgspec.json.encode(one).decode() + "\n")
    sys.stdout.flush()


def table(figures: Sequence[Figure]) -> str:
    """All of them for a reader."""
    heads = ("figure", "ours", "peer", "ratio", "target", "")
    rows = [
        (
            one.name,
            f"{one.ours:g} {one.unit}".strip(),
            "" if one.peer is None else f"{one.peer:g}",
            "" if one.ratio is None else f"{one.ratio:.2f}",
            one.target,
            {True: "met", False: "MISSED", None: ""}[one.met]
            + (f"  {one.note}" if one.note else ""),
        )
        for one in figures
    ]
    widths = [max(len(row[nr]) for row in [heads, *rows]) for nr in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in [heads, *rows]]  # fmt: skip
    return "\n".join(lines)


ROOT = Path(__file__).resolve().parents[2]
