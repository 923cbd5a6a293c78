"""The one HTTP client: pilot, edge, command line and users' Python talk to a dispatcher through it.

AilurusError └── WireError ├── Unreachable     no answer, or only 5xx, within the patience of the
call ├── Refused         an error status: `.status`, the problem's field and remedy, and `.giver`,
by │                   which `authority` knows whether the dispatcher sent it └── Nonsense        an
answer that cannot be read: it is probably not a dispatcher's

Every request may be repeated: those that create something carry an id made by the caller.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import math
import random
import time
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3

from ailurus import __version__
from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME, PREFIX, Route
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.url import Url
from ailurus.wire.credentials import Trust
from ailurus.wire.retry import Patience, pauses
from ailurus.wire.users import Users

A = TypeVar("A", bound=msgspec.Struct)
# Statuses after which a request is repeated.
AGAIN = frozenset({429, 500, 502, 503, 504})
# How much longer than its `wait_s` a long poll may take.
SLACK_S = 30.0
# The giver of an answer that is not a dispatcher's.
STRANGER = "-"


class WireError(AilurusError):
    """Talking to the dispatcher failed."""


class Unreachable(WireError):
    """No answer, or only 5xx, within the patience of the call."""


class Nonsense(WireError):
    """The answer cannot be read: it is another server's, or of another version. `giver`: its
    sender, as the answer names it."""

    def __init__(self, message: str, *, remedy: str = "", giver: str = STRANGER) -> None:
        super().__init__(message, remedy=remedy)
        self.giver = giver


class Refused(WireError):
    """The server at the dispatcher's address answered with an error status."""

    def __init__(self, problem: m.Problem) -> None:
        detail = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
        super().__init__(detail, remedy=problem.remedy, field=problem.field)
        self.status = problem.status
        self.giver = problem.giver


@cache
def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


_encode = msgspec.json.Encoder().encode


