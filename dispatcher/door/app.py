"""The dispatcher's door: an ASGI application over the table of routes.

A request finds its route, shows its token, is decoded, meets one method of the service, and its
answer is encoded. Nothing here knows a rule of the queue. Whatever a client sends, it is answered
with a status below 500 and a problem that names the field; a bug of ours is a 500 with an id, and
the trace is in the log under that id.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any

import msgspec

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.api import PREFIX, Route, Scope, SignIn, StreamQuery
from dispatcher.accounts import costs
from dispatcher.accounts.rates import Limiter, TooMuch
from dispatcher.auth.caller import ANONYMOUS, BadToken, Caller
from dispatcher.auth.oidc import UnknownKey
from dispatcher.auth.tokens import USER, Issuer, authorise
from dispatcher.door import contents, http, session
from dispatcher.door.http import Receive, Send
from dispatcher.door.openapi import description
from dispatcher.door.routing import (
    PANDA_FILES,
    PANDA_METHODS,
    Endpoint,
    Handler,
    Router,
    WrongMethod,
)
from dispatcher.door.settings import DoorSettings, Page
from dispatcher.freeing import free_in_parts
from dispatcher.ports import Unavailable
from dispatcher.refusal import Rejected

log = Log("http")


class App:
    """The application: `handlers` has one for each route, by its name."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        issuer: Issuer,
        settings: DoorSettings | None = None,
    ) -> None:
        settings = settings or DoorSettings()
        self._issuer = issuer
        self._giver = settings.giver
        self._revocations = settings.revocations
        self._console = settings.console
        self._stream = settings.stream
        self._panda = settings.panda
        self._ready = settings.ready
        self._metrics = settings.metrics
        self._public = public = settings.public
        names = settings.host_names
        self._hosts = session.AnsweredHosts([*names, public.host] if public.host else names)
        self.limiter = settings.limiter
        self.traffic = settings.traffic
        self.waiting = settings.waiting
        issuer.on_revocation(self._let_go)
        self._closing = False
        own: dict[str, Handler] = {"token": self._token, "revoke": self._revoke}
        self._router = Router({**handlers, **own})
        self._openapi = msgspec.json.encode(description())

    def close(self) -> None:
        """Take nothing new and end what only waits: clients ask again, elsewhere or later."""
        self._closing = True
        for task in self.waiting.tasks:
            task.cancel()

    def _let_go(self) -> None:
        """End what waits, streams included, for holders of tokens that have been revoked."""
        for task, caller in self.waiting.tasks.items():
            if self._issuer.revoked(caller):
                task.cancel()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request. The only place that catches everything."""
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        error: Rejected | None = None
        extra: tuple[tuple[bytes, bytes], ...] = ()
        try:
            if len(headers) < len(scope["headers"]):
                http.check_twice(scope["headers"])
            self._hosts.check(headers.get(b"host", b""))
            await self._answer(scope, headers, receive, send)
        except WrongMethod as wrong:
            error, extra = wrong, ((b"allow", wrong.allow.encode()),)
        except TooMuch as much:
            error, extra = much, ((b"retry-after", b"%d" % math.ceil(much.wait_s)),)
        except Rejected as rejected:
            error = rejected
        except Unavailable as unavailable:
            error = Rejected(503, "the store cannot write now", detail=str(unavailable))
        except OverflowError:
            error = Rejected(422, "a number is too large")
        except asyncio.CancelledError:
            if not self._closing:
                raise
            error = Rejected(503, "the dispatcher is stopping", remedy="ask again")
        except Exception as broken:  # noqa: BLE001 -- the last line before the client
            name = scope["request_id"] = self.traffic.name(headers)
            if isinstance(broken, MemoryError) or "start new thread" in str(broken):
                error = Rejected(503, "the dispatcher has no memory or no thread left now")
            else:
                error = Rejected(
                    500, "a bug of the dispatcher", detail=f"its trace is logged as {name}"
                )
            log.error("request_broke", trace=True, route=scope.get("route", ""), id=name)  # noqa: TRY400
        if error is None:
            status = scope.get("status", 200)
        else:
            status = error.status
            name = scope.setdefault("request_id", self.traffic.name(headers))
            named = (b"x-request-id", name.encode())
            await http.answer_problem(send, error, named, *extra, giver=self._giver)
        self.traffic.note(scope, headers, status, time.perf_counter() - began)

    async def _answer(
        self, scope: dict[str, Any], headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        path: str = scope["path"]
        if not path.startswith(PREFIX + "/"):
            await self._outside(path, scope, receive, send)
            return
        endpoint, job_id = self._router.find(path[len(PREFIX) :], scope["method"])
        if endpoint is None:
            await self._document(scope["method"], send)
            return
        route = endpoint.route
        scope["route"] = route.name
        caller = await self._caller(route, scope, headers)
        limiter = self.limiter
        if route.scope not in USER or Scope.ADMIN in caller.scopes:
            limiter = None
        if limiter is not None:
            limiter.ask(caller.subject)
        ask = await _decoded(endpoint, scope, headers, receive, limiter)
        if route.name in ("sign_in", "sign_out"):
            await self._session(ask, headers, scope["scheme"], send)
        elif route.answer is m.Contents:
            metered = nullcontext() if limiter is None else limiter.metered(caller.subject)
            with _held_by(limiter, caller), metered:
                handed = await endpoint.handler(ask, caller, job_id=job_id)  # type: ignore[misc]
                sent = contents.Sent(handed)
                try:
                    await self._until_gone(sent.to(send), caller, receive)
                finally:
                    if limiter is not None:
                        limiter.spend(caller.subject, costs.of_answer(sent.bytes))
        elif route.answer is None:
            metered = nullcontext() if limiter is None else limiter.metered(caller.subject)
            with _held_by(limiter, caller), metered:
                await self._streamed(ask, caller, receive, send)
        else:
            if route.scope in (Scope.EDGE, Scope.RELAY) and ask.site != caller.site:
                raise Rejected(
                    403,
                    f"the token is for site {caller.site!r}",
                    field="site",
                    remedy=f"`dispatcher token … --site {ask.site}` makes one of this site",
                )
            content = await self._called(endpoint, ask, caller, job_id, limiter, receive)
            await http.answer(send, 200, content, http.JSON)
            if route.name == "submit":
                jobs = list(ask.jobs)
                del ask
                await free_in_parts(jobs)

    async def _caller(
        self, route: Route, scope: dict[str, Any], headers: dict[bytes, bytes]
    ) -> Caller:
        """The caller of a route. Raises BadToken, or Rejected if the token is not for it."""
        token = None
        if route.scope is not None:
            token = session.token_of(
                self._issuer,
                headers,
                method=scope["method"],
                scheme=scope["scheme"],
                public=self._public,
            )
        try:
            caller = ANONYMOUS if token is None else self._issuer.caller(token)
        except UnknownKey as unknown:
            await unknown.refresh()
            caller = self._issuer.caller(token or "")
        scope["caller"] = caller.subject
        authorise(route, caller)
        return caller

    async def _called(
        self,
        endpoint: Endpoint,
        ask: Any,
        caller: Caller,
        job_id: int | None,
        limiter: Limiter | None,
        receive: Receive,
    ) -> bytes:
        """The answer of a route's handler, encoded."""
        # More than a database can count.
        if job_id is not None and job_id >= 2**63:
            remedy = "see `dispatcher jobs`"
            raise Rejected(404, f"there is no job {job_id}", field="job_id", remedy=remedy)
        given = {} if job_id is None else {"job_id": job_id}
        with nullcontext() if limiter is None else limiter.metered(caller.subject):
            if endpoint.waits and getattr(ask, endpoint.waits) > 0:
                with _held_by(limiter, caller, len(getattr(ask, "job_ids", ()))):
                    result = await self._held(endpoint, ask, caller, given, receive)
            else:
                result = await endpoint.handler(ask, caller, **given)  # type: ignore[misc]
        content = endpoint.encode(result)
        if limiter is not None:
            limiter.spend(caller.subject, costs.of_answer(len(content)))
        return content

    async def _held(
        self,
        endpoint: Endpoint,
        ask: Any,
        caller: Caller,
        given: dict[str, int],
        receive: Receive,
    ) -> Any:
        """A call that may wait for something to happen. It is ended when its client is gone, for a
        job must not be handed to nobody; when the dispatcher stops, it is answered as things
        are."""

        def call(ask: Any) -> Awaitable[Any]:
            return endpoint.handler(ask, caller, **given)  # type: ignore[misc]

        held = asyncio.ensure_future(call(ask))
        if self._closing:
            held.cancel()
        gone = asyncio.create_task(_disconnected(receive))
        self.waiting.tasks[held] = caller
        try:
            await asyncio.wait({held, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not held.done():
                held.cancel()
                await asyncio.wait({held})
            if self._issuer.revoked(caller):
                raise BadToken("the token was revoked")
            if held.cancelled() and not self._closing:
                raise Rejected(503, "the client is gone")
            if held.cancelled():
                return await call(msgspec.structs.replace(ask, **{endpoint.waits: 0.0}))
            return await held
        finally:
            del self.waiting.tasks[held]
            gone.cancel()

    async def _outside(
        self, path: str, scope: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        if path == "/healthz":
            scope["route"] = "healthz"
            await http.answer_json(send, m.Done())
        elif path == "/readyz":
            scope["route"] = "readyz"
            if self._closing:
                raise Rejected(503, "the dispatcher is stopping")
            if self._ready is not None:
                await self._ready()
            await http.answer_json(send, m.Done())
        elif path == "/metrics" and self._metrics is not None:
            scope["route"] = "metrics"
            await self._show_metrics(self._metrics, scope, send)
        elif self._panda is not None and path.startswith((*PANDA_METHODS, *PANDA_FILES)):
            scope["route"] = "panda"
            if self._issuer.foreign is not None:
                _, _, token = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
                await self._learn(token.decode("latin-1").strip())
            await self._panda(scope, receive, self._noting(scope, send))
            if scope.get("status") == 200 and path.startswith(PANDA_METHODS):
                # Only what exists is answered so: names are bounded.
                scope["route"] = path[1:]
        elif self._console is not None and (path == "/" or path.startswith("/console")):
            scope["route"] = "console"
            await self._console(scope, receive, self._noting(scope, send))
        else:
            raise Rejected(404, "no such page", remedy=f"see {PREFIX}/openapi.json")

    def _noting(self, scope: dict[str, Any], send: Send) -> Send:
        """`send`, with the status it sends kept in the scope; a refusal gets its name."""

        async def noted(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status = scope["status"] = message["status"]
                if status >= 400:
                    name = scope["request_id"] = self.traffic.name(dict(scope["headers"]))
                    named = (b"x-request-id", name.encode())
                    message = {**message, "headers": [*message["headers"], named]}
            await send(message)

        return noted

    async def _learn(self, token: str) -> None:
        """Fetch the key of a foreign token that is new, so that its caller can be found
        afterwards."""
        try:
            self._issuer.caller(token)
        except UnknownKey as unknown:
            await unknown.refresh()
        except Rejected:
            # It will say so itself, in its own words.
            pass

    async def _show_metrics(self, page: Page, scope: dict[str, Any], send: Send) -> None:
        headers = dict(scope["headers"])
        token = session.token_of(
            self._issuer,
            headers,
            method=scope["method"],
            scheme=scope["scheme"],
            public=self._public,
        )
        if token is None:
            raise BadToken("the request has no token")
        caller = self._issuer.caller(token)
        scope["caller"] = caller.subject
        if not caller.scopes & {Scope.METRICS, Scope.ADMIN}:
            raise Rejected(403, f"the token lacks scope {Scope.METRICS}")
        content, kind = await page(headers.get(b"accept", b"").decode("latin-1"))
        await http.answer(send, 200, content, (b"content-type", kind.encode()))

    async def _document(self, method: str, send: Send) -> None:
        if method != "GET":
            raise WrongMethod("GET")
        await http.answer(send, 200, self._openapi, http.JSON)

    async def _session(
        self, ask: m.StrictRequest, headers: dict[bytes, bytes], scheme: str, send: Send
    ) -> None:
        session.same_origin(headers, method="POST", scheme=scheme, public=self._public)
        asked = self._public.is_asked(headers) and self._public.url.startswith("https:")
        # What is in front of us may have ended TLS.
        secure = asked or scheme == "https"
        if isinstance(ask, SignIn):
            await self._learn(ask.token)
            cookie = session.begin(self._issuer, ask.token, secure=secure)
        else:
            token = session.kept(self._issuer, headers)
            if token and self._revocations is not None:
                await self._revocations.end(token)
            cookie = session.end(self._issuer, secure=secure)
        await http.answer_json(send, m.Done(), (b"set-cookie", cookie))

    async def _token(self, ask: m.NewToken, caller: Caller) -> m.Token:
        token = self._issuer.issue(ask.subject, ask.scopes, ask.lifetime_s, ask.groups, by=caller)
        log.info("token_made", by=caller.subject, subject=ask.subject, scopes=ask.scopes)
        return token

    async def _revoke(self, ask: m.Revoke, caller: Caller) -> m.Done:
        if self._revocations is None:
            raise Rejected(404, "this dispatcher keeps no revocations")
        return await self._revocations.revoke(ask, caller)

    async def _streamed(
        self, ask: StreamQuery, caller: Caller, receive: Receive, send: Send
    ) -> None:
        if self._stream is None:
            raise Rejected(404, "this dispatcher has no live stream")
        events = self._stream(ask, caller)
        # A refusal comes before the headers.
        first = await anext(events, b"")
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        await self._until_gone(_send_all(events, send), caller, receive)
        await send({"type": "http.response.body", "body": b""})

    async def _until_gone(
        self, sending: Coroutine[Any, Any, None], caller: Caller, receive: Receive
    ) -> None:
        """Send until the client is gone, the caller's token is revoked or we stop."""
        sender = asyncio.create_task(sending)
        gone = asyncio.create_task(_disconnected(receive))
        self.waiting.tasks[sender] = caller
        try:
            await asyncio.wait({sender, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self.waiting.tasks[sender]
            sender.cancel()
            gone.cancel()
            results = await asyncio.gather(sender, gone, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                log.error("stream_broke", error=repr(result))


async def _decoded(
    endpoint: Endpoint,
    scope: dict[str, Any],
    headers: dict[bytes, bytes],
    receive: Receive,
    limiter: Limiter | None,
) -> Any:
    """The message of a request, charged to its caller. Raises Rejected for what is none."""
    route = endpoint.route
    if route.method == "GET":
        return endpoint.decode(scope["query_string"])
    owed = 0.0
    # First: many may be sending at once.
    if limiter is not None:
        owed = costs.of_body(headers.get(b"content-length"), endpoint.limit)
        limiter.spend(scope["caller"], owed)
    body = await http.read_body(receive, headers, endpoint.limit)
    if route.name == "submit" and len(body) > http.BIG:
        ask = await http.decode_submission(body)
    else:
        ask = endpoint.decode(body or b"{}")
    if limiter is not None:
        owed = costs.BYTE_S * len(body) - owed + costs.of_message(route.name, ask)
        limiter.spend(scope["caller"], owed)
    return ask


def _held_by(
    limiter: Limiter | None, caller: Caller, watched: int = 0
) -> AbstractContextManager[None]:
    return nullcontext() if limiter is None else limiter.holding(caller.subject, watched)


async def _send_all(events: AsyncGenerator[bytes, None], send: Send) -> None:
    async with aclosing(events):
        async for piece in events:
            await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
