"""The pilot's connection to its dispatcher: registration, and the token that it gives, in memory
only."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import msgspec

from ailurus.logs import Log, ThrottledLog
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.wire import authority
from ailurus.wire.client import STRANGER, Client, Nonsense, Refused, Unreachable
from ailurus.wire.credentials import Trust
from ailurus.wire.retry import LONGEST_BACKOFF_S, Patience, pauses
from pilot.clock import SYSTEM, Clock

A = TypeVar("A", bound=msgspec.Struct)
ONCE = Patience(total_s=0.0)
STRAY = (409, 410)


class Dismissed(AilurusError):
    """The dispatcher does not want this pilot: it is a stray, too late, or not allowed."""

    def __init__(self, error: Refused, remedy: str = "") -> None:
        """`remedy`: in place of the server's, which speaks to who writes requests."""
        super().__init__(error.message, remedy=remedy or error.remedy, field=error.field)
        self.stray = error.status in STRAY


class DispatcherClient(Protocol):
    """Requests to a dispatcher, in whatever dialect."""

    def call(
        self,
        name: str,
        ask: msgspec.Struct | None = None,
        *,
        answer: type[A],
        wait_s: float = 0.0,
        patience: Patience | None = None,
        **path: object,
    ) -> A: ...


class Link:
    """Registers the pilot, and gives its clients the worker's token; registers again when that is
    refused."""

    def __init__(
        self,
        url: str,
        credential: Callable[..., str] | None,
        registration: m.Register,
        trust: Trust | None = None,
        *,
        panda: DispatcherClient | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        """`panda`: the client for all requests, where the server is a PanDA server."""
        self._registrar: DispatcherClient = panda or _client(
            url, credential, connections=1, trust=trust
        )
        self._registration, self._foreign = registration, panda is not None
        self._tokenless = credential is None
        self._clock = clock
        self._token = ""
        self._trouble = ThrottledLog(Log("pilot.upstream.link"))
        self._lock = threading.Lock()
        self.registered = m.Registered(worker_id=0, token="", heartbeat_s=10.0, lease_s=30.0)
        self.client: DispatcherClient = panda or _client(
            url, self._worker_token, patience=ONCE, trust=trust
        )
        self.reports: DispatcherClient = panda or _client(
            url, None, patience=ONCE, connections=2, trust=trust
        )

    def register(self, patience: Patience) -> m.Registered:
        """Register the pilot. Raises Dismissed if a dispatcher refuses it, Unreachable if none
        answers within `patience`: another service at its address is none."""
        deadline = self._clock.monotonic() + patience.total_s
        for pause in pauses(patience, random.Random()):
            failure: AilurusError
            try:
                return self._registered(patience)
            except Nonsense as error:
                failure = error
            except Refused as error:
                if self._final(error):
                    asks = error.status == 401 and not self._foreign
                    raise Dismissed(error, self._remedy() if asks else "") from None
                failure = _stranger(error)
            if self._clock.monotonic() + pause > deadline:
                raise failure
            self._trouble.warning("dispatcher_silent", str(failure))
            self._clock.sleep(pause)
        raise AssertionError("pauses() never ends")

    def call(
        self, name: str, request: msgspec.Struct, *, answer: type[A], wait_s: float = 0.0
    ) -> A:
        """Send a request as the worker. Raises Dismissed if the dispatcher that has registered it
        dismisses it, Refused if that finds a fault in the request, Unreachable if any other server
        refuses it."""
        try:
            return self.client.call(name, request, answer=answer, wait_s=wait_s)
        except Refused as error:
            if authority.at_fault(error, self.registered.giver):
                raise
            raise self._meaning(error) from None

    def _final(self, error: Refused) -> bool:
        """Whether a refused registration is final. The pilot knows no dispatcher's name yet, so the
        HTTP status decides; a PanDA server refuses tokens by one."""
        if error.giver == STRANGER:
            return self._foreign and error.status in (401, 403)
        return error.status not in authority.WRONG_DOOR

    def _remedy(self) -> str:
        """What helps a pilot whose token is refused."""
        if self._tokenless:
            return "give --token-file FILE, or set AILURUS_TOKEN_FILE"
        return "is it a token of this dispatcher, and still good? `dispatcher token` makes one"

    def _worker_token(self, *, fresh: bool = False) -> str:
        with self._lock:
            if fresh:
                try:
                    self._registered(ONCE)
                except Refused as error:
                    raise self._meaning(error) from None
            return self._token

    def _registered(self, patience: Patience) -> m.Registered:
        answer = self._registrar.call(
            "register", self._registration, answer=m.Registered, patience=patience
        )
        self.registered, self._token = answer, answer.token
        return answer

    def _meaning(self, error: Refused) -> Dismissed | Unreachable:
        if authority.dismisses(error, self.registered.giver):
            return Dismissed(error)
        return _stranger(error)


def _stranger(error: Refused) -> Unreachable:
    return Unreachable(
        f"{authority.UNKNOWN}: {error.message}",
        remedy="is a proxy or another service at its address?",
    )


def _client(
    url: str,
    token: Callable[..., str] | None,
    *,
    patience: Patience | None = None,
    connections: int = 4,
    trust: Trust | None = None,
) -> Client:
    if url.startswith("spool://"):
        from ailurus.wire.spool import SpoolClient

        return SpoolClient(url, token, patience=patience)
    return Client(url, token, patience=patience, connections=connections, trust=trust)


_chance = random.Random()


def backoff() -> Iterator[float]:
    """Pauses between requests to a dispatcher that does not answer."""
    return pauses(Patience(first_s=0.2, longest_s=LONGEST_BACKOFF_S), _chance)
