"""The queue as a service: a part for each kind of caller, with a method a route, named as it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ailurus.protocol.api import ROUTES
from dispatcher.accounts.rates import Limiter
from dispatcher.catalogue.link import Ask
from dispatcher.ports import Store
from dispatcher.service.accounting import Accounting
from dispatcher.service.actions import Actions
from dispatcher.service.conclusions import Conclusions
from dispatcher.service.delegation import Delegation
from dispatcher.service.downloads import Downloads
from dispatcher.service.edges import Edges
from dispatcher.service.feedback import Feedback
from dispatcher.service.figures import Figures
from dispatcher.service.heartbeats import Heartbeats
from dispatcher.service.intake import Intake
from dispatcher.service.items import Items
from dispatcher.service.known_data import KnownData
from dispatcher.service.liveness import Liveness
from dispatcher.service.nodes import Nodes
from dispatcher.service.peers import Alone, Peers
from dispatcher.service.reasons import Reasons
from dispatcher.service.registrar import Registrar
from dispatcher.service.registration import Registration
from dispatcher.service.relays import Relays
from dispatcher.service.seals import Seals
from dispatcher.service.shared import Shared
from dispatcher.service.state import Settings, State
from dispatcher.service.submissions import Submissions
from dispatcher.service.tasks import Tasks
from dispatcher.service.timelines import Timelines
from dispatcher.service.upkeep import Upkeep
from dispatcher.service.uploads import Uploads
from dispatcher.service.users import Users
from dispatcher.service.workers import Workers


class Service:
    """All parts. The door has checked the token's scope; ownership is checked in them."""

    def __init__(
        self,
        store: Store,
        *,
        secret: bytes,
        mint: Callable[..., str],
        settings: Settings | None = None,
        clock: Callable[[], float] = time.time,
        limiter: Limiter | None = None,
        catalogue: Ask | None = None,
    ) -> None:
        """`mint(subject, scopes, lifetime_s, **claims)` makes tokens; `limiter` has the users'
        accounts; `catalogue` is asked to register outputs, and what inputs are."""
        self.state = state = State(store, settings or Settings(), clock, limiter)
        self.store = store
        self.loops = store.loops
        self.hub = state.hub
        self.seals = Seals(secret)
        self.peers: Peers = Alone(state) if store.alone else Shared(state)
        self.registrar = Registrar(state, self.peers, catalogue)
        self.known_data = KnownData(state, catalogue)
        self.figures = Figures(state, self.registrar)
        self.accounting = Accounting(state)
        self.timelines = Timelines(state, self.peers)
        self.intake = Intake(state, self.peers)
        self.tasks = Tasks(state, self.peers, self.intake, catalogue)
        self.users = Users(
            state, self.peers, self.intake, Reasons(state, self.figures, self.registrar)
        )
        self.actions = Actions(state, self.intake)
        self.submissions = Submissions(state)
        self.delegation = Delegation(state, secret)
        liveness = Liveness(state)
        self.registration = Registration(state, mint)
        self.workers = Workers(state, self.peers, self.seals, liveness)
        self.heartbeats = Heartbeats(state, self.peers, self.seals, liveness)
        self.conclusions = Conclusions(state, self.seals, Nodes(state, self.peers))
        self.items = Items(state, liveness)
        self.uploads = Uploads(state)
        self.downloads = Downloads(state, self.users)
        self.feedback = Feedback(state)
        self.relays = Relays(
            state, self.workers, self.heartbeats, self.items, self.delegation, self.uploads
        )
        self.edges = Edges(state, self.peers, mint)
        self.upkeep = Upkeep(state, self.peers)

    @classmethod
    async def open(cls, store: Store, **arguments: Any) -> Service:
        """A running service on `store`; the arguments are the constructor's."""
        service = cls(store, **arguments)
        await service.upkeep.start()
        service.registrar.start()
        service.tasks.start()
        service.actions.resume()
        service.submissions.start()
        return service

    async def close(self) -> None:
        """Release all waiting requests, write when workers were last seen, close the store."""
        await self.upkeep.close()

    async def tick(self, now: float) -> None:
        """Do all that is due at `now`, which awake time becomes."""
        await self.upkeep.tick(now)

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """The methods that answer routes, by the route's name. Raises TypeError if two parts answer
        one."""
        found: dict[str, Callable[..., Any]] = {}
        of_workers = (
            self.registration,
            self.workers,
            self.heartbeats,
            self.conclusions,
            self.items,
        )
        of_users = (
            self.users,
            self.intake,
            self.actions,
            self.submissions,
            self.delegation,
            self.figures,
            self.accounting,
            self.registrar,
            self.timelines,
            self.tasks,
            self.uploads,
            self.downloads,
            self.feedback,
        )
        parts = (*of_users, *of_workers, self.relays, self.edges)
        for route in ROUTES:
            methods = [getattr(part, route.name) for part in parts if hasattr(part, route.name)]
            if len(methods) > 1:
                raise TypeError(f"two parts of the service answer route {route.name}")
            if methods:
                found[route.name] = methods[0]
        return found
