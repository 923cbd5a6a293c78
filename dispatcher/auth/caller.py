"""The caller of a request, as a verified token names it."""

from __future__ import annotations

from msgspec import Struct

from ailurus.protocol.api import Scope
from dispatcher.refusal import Rejected

# Names in the lineage of a token.
MOST_ANCESTORS = 32


class Caller(Struct, frozen=True, kw_only=True):
    """The content of a verified token. The rules read this, never the token."""

    subject: str
    # Without arguments: an edge's is Scope.EDGE, and its site is below.
    scopes: frozenset[str] = frozenset()
    expires: float = 0.0
    token_id: str = ""
    # Of an edge, a bootstrap or a worker token.
    site: str = ""
    # Of a worker token.
    worker_id: int = 0
    # Of a bootstrap token: which planned worker this is.
    intent: str = ""
    index: int = 0
    epoch: int = 0
    # Of a bootstrap token.
    queue: str = ""
    # That the token names, the first one first.
    groups: tuple[str, ...] = ()
    # When the token was made, seconds since 1970.
    made: float = 0.0
    # The tokens and subjects that it came of, the first one first.
    of: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """By what the token can be revoked, and by what those can be that it came of."""
        own = (("id", self.token_id), ("sub", self.subject))
        return (*self.of, *(f"{kind}:{name}" for kind, name in own if name))

    @property
    def lineage(self) -> tuple[str, ...]:
        """What a token that this one's holder makes has in its `of`; of a long lineage the first
        and the latest names."""
        names = tuple(dict.fromkeys(self.names))
        if len(names) <= MOST_ANCESTORS:
            return names
        return (*names[:2], *names[2 - MOST_ANCESTORS :])

    def may(self, scope: Scope) -> bool:
        """Whether the token carries `scope`."""
        return scope in self.scopes

    def owns(self, user: str) -> bool:
        """Whether the caller may see and change that user's jobs."""
        return self.subject == user or Scope.ADMIN in self.scopes


ANONYMOUS = Caller(subject="")


class BadToken(Rejected):
    """A token that is none, is not ours, or is not good now. All such look the same from
    outside."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            401,
            "no valid token",
            detail=detail,
            remedy="send `Authorization: Bearer TOKEN` with a token of this dispatcher",
        )
