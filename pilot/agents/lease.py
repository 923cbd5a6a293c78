"""The lease of an agent: for how long its payloads may run without a word from the pilot.

An agent numbers its beats, and the pilot acknowledges the highest that has come. The agent's lease
counts from when it *sent* the beat that was acknowledged last; the pilot's patience from when that
beat *came*, which is never earlier, however long either of them was on its way. So when the pilot
gives up an agent, `margin_s` have passed since that agent's lease ended, and it has killed its
payloads: the two need no common clock, only clocks that run equally fast.

An agent that ends, or is killed, closes its connection; its guardian has then killed what ran, or
does so within milliseconds, and the pilot does not wait for the lease. A connection that fails in
any other way says nothing of the agent, which may live: then it waits.

Both are told the time and read no clock.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct


class LeaseTerms(Struct, frozen=True, array_like=True):
    """Seconds, for all agents of an allocation."""

    beat_s: float = 1.0
    lease_s: float = 4.0
    margin_s: float = 0.75
    """For the agent to notice, and to kill what runs."""


class AgentLease:
    """An agent's side."""

    def __init__(self, terms: LeaseTerms, now: float) -> None:
        """`now`: when it sent what the pilot's first word answers."""
        self._terms = terms
        self._sent: deque[tuple[int, float]] = deque()
        self._number = 0
        self._granted = now
        self.beat_at = now
        """When the next beat is due."""

    def beat(self, now: float) -> int:
        """The number of the beat that is sent now."""
        self._number += 1
        self._sent.append((self._number, now))
        self.beat_at = now + self._terms.beat_s
        return self._number

    def acknowledged(self, number: int) -> None:
        """The pilot has beat `number`, and those before it."""
        while self._sent and self._sent[0][0] <= number:
            self._granted = self._sent.popleft()[1]

    @property
    def until(self) -> float:
        """When payloads must be dead, unless another acknowledgement comes."""
        return self._granted + self._terms.lease_s


class HeadLease:
    """The pilot's side, one for each agent."""

    def __init__(self, terms: LeaseTerms, now: float) -> None:
        self._terms = terms
        self._heard_at = now
        self.number = 0
        """The highest beat that has come: what to acknowledge."""

    def heard(self, number: int, now: float) -> None:
        if number > self.number:
            self.number, self._heard_at = number, now

    @property
    def until(self) -> float:
        """When the agent's payloads are dead for certain, if no other beat comes."""
        return self._heard_at + self._terms.lease_s + self._terms.margin_s
