"""Workers that have room, as far as is known, and no job for it: those that have registered and not
asked yet, and those that asked in vain last.

They are about to ask, or wait. What one of them could begin is no other's to stage in ahead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

LOOKED_AT = 100
"""Of a queue: many may have a little room each, too little for any job that waits."""


class Unserved:
    """The ids of such workers, by queue. What is not known of them costs nobody a job: what is
    ahead comes later, or a job waits in the wrong place for a while."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, dict[int, None]] = defaultdict(dict)

    def add(self, queue: str, worker_id: int) -> None:
        self._queues[queue][worker_id] = None

    def discard(self, queue: str, worker_id: int) -> None:
        self._queues[queue].pop(worker_id, None)

    def first(self, queue: str) -> Sequence[int]:
        """Those that have been so for longest, and not all of many. Any thread may ask: others come
        and go meanwhile."""
        return list(islice(self._queues[queue], LOOKED_AT))
