"""What users say of Ailurus itself, as functions of a transaction."""

from __future__ import annotations

from ailurus.protocol import messages as m
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import feedback_records

MOST_IN_HOUR, MOST_OF_USER, MOST = 20, 200, 20_000
"""Of what one user says in an hour and in all, and of what all users say."""
HOUR_S, KEPT_S = 3600.0, 365 * 86_400.0
"""After the second it is forgotten."""


def add(tx: Tx, owner: str, ask: m.GiveFeedback, *, version: str, now: float) -> None:
    """Keep what a user says, once. Raises Rejected for more than is kept."""
    said = feedback_records.said(tx, owner, ask.request_id, now - HOUR_S)
    if said.known:
        return
    if said.fresh >= MOST_IN_HOUR or said.own >= MOST_OF_USER or said.kept >= MOST:
        hourly = said.fresh >= MOST_IN_HOUR
        whole = said.own if said.own >= MOST_OF_USER else said.kept
        full = f"{said.fresh} an hour" if hourly else f"{whole} in all"
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
    found = feedback_records.page(tx, after, most)
    return m.FeedbackPage(
        feedback=tuple(
            m.FeedbackRow(
                feedback_id=row.feedback_id,
                user=row.owner,
                at=row.at,
                mood=row.mood,
                text=row.text,
                about=row.about,
                version=row.version,
            )
            for row in found
        ),
        next=found[-1].feedback_id if len(found) == most else None,
    )
