"""PanDA's dialects as an ASGI application: finds the dialect, the method and the caller, and whether that
one may ask it, before it reads what is asked.

Errors are PanDA's: HTTP 403 with a text for a method or a token that is not good, 500 with a text for a
body that cannot be read; all else is HTTP 200 with a code inside.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from dispatcher.accounts import costs
from dispatcher.accounts.rates import Limiter, TooMuch
from dispatcher.auth.caller import BadToken
from dispatcher.auth.tokens import Issuer
from dispatcher.door import http
from dispatcher.panda import bodies, legacy, uploads, v1
from dispatcher.panda.bodies import BadBody, Headers, NotGzip
from dispatcher.panda.calls import BROKEN, NO_IDENTITY, NO_ROLE, NOT_YOURS, Call, Calls
from dispatcher.panda.files import Files
from dispatcher.panda.legacy import FREE, OPEN, Legacy
from dispatcher.panda.party import Party, party
from dispatcher.ports import Unavailable
from dispatcher.refusal import Rejected
from dispatcher.service import Service

DOMA = "http://pandaserver-doma.cern.ch:25080/trf/user"
"""The one base URL from which every Pilot 3 takes a transform. Older ones take it from no other, and
find the script in HARVESTER_WORKDIR instead; they speak through curl."""
_OLD_PILOT = re.compile(rb"curl/|pilot/3\.\d\.|pilot/3\.10\.")  # cannot be told other base URLs


class PandaSettings(Struct, frozen=True, kw_only=True):
    """What `dispatcher serve` was told of PanDA's clients."""

    open_queues: frozenset[str] = frozenset()  # served without a token
    storage: str = ""  # the directory that is the sites' file storage
    folder: Path | None = None  # the operator's queue and storage descriptions
    transforms: str = ""  # base URL of the transform; blank: ours, or DOMA for older pilots


