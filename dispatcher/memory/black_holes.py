"""Nodes that fail job after job while others do not: black holes.

What they did with their last jobs is memory, which a restart learns anew; dispatchers on one store
tell each other of what may exclude a node (`telling`). Who is excluded is in the store as well.

A node is excluded when its last three jobs failed, each within a minute, and that is the node's
fault: jobs of the same owners do better on other nodes. Where they fail elsewhere too, or there is
no elsewhere, it is the jobs' fault, and nothing is excluded. Nor is it by one user's word: the
three are of two owners, or each failed for what the node lacks, as its pilot says. At most a third
of a site's nodes ever are: a wrong verdict never drains a site.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

IN_A_ROW = 3
QUICK_S = 60.0
EXCLUDED_S = 3600.0
RECENT_S = 900.0
# The share of a site's known nodes that may be excluded.
MOST = 1 / 3

Node = tuple[str, str]
"""Site and host."""


class Verdict(Struct, frozen=True):
    """How an attempt ended, and where."""

    node: Node
    owner: str
    job_id: int
    good: bool
    lasted_s: float
    at: float
    diagnosis: str = ""
    # It failed for something that the node lacks: no payload can make it so.
    lacks: bool = False


class Exclusion(Struct, frozen=True):
    """A node that gets no more jobs, and why."""

    until: float
    reason: str


class Hosts:
    """What nodes did with their last jobs."""

    def __init__(self) -> None:
        self._last: dict[Node, deque[Verdict]] = {}
        self._by_owner: dict[str, deque[Verdict]] = {}
        self._excluded: dict[Node, Exclusion] = {}

    def count(self, verdict: Verdict) -> bool:
        """Count a verdict. Whether its node is now under suspicion."""
        if not verdict.node[1]:
            return False
        last = self._last.setdefault(verdict.node, deque(maxlen=IN_A_ROW))
        # One bad job is no bad node.
        if all(one.job_id != verdict.job_id for one in last):
            last.append(verdict)
        self._by_owner.setdefault(verdict.owner, deque(maxlen=50)).append(verdict)
        return len(last) == IN_A_ROW and not any(one.good or one.lasted_s > QUICK_S for one in last)

    def concerns_peers(self, verdict: Verdict) -> bool:
        """Whether other dispatchers must count a verdict, too: it is against its node, or one of
        its last was."""
        last = self._last.get(verdict.node, ())
        return bool(verdict.node[1]) and any(
            not one.good and one.lasted_s <= QUICK_S for one in last
        )

    def exclude(self, node: Node, exclusion: Exclusion) -> None:
        """Exclude a node, as the store or another dispatcher says."""
        self._excluded[node] = exclusion
        self._last.pop(node, None)

    def judge(self, node: Node, *, runs_elsewhere: bool, known_nodes: int, now: float) -> bool:
        """Exclude a node under suspicion, if it is its fault. `runs_elsewhere`: jobs of these
        owners run on other nodes for longer than they lasted here; `known_nodes`: of its site."""
        if self.excluded(node, now) is not None:
            return False
        last = self._last[node]
        owners = {one.owner for one in last}
        if len(owners) < 2 and not all(one.lacks for one in last):
            # Whoever fails on purpose takes no node from the others.
            return False
        others = [
            one
            for owner in owners
            for one in self._by_owner[owner]
            if one.node != node and now - one.at < RECENT_S
        ]
        good = sum(one.good for one in others) + runs_elsewhere
        there = len(self.of_site(node[0], now))
        if good <= len(others) / 2 or there + 1 > max(1, known_nodes * MOST) or known_nodes < 2:
            return False
        longest = max(one.lasted_s for one in last)
        reason = (
            f"its last {IN_A_ROW} jobs failed within {longest:.0f} s each, and do better elsewhere; "
            f"the last one: {last[-1].diagnosis or 'no diagnosis'}"
        )
        self.exclude(node, Exclusion(now + EXCLUDED_S, reason))
        return True

    def excluded(self, node: Node, now: float) -> Exclusion | None:
        """Why a node gets no jobs now."""
        found = self._excluded.get(node)
        if found is not None and found.until < now:
            del self._excluded[node]
            return None
        return found

    def of_site(self, site: str, now: float) -> dict[str, Exclusion]:
        """The excluded nodes of a site."""
        nodes = [node for node in self._excluded if node[0] == site]
        return {node[1]: found for node in nodes if (found := self.excluded(node, now))}
