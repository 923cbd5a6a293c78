"""What is kept of payloads' output: pieces by offset, counted a stream, and always the end of
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ailurus.protocol import messages as m
from ailurus.protocol.api import LogQuery
from ailurus.protocol.item import FINAL_ITEM
from ailurus.protocol.states import MAY_COME_BACK
from dispatcher.ports import Tx
from dispatcher.rules import item_pools, item_records, records

END_BYTES = 256 * 1024
"""Of the last piece of a stream, which is kept whatever came before it."""
ROW_BYTES = 256
"""What a piece is counted for besides its text: many small ones cost more than few large ones."""
ITEM_BYTES = 256 * 1024
"""Of a stream of an item."""
ITEMS_STREAMS = 16
"""Streams of a job that the output of all its items may be as long as."""
# Of one answer.
PIECES = 64


class KeptStream:
    """One stream as a transaction sees it: where it ends, and how much of it is kept."""

    HELD, ADD, FROM = "log.held", "log.add", "log.from"

    def __init__(self, tx: Tx, place: Mapping[str, object]) -> None:
        row = tx.one(self.HELD, **place)
        self.stop, self.kept, self.pieces = row or (0, 0, 0)
        self._tx, self._place = tx, place

    def add(self, piece: m.LogPiece, most: int) -> int:
        """Keep what is new in `piece`, up to `most` bytes a stream; of a last piece always the end.
        Returns how many bytes it keeps."""
        data = piece.text.encode()
        stop = piece.offset + len(data)
        # What came before stays as it came.
        data = data[max(0, self.stop - piece.offset) :]
        room = most + (END_BYTES if piece.final else 0)
        room -= self.kept + (self.pieces + 1) * ROW_BYTES
        if len(data) > room:
            data = data[len(data) - room :] if piece.final and room > 0 else b""
        if not data:
            return 0
        start = stop - len(data)
        self._tx.run(self.ADD, **self._place, start=start, stop=stop, piece=data)
        self.stop, self.kept, self.pieces = stop, self.kept + len(data), self.pieces + 1
        return len(data)

    def chunk(self, ask: LogQuery, *, ended: bool, wrote: int, attempt_nr: int) -> m.LogChunk:
        """The part that begins at the requested offset, without a hole in it; where nothing is kept
        there, what follows the hole. `wrote`: how many bytes the attempt says that it wrote."""
        wanted = max(0, self.stop + ask.offset) if ask.offset < 0 else min(ask.offset, self.stop)
        start = end = wanted
        data = b""
        for first, stop, piece in self._tx.all(
            self.FROM, offset=wanted, most=PIECES, **self._place
        ):
            if first > end and data:
                break
            start = max(start, first) if not data else start
            data += piece[max(0, max(end, start) - first) :]
            end = stop
        return m.LogChunk(
            offset=start,
            end=end,
            text=data.decode("utf-8", "replace"),
            final=ended and end >= self.stop,
            skipped=start - wanted,
            size=max(self.stop, wrote),
            kept=self.kept,
            attempt_nr=attempt_nr,
        )


class KeptItemStream(KeptStream):
    """One stream of an item."""

    HELD, ADD, FROM = "item_log.held", "item_log.add", "item_log.from"


def keep(tx: Tx, ask: m.LogPieces, worker_id: int, most: int) -> None:
    """Keep pieces of the output of a worker's own attempts. A log longer than `most` bytes a stream
    is cut, not refused."""
    streams: dict[tuple[int, int, str], KeptStream | None] = {}
    of_items: dict[int, list[m.LogPiece]] = {}
    for piece in ask.pieces:
        key = (piece.job_id, piece.attempt_nr, piece.stream)
        if key not in streams:
            place = {
                "job_id": piece.job_id,
                "attempt_nr": piece.attempt_nr,
                "stream": piece.stream,
            }
            attempt = records.find_attempt(tx, piece.job_id, piece.attempt_nr)
            mine = attempt if attempt is not None and attempt.worker_id == worker_id else None
            kept = mine is not None and (mine.state in MAY_COME_BACK or piece.final)
            streams[key] = KeptStream(tx, place) if kept else None
        if (stream := streams[key]) is not None:
            if piece.item is None:
                stream.add(piece, most)
            else:
                of_items.setdefault(piece.job_id, []).append(piece)
    for job_id, pieces in of_items.items():
        _keep_of_items(tx, job_id, pieces, most)


def _keep_of_items(tx: Tx, job_id: int, pieces: Sequence[m.LogPiece], most: int) -> None:
    """Keep pieces of the output of a job's items, as long as there is room for all of them."""
    cluster = item_records.find_cluster(tx, job_id)
    if cluster is None:
        return
    cluster_id = cluster.cluster_id
    room = ITEMS_STREAMS * most - records.value(
        tx.one("cluster.log_bytes", cluster_id=cluster_id), 0
    )
    if cluster.pool:
        pieces = item_pools.of_own_items(tx, cluster.cluster_id, job_id, pieces)
    streams: dict[tuple[int | None, int, str], KeptItemStream] = {}
    more = 0
    for piece in pieces:
        if more >= room:
            break
        key = (piece.item, piece.item_attempt, piece.stream)
        if key not in streams:
            index, attempt, stream = key
            place = {"index": index, "attempt": attempt, "stream": stream}
            streams[key] = KeptItemStream(tx, {"cluster_id": cluster_id, **place})
        more += streams[key].add(piece, min(most, ITEM_BYTES))
    if more:
        tx.run("cluster.logged", cluster_id=cluster_id, by=more)


def chunk(tx: Tx, ask: LogQuery, job_id: int, attempt: m.Attempt) -> m.LogChunk:
    """The part of an attempt's output that begins at the requested offset."""
    place = {"job_id": job_id, "attempt_nr": attempt.attempt_nr, "stream": ask.stream}
    return KeptStream(tx, place).chunk(
        ask,
        ended=attempt.ended is not None,
        wrote=_wrote(attempt.usage, ask.stream),
        attempt_nr=attempt.attempt_nr,
    )


def chunk_of_item(tx: Tx, ask: LogQuery, cluster_id: int, item: m.ItemDetail) -> m.LogChunk:
    """The same of an item's output; of one whose output was not sent, the last words that its end
    told."""
    row = item.row
    attempt = row.attempt if ask.attempt_nr is None else ask.attempt_nr
    place = {"cluster_id": cluster_id, "index": row.index, "attempt": attempt, "stream": ask.stream}
    stream = KeptItemStream(tx, place)
    over = row.state in FINAL_ITEM or attempt < row.attempt
    wrote = _wrote(item.usage, ask.stream) if attempt == row.attempt else 0
    if stream.kept or attempt != row.attempt:
        return stream.chunk(ask, ended=over, wrote=wrote, attempt_nr=attempt)
    last = (item.stdout_tail if ask.stream == "stdout" else item.stderr_tail).encode()
    size = max(wrote, len(last))
    begin = size - len(last)
    offset = max(0, size + ask.offset) if ask.offset < 0 else ask.offset
    start = min(max(offset, begin), size)
    return m.LogChunk(
        offset=start,
        end=size,
        text=last[start - begin :].decode("utf-8", "replace"),
        final=over,
        skipped=max(0, start - offset),
        size=size,
        kept=len(last),
        attempt_nr=attempt,
    )


def _wrote(usage: m.Usage | None, stream: str) -> int:
    """How many bytes an attempt says that it wrote to a stream; 0 before it has ended."""
    usage = usage or m.Usage()
    return usage.stdout_bytes if stream == "stdout" else usage.stderr_bytes
