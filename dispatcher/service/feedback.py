"""What users say of Ailurus itself: any of them may, and administrators read it."""

from __future__ import annotations

from ailurus import __version__
from ailurus.protocol import messages as m
from dispatcher.auth.caller import Caller
from dispatcher.rules import feedback
from dispatcher.service.state import State


class Feedback:
    """The part of the service that keeps feedback."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def give_feedback(self, ask: m.GiveFeedback, caller: Caller) -> m.Done:
        """Keep what the caller says. Raises Rejected for more than is kept."""
        now, version = self._state.now(), __version__
        await self._state.store.write(
            lambda tx: feedback.add(tx, caller.subject, ask, version=version, now=now)
        )
        return m.Done()

    async def feedback(self, ask: m.FeedbackQuery, caller: Caller) -> m.FeedbackPage:
        """What users said, oldest first."""
        return await self._state.store.read(lambda tx: feedback.page(tx, ask.after, ask.limit))
