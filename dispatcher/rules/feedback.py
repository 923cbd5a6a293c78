"""What users say of Ailurus itself, as functions of a transaction."""

from __future__ import annotations

from ailurus.protocol import messages as m
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected

MOST_IN_HOUR, MOST_OF_USER, MOST = 20, 200, 20_000
"""Of what one user says in an hour and in all, and of what all users say."""
HOUR_S, KEPT_S = 3600.0, 365 * 86_400.0
"""After the second it is forgotten."""


def add(tx: Tx, owner: str, ask: m.GiveFeedback, *, version: str, now: float) -> None:
    """Keep what a user says, once. Raises Rejected for more than is kept."""
    row = tx.one("feedback.said", owner=owner, request_id=ask.request_id, since=now - HOUR_S)
    known, own, fresh, kept = row or (0, 0, 0, 0)
    if known:
        return
    if fresh >= MOST_IN_HOUR or own >= MOST_OF_USER or kept >= MOST:
        hourly = fresh >= MOST_IN_HOUR
        full = f"{fresh} an hour" if hourly else f"{own if own >= MOST_OF_USER else kept} in all"
        raise Rejected(
            429,
            f"no more feedback is kept than {full}",
            field="text",
            remedy="say it later" if hourly else "tell the operators of this dispatcher directly",
        )
    tx.run(
        "feedback.add",
        owner=owner,
        request_id=ask.request_id,
        now=now,
        mood=ask.mood,
        text=ask.text,
        about=ask.about,
        version=version,
    )


def expire(tx: Tx, *, now: float) -> None:
    """Forget what was said long ago."""
    tx.run("feedback.expire", before=now - KEPT_S)


def page(tx: Tx, after: int, most: int) -> m.FeedbackPage:
    """What users said after a point, oldest first."""
    rows = tx.all("feedback.page", after=after, most=most)
    return m.FeedbackPage(
        feedback=tuple(
            m.FeedbackRow(
                feedback_id=number,
                user=owner,
                at=at,
                mood=mood,
                text=text,
                about=about,
                version=version,
            )
            for number, owner, at, mood, text, about, version in rows
        ),
        next=rows[-1][0] if len(rows) == most else None,
    )
