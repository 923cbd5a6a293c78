"""The client of a PanDA request, and the queues that it may serve."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from ailurus.protocol.api import Scope
from dispatcher.auth.caller import ANONYMOUS, BadToken, Caller
from dispatcher.auth.tokens import Issuer


class Identity(Struct, frozen=True):
    """A caller, and the queues it may serve: None for all, an empty set for none."""

    caller: Caller
    queues: frozenset[str] | None = frozenset()

    @property
    def known(self) -> bool:
        """Whether it has shown a token."""
        return self.caller is not ANONYMOUS

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


def identify(issuer: Issuer, authorization: bytes | None, opened: Collection[str]) -> Identity:
    """The client of a request. One without a token is anonymous and serves the queues in `opened`.

    Raises BadToken for a token that is not good: it never counts as none.
    """
    if authorization is None:
        return Identity(ANONYMOUS, frozenset(opened))
    scheme, _, token = authorization.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer":
        raise BadToken("the request has no bearer token")
    caller = issuer.caller(token.strip())
    production = caller.may(Scope.PILOT) or caller.may(Scope.ADMIN)
    return Identity(caller, None if production else frozenset())
