"""What is done to many jobs, as the store has it: how far it is, and by whose request."""

from __future__ import annotations

from msgspec import Struct

from dispatcher.ports import Tx


class ActionRecord(Struct, frozen=True):
    """An action: `action.find`."""

    action_id: int
    said: str
    """The request, as JSON."""
    caller: str
    """What its token allowed, as JSON."""
    at: float
    last: int
    """The greatest job that is meant."""
    cursor: int
    """The last job that was looked at."""
    done: int
    kept: int
    ended: float | None
    undo: int
    """How many of them can be brought back."""


class CancelledRecord(Struct, frozen=True):
    """What is asked before an action is undone: `action.get`."""

    owner: str
    verb: str
    ended: float | None
    undo: int


class ReachedRecord(Struct, frozen=True):
    """An action that has reached a submission: `reached.of`."""

    action_id: int
    by: str
    verb: str
    at: float
    jobs: int
    """How many of its jobs."""


def get(tx: Tx, action_id: int) -> CancelledRecord | None:
    """An action by its number."""
    row = tx.one("action.get", action_id=action_id)
    return None if row is None else CancelledRecord(*row)


def reached(tx: Tx, first: int, most: int) -> list[ReachedRecord]:
    """What was done to a submission, the latest first."""
    return [ReachedRecord(*row) for row in tx.all("reached.of", first=first, most=most)]


def find(tx: Tx, owner: str, request_id: str) -> ActionRecord | None:
    """The action that a request of a user has begun."""
    row = tx.one("action.find", owner=owner, request_id=request_id)
    return None if row is None else ActionRecord(*row)
