"""What tests of searches share."""

from __future__ import annotations

import msgspec
import pytest

from dispatcher.service import planner_process
from dispatcher.service import tasks as service


@pytest.fixture
def by_hand(monkeypatch):
    """A dispatcher brings no task forward by itself, and has Optuna."""
    monkeypatch.setattr(service.Tasks, "start", lambda self: None)
    monkeypatch.setattr(planner_process, "has_optuna", lambda: True)


@pytest.fixture
def fake(monkeypatch):
    """Answers in place of a process; what it was asked."""
    asked = []

    async def ask(question, wanted, seed, within_s=0.0):
        asked.append(msgspec.json.decode(question))
        found = [{"x": len(asked[-1]["points"]) + at} for at in range(wanted)]
        return msgspec.json.encode(found)

    monkeypatch.setattr(planner_process, "ask_optuna", ask)
    return asked
