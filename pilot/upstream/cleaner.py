"""The cleaner: removes files of attempts that do not count, in a thread of its own.

A storage may be silent for minutes, or away for days: that delays no heartbeat, and no file is
forgotten. What could not be removed is tried again, and until it is gone the spool says that the
attempt is owed, so that the next pilot goes on where this one ended. The same thread looks for
pilots that have died meanwhile.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.wire.retry import Patience, pauses
from pilot.clock import SYSTEM, Clock
from pilot.upstream.spool import Id, Journal

AGAIN = Patience(first_s=10.0, longest_s=600.0)
"""Between tries to remove what a storage did not let go."""
GIVE_UP_S = 7 * 86400.0
"""After the attempt came here or ended: then a person must look."""
_log = Log("pilot.cleaner")


class _Debt(Struct, eq=False):
    """Files of one attempt. `judged`: nothing else is owed for it."""

    journal: Journal
    urls: list[str]
    since: float
    judged: bool = False
    tried: bool = False


class Cleaner:
    """Removes files with `delete`, which returns those that are left. All methods may be called
    from any thread."""

    def __init__(self, delete: Callable[[Sequence[str]], list[str]], clock: Clock = SYSTEM) -> None:
        self._delete, self._clock = delete, clock
        self._debts: dict[Id, _Debt] = {}
        self._pauses = _apart()
        # When what is left is tried again.
        self._again_at = 0.0
        self._look: Callable[[], float] | None = None
        self._look_at = float("inf")
        self._news = threading.Condition()
        self.closed = False

    def remove(self, one: Id, urls: Sequence[str], journal: Journal, since: float) -> None:
        """Remove files of the attempt `one`, which came here or ended at `since` (seconds since
        1970; 0: now)."""
        if not urls:
            return
        with self._news:
            debt = self._debts.setdefault(one, _Debt(journal, [], since or self._clock.time()))
            debt.urls += urls
            debt.tried = False
            self._news.notify()

    def look_out(self, look: Callable[[], float], first_s: float) -> None:
        """Call `look` in the thread of `run`, in `first_s` seconds and then after as many as it
        returned. To be called before `run`."""
        self._look, self._look_at = look, self._clock.monotonic() + first_s

    def settle(self, one: Id, journal: Journal) -> None:
        """Nothing but its files is owed for the attempt `one`: the journal may forget it, as soon
        as they are gone."""
        with self._news:
            if (debt := self._debts.get(one)) is not None:
                debt.judged = True
                return
        journal.settle([one])

    def idle(self) -> bool:
        """Whether all has been tried; the next pilot may try the rest."""
        with self._news:
            return all(debt.tried for debt in self._debts.values())

    def owes(self) -> int:
        """Of how many attempts there are files to remove."""
        return len(self._debts)

    def close(self) -> None:
        with self._news:
            self.closed = True
            self._news.notify()

    def run(self, loop: Loop, done: Callable[[], None]) -> None:
        """The thread: until `close`. `done` is called after each turn."""
        while True:
            loop.turned(None)
            with self._news:
                while not self.closed and (left_s := self._next_s()) > 0:
                    self._clock.wait(self._news, None if left_s == float("inf") else left_s)
                if self.closed:
                    return
            if self._look is not None and self._clock.monotonic() >= self._look_at:
                self._look_at = self._clock.monotonic() + self._look()
            self.turn()
            done()

    def turn(self) -> None:
        """Remove what is due; takes as long as the storage."""
        again = self._clock.monotonic() >= self._again_at
        with self._news:
            due = {
                one: tuple(debt.urls)
                for one, debt in self._debts.items()
                if again or not debt.tried
            }
        if not due:
            return
        # At once: a storage that is silent costs its time once.
        left = set(self._delete([url for urls in due.values() for url in urls]))
        if self.closed:
            # Its journals are, too.
            return
        with self._news:
            gone = [self._after(one, urls, left) for one, urls in due.items()]
            if not any(debt.tried for debt in self._debts.values()):
                self._pauses = _apart()
            elif again:
                self._again_at = self._clock.monotonic() + next(self._pauses)
        for journal, one in filter(None, gone):
            journal.settle([one])

    def _next_s(self) -> float:
        return min(self._due_in(), self._look_at - self._clock.monotonic())

    def _due_in(self) -> float:
        if any(not debt.tried for debt in self._debts.values()):
            return 0.0
        return self._again_at - self._clock.monotonic() if self._debts else float("inf")

    def _after(self, one: Id, tried: Sequence[str], left: set[str]) -> tuple[Journal, Id] | None:
        """Note what became of an attempt's files; what the journal may forget, if it may."""
        debt = self._debts[one]
        new = debt.urls[len(tried) :]
        debt.urls = [url for url in tried if url in left] + new
        debt.tried = not new
        if debt.urls:
            job_id, attempt_nr, left_urls = *one, debt.urls[:5]
            if self._clock.time() - debt.since < GIVE_UP_S:
                _log.warning(
                    "files_not_removed", job_id=job_id, attempt_nr=attempt_nr, left=left_urls
                )
                return None
            _log.error(
                "files_given_up",
                job_id=job_id,
                attempt_nr=attempt_nr,
                left=left_urls,
                remedy="remove them by hand",
            )
        del self._debts[one]
        return (debt.journal, one) if debt.judged else None


def _apart() -> Iterator[float]:
    return pauses(AGAIN, random.Random())
