"""What users say of Ailurus, as the store has it."""

from __future__ import annotations

from msgspec import Struct

from dispatcher.ports import Tx


class SaidRecord(Struct, frozen=True):
    """How much there is of what users said: `feedback.said`."""

    known: int
    """Whether this request is there."""
    own: int
    fresh: int
    """Of that user, since a time."""
    kept: int
    """Of all users."""


class FeedbackRecord(Struct, frozen=True):
    """What a user said: `feedback.page`."""

    feedback_id: int
    owner: str
    at: float
    mood: int
    text: str
    about: str
    version: str


def said(tx: Tx, owner: str, request_id: str, since: float) -> SaidRecord:
    """How much a user has said, and all have."""
    row = tx.all("feedback.said", owner=owner, request_id=request_id, since=since)[0]
    return SaidRecord(*row)


def page(tx: Tx, after: int, most: int) -> list[FeedbackRecord]:
    """What users said after a point, oldest first."""
    return [FeedbackRecord(*row) for row in tx.all("feedback.page", after=after, most=most)]
