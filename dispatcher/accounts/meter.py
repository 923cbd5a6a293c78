"""How long a request keeps readers of the store busy, for its caller's account."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from msgspec import Struct


class Meter(Struct):
    """Seconds that readers were busy for one request."""

    turn: asyncio.Lock
    """Of all requests of a user one is read for at a time: what they cost is known afterwards, and
    by then a hundred could have been let in, with everybody else behind them."""
    seconds: float = 0.0


METER: ContextVar[Meter | None] = ContextVar("meter", default=None)
"""The meter of the request that this task answers; None: nobody counts."""
