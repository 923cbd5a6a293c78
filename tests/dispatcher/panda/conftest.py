"""A whole dispatcher in this process, and clients of it that speak PanDA."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.job import JobSpec
from dispatcher.auth import keys
from dispatcher.auth.caller import Caller
from dispatcher.auth.tokens import Issuer
from dispatcher.catalogue.settings import CatalogueSettings
from dispatcher.door.app import App
from dispatcher.door.settings import DoorSettings
from dispatcher.panda.door import Panda, PandaSettings
from dispatcher.service import Service
from dispatcher.service.state import Settings
from dispatcher.store import open_store
from tests.rig.catalogue import InMemory

WORKER = {
    "workerID": 42,
    "batchID": "28",
    "status": "submitted",
    "computingSite": "q",
    "nCore": 1,
    "jobType": "managed",
    "resourceType": "SCORE",
    "pandaid_list": [],
}
STATISTICS = json.dumps({"managed": {"SCORE": {"running": 1}}})
RECORDED = Path(__file__).parents[2] / "recorded" / "panda"
ALICE = Caller(subject="alice", scopes=frozenset({Scope.READ, Scope.CREATE, Scope.CANCEL}))
SCOPES = CatalogueSettings(kind="rucio", scopes={"user.{user}": ("*",)})
_numbers = itertools.count()


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    status: int
    type: str
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def packed(how: str, params: Any) -> tuple[bytes, dict[str, str]]:
    """A body and its headers, as `recorded/panda` names the ways of sending."""
    as_json = {"content-type": "application/json"}
    if how == "form":
        return urlencode(params).encode(), {"content-type": "application/x-www-form-urlencoded"}
    if how == "raw":
        return params.encode(), as_json
    data = json.dumps(params).encode()
    if how in ("gz", "gz-accept"):
        accept = {"accept": "application/json"} if how == "gz-accept" else {}
        return gzip.compress(data), as_json | accept
    if how == "jsongz":
        more = {"accept": "application/json", "content-encoding": "gzip"}
        return gzip.compress(data), as_json | more
    return data, as_json | ({} if how == "json-noaccept" else {"accept": "application/json"})


@dataclass
class Dispatcher:
    """The application over a store in a directory; `settings` as `dispatcher serve` was told."""

    path: Path
    kept: keys.Keys
    settings: PandaSettings = field(default_factory=PandaSettings)
    clock: Clock = field(default_factory=Clock)
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)
    catalogue: InMemory | None = None

    def __post_init__(self) -> None:
        self.issuer = Issuer(self.kept, self.clock)
        self.start()

    def start(self) -> None:
        self.service = self.run(
            Service.open(
                open_store(f"sqlite:///{self.path / 'queue.db'}"),
                secret=b"s" * 32,
                mint=lambda *a, **k: self.issuer.mint(*a, **k).token,
                clock=self.clock,
                settings=Settings(catalogue=SCOPES if self.catalogue else None),
                catalogue=self.catalogue.ask if self.catalogue else None,
            )
        )
        door = Panda(self.service, self.issuer, self.settings)
        self.app = App(self.service.handlers(), self.issuer, DoorSettings(panda=door))
        self.pilot = self.token(Scope.PILOT)

    def restart(self) -> None:
        self.run(self.service.close())
        self.start()

    def close(self) -> None:
        self.run(self.service.close())
        self.runner.close()

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def token(self, *scopes: str, subject: str = "pilots") -> str:
        return self.issuer.mint(subject, scopes, 86_400).token

    def submit(self, *jobs: JobSpec) -> list[int]:
        ask = m.Submit(request_id=f"r{next(_numbers)}", jobs=jobs)
        return list(self.run(self.service.intake.submit(ask, ALICE)).job_ids)

    def detail(self, job_id: int) -> m.JobDetail:
        return self.run(self.service.users.show(None, ALICE, job_id=job_id))

    def state(self, job_id: int) -> str:
        return str(self.detail(job_id).row.state)

    def cancel(self, job_id: int, *, soft: bool = False) -> None:
        self.run(self.service.users.cancel(m.Cancel(job_ids=(job_id,), soft=soft), ALICE))

    def forward(self, seconds: float) -> None:
        """Let time pass, for leases and for the clock on the wall."""
        self.clock.now += seconds
        self.run(self.service.tick(self.service.state.awake.now + seconds))

    # --- clients
    # -------------------------------------------------------------------------------------

    def raw(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        token: str | None = "",
        query: str = "",
    ) -> Answer:
        """One request. `token` None: without one; blank: a pilot's."""
        given = {"host": "127.0.0.1:8080", "content-length": str(len(body))} | (headers or {})
        if token is not None:
            given["authorization"] = f"Bearer {token or self.pilot}"
        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": path,
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()],
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        self.run(self.app(scope, receive, send))
        shown = {k.decode(): v.decode("latin-1") for k, v in sent[0]["headers"]}
        whole = b"".join(one.get("body", b"") for one in sent[1:])
        return Answer(sent[0]["status"], shown["content-type"], whole, shown)

    def ask(self, path: str, params: Any = None, how: str = "json", **more: Any) -> Answer:
        """A question in one of the ways that are recorded."""
        if how == "get":
            query = urlencode(params or {}, doseq=True)
            return self.raw("GET", path, b"", {"accept": "application/json"}, query=query, **more)
        body, headers = packed(how, {} if params is None else params)
        return self.raw("POST", path, body, headers, **more)

    def v1(self, path: str, params: Any = None, **more: Any) -> Any:
        """What a v1 method answers."""
        return self.ask(f"/api/v1/{path}", params, **more).json

    def legacy(self, name: str, params: Any = None, how: str = "gz-accept", **more: Any) -> Any:
        """What a legacy method answers in JSON."""
        return self.ask(f"/server/panda/{name}", params, how, **more).json

    def get_job(self, queue: str = "q", **params: Any) -> dict[str, Any]:
        return self.legacy("getJob", {"siteName": queue, "node": "n1", **params})

    def update(self, job: dict[str, Any], state: str, **params: Any) -> str:
        """The command that an update is answered with."""
        ask = {"jobId": job["PandaID"], "attemptNr": job["attemptNr"], "state": state, **params}
        answer = self.legacy("updateJob", ask)
        assert answer["StatusCode"] == 0
        return answer["command"]


@pytest.fixture(scope="session")
def some_keys() -> keys.Keys:
    return keys.made()


@pytest.fixture
def dispatcher(some_keys: keys.Keys, tmp_path: Path) -> Iterator[Dispatcher]:
    made = Dispatcher(tmp_path, some_keys)
    yield made
    made.close()


@pytest.fixture
def opened(some_keys: keys.Keys, tmp_path: Path) -> Iterator[Dispatcher]:
    """One that serves the queue `q` to anybody."""
    made = Dispatcher(tmp_path, some_keys, PandaSettings(open_queues=frozenset({"q"})))
    yield made
    made.close()


@pytest.fixture
def job() -> Any:
    def make(name: str = "job", **fields: Any) -> JobSpec:
        return JobSpec(**{"name": name, "command": "true", "queue": "q", **fields})

    return make


@pytest.fixture
def recorded() -> Any:
    def read(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (RECORDED / name).read_text().splitlines()]

    return read
