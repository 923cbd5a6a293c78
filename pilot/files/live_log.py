"""Pieces of payloads' output as the dispatcher keeps them: by byte offset, as text."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from ailurus.protocol.job import WHOLE_LOG
from ailurus.protocol.messages import LogPiece
from ailurus.regular import open_regular
from pilot.attempt import Attempt
from pilot.workdir import size_of

PIECE_BYTES = 256 * 1024
FINAL_BYTES = 64 * 1024
"""What is sent at least of a log when its payload has ended, however long it is: its end."""
WHOLE_BYTES = 16_000_000
"""What is sent at most of a stream of a job that wants its whole log; dispatchers keep no more."""


def _question_marks(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "?" * (error.end - error.start), error.end


codecs.register_error("ailurus.samelength", _question_marks)


def text_of(data: bytes) -> str:
    """Text of exactly as many UTF-8 bytes: what is no text becomes question marks, so offsets
    hold."""
    return data.replace(b"\0", b"?").decode("utf-8", "ailurus.samelength")


def whole_characters(data: bytes) -> bytes:
    """`data` without the beginning of a character at its end: the rest of it is still to come."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        wanted = 2 if byte >> 5 == 6 else 3 if byte >> 4 == 14 else 4 if byte >> 3 == 30 else 1
        return data[:-back] if wanted > back else data
    return data


def opened(path: Path) -> int | None:
    """A file that a payload writes, open for reading; None if there is none, or no regular one: it
    may have put a link or a FIFO in its place."""
    try:
        return open_regular(path)
    except (OSError, ValueError):
        return None


class Rest:
    """The rest of both streams, read as it is sent. Short ones are read at once and hold no
    file."""

    def __init__(self, follower: Follower, files: dict[str, int]) -> None:
        self._files = files
        self._pieces = (
            piece for stream, fd in files.items() for piece in follower.rest_of(stream, fd)
        )
        self._ahead: list[LogPiece] = []
        if not follower.wants_all:
            self._ahead = list(self._pieces)
            self.close()

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return not (self._ahead or self._files)

    @property
    def bytes(self) -> int:
        """Of memory."""
        return sum(len(piece.text) for piece in self._ahead)

    def first(self) -> LogPiece | None:
        """The piece to be sent next; the same one until it is `sent`."""
        if not self._ahead and self._files and (piece := next(self._pieces, None)) is not None:
            self._ahead.append(piece)
        return self._ahead[0] if self._ahead else None

    def sent(self) -> None:
        del self._ahead[0]

    def shorten(self, most: int) -> None:
        """Keep the last `most` characters of each stream: there is no room for more."""
        self.close()
        self._ahead = [_end_of(piece, most) for piece in self._ahead if piece.final]

    def close(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files = {}


def _end_of(piece: LogPiece, most: int) -> LogPiece:
    text = piece.text[-most:]
    cut = len(piece.text.encode()) - len(text.encode())
    return replace(piece, offset=piece.offset + cut, text=text)


class Follower:
    """What of one attempt's output has been sent, from its beginning to its report."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._sent = {"stdout": 0, "stderr": 0}

    @property
    def wants_all(self) -> bool:
        return self._attempt.spec.log == WHOLE_LOG

    def news(self) -> list[LogPiece]:
        """What was written since the last look, at most a piece a stream."""
        pieces = []
        for stream, path in self._paths():
            start = self._sent[stream]
            data = whole_characters(_read(path, start, PIECE_BYTES))
            if data:
                self._sent[stream] = start + len(data)
                pieces.append(self._piece(stream, start, data))
        return pieces

    def rest(self) -> Rest:
        """What is to be sent once the payload has ended: the end of what has not been sent, or all
        of that for a job that wants its whole log. Its files may be removed meanwhile."""
        files = {}
        for stream, path in self._paths():
            if size_of(path) and (fd := opened(path)) is not None:
                files[stream] = fd
        return Rest(self, files)

    def rest_of(self, stream: str, fd: int) -> Iterator[LogPiece]:
        """The pieces of one stream's rest, the last one marked as such."""
        size, start = os.fstat(fd).st_size, self._sent[stream]
        end = max(start, size - FINAL_BYTES)
        if self.wants_all:
            until = min(end, WHOLE_BYTES)
            while start < until:
                data = whole_characters(os.pread(fd, min(PIECE_BYTES, until - start), start))
                if not data:
                    break
                yield self._piece(stream, start, data)
                start += len(data)
            if until == end:
                end = start
        if data := os.pread(fd, size - end, end):
            yield self._piece(stream, end, data, final=True)

    def _paths(self) -> list[tuple[str, Path]]:
        work = self._attempt.work
        return [] if work is None else [("stdout", work.stdout), ("stderr", work.stderr)]

    def _piece(self, stream: str, start: int, data: bytes, *, final: bool = False) -> LogPiece:
        return LogPiece(
            job_id=self._attempt.id[0],
            attempt_nr=self._attempt.id[1],
            stream=stream,
            offset=start,
            text=text_of(data),
            final=final,
        )


def _read(path: Path, start: int, most: int) -> bytes:
    if (fd := opened(path)) is None:
        return b""
    try:
        return os.pread(fd, most, start)
    finally:
        os.close(fd)
