"""What users say of Ailurus: kept once, within limits, read by administrators."""

from __future__ import annotations

import pytest

from ailurus.protocol import messages as m
from dispatcher.refusal import Rejected
from dispatcher.rules import feedback
from tests.dispatcher.helpers import ALICE, BOB


async def say(b, request: str, caller=ALICE, **fields: object) -> None:
    ask = m.GiveFeedback(**{"request_id": request, "mood": 4, **fields})
    await b.service.feedback.give_feedback(ask, caller)


async def said(b, **query: int) -> m.FeedbackPage:
    return await b.service.feedback.feedback(m.FeedbackQuery(**query), ALICE)


async def test_what_is_said_is_kept_once_with_who_said_it_and_of_what(b):
    for _ in range(2):
        await say(b, "r1", text="clear", about="why 12")
    await say(b, "r1", caller=BOB, mood=1)
    rows = (await said(b)).feedback
    assert [(row.user, row.mood, row.text, row.about) for row in rows] == [
        ("alice", 4, "clear", "why 12"),
        ("bob", 1, "", ""),
    ]
    assert all(row.version and row.at for row in rows)


async def test_it_is_listed_page_by_page(b):
    for nr in range(3):
        await say(b, f"r{nr}")
    first = await said(b, limit=2)
    rest = await said(b, limit=2, after=first.next)
    assert [len(first.feedback), len(rest.feedback), rest.next] == [2, 1, None]


async def test_a_user_and_all_of_them_say_no_more_than_is_kept(b, monkeypatch):
    monkeypatch.setattr(feedback, "MOST_OF_USER", 2)
    monkeypatch.setattr(feedback, "MOST", 3)
    await say(b, "r1")
    await say(b, "r2")
    # what was kept already is no more
    await say(b, "r2")
    with pytest.raises(Rejected, match="2 in all"):
        await say(b, "r3")
    await say(b, "r3", caller=BOB)
    with pytest.raises(Rejected, match="3 in all"):
        await say(b, "r4", caller=BOB)


async def test_a_user_says_so_much_in_an_hour_and_it_is_forgotten_after_a_year(b, monkeypatch):
    monkeypatch.setattr(feedback, "MOST_IN_HOUR", 1)
    state, begun = b.service.state, b.service.state.now()
    state.now = lambda: begun
    await say(b, "r1")
    with pytest.raises(Rejected, match="1 an hour") as refused:
        await say(b, "r2")
    assert refused.value.status == 429
    state.now = lambda: begun + feedback.HOUR_S + 1
    await say(b, "r2")
    await state.store.write(lambda tx: feedback.expire(tx, now=begun + feedback.KEPT_S + 1))
    assert len((await said(b)).feedback) == 1
