"""Which items of a job are here, and when to ask for more: no thread, no clock.

The first request asks for as many as begin at once, so that they do, and each one after that fills
up to a thousand: nobody else gets items of this job, so it costs nothing that they wait here, and
the order of longest first needs to see them. Of items that other jobs lease, too, it has never more
than begin soon.
"""

from __future__ import annotations

import uuid

from ailurus.protocol import messages as m
from ailurus.protocol.item import TOGETHER
from ailurus.protocol.messages.items import MOST_NEWS
from pilot.upstream.untold import Untold

BEGUN_S = 1.0
"""Of an item that ends sooner nobody is told that it runs."""
LAST_NEWS = 250
"""So many ends are worth a request once nothing waits at the dispatcher: it enters them while the
last items run, and not after them."""


class Ledger:
    """What is known of the dispatcher's side."""

    def __init__(
        self, attempt_id: tuple[int, int], untold: Untold, capacity: int, *, shared: bool = False
    ) -> None:
        """`capacity`: about how many items run at once; `shared`: other jobs lease of them, too."""
        self._id, self.untold, self._shared = attempt_id, untold, shared
        self._ahead = min(TOGETHER, 2 * max(1, capacity))
        # The request that is under way, and how many ends it tells.
        self._asked: m.ItemsRequest | None = None
        self.settled = False
        # Whether more may be waiting than the last answer gave.
        self._more = True
        self._told_at = float("-inf")

    @property
    def busy(self) -> bool:
        return self._asked is not None

    def due(self, waiting: int, running: int, now: float, every_s: float) -> bool:
        """Whether to send a request now. `waiting`: items that have not begun."""
        if self.busy or self.settled:
            return False
        if self._more and waiting <= self._ahead // 2:
            return True
        idle = not waiting and not running
        if idle and (self.untold or now - self._told_at >= min(1.0, every_s)):
            return True
        many = MOST_NEWS if self._more else LAST_NEWS
        return len(self.untold) >= many or now - self._told_at >= every_s

    def request(self, waiting: int, begun: tuple[m.ItemBegun, ...], now: float) -> m.ItemsRequest:
        """The next request."""
        ended = self.untold.first()
        # One that failed may be tried again.
        count = max(0, min(TOGETHER, self._ahead - waiting))
        self._told_at = now
        self._asked = m.ItemsRequest(
            request_id=uuid.uuid4().hex,
            job_id=self._id[0],
            attempt_nr=self._id[1],
            count=count,
            begun=begun[:MOST_NEWS],
            ended=ended,
        )
        return self._asked

    def note(self, ends: list[m.ItemEnd]) -> None:
        """Put ends on disk, and take them from the list."""
        if ends:
            self.untold.add(ends)
            ends.clear()

    def failed(self) -> None:
        """There is no answer, nor will there be."""
        self._asked = None

    def answered(self, answer: m.ItemsAnswer) -> None:
        assert self._asked is not None  # noqa: S101 - or there would be no answer
        self.untold.told(len(self._asked.ended))
        self._asked = None
        if not self._shared:
            self._ahead = TOGETHER
        self.settled = answer.settled
        self._more = answer.waiting > 0
