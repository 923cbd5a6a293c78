"""Messages about what users say of Ailurus itself."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ailurus.protocol.fields import Key, Text, Whole
from ailurus.protocol.messages.base import Answer, StrictRequest

Mood = Annotated[int, Meta(ge=1, le=5, description="1: it does not work for me; 5: it does")]


class GiveFeedback(StrictRequest):
    """How it went, in a mood and a line. The operators read it, with the caller's name."""

    request_id: Key
    mood: Mood
    text: Annotated[Text, Meta(max_length=1000)] = ""
    about: Annotated[Text, Meta(max_length=300)] = ""
    """The page or the command that it is about."""


class FeedbackQuery(StrictRequest):
    """What was said after a message, oldest first."""

    after: Whole = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class FeedbackRow(Answer):
    feedback_id: int
    user: str
    at: float
    mood: int
    text: str
    about: str
    # Of the dispatcher, when it was said.
    version: str


class FeedbackPage(Answer):
    feedback: tuple[FeedbackRow, ...]
    # After which the rest comes; None: there is none.
    next: int | None = None
