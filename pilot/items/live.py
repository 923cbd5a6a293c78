"""Output of items that is shown while they run: of those that run longer than a heartbeat, and only
while a user watches their job. Of others the last words come with their ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ailurus.protocol import messages as m
from pilot.attempt import Attempt
from pilot.files.live_log import FINAL_BYTES, text_of, whole_characters
from pilot.items.item import Item
from pilot.node_ports import TaskOutput

LIVE_S = 1.0
"""Between two looks."""
TOGETHER = 50
"""Items at one look: those whose turn was longest ago."""
SHOWN_BYTES = 256 << 10
"""Of a stream of an item, and its end; dispatchers keep no more."""
MOST_PIECES = 1000
"""In one message, and for one to come."""
_STREAMS = "stdout", "stderr"


class Live:
    """What of items' outputs has been shown, and what is to be sent. No thread, no clock."""

    def __init__(
        self, attempt: Attempt, watched: Callable[[Attempt], bool], after_s: float
    ) -> None:
        """`after_s`: of an item that has run for less nothing is shown."""
        self._attempt, self._watched, self._after_s = attempt, watched, after_s
        self._next = 0.0
        self._pieces: list[m.LogPiece] = []

    def due(self, running: Iterable[Item], now: float) -> list[Item]:
        """Whose output to look at now."""
        if now < self._next or self._pieces or not self._watched(self._attempt):
            return []
        self._next = now + LIVE_S
        found = [
            item
            for item in running
            if now - item.began >= self._after_s and min(item.shown) < SHOWN_BYTES
        ]
        found.sort(key=lambda item: item.shown_at)
        for item in found[:TOGETHER]:
            item.shown_at = now
        return found[:TOGETHER]

    def seen(self, item: Item, starts: tuple[int, int], output: TaskOutput) -> None:
        """What a look from `starts` on has found."""
        # Another look may have been faster.
        if starts != item.shown:
            return
        shown = [*starts]
        for stream, one in enumerate(output):
            data = whole_characters(one.data)
            if data and starts[stream] < SHOWN_BYTES:
                self._add(item, stream, starts[stream], data)
                shown[stream] += len(data)
        item.shown = shown[0], shown[1]

    def ended(self, item: Item, output: TaskOutput) -> None:
        """The end of a stream of which something was shown."""
        for stream, one in enumerate(output):
            begin = max(item.shown[stream], one.size - min(len(one.data), FINAL_BYTES))
            if item.shown[stream] and begin < one.size:
                data = one.data[begin - one.size :]
                self._add(item, stream, begin, data, final=True)

    def take(self) -> m.LogPieces | None:
        """What is to be sent."""
        pieces, self._pieces = self._pieces, []
        return m.LogPieces(pieces=tuple(pieces)) if pieces else None

    def _add(
        self, item: Item, stream: int, start: int, data: bytes, *, final: bool = False
    ) -> None:
        if len(self._pieces) >= MOST_PIECES:
            return
        piece = m.LogPiece(
            job_id=self._attempt.id[0],
            attempt_nr=self._attempt.id[1],
            stream=_STREAMS[stream],
            offset=start,
            text=text_of(data),
            final=final,
            item=item.lease.index,
            item_attempt=item.lease.attempt,
        )
        self._pieces.append(piece)
