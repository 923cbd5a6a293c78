"""The pilot's tie to its dispatcher: registration, and the token that comes with it, in memory only."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import msgspec

from ailurus.logs import Log, Seldom
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.wire import authority
from ailurus.wire.client import STRANGER, Client, Nonsense, Refused, Trust, Unreachable
from ailurus.wire.retry import LONGEST_BACKOFF_S, Patience, pauses

A = TypeVar("A", bound=msgspec.Struct)
ONCE = Patience(total_s=0.0)
STRAY = (409, 410)


class Dismissed(AilurusError):
    """The dispatcher does not want this pilot: it is a stray, too late, or not allowed."""

    def __init__(self, error: Refused) -> None:
        super().__init__(error.message, remedy=error.remedy, field=error.field)
        self.stray = error.status in STRAY


class DispatcherClient(Protocol):
    """What a pilot asks of a dispatcher, whatever it speaks."""

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
    """Registers, and gives the clients their token; registers anew when that is refused."""

    def __init__(
        self,
        url: str,
        credential: Callable[..., str] | None,
        who: m.Register,
        trust: Trust | None = None,
        *,
        panda: DispatcherClient | None = None,
    ) -> None:
        """`panda`: through which all is said, where the server is none of ours."""
        self._door: DispatcherClient = panda or _client(url, credential, connections=1, trust=trust)
        self._who, self._foreign = who, panda is not None
        self._token = ""
        self._trouble = Seldom(Log("pilot.upstream.link"))
        self._lock = threading.Lock()
        self.registered = m.Registered(worker_id=0, token="", heartbeat_s=10.0, lease_s=30.0)
        self.client: DispatcherClient = panda or _client(
            url, self._worker_token, patience=ONCE, trust=trust
        )
        self.reports: DispatcherClient = panda or _client(
            url, None, patience=ONCE, connections=2, trust=trust
        )

    def register(self, patience: Patience) -> m.Registered:
        """Raises Dismissed if a dispatcher says no, Unreachable if none says anything: another service
        at its address is none."""
        deadline = time.monotonic() + patience.total_s
        for pause in pauses(patience, random.Random()):
            failure: AilurusError
            try:
                return self._registered(patience)
            except Nonsense as error:
                failure = error
            except Refused as error:
                if self._decided(error):
                    raise Dismissed(error) from None
                failure = _stranger(error)
            if time.monotonic() + pause > deadline:
                raise failure
            self._trouble.warning("dispatcher_silent", str(failure))
            time.sleep(pause)
        raise AssertionError("pauses() never ends")

    def call(self, name: str, ask: msgspec.Struct, *, answer: type[A], wait_s: float = 0.0) -> A:
        """Say something as the worker. Raises Dismissed if the dispatcher that has registered it sends it
        away, Refused if it finds a fault in `ask`, Unreachable whoever else says no."""
        try:
            return self.client.call(name, ask, answer=answer, wait_s=wait_s)
        except Refused as error:
            if authority.at_fault(error, self.registered.giver):
                raise
            raise self._understood(error) from None

    def _decided(self, error: Refused) -> bool:
        """Whether a pilot that has nothing yet is not wanted: it knows no dispatcher's name by which to
        tell, and a PanDA server refuses tokens by an HTTP status."""
        if error.giver == STRANGER:
            return self._foreign and error.status in (401, 403)
        return error.status not in authority.WRONG_DOOR

    def _worker_token(self, *, fresh: bool = False) -> str:
        with self._lock:
            if fresh:
                try:
                    self._registered(ONCE)
                except Refused as error:
                    raise self._understood(error) from None
            return self._token

    def _registered(self, patience: Patience) -> m.Registered:
        answer = self._door.call("register", self._who, answer=m.Registered, patience=patience)
        self.registered, self._token = answer, answer.token
        return answer

    def _understood(self, error: Refused) -> Dismissed | Unreachable:
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
    """Pauses for whoever talks to a dispatcher that does not answer."""
    return pauses(Patience(first_s=0.2, longest_s=LONGEST_BACKOFF_S), _chance)
