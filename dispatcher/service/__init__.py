"""The queue as a service: one method a route of the native API, named as it."""

from __future__ import annotations

import time
from collections.abc import Callable

from dispatcher.ports import Store
from dispatcher.service.base import Settings
from dispatcher.service.edges import Edges
from dispatcher.service.relays import Relays
from dispatcher.service.upkeep import Upkeep
from dispatcher.service.users import Users


class Service(Users, Relays, Edges, Upkeep):
    """Everything a caller may ask. The door has checked the token's scope; ownership is checked here."""

    @classmethod
    async def open(
        cls,
        store: Store,
        *,
        secret: bytes,
        mint: Callable[..., str],
        settings: Settings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Service:
        """A running service on `store`. `mint(subject, scopes, lifetime_s, **claims)` makes tokens."""
        service = cls(store, secret, mint, settings or Settings(), clock)
        await service.start()
        return service
