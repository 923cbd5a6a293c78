"""What a request's reading of the store takes, for the account of who asked."""

from __future__ import annotations

from contextvars import ContextVar

from msgspec import Struct


class Meter(Struct):
    """Seconds that readers were busy for one request."""

    seconds: float = 0.0


METER: ContextVar[Meter | None] = ContextVar("meter", default=None)
"""Of the request that this task answers; None: nobody counts."""
