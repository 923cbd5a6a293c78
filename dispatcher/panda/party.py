"""Who speaks PanDA to us, and for which queues."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from ailurus.protocol.api import Scope
from dispatcher.auth.caller import NOBODY, BadToken, Caller
from dispatcher.auth.tokens import Issuer


class Party(Struct, frozen=True):
    """A caller, and the queues it may serve: None for all, an empty set for none."""

    caller: Caller
    queues: frozenset[str] | None = frozenset()

    @property
    def known(self) -> bool:
        """Whether it has shown a token."""
        return self.caller is not NOBODY

    @property
    def production(self) -> bool:
        """Whether it may run jobs of any queue: PanDA's production and pilot roles."""
        return self.queues is None

    @property
    def admin(self) -> bool:
        return self.caller.may(Scope.ADMIN)

    def serves(self, queue: str) -> bool:
        """Whether it may run jobs of that queue."""
        return self.queues is None or queue in self.queues

    def sees(self, owner: str, queue: str) -> bool:
        """Whether it may know of a job."""
        return self.serves(queue) or (self.known and self.caller.owns(owner))


def party(issuer: Issuer, authorization: bytes | None, opened: Collection[str]) -> Party:
    """Who sent a request. Without a token: nobody, who serves the queues that are open.

    Raises BadToken for a token that is not good: it never counts as none.
    """
    if authorization is None:
        return Party(NOBODY, frozenset(opened))
    word, _, token = authorization.decode("latin-1").partition(" ")
    if word.lower() != "bearer":
        raise BadToken("the request has no bearer token")
    caller = issuer.caller(token.strip())
    production = caller.may(Scope.PILOT) or caller.may(Scope.ADMIN)
    return Party(caller, None if production else frozenset())
