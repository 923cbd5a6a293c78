"""Messages about submissions: the jobs that came in one request, as one object."""

from __future__ import annotations

from msgspec import field

from ailurus.protocol.fields import Key, Whole
from ailurus.protocol.messages.base import Answer, StrictRequest


class Parts(Answer):
    """How many jobs of a submission are how far."""

    waiting: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0


class SubmissionRow(Answer):
    """A submission, and how far it is. Its number is that of its first job, and its jobs follow
    each other."""

    submission: int
    jobs: int
    user: str
    by: str
    """Who sent it: an admin may try others' jobs again."""
    name: str
    """As its user calls it, else as its first job is called."""
    made: float
    ended: bool
    labels: dict[str, str] = field(default_factory=dict)
    parts: Parts | None = None
    """None: a version before this one took so many jobs that they are counted only where the
    submission is looked at by itself. Jobs that were moved away and dropped are in no part."""
    retry_of: int | None = None
    """The submission that this one tries again."""


class SubmissionPage(Answer):
    submissions: tuple[SubmissionRow, ...]
    # Pass as `before` for the page after this one.
    next: int | None = None
    cut: bool = False
    """The time was up before the page was full: there may be more from `next` on."""


class SubmissionAct(Answer):
    """What somebody did to jobs of a submission."""

    action: int
    """Its number, as events have it."""
    by: str
    verb: str
    at: float
    jobs: int
    """How many of its jobs."""


class SubmissionDetail(Answer):
    """All about a submission."""

    row: SubmissionRow
    retried_as: tuple[int, ...] = ()
    """The submissions that try it again, oldest first; of many the first 100."""
    acts: tuple[SubmissionAct, ...] = ()
    """What was done to its jobs together with others, the latest first; of many the latest 50."""


class RetrySubmission(StrictRequest):
    """Tries a submission again: what failed in it and what depends on that, or all of it. The new
    jobs are a submission with its name and labels; they keep owner and dependencies. A repeated
    request returns the first answer."""

    submission: Whole
    """Its number, or that of one of its jobs."""
    request_id: Key
    whole: bool = False
    """All jobs that have ended, finished ones too."""
