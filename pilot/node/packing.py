"""Packing: which of those that wait starts next, and on which nodes. No threads, no clock.

Order: priority; then windows of arrival; within a window the wide ones first, the widest in front:
those of several nodes, and those of which no two fit on one. Then those of most work, which is the
estimate times the root of the width: without estimates those that arrived first. A window ends when
what has started since it began has filled all nodes `WINDOW` times: what comes at once is one
window however much it is. Whatever fits is started, so a narrow item fills the gap in front of a
wide one.

Nothing starves while payloads end and no higher priority comes. What arrives after an item's window
goes behind it, so that it is the first some day. And once those that came after the first have
filled all nodes `PATIENCE` times, the nodes on which it can start soonest are closed for it: there
starts only what will have ended by then. Those that came with it do not count: they are so many
and no more, and closed nodes idle.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence
from operator import attrgetter
from typing import Generic, TypeVar

from ailurus.protocol.resources import Resources
from pilot.node.gpus import Gpu
from pilot.node.lines import Line, Queued, Wish
from pilot.node.shares import (
    NEVER,
    Free,
    FreeNode,
    Holding,
    Placement,
    Slot,
    amount_of,
    fits,
    free_of,
    share,
    tightest,
)
from pilot.node.topology import Cpu

WINDOW = 16.0
"""More would let a narrow item wait long for wide ones, less would mix small sets worse."""
PATIENCE = 1.0

T = TypeVar("T", bound=Hashable)


class _Claim:
    """The first of all that wait, and what was started past it."""

    __slots__ = ("arrival", "at", "batch", "nodes", "passed")

    def __init__(self, first: Queued[T]) -> None:
        self.arrival, self.batch, self.passed = first.arrival, first.batch, 0.0
        self.nodes: frozenset[FreeNode] = frozenset()
        # When it will probably start on the closed nodes.
        self.at = NEVER


class Packer(Generic[T]):
    """The order of those that wait, and the nodes that they share."""

    def __init__(self, until: float | None = None) -> None:
        """`until`: when all must have ended, by the clock of `take`; None: no such time."""
        self.until = until
        self._nodes: dict[str, FreeNode] = {}
        # Open nodes by what is free on them.
        self._groups: dict[Free, dict[FreeNode, None]] = {}
        # How many open nodes have so much in all.
        self._kinds: Counter[Free] = Counter()
        # On these more has become free since the last `take`.
        self._grown: dict[FreeNode, None] = {}
        self._lines: dict[tuple[Resources, int], Line[T]] = {}
        self._order: list[Line[T]] = []
        self._waiting: dict[T, Queued[T]] = {}
        self._removed: set[int] = set()
        self._held: dict[T, Holding] = {}
        self._claim: _Claim | None = None
        self._arrivals = self._batch = self._window = 0
        # How much has been started since it was opened, in nodes.
        self._filled = 0.0
        self._late: list[T] = []

    # nodes ---------------------------------------------------------------------------------------

    def join(
        self, name: str, total: Resources, cpus: Collection[Cpu] = (), gpus: Sequence[Gpu] = ()
    ) -> None:
        """Take a node into use. `cpus`: to bind payloads to; `gpus`: as many devices as `total`
        says."""
        self.drain(name)
        node = self._nodes[name] = FreeNode(name, total, list(cpus), list(gpus))
        self._index(node)
        self._grown[node] = None
        self._nodes_changed()

    def drain(self, name: str) -> None:
        """Start nothing more on a node."""
        node = self._nodes.get(name)
        if node is not None and node.open:
            self._unindex(node)
            self._grown.pop(node, None)
            node.open = False
            self._nodes_changed()

    def leave(self, name: str) -> list[T]:
        """Forget a node. Returns the items that hold a slot there: they hold their slots on other
        nodes until they are given back."""
        self.drain(name)
        node = self._nodes.pop(name, None)
        self._nodes_changed()
        return [item for item, held in self._held.items() if node in held.nodes]

    def nodes(self) -> Iterator[tuple[str, Resources, Resources]]:
        """The nodes on which something may start: their names, what they have, what of it is
        free."""
        for node in self._nodes.values():
            if node.open:
                yield node.name, node.total, amount_of(node.free)

    def free(self) -> Iterator[tuple[Resources, int]]:
        """What is free on those nodes, in groups of equal ones, and how many they are."""
        for free, nodes in self._groups.items():
            yield amount_of(free), len(nodes)

    # items ---------------------------------------------------------------------------------------

    def add(self, item: T, wish: Wish) -> None:
        """Let an item wait; `take` starts it."""
        key = wish.need, wish.nodes
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(*key)
            self._order.append(line)
            self._look_at(line)
        if not self._waiting or self._filled >= WINDOW * max(1, len(self._nodes)):
            self._window, self._filled = self._window + 1, 0.0
        self._arrivals += 1
        entry = Queued(
            -wish.priority,
            self._window,
            -wish.estimate_s,
            self._arrivals,
            self._batch,
            item,
            wish,
        )
        heapq.heappush(line.heap, entry)
        self._waiting[item] = entry
        line.count += 1
        line.settle()

    def remove(self, item: T) -> None:
        """Let an item wait no more, if it does."""
        entry = self._waiting.pop(item, None)
        if entry is None:
            return
        line = self._lines[entry.wish.need, entry.wish.nodes]
        self._removed.add(entry.arrival)
        line.count -= 1
        self._tidy(line)

    def take(self, now: float = 0.0) -> list[tuple[T, Placement]]:
        """All that start now, in order. What waits then does not fit, or is kept from what is free
        for the sake of the first. What cannot end in time is not started: see `late`."""
        started: list[tuple[T, Placement]] = []
        blocked: set[Line[T]] = set()
        while self._order:
            self._order.sort(key=attrgetter("key"))
            first = next((line for line in self._order if line.possible), None)
            if first is None:
                break
            if self._is_late(first.heap[0], now):
                self._late.append(self._pop(first).item)
                continue
            if self._claim is None or self._claim.arrival != first.heap[0].arrival:
                self._reopen()
                self._claim = _Claim(first.heap[0])
                blocked.clear()
            for line in self._order:
                if line not in blocked and line.possible:
                    if nodes := self._places(line, now):
                        break
                    blocked.add(line)
            else:
                break
            width, entry = line.width, self._pop(line)
            if self._is_late(entry, now):
                self._late.append(entry.item)
                continue
            started.append((entry.item, self._start(entry, nodes, now)))
            self._filled += width
            if entry.batch > self._claim.batch:
                self._pass(self._claim, first, width)
        self._grown.clear()
        self._batch += 1
        for line in self._order:
            line.fresh = False
        return started

    def late(self) -> list[T]:
        """Those that do not wait any more, as they cannot end in time; each is told once."""
        late, self._late = self._late, []
        return late

    def give_back(self, item: T) -> Placement:
        """Take back what an item holds."""
        held = self._held.pop(item)
        for node, slot in zip(held.nodes, held.placement, strict=True):
            if node.open:
                self._unindex(node)
            node.take_back(slot)
            node.unbind(slot.pinned)
            if node.open:
                self._index(node)
                self._grown[node] = None
        return held.placement

    def grow(self, item: T, most: int) -> Slot | None:
        """One slot more for what has started, like its first, on a node on which it has none; None:
        `most` nodes that are there have one, or no node has so much free."""
        held, need = self._held[item], self._held[item].placement[0].need
        there = [node for node in held.nodes if node.open]
        for node in self._nodes.values() if len(there) < most else ():
            if node.open and node not in there and fits(free_of(need), node.free):
                slot = self._slot(node, need)
                self._held[item] = held.more(slot, node)
                return slot
        return None

    def holds(self, item: T) -> Placement | None:
        """What an item holds; None: it has not started, or has given it back."""
        held = self._held.get(item)
        return None if held is None else held.placement

    def waiting(self) -> Iterator[tuple[Resources, int, int]]:
        """What waits: the need on each node, how many nodes, how many items."""
        for line in self._order:
            yield line.need, line.nodes, line.count

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def impossible(self) -> list[T]:
        """Those that wait for more nodes, or larger ones, than there are."""
        return [
            item
            for (need, nodes), line in self._lines.items()
            if not line.possible
            for item, entry in self._waiting.items()
            if (entry.wish.need, entry.wish.nodes) == (need, nodes)
        ]

    def could_hold(self, need: Resources, nodes: int = 1) -> bool:
        """Whether so much could be free on so many nodes."""
        return self._measured(free_of(need), nodes)[1]

    # what fits -----------------------------------------------------------------------------------

    def _places(self, line: Line[T], now: float) -> list[FreeNode]:
        """The nodes on which the first of a line can start, none if it cannot: the tightest, or
        several of the emptiest, in the order in which they joined."""
        barred = self._barred(line.heap[0], now)
        found: dict[Free, Collection[FreeNode]] = {}
        # What did not fit before can only fit on what has grown.
        grown = [] if line.fresh else [n for n in self._grown if fits(line.want, n.free)]
        if not line.fresh and not grown:
            return []
        if grown and line.nodes == 1 and len(self._grown) < len(self._groups):
            for node in grown:
                if node.open and node not in barred:
                    found.setdefault(node.free, [node])
        else:
            for free, nodes in self._groups.items():
                if fits(line.want, free):
                    found[free] = [n for n in nodes if n not in barred] if barred else nodes
        if line.nodes == 1:
            best = tightest(line.want, (free for free, nodes in found.items() if nodes))
            return [] if best is None else [next(iter(found[best]))]
        emptiest = [node for free in sorted(found, reverse=True) for node in found[free]]
        ranks = {name: rank for rank, name in enumerate(self._nodes)}
        if line.heap[0].wish.anchored:
            # The others stay in their order.
            emptiest.sort(key=lambda node: ranks[node.name] > 0)
        chosen = emptiest[: line.nodes]
        if len(chosen) < line.nodes:
            return []
        return sorted(chosen, key=lambda node: ranks[node.name])

    def _barred(self, entry: Queued[T], now: float) -> frozenset[FreeNode]:
        """Nodes that are closed to an entry."""
        claim = self._claim
        if claim is None or not claim.nodes or entry.arrival == claim.arrival:
            return frozenset()
        expected_s = entry.wish.limit_s or entry.wish.estimate_s
        return frozenset() if expected_s and now + expected_s <= claim.at < NEVER else claim.nodes

    def _is_late(self, entry: Queued[T], now: float) -> bool:
        return self.until is not None and entry.wish.limit_s > self.until - now

    def _start(self, entry: Queued[T], nodes: Sequence[FreeNode], now: float) -> Placement:
        placement = tuple(self._slot(node, entry.wish.need) for node in nodes)
        expected_s = entry.wish.estimate_s or entry.wish.limit_s
        ends = now + expected_s if expected_s else NEVER
        self._held[entry.item] = Holding(placement, tuple(nodes), ends)
        return placement

    def _slot(self, node: FreeNode, need: Resources) -> Slot:
        self._unindex(node)
        slot = node.take(need)
        self._index(node)
        return slot

    # whose turn it is ----------------------------------------------------------------------------

    def _pass(self, claim: _Claim, first: Line[T], width: float) -> None:
        """Note that something was started past the first, and close nodes for that once it has been
        passed over often enough."""
        claim.passed += width
        if claim.nodes or claim.passed < PATIENCE * len(self._nodes):
            return
        times = sorted(
            (self._free_at(node, first.need), -node.free.cores, rank, node)
            for rank, node in enumerate(self._nodes.values())
            if node.open and first.need.within(node.total)
        )[: first.nodes]
        claim.nodes = frozenset(node for *_, node in times)
        claim.at = max(at for at, *_ in times)

    def _free_at(self, node: FreeNode, need: Resources) -> float:
        """When a node will probably have so much free."""
        want, then, at = free_of(need), node.like(), 0.0
        there = [held for held in self._held.values() if node in held.nodes]
        for held in sorted(there, key=attrgetter("ends")):
            if fits(want, then.free):
                break
            then.take_back(held.placement[held.nodes.index(node)])
            at = held.ends
        return at

    def _reopen(self) -> None:
        """Close no nodes any more."""
        if self._claim is not None and self._claim.nodes:
            for line in self._order:
                line.fresh = True
        self._claim = None

    def _look_at(self, line: Line[T]) -> None:
        """Note how wide a line is, as a share of the largest node and over all its nodes, and
        whether its items can be held at all."""
        line.width, line.possible = self._measured(line.want, line.nodes)

    def _measured(self, want: Free, nodes: int) -> tuple[float, bool]:
        shares = [(share(want, total), count) for total, count in self._kinds.items()]
        width = min((share for share, _ in shares), default=0.0) * nodes
        return width, sum(count for share, count in shares if share <= 1) >= nodes

    def _nodes_changed(self) -> None:
        self._kinds = Counter(free_of(node.total) for node in self._nodes.values() if node.open)
        self._reopen()
        for line in self._order:
            line.fresh = True
            self._look_at(line)
            line.settle()

    # bookkeeping ---------------------------------------------------------------------------------

    def _pop(self, line: Line[T]) -> Queued[T]:
        """Take the first of a line out."""
        entry = heapq.heappop(line.heap)
        del self._waiting[entry.item]
        line.count -= 1
        self._tidy(line)
        return entry

    def _tidy(self, line: Line[T]) -> None:
        """Drop from a line's front what waits no more, and a line in which nothing waits."""
        while line.heap and line.heap[0].arrival in self._removed:
            self._removed.discard(heapq.heappop(line.heap).arrival)
        if line.heap:
            line.settle()
        else:
            del self._lines[line.need, line.nodes]
            self._order.remove(line)

    def _index(self, node: FreeNode) -> None:
        self._groups.setdefault(node.free, {})[node] = None

    def _unindex(self, node: FreeNode) -> None:
        group = self._groups[node.free]
        del group[node]
        if not group:
            del self._groups[node.free]
