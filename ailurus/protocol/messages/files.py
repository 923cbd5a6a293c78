"""What jobs left in storage, and files themselves, as users see them."""

from __future__ import annotations

from ailurus.protocol.messages.base import Answer


class FileRecord(Answer):
    """A file that a finished job left in storage."""

    name: str
    url: str
    size: int
    adler32: str
    job_id: int = 0
    item: int | None = None
    """Which of the job's payloads left it, if one did."""
    registration: str = ""
    """In the catalogue of data: a `RegistrationState`; blank: it is not to be there."""
    reason: str = ""
    """Why it is not there yet, or not at all."""
    remedy: str = ""


class Contents(Answer):
    """The answer is a file: its bytes, always as `application/octet-stream` and an attachment."""
