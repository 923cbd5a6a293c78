"""The door in this process: requests go straight to the application, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import PREFIX, ROUTES
from dispatcher.auth import keys
from dispatcher.auth.revocation import Revocations
from dispatcher.auth.tokens import Issuer
from dispatcher.door.app import App
from dispatcher.door.settings import DoorSettings
from dispatcher.ports import Handed
from dispatcher.service import Service
from dispatcher.store import open_store


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def _nothing() -> AsyncGenerator[bytes]:
    for piece in ():
        yield piece


class Echo:
    """A service that answers every route with the least that its answer type allows."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, Any]] = []
        for route in ROUTES:
            setattr(self, route.name, self._method(route))

    def handlers(self) -> dict[str, Any]:
        return {route.name: getattr(self, route.name) for route in ROUTES}

    def _method(self, route: Any) -> Any:
        async def method(ask: Any, caller: Any, **path: int) -> Any:
            self.asked.append((route.name, ask, caller))
            return Handed("x", 0, _nothing()) if route.answer is m.Contents else {}

        return method


@dataclass
class Door:
    """An application and those who may knock."""

    app: Any
    issuer: Issuer
    service: Any
    clock: Clock
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def token(
        self, *scopes: str, subject: str = "alice", lifetime_s: float = 600, **claims: Any
    ) -> str:
        return self.issuer.mint(subject, scopes, lifetime_s, **claims).token

    def ask(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        scheme: str = "http",
        pieces: int = 0,
    ) -> Answer:
        """One request to `path` below the API, or from the root with `//path`."""
        path = path[1:] if path.startswith("//") else PREFIX + path
        path, _, query = path.partition("?")
        if body is None:
            body = b"" if content is None else msgspec.json.encode(content)
        given = {"host": "127.0.0.1:8080", "content-length": str(len(body))}
        if body:
            given["content-type"] = "application/json"
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        given |= headers or {}
        scope = {
            "type": "http",
            "method": method,
            "scheme": scheme,
            "path": path,
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()],
        }
        step = len(body) // pieces + 1 if pieces else len(body) + 1
        parts = [body[at : at + step] for at in range(0, len(body), step)] or [b""]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not parts:
                await asyncio.sleep(3600)
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        self.runner.run(self.app(scope, receive, send))
        start = sent[0]
        answered = {k.decode(): v.decode("latin-1") for k, v in start["headers"]}
        return Answer(start["status"], answered, b"".join(m.get("body", b"") for m in sent[1:]))


@pytest.fixture(scope="session")
def some_keys() -> keys.Keys:
    return keys.made()


@pytest.fixture
def door(some_keys: keys.Keys) -> Iterator[Door]:
    """The door before a service that knows no rule."""
    clock = Clock()
    service, issuer = Echo(), Issuer(some_keys, clock)
    made = Door(App(service.handlers(), issuer), issuer, service, clock)
    yield made
    made.runner.close()


@pytest.fixture
def dispatcher(some_keys: keys.Keys, tmp_path: Path) -> Iterator[Door]:
    """The door before the real service, on a store of its own."""
    clock, issuer = Clock(), Issuer(some_keys)
    runner = asyncio.Runner()

    async def opened() -> Service:
        return await Service.open(
            open_store(f"sqlite:///{tmp_path}/queue.db"),
            secret=b"secret" * 6,
            mint=lambda *args, **claims: issuer.mint(*args, **claims).token,
        )

    service = runner.run(opened())
    revocations = Revocations(service.store, issuer)
    runner.run(revocations.open())
    app = App(service.handlers(), issuer, DoorSettings(revocations=revocations))
    yield Door(app, issuer, service, clock, runner)
    runner.run(service.close())
    runner.close()


@pytest.fixture
def routes() -> SimpleNamespace:
    """The table, by name."""
    return SimpleNamespace(**{route.name: route for route in ROUTES})
