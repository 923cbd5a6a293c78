"""The fence: a pilot gives an agent up only after that has killed its payloads, whatever the
network did to what they said."""

from __future__ import annotations

import heapq
import itertools

from hypothesis import given
from hypothesis import strategies as st

from pilot.agents.lease import AgentLease, HeadLease, LeaseTerms

TERMS = LeaseTerms(beat_s=1.0, lease_s=4.0, margin_s=0.75)
# How long one message is on its way; long ones are a partition that heals, infinite ones a loss.
DELAYS = st.lists(
    st.one_of(st.floats(0, 0.3), st.floats(0, 20), st.just(float("inf"))), min_size=1, max_size=40
)


class Network:
    """Two ends on one hand-moved clock; each message takes its own time. TCP keeps the order, so
    none overtakes another of its direction."""

    def __init__(self, delays: list[float]) -> None:
        self.delays = itertools.cycle(delays)
        self.now = 0.0
        self.agent, self.head = AgentLease(TERMS, 0.0), HeadLease(TERMS, 0.0)
        self._under_way: list[tuple[float, int, str, int]] = []
        self._count = itertools.count()
        self._last = {"head": 0.0, "agent": 0.0}
        self.fenced_at: float | None = None
        self.lost_at: float | None = None

    def send(self, to: str, number: int) -> None:
        at = max(self._last[to], self.now + next(self.delays))
        self._last[to] = at
        if at != float("inf"):
            heapq.heappush(self._under_way, (at, next(self._count), to, number))

    def run(self, until: float = 60.0) -> None:
        """Until the head gives the agent up, and a while longer; the head acknowledges each beat
        at once."""
        while self.now < until and self.lost_at is None:
            events = [self.agent.until, self.head.until]
            if self.fenced_at is None:
                events.append(self.agent.beat_at)
            if self._under_way:
                events.append(self._under_way[0][0])
            self.now = max(self.now, min(event for event in events if event >= self.now))
            self._turn()

    def _turn(self) -> None:
        if self.fenced_at is None and self.now >= self.agent.until:
            self.fenced_at = self.now
            # It says nothing any more.
            self.agent.beat_at = float("inf")
        if self.now >= self.head.until:
            self.lost_at = self.now
            return
        while self._under_way and self._under_way[0][0] <= self.now:
            _, _, to, number = heapq.heappop(self._under_way)
            if to == "head":
                self.head.heard(number, self.now)
                self.send("agent", self.head.number)
            elif self.fenced_at is None:
                self.agent.acknowledged(number)
        if self.fenced_at is None and self.now >= self.agent.beat_at:
            self.send("head", self.agent.beat(self.now))
        if self.fenced_at is not None:
            self.agent = AgentLease(TERMS, float("inf"))
            self.agent.beat_at = float("inf")


@given(DELAYS)
def test_the_agent_is_fenced_before_the_head_gives_it_up(delays):
    network = Network(delays)
    network.run()
    if network.lost_at is not None:
        assert network.fenced_at is not None
        assert network.fenced_at <= network.lost_at - TERMS.margin_s


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=20))
def test_a_network_that_is_only_slow_costs_no_agent(delays):
    network = Network(delays)
    network.run(until=120.0)
    assert network.lost_at is None
    assert network.fenced_at is None


def test_a_cut_is_found_within_five_seconds():
    head = HeadLease(TERMS, 100.0)
    head.heard(1, 101.0)
    assert head.until - 101.0 <= 5.0


def test_an_acknowledgement_that_comes_late_gives_no_longer_lease():
    agent = AgentLease(TERMS, 0.0)
    number = agent.beat(1.0)
    agent.acknowledged(number)
    assert agent.until == 5.0
    agent.acknowledged(number)
    assert agent.until == 5.0
    later = [agent.beat(2.0), agent.beat(3.0)]
    agent.acknowledged(later[0])
    assert agent.until == 6.0


def test_a_beat_that_comes_late_or_again_is_no_news():
    head = HeadLease(TERMS, 0.0)
    head.heard(2, 2.0)
    head.heard(1, 3.0)
    head.heard(2, 4.0)
    assert head.until == 2.0 + TERMS.lease_s + TERMS.margin_s
    assert head.number == 2
