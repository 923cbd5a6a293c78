"""Messages about small files that travel with jobs."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ailurus.protocol.fields import Key, Whole
from ailurus.protocol.messages.base import Answer, LenientRequest, StrictRequest
from ailurus.protocol.uploads import MOST_FILE_BYTES, PIECE_BYTES

Sha256 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$", description="64 hexadecimal digits, in lower case")
]
_Size = Annotated[int, Meta(ge=0, le=MOST_FILE_BYTES)]


class AddUpload(StrictRequest):
    """A piece of a file that jobs of the caller will name, from byte `first` on. One that is not
    the next changes nothing: an empty piece asks how much has come. A file that no job names is
    forgotten after a day."""

    digest: Sha256
    size: _Size
    first: _Size = 0
    piece: Annotated[bytes, Meta(max_length=PIECE_BYTES)] = b""


class UploadAdded(Answer):
    # Bytes that are here, where the next piece begins; all of them: jobs may name the file.
    have: int


class UploadRequest(LenientRequest):
    """A worker asks for a file that an attempt names which is leased to it, from a byte on."""

    job_id: Whole
    attempt_nr: Whole
    digest: Sha256
    first: Whole = 0


class UploadPiece(Answer):
    """What there is from that byte on, at most a piece. `giver`: the dispatcher's name, for a
    relay."""

    size: int
    piece: bytes
    giver: str = ""


class RelayUpload(StrictRequest):
    """A worker behind a relay asks for such a file: passed on at once, or not at all."""

    site: Key
    worker_id: Whole
    ask: UploadRequest
