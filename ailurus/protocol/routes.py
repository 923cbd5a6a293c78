"""What an endpoint of the native API is. The table of them is in `api.py`."""

from __future__ import annotations

from msgspec import Struct

from ailurus.protocol.scopes import Scope

G, P = "GET", "POST"


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """A route without query parameters."""


class Route(Struct, frozen=True):
    """One endpoint. `name` is the handler's and the client method's; `scope` None: no token."""

    name: str
    method: str
    path: str
    scope: Scope | None
    # The body of a POST, the query of a GET.
    ask: type[Struct]
    # None: a stream of events; `Contents`: the bytes of a file.
    answer: type[Struct] | None
    summary: str