class Panda:
    """Answers everything under `dispatcher.door.app.PANDA`."""

    def __init__(self, service: Service, issuer: Issuer, settings: PandaSettings) -> None:
        self._issuer = issuer
        self._open = settings.open_queues
        self._transforms = settings.transforms.rstrip("/")
        self._files = Files(service, settings.storage.rstrip("/"), settings.folder)
        self._calls = Calls(service, issuer, self._files.queue)
        self._legacy = Legacy(self._calls)

    async def __call__(self, scope: dict[str, Any], receive: http.Receive, send: http.Send) -> None:
        path: str = scope["path"]
        headers = dict(scope["headers"])
        try:
            if path.startswith(("/cache/", "/trf/")):
                await self._file(path, scope["method"], headers, send)
                return
            if path.startswith("/server/panda/"):
                name = path.removeprefix("/server/panda/")
                status, content, kind = await self._old(name, scope, headers, receive)
            else:
                _, _, version, name = path.split("/", 3)
                status, content, kind = await self._new(version, name, scope, headers, receive)
        except NotGzip as error:
            status, content, kind = 500, str(error).encode(), bodies.HTML
        except TooMuch:
            raise
        except BadBody as error:
            status, content, kind = 500, str(error).encode("utf-8", "replace"), bodies.TEXT
        except BadToken as error:
            status, content, kind = (
                403,
                f"ERROR : token refused : {error.detail}".encode(),
                bodies.TEXT,
            )
        except Rejected as error:
            status, content, kind = error.status, f"ERROR : {error}".encode(), bodies.TEXT
        except AilurusError as error:  # a description of the operator's: a pilot asks again later
            status, content, kind = 503, f"ERROR : {error}".encode(), bodies.TEXT
        await _send(send, status, content, kind)

    async def _file(self, path: str, method: str, headers: Headers, send: http.Send) -> None:
        content = await self._files.get(path) if method in ("GET", "HEAD") else None
        token = headers.get(b"authorization")
        kept = content is None and path.startswith("/cache/")
        if kept and party(self._issuer, token, self._open).production:
            content = await uploads.get(self._calls.service, path.removeprefix("/cache/"))
        if content is None:
            await _send(send, 404, b"ERROR : no such file", bodies.TEXT)
        else:
            kind = bodies.TEXT if path.startswith("/trf/user") else bodies.JSON
            await _send(send, 200, content, kind)

    # --- legacy --------------------------------------------------------------------------------------

    async def _old(
        self, name: str, scope: dict[str, Any], headers: Headers, receive: http.Receive
    ) -> tuple[int, bytes, str]:
        method = self._legacy.methods.get(name)
        if method is None:
            return _forbidden(name)
        who = party(self._issuer, headers.get(b"authorization"), self._open)
        if not (who.known or name in FREE or (who.queues and name in OPEN)):
            return 403, b"ERROR : a token is required", bodies.TEXT
        if who.known and not who.production and name not in FREE:
            told = legacy.said(60, NOT_YOURS, as_json=bodies.wants_json(headers))
            return 200, *legacy.encoded(told, headers)
        call = await self._call(who, scope, headers, receive)
        legacy.checked(name, call.given)
        if name == "getJob" and not who.known and not who.serves(str(call.given.get("siteName"))):
            return 403, b"ERROR : a token is required for this queue", bodies.TEXT
        with self._metered(who, scope):
            answer = await _guarded(method, call, {"StatusCode": 30})
        return 200, *legacy.encoded(answer, headers)

    # --- v1 ------------------------------------------------------------------------------------------

    async def _new(
        self,
        version: str,
        name: str,
        scope: dict[str, Any],
        headers: Headers,
        receive: http.Receive,
    ) -> tuple[int, bytes, str]:
        method = v1.METHODS.get(name)
        if method is None or version == "latest":  # real servers mean to know it, and forbid it
            return _forbidden(name.rpartition("/")[2])
        who = party(self._issuer, headers.get(b"authorization"), self._open)
        try:
            _check_role(method, who)  # before anything is read: nobody's bodies cost nothing
        except v1.Refused as refused:
            answer = v1.failure(str(refused))
        else:
            call = await self._call(who, scope, headers, receive)
            with self._metered(who, scope):
                answer = await self._answer(method, scope["method"], call)
        return 200, bodies.v1(answer, headers), bodies.TEXT

    async def _answer(self, method: v1.Method, verb: str, call: Call) -> dict[str, Any]:
        try:
            given = v1.bound(method, verb, call.given)
        except v1.Refused as refused:
            return v1.failure(str(refused))
        call = msgspec.structs.replace(call, given=given)
        action = getattr(self._calls, method.call)
        answer: dict[str, Any] = await _guarded(action, call, v1.failure(BROKEN))
        return answer

    def _account(self, who: Party, scope: dict[str, Any]) -> tuple[Limiter, str] | None:
        """The account that a question goes to: the same as at our own door. What pilots and Harvester ask
        follows from the jobs that there are; who shows no token has that of the address."""
        limiter = self._calls.service.limiter
        if limiter is None or who.production or who.admin:
            return None
        host = (scope.get("client") or ("",))[0]
        return limiter, who.caller.subject if who.known else f"address {host}"

    def _metered(self, who: Party, scope: dict[str, Any]) -> AbstractContextManager[None]:
        account = self._account(who, scope)
        return nullcontext() if account is None else account[0].metered(account[1])

    async def _call(
        self, who: Party, scope: dict[str, Any], headers: Headers, receive: http.Receive
    ) -> Call:
        """What is asked, read only now: the caller may ask it, and has not asked for too much."""
        if (account := self._account(who, scope)) is not None:
            limiter, subject = account
            limiter.ask(subject)
            limiter.spend(subject, costs.of_body(headers.get(b"content-length"), bodies.LONGEST))
        old = scope["path"].startswith("/server/")
        most = bodies.longest(known=who.known)
        body = bytes(await http.read_bytes(receive, headers, most))
        given = await bodies.read(
            scope["method"],
            headers,
            scope["query_string"],
            body,
            packed=old,
            known=who.known,
        )
        home = f"{scope['scheme']}://{headers.get(b'host', b'localhost').decode('latin-1')}"
        curl = _OLD_PILOT.match(headers.get(b"user-agent", b""))
        ours = DOMA if curl else f"{home}/trf/user"
        reads_json = bodies.wants_json(headers)
        return Call(who, given, home, self._transforms or ours, reads_json)


def _check_role(method: v1.Method, who: Party) -> None:
    """Who may call what. Raises Refused."""
    pilots = method.path.startswith("pilot/")
    if method.free or (not who.known and who.queues and pilots):
        return
    if not who.known:
        raise v1.Refused(NO_IDENTITY)
    if (method.admin and not who.admin) or (method.production and not who.production):
        raise v1.Refused(NO_ROLE)


async def _guarded(
    action: Callable[[Call], Awaitable[Any]], call: Call, broken: dict[str, Any]
) -> Any:
    """The answer of an action; what a store cannot take now or ever is an answer too."""
    try:
        return await action(call)
    except (Unavailable, OverflowError):
        return broken


def _forbidden(name: str) -> tuple[int, bytes, str]:
    shown = re.sub(r"[^A-Za-z0-9_./-]", "?", name)[:200]
    return 403, f"ERROR : method {shown} is forbidden".encode(), bodies.TEXT


async def _send(send: http.Send, status: int, content: bytes, kind: str) -> None:
    await http.answer(send, status, content, (b"content-type", kind.encode()))
