"""PanDA's dialects as an ASGI application: finds the dialect, the method and the client, and checks
that the client may call it, before the body is read.

Errors are PanDA's: HTTP 403 with a text for a method or a token that is not good, 500 with a text
for a body that cannot be read; all else is HTTP 200 with a code inside.
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
from dispatcher.door.routing import PANDA_CACHE, PANDA_FILES, PANDA_LEGACY
from dispatcher.panda import bodies, legacy, v1
from dispatcher.panda.bodies import BadBody, Headers, NotGzip
from dispatcher.panda.calls import BROKEN, NO_IDENTITY, NO_ROLE, NOT_YOURS, Call, Calls
from dispatcher.panda.files import Files
from dispatcher.panda.legacy import FREE, OPEN, Legacy
from dispatcher.panda.task_calls import TaskCalls
from dispatcher.ports import Unavailable
from dispatcher.refusal import Rejected
from dispatcher.service import Service
from dispatcher.service.panda import uploads
from dispatcher.service.panda.identity import Identity, identify

DOMA = "http://pandaserver-doma.cern.ch:25080/trf/user"
"""The one base URL from which every Pilot 3 takes a transform. Older ones take it from no other, and
find the script in HARVESTER_WORKDIR instead; they speak through curl."""
# These take no other base URL.
_OLD_PILOT = re.compile(rb"curl/|pilot/3\.\d\.|pilot/3\.10\.")


class PandaSettings(Struct, frozen=True, kw_only=True):
    """The options of `dispatcher serve` for PanDA's clients."""

    # Served without a token.
    open_queues: frozenset[str] = frozenset()
    # The directory that is the sites' file storage.
    storage: str = ""
    # The operator's queue and storage data.
    folder: Path | None = None
    # Base URL of the transform; blank: ours, or DOMA for older pilots.
    transforms: str = ""


