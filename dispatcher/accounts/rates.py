"""How much one user may ask for, so that the others are served: in memory, a dictionary look-up a
request.

One account for whatever door a user comes through. It is kept in requests; what a request costs
beside itself (`costs`, and the time of reading that it took) is charged to it afterwards.

Workers and edges are not bounded here: what they ask follows from the jobs that there are, and from
the heartbeat that they are told. Dispatchers on one store tell each other each second what those
users have spent who ask for much, so that several together give a user little more than one would.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from heapq import nlargest
from itertools import islice
from operator import itemgetter
from weakref import WeakValueDictionary

from msgspec import Struct

from dispatcher.accounts.costs import REQUEST_S
from dispatcher.accounts.meter import METER, Meter
from dispatcher.refusal import Rejected

# A user may ask at once for as much as is allowed in this time.
BURST_S = 10.0
REMEMBERED = 10_000
# The other dispatchers learn of users who spend more than this share of what is allowed.
SHARED_ABOVE = 0.1
# Users in one notice, those who spend most: a notice is short.
MOST_SHARED = 20
# A longer or odd name of a user goes into a notice as its hash; characters.
LONGEST_NAME = 80
# A peer silent for longer counts as stopped.
PEER_TIMEOUT_S = 5.0


class Rates(Struct, frozen=True, kw_only=True):
    """What each user may do."""

    # Requests, over time.
    per_s: float = 50.0
    # Requests that wait for something at a time: long polls and streams.
    held: int = 100
    # Jobs that these name, all together.
    watched: int = 200_000


class Spending(Struct, frozen=True):
    """What users asked of one dispatcher since it last said so, and what of theirs waits there."""

    spent: dict[str, float] = {}
    held: dict[str, int] = {}

    def half(self) -> Spending:
        """The same of half of the users: of those who asked for most."""
        spent = dict(islice(self.spent.items(), len(self.spent) // 2))
        return Spending(spent, dict(islice(self.held.items(), len(self.held) // 2)))


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
        self._watched: Counter[str] = Counter()
        # Requests since the last notice, by user.
        self._spent: defaultdict[str, float] = defaultdict(float)
        # What waits at other dispatchers, and when they said so (monotonic), by process.
        self._elsewhere: dict[str, tuple[float, dict[str, int]]] = {}
        self._shared = False
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def ask(self, subject: str) -> None:
        """Count a request. Raises TooMuch when the account is empty."""
        subject = _name(subject)
        rates, account = self._rates, self._account(subject)
        if account.left < 1.0:
            raise TooMuch(
                f"more than {rates.per_s:g} requests a second",
                (1.0 - account.left) / rates.per_s,
                "ask for several things in one request, or wait for events instead of polling",
            )
        account.left -= 1.0
        self._spent[subject] += 1.0

    def _account(self, subject: str) -> Account:
        """A user's account as it stands now."""
        rates, now = self._rates, self._clock()
        account = self._accounts.get(subject)
        if account is None:
            if len(self._accounts) >= REMEMBERED:
                self._forget(now)
            account = self._accounts[subject] = Account(rates.per_s * BURST_S, now)
        left = account.left + (now - account.at) * rates.per_s
        account.left, account.at = min(left, rates.per_s * BURST_S), now
        return account

    def spend(self, subject: str, seconds: float) -> None:
        """Count what a request costs beside itself. It is not refused for it: what follows it
        waits."""
        subject = _name(subject)
        account = self._accounts.get(subject)
        if account is not None and seconds:
            account.left -= seconds / REQUEST_S
            self._spent[subject] += seconds / REQUEST_S

    @contextmanager
    def metered(self, subject: str) -> Iterator[None]:
        """Charge the time of reading the store while this lasts, one read of the user's at a
        time."""
        meter = Meter(self._turns.setdefault(_name(subject), asyncio.Lock()))
        token = METER.set(meter)
        try:
            yield
        finally:
            METER.reset(token)
            self.spend(subject, meter.seconds)

    @contextmanager
    def holding(self, subject: str, watched: int = 0) -> Iterator[None]:
        """Count a request that waits while it does, for so many jobs. Raises TooMuch when there are
        too many."""
        subject = _name(subject)
        if watched and self._watched[subject] + watched > self._rates.watched:
            raise TooMuch(
                f"requests that wait for more than {self._rates.watched} jobs",
                5.0,
                "wait for fewer jobs at a time: those that end last",
            )
        if self._held[subject] + self._held_elsewhere(subject) >= self._rates.held:
            raise TooMuch(
                f"more than {self._rates.held} requests that wait",
                5.0,
                "follow several jobs by one stream, or close some",
            )
        self._held[subject] += 1
        self._watched[subject] += watched
        try:
            yield
        finally:
            self._held[subject] -= 1
            self._watched[subject] -= watched
            if not self._held[subject]:
                del self._held[subject], self._watched[subject]

    def _held_elsewhere(self, subject: str) -> int:
        since = self._clock() - PEER_TIMEOUT_S
        return sum(held.get(subject, 0) for at, held in self._elsewhere.values() if at > since)

    def spending(self) -> Spending | None:
        """The notice to the other dispatchers, once a second; None: none is needed. Users who spend
        little are left out: so much more they may get from each dispatcher."""
        least = self._rates.per_s * SHARED_ABOVE
        most = nlargest(MOST_SHARED, self._spent.items(), key=itemgetter(1))
        spent = {one: n for one, n in most if n > least}
        held = {
            one: n
            for one, n in self._held.most_common(MOST_SHARED)
            if n >= self._rates.held * SHARED_ABOVE
        }
        self._spent.clear()
        if not spent and not held and not self._shared:
            return None
        # The others must learn as well that nothing waits any more.
        self._shared = bool(held)
        return Spending(spent, held)

    def count_elsewhere(self, process: str, reported: Spending) -> None:
        """Take the notice of another dispatcher."""
        for subject, spent in reported.spent.items():
            self._account(subject).left -= spent
        self._elsewhere = {
            name: one
            for name, one in self._elsewhere.items()
            if one[0] > self._clock() - PEER_TIMEOUT_S
        }
        self._elsewhere[process] = (self._clock(), reported.held)

    def _forget(self, now: float) -> None:
        """Forget who has not asked for so long that the account is full again."""
        self._accounts = {
            subject: account
            for subject, account in self._accounts.items()
            if account.left + (now - account.at) * self._rates.per_s < self._rates.per_s * BURST_S
        }


def _name(subject: str) -> str:
    """What stands for a user in a notice, which is short."""
    if len(subject) <= LONGEST_NAME and subject.isascii() and subject.isprintable():
        return subject
    return sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()
