"""How much one user may ask for, so that the others are served: in memory, a dictionary look-up a request.

Workers and edges are not bounded here: what they ask follows from the jobs that there are, and from the
heartbeat that they are told.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from dispatcher.caller import Rejected

BURST_S = 10.0  # what was not used for so long may be used at once
JOBS = 200  # submitted jobs that count as a request
REMEMBERED = 10_000


class Rates(Struct, frozen=True, kw_only=True):
    """What each user may do."""

    per_s: float = 50.0  # requests, over time
    held: int = 100  # requests that wait for something at a time: long polls and streams


class TooMuch(Rejected):
    """A user asks for more than a share."""

    def __init__(self, title: str, wait_s: float, remedy: str) -> None:
        super().__init__(429, title, remedy=remedy)
        self.wait_s = wait_s


class Account(Struct):
    """What a user may spend; below zero after one large request."""

    left: float
    at: float


class Limiter:
    """Keeps each user within `rates`."""

    def __init__(self, rates: Rates, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = rates
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._held: Counter[str] = Counter()

    def ask(self, subject: str) -> None:
        """Count a request. Raises TooMuch when the account is empty."""
        rates, now = self._rates, self._clock()
        account = self._accounts.get(subject)
        if account is None:
            if len(self._accounts) >= REMEMBERED:
                self._forget(now)
            account = self._accounts[subject] = Account(rates.per_s * BURST_S, now)
        left = account.left + (now - account.at) * rates.per_s
        account.left, account.at = min(left, rates.per_s * BURST_S), now
        if account.left < 1.0:
            raise TooMuch(
                f"more than {rates.per_s:g} requests a second",
                (1.0 - account.left) / rates.per_s,
                "ask for several things in one request, or wait for events instead of polling",
            )
        account.left -= 1.0

    def charge(self, subject: str, jobs: int) -> None:
        """Count the jobs of a submission, which is not refused for them: what follows it waits."""
        account = self._accounts.get(subject)
        if account is not None:
            account.left -= jobs / JOBS

    @contextmanager
    def holding(self, subject: str) -> Iterator[None]:
        """Count a request that waits while it does. Raises TooMuch when there are too many."""
        if self._held[subject] >= self._rates.held:
            raise TooMuch(
                f"more than {self._rates.held} requests that wait",
                5.0,
                "follow several jobs by one stream, or close some",
            )
        self._held[subject] += 1
        try:
            yield
        finally:
            self._held[subject] -= 1
            if not self._held[subject]:
                del self._held[subject]

    def _forget(self, now: float) -> None:
        """Forget who has not asked for so long that the account is full again."""
        self._accounts = {
            subject: account
            for subject, account in self._accounts.items()
            if account.left + (now - account.at) * self._rates.per_s < self._rates.per_s * BURST_S
        }