class Client(Users):
    """A dispatcher at `url`. Threads may share one; connections are kept."""

    # Each is an option of its own, and named at the call.
    def __init__(  # noqa: PLR0913
        self,
        url: str,
        token: Callable[..., str] | None = None,
        *,
        patience: Patience | None = None,
        connections: int = 4,
        trust: Trust | None = None,
        headers: Mapping[str, str] | None = None,
        stale: Collection[int] = (401,),
        sleep: Callable[[float], object] = time.sleep,
        on_silence: Callable[[str], object] | None = None,
    ) -> None:
        """`headers`: sent with each request; `stale`: statuses after which the token is read again
        and the request repeated once; `on_silence`: called with the reason after each try without
        an answer. Raises AilurusError for a bad address, or one at which others could read the
        token."""
        if not url.startswith(("http://", "https://")):
            raise AilurusError(
                f"{url!r} is not a dispatcher's address", remedy="http://127.0.0.1:8080"
            )
        if token is not None and url.startswith("http://") and not _loopback(url):
            raise AilurusError(
                f"{url} is plain HTTP: anybody on the way could read the token",
                remedy="use https://, with --ca or --pin where its certificate is your own; "
                "from another host, a tunnel to loopback will do",
            )
        self.url = url.rstrip("/")
        self.token = token
        self.patience = patience or Patience()
        self._headers = headers or {}
        self._stale = stale
        self._sleep = sleep
        self._on_silence = on_silence
        self.end = math.inf
        self._chance = random.Random()
        self._pool = (trust or Trust()).pool(connections)

    def as_holder(self, token: Callable[..., str] | None) -> Client:
        """The same connections, with another token."""
        other = copy.copy(self)
        other.token = token
        return other

    def until(self, end: float) -> Client:
        """The same connections, for calls that all end at `end` (of `time.monotonic()`), answered
        or not."""
        other = copy.copy(self)
        other.end = min(self.end, end)
        return other

    # any route -----------------------------------------------------------------------------------

    def call(
        self,
        name: str,
        ask: msgspec.Struct | None = None,
        *,
        answer: type[A],
        wait_s: float = 0.0,
        patience: Patience | None = None,
        **path: object,
    ) -> A:
        """Call the route `name` and return its typed answer.

        `wait_s`: how long the dispatcher was asked to hold the request. Raises Unreachable, Refused
        or Nonsense.
        """
        route = BY_NAME[name]
        if answer is not route.answer:
            raise TypeError(f"{name} answers {route.answer}, not {answer}")
        status, body = self._send(route, ask, path, wait_s, patience or self.patience)
        if status >= 400:
            raise Refused(_problem(status, body))
        try:
            return _decoder(answer).decode(body)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            from ailurus.wire import strangers

            what = f"leads elsewhere (HTTP {status})" if status >= 300 else "answers something else"
            text = strangers.words(body) if body.lstrip()[:1] == b"<" else str(error)
            raise Nonsense(
                f"{self.url} {what} when asked for {name}: «{text}»",
                remedy="is this address an Ailurus dispatcher?",
                giver=_giver(body),
            ) from None

    def contents(self, name: str, ask: msgspec.Struct, **path: object) -> bytes:
        """Call a route that answers with a file, for its bytes. Raises as `call` does."""
        status, body = self._send(BY_NAME[name], ask, path, 60.0, self.patience)
        if status >= 300:
            raise Refused(_problem(status, body))
        return body

    def _send(
        self,
        route: Route,
        ask: msgspec.Struct | None,
        path: dict[str, object],
        wait_s: float,
        patience: Patience,
    ) -> tuple[int, bytes]:
        url = PREFIX + route.path.format(**path)
        body = None
        if route.method == "GET":
            query = {} if ask is None else msgspec.structs.asdict(ask)
            if given := {key: value for key, value in query.items() if value not in (None, "")}:
                url += "?" + urlencode(given)
        else:
            body = b"{}" if ask is None else _encode(ask)
        return self.request(route.method, url, body, wait_s=wait_s, patience=patience)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        kind: str = "application/json",
        wait_s: float = 0.0,
        patience: Patience | None = None,
    ) -> tuple[int, bytes]:
        """Send any request, repeated as `call` does; returns the status, below 500, and the body.

        Raises Unreachable.
        """
        patience = patience or self.patience
        url = self.url + path
        deadline = time.monotonic() + patience.total_s
        fresh = False
        for pause in pauses(patience, self._chance):
            problem = ""
            try:
                status, answer = self._once(method, url, body, kind, wait_s, fresh=fresh)
            except urllib3.exceptions.HTTPError as error:
                problem = _reason(error)
            else:
                if status in self._stale and not fresh and self.token is not None:
                    # The file may hold a renewed one.
                    fresh = True
                    continue
                if status not in AGAIN:
                    return status, answer
                problem = _problem(status, answer).title
            if self._on_silence is not None:
                self._on_silence(problem)
            now = time.monotonic()
            if now + pause > deadline or now >= self.end:
                raise Unreachable(
                    f"no dispatcher answers at {self.url}: {problem}",
                    remedy="is it running, and is --url or AILURUS_URL right?",
                )
            self._sleep(min(pause, self.end - now))
        raise AssertionError("pauses() never ends")

    def _once(
        self, method: str, url: str, body: bytes | None, kind: str, wait_s: float, *, fresh: bool
    ) -> tuple[int, bytes]:
        headers = {
            "User-Agent": f"ailurus/{__version__}",
            "Accept": "application/json",
            **self._headers,
        }
        if body is not None:
            headers["Content-Type"] = kind
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token(fresh=fresh)}"
        left = max(0.1, self.end - time.monotonic())
        timeout = urllib3.Timeout(connect=min(10.0, left), read=min(wait_s + SLACK_S, left))
        answer = self._pool.request(
            method, url, body=body, headers=headers, timeout=timeout, redirect=False,
            preload_content=False,
        )  # fmt: skip
        try:
            return answer.status, _body(answer, time.monotonic() + min(wait_s + SLACK_S, left))
        except BaseException:
            answer.close()
            raise
        finally:
            answer.release_conn()


MOST_BYTES = 256 << 20
LEAST_PER_S = 1024
"""Slower than this nobody answers whom a caller could wait for: a byte now and then would keep
him."""


def _body(answer: urllib3.BaseHTTPResponse, end: float) -> bytes:
    """All of an answer. It may be there by `end`, or come steadily; and it has an end."""
    pieces: list[bytes] = []
    size = 0
    while piece := answer.read1():
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise urllib3.exceptions.HTTPError(f"an answer of more than {MOST_BYTES >> 20} MiB")
        if time.monotonic() > end + size / LEAST_PER_S:
            raise urllib3.exceptions.HTTPError("its answer does not come to an end")
    return b"".join(pieces)


def _loopback(url: str) -> bool:
    host = Url.parse(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).split(": ", 1)[-1] or type(error).__name__


class _Named(msgspec.Struct):
    """The sender of an answer that could not be read."""

    giver: str


def _giver(body: bytes) -> str:
    try:
        return _decoder(_Named).decode(body).giver  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return STRANGER


def _problem(status: int, body: bytes) -> m.Problem:
    try:
        problem: m.Problem = _decoder(m.Problem).decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, json.JSONDecodeError):
        # Seldom needed: not at a pilot's start.
        from ailurus.wire import strangers

        problem = strangers.problem(status, body)
    # A dispatcher says the same in both places.
    if problem.status != status:
        problem = msgspec.structs.replace(problem, status=status, giver=STRANGER)
    return problem
