"""Pieces of payloads' output as the dispatcher keeps them: by byte offset, as text."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from ailurus.protocol.messages import LogPiece
from pilot.held import Held

PIECE_BYTES = 256 * 1024
FINAL_BYTES = 64 * 1024
"""What is sent of a log when its payload has ended; more of it is in log.tgz."""


def _question_marks(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "?" * (error.end - error.start), error.end


codecs.register_error("ailurus.samelength", _question_marks)


def text_of(data: bytes) -> str:
    """Text of exactly as many UTF-8 bytes: what is no text becomes question marks, so offsets hold."""
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


class Follower:
    """What of one attempt's output has been sent."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._sent = {"stdout": 0, "stderr": 0}

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

    def rest(self) -> list[LogPiece]:
        """The end of what has not been sent, once the payload has ended."""
        pieces = []
        for stream, path in self._paths():
            size = path.stat().st_size if path.exists() else 0
            start = max(self._sent[stream], size - FINAL_BYTES)
            if data := _read(path, start, FINAL_BYTES):
                pieces.append(self._piece(stream, start, data, final=True))
        return pieces

    def _paths(self) -> list[tuple[str, Path]]:
        work = self._held.work
        return [] if work is None else [("stdout", work.stdout), ("stderr", work.stderr)]

    def _piece(self, stream: str, start: int, data: bytes, *, final: bool = False) -> LogPiece:
        return LogPiece(
            job_id=self._held.id[0],
            attempt_nr=self._held.id[1],
            stream=stream,
            offset=start,
            text=text_of(data),
            final=final,
        )


def _read(path: Path, start: int, most: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, most, start)
    finally:
        os.close(fd)
