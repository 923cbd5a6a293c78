"""What a door has beside the routes of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ailurus.protocol.api import StreamQuery
from dispatcher.accounts.rates import Limiter
from dispatcher.auth.caller import Caller
from dispatcher.auth.revocation import Revocations
from dispatcher.door import session
from dispatcher.door.access_log import Traffic

Asgi = Callable[..., Awaitable[None]]
Stream = Callable[[StreamQuery, Caller], AsyncGenerator[bytes, None]]
# Of an Accept header: content and its type.
Page = Callable[[str], Awaitable[tuple[bytes, str]]]
# Raises Rejected.
Check = Callable[[], Awaitable[None]]


class Waiting:
    """The requests that wait for something to happen, streams included, with their callers."""

    def __init__(self) -> None:
        self.tasks: dict[asyncio.Task[Any], Caller] = {}

    def __len__(self) -> int:
        return len(self.tasks)


@dataclass(frozen=True, kw_only=True)
class DoorSettings:
    """What a door has beside the routes of the service. What is None is not served, or not
    bounded."""

    console: Asgi | None = None
    """Answers `/` and `/console/…`."""
    stream: Stream | None = None
    """Gives the events of the route `stream`, as the bytes that are sent."""
    panda: Asgi | None = None
    """Answers what is under the prefixes of PanDA in `routing.py`."""
    ready: Check | None = None
    """Raises Rejected while the dispatcher cannot serve."""
    metrics: Page | None = None
    """Answers /metrics."""
    revocations: Revocations | None = None
    limiter: Limiter | None = None
    """Bounds each user."""
    host_names: Collection[str] = ()
    """Ours beside localhost and addresses."""
    public: session.Public = session.NOT_TOLD
    """Where browsers find us behind a proxy."""
    giver: str = ""
    """The name of the store."""
    traffic: Traffic = field(default_factory=Traffic)
    waiting: Waiting = field(default_factory=Waiting)