class Panda:
    """Answers everything under the prefixes of PanDA in `dispatcher/door/routing.py`."""

    def __init__(self, service: Service, issuer: Issuer, settings: PandaSettings) -> None:
        self._issuer = issuer
        self._open = settings.open_queues
        self._transforms = settings.transforms.rstrip("/")
        self._files = Files(service, settings.storage.rstrip("/"), settings.folder)
        self._calls = Calls(service, issuer, self._files.queue)
        self._tasks = TaskCalls(service)
        self._legacy = Legacy(self._calls)

    async def __call__(self, scope: dict[str, Any], receive: http.Receive, send: http.Send) -> None:
        path: str = scope["path"]
        headers = dict(scope["headers"])
        try:
            if path.startswith(PANDA_FILES):
                await self._file(path, scope["method"], headers, send)
                return
            if path.startswith(PANDA_LEGACY):
                name = path.removeprefix(PANDA_LEGACY)
                status, content, kind = await self._answer_legacy(name, scope, headers, receive)
            else:
                _, _, version, name = path.split("/", 3)
                status, content, kind = await self._answer_v1(
                    version, name, scope, headers, receive
                )
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
        # A file of the operator's: a pilot asks again later.
        except AilurusError as error:
            status, content, kind = 503, f"ERROR : {error}".encode(), bodies.TEXT
        await _send(send, status, content, kind)

    async def _file(self, path: str, method: str, headers: Headers, send: http.Send) -> None:
        content = await self._files.get(path) if method in ("GET", "HEAD") else None
        token = headers.get(b"authorization")
        kept = content is None and path.startswith(PANDA_CACHE)
        if kept and identify(self._issuer, token, self._open).production:
            content = await uploads.get(self._calls.service, path.removeprefix(PANDA_CACHE))
        if content is None:
            await _send(send, 404, b"ERROR : no such file", bodies.TEXT)
        else:
            kind = bodies.TEXT if path.startswith("/trf/user") else bodies.JSON
            await _send(send, 200, content, kind)

    # --- legacy -----------------------------------------------------------------------------------

    async def _answer_legacy(
        self, name: str, scope: dict[str, Any], headers: Headers, receive: http.Receive
    ) -> tuple[int, bytes, str]:
        method = self._legacy.methods.get(name)
        if method is None:
            return _forbidden(name)
        identity = identify(self._issuer, headers.get(b"authorization"), self._open)
        if not (identity.known or name in FREE or (identity.queues and name in OPEN)):
            return 403, b"ERROR : a token is required", bodies.TEXT
        if identity.known and not identity.production and name not in FREE:
            answer = legacy.status(60, NOT_YOURS, as_json=bodies.wants_json(headers))
            return 200, *legacy.encoded(answer, headers)
        call = await self._call(identity, scope, headers, receive)
        legacy.checked(name, call.given)
        if (
            name == "getJob"
            and not identity.known
            and not identity.serves(str(call.given.get("siteName")))
        ):
            return 403, b"ERROR : a token is required for this queue", bodies.TEXT
        with self._metered(identity, scope):
            answer = await _guarded(method, call, {"StatusCode": 30})
        return 200, *legacy.encoded(answer, headers)

    # --- v1 ---------------------------------------------------------------------------------------

    async def _answer_v1(
        self,
        version: str,
        name: str,
        scope: dict[str, Any],
        headers: Headers,
        receive: http.Receive,
    ) -> tuple[int, bytes, str]:
        method = v1.METHODS.get(name)
        # Real servers mean to know `latest`, and forbid it.
        if method is None or version == "latest":
            return _forbidden(name.rpartition("/")[2])
        identity = identify(self._issuer, headers.get(b"authorization"), self._open)
        try:
            _check_role(method, identity)
        except v1.Refused as refused:
            answer = v1.failure(str(refused))
        else:
            call = await self._call(identity, scope, headers, receive)
            with self._metered(identity, scope):
                answer = await self._answer(method, scope["method"], call)
        return 200, bodies.v1(answer, headers), bodies.TEXT

    async def _answer(self, method: v1.Method, verb: str, call: Call) -> dict[str, Any]:
        try:
            given = v1.bound(method, verb, call.given)
        except v1.Refused as refused:
            return v1.failure(str(refused))
        call = msgspec.structs.replace(call, given=given)
        action = getattr(self._tasks if method.scope else self._calls, method.call)
        answer: dict[str, Any] = await _guarded(action, call, v1.failure(BROKEN))
        return answer

    def _account(self, identity: Identity, scope: dict[str, Any]) -> tuple[Limiter, str] | None:
        """The account of a request: the same as at our own door. Requests of pilots and Harvester
        follow from the jobs that there are and have none; an anonymous client has that of its
        address."""
        limiter = self._calls.service.state.limiter
        if limiter is None or identity.production or identity.admin:
            return None
        host = (scope.get("client") or ("",))[0]
        return limiter, identity.caller.subject if identity.known else f"address {host}"

    def _metered(self, identity: Identity, scope: dict[str, Any]) -> AbstractContextManager[None]:
        account = self._account(identity, scope)
        return nullcontext() if account is None else account[0].metered(account[1])

    async def _call(
        self, identity: Identity, scope: dict[str, Any], headers: Headers, receive: http.Receive
    ) -> Call:
        """The call, read only now: the client may make it, and is within its rate."""
        if (account := self._account(identity, scope)) is not None:
            limiter, subject = account
            limiter.ask(subject)
            limiter.spend(subject, costs.of_body(headers.get(b"content-length"), bodies.LONGEST))
        old = scope["path"].startswith("/server/")
        most = bodies.longest(known=identity.known)
        body = bytes(await http.read_bytes(receive, headers, most))
        given = await bodies.read(
            scope["method"],
            headers,
            scope["query_string"],
            body,
            packed=old,
            known=identity.known,
        )
        home = f"{scope['scheme']}://{headers.get(b'host', b'localhost').decode('latin-1')}"
        curl = _OLD_PILOT.match(headers.get(b"user-agent", b""))
        ours = DOMA if curl else f"{home}/trf/user"
        reads_json = bodies.wants_json(headers)
        return Call(identity, given, home, self._transforms or ours, reads_json)


def _check_role(method: v1.Method, identity: Identity) -> None:
    """Raise Refused when the client may not call the method."""
    pilots = method.path.startswith("pilot/")
    if method.free or (not identity.known and identity.queues and pilots):
        return
    if not identity.known:
        raise v1.Refused(NO_IDENTITY)
    if method.scope and not (identity.admin or identity.caller.may(method.scope)):
        raise v1.Refused(f"a token with the scope {method.scope} is required")
    if (method.admin and not identity.admin) or (method.production and not identity.production):
        raise v1.Refused(NO_ROLE)


async def _guarded(
    action: Callable[[Call], Awaitable[Any]], call: Call, broken: dict[str, Any]
) -> Any:
    """The answer of an action; `broken` when the store cannot take it, now or ever."""
    try:
        return await action(call)
    except (Unavailable, OverflowError):
        return broken


def _forbidden(name: str) -> tuple[int, bytes, str]:
    shown = re.sub(r"[^A-Za-z0-9_./-]", "?", name)[:200]
    return 403, f"ERROR : method {shown} is forbidden".encode(), bodies.TEXT


async def _send(send: http.Send, status: int, content: bytes, kind: str) -> None:
    await http.answer(send, status, content, (b"content-type", kind.encode()))
