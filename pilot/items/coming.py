"""Nodes that come to a job of items while it runs: those that were lost and have an agent again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from ailurus.logs import Log
from ailurus.protocol.errors import Code
from pilot.attempt import Attempt
from pilot.items.news import NodeCame
from pilot.node.shares import Placement, Slot
from pilot.node_ports import Order, Standing
from pilot.payload import Part
from pilot.ports import Check, JobError
from pilot.workdir import Workdir

Place = Callable[[Placement, Check], list[Part]]
"""The payload's parts in slots, once all that it needs is there. Raises JobError."""
_log = Log("pilot.items.coming")


def box(attempt: Attempt, work: Workdir, part: Part, check: Check) -> Standing:
    """A box for the job's items on one of its nodes. Raises JobError."""
    order = Order(
        name=attempt.name, spec=attempt.spec, argv=(), box=part.box, stderr=str(work.stderr)
    )
    return part.node.stand(order, check)


class Coming:
    """Has a box stand on each node that comes, in a thread of its own: an image may be large."""

    def __init__(
        self,
        attempt: Attempt,
        work: Workdir,
        place: Place,
        came: Callable[[NodeCame], None],
    ) -> None:
        """`came` is told by any thread."""
        self._attempt, self._work, self._place, self._came = attempt, work, place, came
        # All that have stood, and those that came to nothing.
        self._standing: list[Standing] = []
        self._parts: list[Part] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        # How often each node was lost.
        self._losses: Counter[str] = Counter()
        self._over = False

    def begin(self, slot: Slot) -> None:
        """Any thread may call this; it takes no time."""
        with self._lock:
            losses = self._losses[slot.node]
            thread = threading.Thread(
                target=self._prepare, args=(slot, losses), name="coming", daemon=True
            )
            if self._over:
                return
            self._threads = [one for one in self._threads if one.is_alive()]
            try:
                thread.start()
            except RuntimeError as error:
                self._failed(slot, error)
            else:
                self._threads.append(thread)

    def lost(self, node: str) -> None:
        """A node is lost, maybe again: of what is being made there for the job nothing comes. Any
        thread may call this; it takes no time."""
        with self._lock:
            self._losses[node] += 1

    def close(self) -> None:
        """Wait for no box any more, and end those that stand."""
        with self._lock:
            self._over = True
        for thread in self._threads:
            thread.join()
        for standing in self._standing:
            standing.close()

    def clear(self) -> None:
        """Remove what the job has on nodes that came: nothing of it runs there any more."""
        for part in self._parts:
            part.node.clear(self._attempt.name)

    def _prepare(self, slot: Slot, losses: int) -> None:
        def check() -> None:
            self._attempt.check()
            if self._over:
                raise JobError(Code.PAYLOAD_FAILED, "the job has ended meanwhile")
            if self._losses[slot.node] != losses:
                raise JobError(Code.PAYLOAD_FAILED, "it was lost again")

        try:
            (part,) = self._place((slot,), check)
            self._parts.append(part)
            standing = box(self._attempt, self._work, part, check)
            self._standing.append(standing)
            with self._lock:
                # Or the news of the loss could come before this.
                check()
                self._came(NodeCame(slot, part, standing))
        except JobError as error:
            self._failed(slot, error)
        except Exception as error:  # noqa: BLE001 - the job goes on with the nodes that it has
            _log.error("pilot_failed", trace=True, job_id=self._attempt.id[0])
            self._failed(slot, error)

    def _failed(self, slot: Slot, error: Exception) -> None:
        # Its slot stays the job's: otherwise that node would be given to it again.
        self._attempt.note(f"cannot use {slot.node}, which came back: {error}")
