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


def find(tx: Tx, owner: str, request_id: str) -> ActionRecord | None:
    """The action that a request of a user has begun."""
    row = tx.one("action.find", owner=owner, request_id=request_id)
    return None if row is None else ActionRecord(*row)
