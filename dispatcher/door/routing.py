"""Which endpoint a path and a method mean: two look-ups, for `{job_id}` is the only parameter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol.api import PREFIX, ROUTES, Route
from dispatcher.door import http
from dispatcher.refusal import Rejected

# Where PanDA's clients find their methods and files.
PANDA_LEGACY = "/server/panda/"
PANDA_METHODS = (PANDA_LEGACY, "/api/v1/", "/api/latest/")
PANDA_CACHE = "/cache/"
PANDA_FILES = (PANDA_CACHE, "/trf/")
Handler = Callable[..., Awaitable[Any]]


class Endpoint(Struct, frozen=True, kw_only=True):
    """A route, ready to be called."""

    route: Route
    # None: a stream of events.
    handler: Handler | None
    # The body of a POST, the query of a GET.
    decode: Callable[[Any], Any]
    # Bytes of a body.
    limit: int
    # The field for how long the request may wait; blank if there is none.
    waits: str
    encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


class WrongMethod(Rejected):
    """The path is known, with other methods."""

    def __init__(self, allow: str) -> None:
        super().__init__(405, "this page has another method", remedy=f"use {allow}")
        self.allow = allow


class Router:
    """The table of routes with their handlers, which are given by the routes' names."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        """Raises ValueError for a path that the table cannot hold."""
        self._plain: dict[str, dict[str, Endpoint]] = {}
        # /jobs/{job_id}TAIL, by TAIL.
        self._by_id: dict[str, dict[str, Endpoint]] = {}
        for route in ROUTES:
            handler = handlers.get(route.name)
            head, brace, tail = route.path.partition("{job_id}")
            if brace and head != "/jobs/":
                raise ValueError(f"no way to route {route.path}")
            table = self._by_id if brace else self._plain
            table.setdefault(tail if brace else head, {})[route.method] = _endpoint(route, handler)

    def find(self, path: str, method: str) -> tuple[Endpoint | None, int | None]:
        """The endpoint and its job id. None: the description of the API. Raises Rejected if there
        is no such path, and WrongMethod if it has other methods."""
        job_id = None
        methods = self._plain.get(path)
        if methods is None and path.startswith("/jobs/"):
            number, slash, tail = path[6:].partition("/")
            if number.isascii() and number.isdigit() and len(number) <= 19:
                job_id = int(number)
                methods = self._by_id.get(slash + tail)
        if methods is None and path == "/openapi.json":
            return None, None
        if methods is None:
            raise Rejected(404, "no such page", remedy=f"see {PREFIX}/openapi.json")
        endpoint = methods.get(method)
        if endpoint is None:
            raise WrongMethod(", ".join(sorted(methods)))
        return endpoint, job_id


def _endpoint(route: Route, handler: Handler | None) -> Endpoint:
    ask = route.ask
    if handler is None and route.name not in ("sign_in", "sign_out", "stream"):
        raise TypeError(f"route {route.name} has no handler")
    names = {field.name for field in msgspec.structs.fields(ask)}
    decoder = msgspec.json.Decoder(ask)
    return Endpoint(
        route=route,
        handler=handler,
        decode=(lambda query: http.decode_query(ask, query))
        if route.method == "GET"
        else (lambda body: http.decode(decoder.decode, body)),
        limit=http.BODIES.get(route.name, http.LONGEST_BODY),
        waits=next(iter(names & {"wait_s", "timeout_s"}), ""),
    )
