"""What the changes of one commit add to the sums that the store keeps.

Each sum is written once a commit, for all its changes. To keep another one, give `Sums` a part, and
name the statement that writes it in `rows`: both stores then write it, and take it back with a
change that fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ailurus.protocol.states import PARTS

Rows = list[dict[str, Any]]
_encode = msgspec.json.Encoder().encode


class Sums:
    """What is added to jobs by queue, shape and state; to the same by owner, queue and state; to
    the tallies of submissions; to the kinds of failures; and to what attempts took."""

    __slots__ = ("counts", "failures", "owned", "spent", "tallies")

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, int, str]] = Counter()
        self.owned: Counter[tuple[str, str, str]] = Counter()
        self.tallies: Counter[tuple[int, str]] = Counter()
        self.failures: dict[int, tuple[int, str, float]] = {}
        self.spent: list[Mapping[str, Any]] = []

    def copy(self) -> Sums:
        """The same now, however this one goes on."""
        other = Sums()
        for part in self.__slots__:
            if found := getattr(self, part):
                setattr(other, part, found.copy())
        return other

    def rows(self) -> Iterator[tuple[str, Rows]]:
        """The statements that write them, each with its rows in one order, so that no two commits
        wait for each other."""
        for statement, rows in (
            ("counter.move", _counted(self.counts)),
            ("owned.move", _owned(self.owned)),
            ("tally.move", _tallied(self.tallies)),
            ("failure.more", _failed(self.failures)),
            ("usage.add", _spent(self.spent)),
        ):
            if rows:
                yield statement, rows


def _counted(counts: Mapping[tuple[str, int, str], int]) -> Rows:
    return [
        {"queue": queue, "shape_id": shape, "state": state, "by": by}
        for (queue, shape, state), by in sorted(counts.items())
        if by
    ]


def _owned(counts: Mapping[tuple[str, str, str], int]) -> Rows:
    return [
        {"owner": owner, "queue": queue, "state": state, "by": by}
        for (owner, queue, state), by in sorted(counts.items())
        if by
    ]


def _tallied(counts: Mapping[tuple[int, str], int]) -> Rows:
    """A row for each submission."""
    rows: dict[int, dict[str, Any]] = {}
    for (first, part), by in sorted(counts.items()):
        if by:
            row = rows.setdefault(first, {"first": first, **dict.fromkeys(PARTS, 0)})
            row[part] = by
    return list(rows.values())


def _failed(kinds: Mapping[int, tuple[int, str, float]]) -> Rows:
    return [
        {"kind": kind, "by": by, "example": example, "at": at}
        for kind, (by, example, at) in sorted(kinds.items())
    ]


def _spent(attempts: list[Mapping[str, Any]]) -> Rows:
    """One row with all of them: the statement looks up what their jobs asked for."""
    if not attempts:
        return []
    text = _encode(attempts)
    # PostgreSQL's text has no NUL.
    if b"\\u0000" in text:
        text = _encode([{name: _clean(value) for name, value in one.items()} for one in attempts])
    return [{"ended": text.decode()}]


def _clean(value: object) -> object:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
