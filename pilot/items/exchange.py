"""What goes between the run of a job's items and the dispatcher: ends, what is asked for, output.

The job's own thread calls it; another one waits for the dispatcher.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from pilot.attempt import Attempt
from pilot.blame import OSErrorsOn, Target
from pilot.items.asking import ask
from pilot.items.item import Item, told_begun
from pilot.items.lease import BEGUN_S, Ledger
from pilot.items.live import Live
from pilot.items.news import LookedAt, News
from pilot.node_ports import Look, Standing, TaskOutput
from pilot.ports import JobError
from pilot.upstream.untold import Untold, path_of

if TYPE_CHECKING:
    from pilot.kit import Kit


class ItemExchange:
    """Tells the dispatcher of the items of a job, and asks it for more."""

    def __init__(
        self, attempt: Attempt, kit: Kit, capacity: int, inbox: queue.SimpleQueue[News]
    ) -> None:
        """`capacity`: about how many items run at once; `inbox`: of the job's own thread. Raises
        JobError."""
        self._attempt, self._kit, self._inbox = attempt, kit, inbox
        self._ended: list[m.ItemEnd] = []
        payloads = attempt.spec.payloads
        shared = payloads is not None and payloads.shared
        with OSErrorsOn(Target.NODE, "cannot keep how the job's payloads end"):
            untold = Untold(path_of(kit.journal.path, attempt.name))
        self._ledger = Ledger(attempt.id, untold, capacity, shared=shared)
        self._asks: queue.SimpleQueue[m.ItemsRequest | m.LogPieces | None] = queue.SimpleQueue()
        self._live = Live(attempt, kit.reporter.watches, kit.leases.heartbeat_s)
        # Set while pieces of logs are on their way.
        self._showing = threading.Event()
        asking = (self._asks, attempt, kit.leases, inbox, self._showing)
        self._asker = threading.Thread(
            target=ask, args=asking, name=f"items-{attempt.name}", daemon=True
        )

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return self._ledger.busy

    @property
    def settled(self) -> bool:
        """Whether all items of the job have ended, as the dispatcher knows."""
        return self._ledger.settled

    def open(self) -> None:
        """Raises JobError."""
        try:
            self._asker.start()
        except RuntimeError:
            what = "the pilot cannot start a thread"
            raise JobError(Code.INTERNAL, what, transient=True) from None

    def hang_up(self) -> None:
        """Ask for nothing any more."""
        self._asks.put(None)

    def close(self) -> None:
        """What no answer has acknowledged goes with the job's report."""
        self.keep()
        untold = self._ledger.untold
        self._attempt.untold = untold.first()
        untold.close(remove=not untold)

    # ends ---

    def tell(self, end: m.ItemEnd) -> None:
        """Tell of an end, soon."""
        self._ended.append(end)

    def keep(self) -> None:
        """Put the ends that are to be told on disk, which may be slow."""
        self._ledger.note(self._ended)

    def turn(self, waiting: int, running: Collection[Item], now: float) -> None:
        """Tell and ask, if it is time to. `waiting`: items that have not begun."""
        ledger = self._ledger
        if not ledger.due(waiting, len(running), now, self._kit.leases.heartbeat_s):
            return
        begun = tuple(
            told_begun(item, self._kit.clock.time() - (now - item.began), self._kit.host)
            for item in running
            if not item.told and now - item.began >= BEGUN_S
        )
        # Before the ends of those that wrote it: whoever follows one stops there.
        self._send_pieces()
        self._asks.put(ledger.request(waiting, begun, now))
        for item in running:
            item.told = item.told or now - item.began >= BEGUN_S

    def answered(self, answer: m.ItemsAnswer | None) -> None:
        """Take an answer; None: there is none, nor will there be."""
        if answer is None:
            self._ledger.failed()
        else:
            self._ledger.answered(answer)

    # output ---

    def show(self, running: Collection[Item], standing: Mapping[str, Standing], now: float) -> None:
        """Let users see what items that they watch have written. `standing`: the boxes, by
        node."""
        if self._showing.is_set() or self.busy:
            return
        self._send_pieces()
        looks: dict[str, list[tuple[Item, Look]]] = {}
        for item in self._live.due(running, now):
            looks.setdefault(item.node, []).append((item, Look(item.seat, item.shown)))
        for node, several in looks.items():
            standing[node].look([look for _, look in several], partial(self._saw, several))

    def seen(self, looked: LookedAt, running: Collection[Item]) -> None:
        """Take what a look has found, of items that still run."""
        for (item, look), output in zip(looked.items, looked.outputs, strict=True):
            if item in running:
                self._live.seen(item, look.starts, output)

    def wrote(self, item: Item, output: TaskOutput) -> None:
        """An item has ended that wrote this."""
        self._live.ended(item, output)

    def _saw(self, items: list[tuple[Item, Look]], outputs: Sequence[TaskOutput]) -> None:
        self._inbox.put(LookedAt(items, outputs))

    def _send_pieces(self) -> None:
        if (pieces := self._live.take()) is not None:
            self._showing.set()
            self._asks.put(pieces)
