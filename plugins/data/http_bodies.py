"""Files as bodies of http, measured on their way: those that come, continued where a connection
broke off if the server still has the same file, and those that go."""

from __future__ import annotations

import os
import re
import threading
import zlib
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime

import urllib3
from msgspec import Struct

from ailurus.wire.watched import OfferedBody, read_into
from pilot.blame import OSErrorsOn, Target
from pilot.ports import Check, Copied
from plugins.data.checksums import Checksums

BLOCK = 1 << 20
_SENT = r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)"
_STEADY_S = 1.0
"""So long after its change the time of a file tells it from the one before (RFC 9110, 8.8.2.2)."""


class Version(Struct, frozen=True):
    """Which file an answer brings, so that the rest of it may be asked for."""

    mark: str
    """Its ETag or, without one, the time of its last change; empty: the server does not say."""
    size: int | None
    """Bytes of all of it."""

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Version:
        """As the answer with the whole file says."""
        length = re.fullmatch(r"[0-9]{1,18}", headers.get("Content-Length", ""))
        # Pieces (chunked) say themselves how long they are.
        size = int(length[0]) if length and "Transfer-Encoding" not in headers else None
        tag = headers.get("ETag", "")
        if tag:
            return cls("" if tag.startswith("W/") else tag, size)
        return cls(_steady(headers), size)

    def rest(self, at: int) -> dict[str, str]:
        """What asks for the bytes from `at` on, or for all where the file is another one."""
        return {"Range": f"bytes={at}-", "If-Range": self.mark}

    def continued(self, headers: Mapping[str, str], at: int) -> bool:
        """Whether a partial answer is the rest of this file from `at` on."""
        sent = re.fullmatch(_SENT, headers.get("Content-Range", "").strip())
        if sent is None or self.size is None or int(sent[1]) != at:
            return False
        if int(sent[2]) != self.size - 1 or sent[3] not in {str(self.size), "*"}:
            return False
        named = "ETag" if self.mark.startswith('"') else "Last-Modified"
        # One that heeds `If-Range` need not repeat the time; its ETag it must.
        return headers.get(named, "" if named == "ETag" else self.mark) == self.mark


def _steady(headers: Mapping[str, str]) -> str:
    """The time of a file's last change, if the file cannot have changed again within it."""
    changed = headers.get("Last-Modified", "")
    try:
        age = parsedate_to_datetime(headers["Date"]) - parsedate_to_datetime(changed)
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""
    return changed if age.total_seconds() >= _STEADY_S else ""


_buffers = threading.local()


def _buffer() -> memoryview:
    """This thread's own, kept from file to file: a new one is all page faults."""
    try:
        return _buffers.block  # type: ignore[no-any-return]  # of a namespace without types
    except AttributeError:
        _buffers.block = memoryview(bytearray(BLOCK))
        return _buffers.block  # type: ignore[no-any-return]


def pieces_of(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """An answer that is no file. Raises urllib3's HTTPError."""
    while piece := answer.read(BLOCK, decode_content=False):
        yield piece


class Copy:
    """An open file that takes the bodies of answers, one after the other."""

    def __init__(self, into: int, check: Check, *, md5: bool) -> None:
        self._into, self._check, self._md5 = into, check, md5
        self._buffer = _buffer()
        self._seen = Checksums(md5=md5)

    def again(self) -> None:
        """Drop what came. Raises OSError."""
        os.ftruncate(self._into, 0)
        os.lseek(self._into, 0, os.SEEK_SET)
        self._seen = Checksums(md5=self._md5)

    def take(self, answer: urllib3.BaseHTTPResponse, name: object) -> None:
        """Add a body to what is there; `name` is the file's in messages. Raises ProtocolError where
        it breaks off, JobError."""
        writing = OSErrorsOn(Target.NODE, f"cannot write its copy of {name}")
        while got := read_into(answer, self._buffer):
            block = self._buffer[:got]
            self._seen.add(block)
            with writing:
                while block:
                    block = block[os.write(self._into, block) :]
            self._check()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._seen.size

    @property
    def copied(self) -> Copied:
        """What came, as it was measured."""
        return self._seen.copied


class Measured(OfferedBody):
    """An open file as a request's body, measured while it is sent."""

    def __init__(self, source: int) -> None:
        self._source = source
        self.length = os.fstat(source).st_size
        self.rewind()

    def rewind(self) -> None:
        os.lseek(self._source, 0, os.SEEK_SET)
        self.wanted, self.size, self.adler = True, 0, 1

    def pieces(self) -> Iterator[bytes]:
        reading = OSErrorsOn(Target.NODE, "cannot read the output that is sent")
        while self.wanted:
            # A byte more than there should be, by which a file that grows is noticed.
            most = min(BLOCK, max(self.length - self.size, 0) + 1)
            with reading:
                block = os.read(self._source, most)
            if not block:
                return
            self.adler = zlib.adler32(block, self.adler)
            self.size += len(block)
            yield block
