"""What waits for slots: items that need the same stand in one line, and the first of each line is
compared with those of the others."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from ailurus.protocol.resources import Resources
from pilot.node.shares import free_of

T = TypeVar("T")


class Wish(Struct, frozen=True, gc=False):
    """What an item asks for: so much on each of so many nodes."""

    need: Resources
    nodes: int = 1
    priority: int = 0
    estimate_s: float = 0.0
    """How long it will probably take; 0: nobody knows."""
    limit_s: float = 0.0
    """How long it may take; 0: as long as it likes."""
    anchored: bool = False
    """Of several nodes it takes the one that joined first, if that has room."""


class Queued(Struct, Generic[T], frozen=True, order=True, gc=False):
    """What waits, in the order of its line: the arrival decides at last. The collector of garbage
    does not look at the many of them."""

    urgency: int
    window: int
    shortness: float
    arrival: int
    batch: int
    """Those that came between the same two calls of `take` share it."""
    item: T
    wish: Wish


class Line(Generic[T]):
    """What waits and needs the same, so that a thousand wide items cost a narrow one nothing."""

    __slots__ = ("count", "fresh", "heap", "key", "need", "nodes", "possible", "want", "width")

    def __init__(self, need: Resources, nodes: int) -> None:
        self.need, self.nodes, self.want = need, nodes, free_of(need)
        self.heap: list[Queued[T]] = []
        # Of those that still wait.
        self.count = 0
        self.width = 0.0
        # Of its first entry among all lines.
        self.key: tuple[float, ...] = ()
        # Whether it may fit on nodes that have not grown since it was looked at last.
        self.fresh = True
        # Whether there are such nodes, be they free or not.
        self.possible = False

    def settle(self) -> None:
        """Note who is first."""
        first = self.heap[0]
        width = self.width
        wide = width if self.nodes > 1 or width > 0.5 else 0.0
        work = first.shortness * width**0.5
        self.key = (first.urgency, first.window, -wide, work, first.arrival)
