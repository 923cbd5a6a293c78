"""What is kept of payloads' output: pieces by offset, counted a stream, and always the end of
it."""

from __future__ import annotations

from collections.abc import Mapping

from ailurus.protocol import messages as m
from ailurus.protocol.api import LogQuery
from ailurus.protocol.states import MAY_COME_BACK
from dispatcher.ports import Tx
from dispatcher.rules import records

END_BYTES = 256 * 1024
"""Of the last piece of a stream, which is kept whatever came before it."""
ROW_BYTES = 256
"""What a piece is counted for besides its text: many small ones cost more than few large ones."""
# Of one answer.
PIECES = 64


class KeptStream:
    """One stream as a transaction sees it: where it ends, and how much of it is kept."""

    def __init__(self, tx: Tx, place: Mapping[str, object]) -> None:
        row = tx.one("log.held", **place)
        self.stop, self.kept, self.pieces = row or (0, 0, 0)
        self._tx, self._place = tx, place

    def add(self, piece: m.LogPiece, most: int) -> None:
        """Keep what is new in `piece`, up to `most` bytes a stream; of a last piece always the
        end."""
        data = piece.text.encode()
        stop = piece.offset + len(data)
        # What came before stays as it came.
        data = data[max(0, self.stop - piece.offset) :]
        room = most + (END_BYTES if piece.final else 0)
        room -= self.kept + (self.pieces + 1) * ROW_BYTES
        if len(data) > room:
            data = data[len(data) - room :] if piece.final and room > 0 else b""
        if not data:
            return
        start = stop - len(data)
        self._tx.run("log.add", **self._place, start=start, stop=stop, piece=data)
        self.stop, self.kept, self.pieces = stop, self.kept + len(data), self.pieces + 1


def keep(tx: Tx, ask: m.LogPieces, worker_id: int, most: int) -> None:
    """Keep pieces of the output of a worker's own attempts. A log longer than `most` bytes a stream
    is cut, not refused."""
    streams: dict[tuple[int, int, str], KeptStream | None] = {}
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
            stream.add(piece, most)


def chunk(tx: Tx, ask: LogQuery, job_id: int, attempt: m.Attempt) -> m.LogChunk:
    """The part of an attempt's output that begins at the requested offset, without a hole in it;
    where nothing is kept there, what follows the hole."""
    place = {"job_id": job_id, "attempt_nr": attempt.attempt_nr, "stream": ask.stream}
    stream, ended = KeptStream(tx, place), attempt.ended is not None
    wanted = max(0, stream.stop + ask.offset) if ask.offset < 0 else min(ask.offset, stream.stop)
    start = end = wanted
    data = b""
    for first, stop, piece in tx.all("log.from", offset=wanted, most=PIECES, **place):
        if first > end and data:
            break
        start = max(start, first) if not data else start
        data += piece[max(0, max(end, start) - first) :]
        end = stop
    wrote = _wrote(attempt, ask.stream)
    return m.LogChunk(
        offset=start,
        end=end,
        text=data.decode("utf-8", "replace"),
        final=ended and end >= stream.stop,
        skipped=start - wanted,
        size=max(stream.stop, wrote),
        kept=stream.kept,
        attempt_nr=attempt.attempt_nr,
    )


def _wrote(attempt: m.Attempt, stream: str) -> int:
    """How many bytes an attempt says that it wrote to a stream; 0 before it has ended."""
    usage = attempt.usage or m.Usage()
    return usage.stdout_bytes if stream == "stdout" else usage.stderr_bytes
