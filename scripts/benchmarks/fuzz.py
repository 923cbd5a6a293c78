"""Requests by chance at every endpoint, native and PanDA's, by all kinds of callers (H1).

Whatever is sent: no 5xx, no hang, an answer of the type that is promised, and nothing in the store
that a schema forbids. PanDA's own 500 to a body that cannot be read is an answer, and the only one.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import sys
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlencode

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import PREFIX, ROUTES, EventsQuery, JobsQuery, Route, Scope
from ailurus.protocol.states import JobState
from dispatcher.door.openapi import description
from dispatcher.panda import legacy, v1
from tests.rig.figure import Figure, figure
from tests.rig.programs import QUEUE, SITE, Rig, null_job
from tests.rig.random_content import EDGES, IDS, RandomContent, impatient

CLIENTS = 3
HANGS_S = 20.0
SHOWN = 2000  # of the stored jobs, read back as a whole
UNREADABLE = re.compile(
    rb"ERROR : |Not a gzipped file|Compressed file ended|Max number of fields"
    rb"|\w+\(\) (missing \d+ required positional|got an unexpected keyword) argument"
)
"""How PanDA's texts of status 500 begin."""


class Faults:
    """What was wrong, each kind with its first example."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, kind: str, example: object) -> None:
        self.count[kind] += 1
        self.first.setdefault(kind, repr(example)[:1500])


def run(args: Namespace) -> Iterator[Figure]:
    """Sends `--requests`, for `--seconds` at most, then reads back what they left."""
    sys.setswitchinterval(0.0005)  # the clients are threads that mostly wait
    faults = Faults()
    with Rig(serve=["--rate", "0", "--panda-open", QUEUE]) as rig:
        tokens = callers(rig)
        began = time.monotonic()
        sent = _all_clients(rig, tokens, args, faults)
        took = time.monotonic() - began
        _read_back(rig, faults)
        _look_inside(rig, faults)
        rss_mb = rig.dispatcher.use().rss_mb
        note = "; ".join(f"{n} × {kind}: {faults.first[kind]}" for kind, n in faults.count.items())
        yield figure(
            "fuzz: requests",
            sum(sent.values()),
            seed=args.seed,
            note=" ".join(f"{status}: {n}" for status, n in sorted(sent.items())),
        )
        yield figure("fuzz: rate", sum(sent.values()) / took, "/s", seed=args.seed)
        yield figure(
            "fuzz: faults", sum(faults.count.values()), at_most=0, seed=args.seed, note=note
        )
        yield figure("fuzz: memory afterwards", rss_mb, "MB", at_most=1024, seed=args.seed)


def callers(rig: Rig) -> dict[str, list[str]]:
    """Tokens by the scope that they are for; of workers and sites that exist."""
    words = [str(one) for one in (Scope.READ, Scope.CREATE, Scope.MODIFY, Scope.CANCEL)]
    users = [rig.token(name, *words).read_text() for name in ("alice", "bob")]
    rig.client.submit([null_job(nr) for nr in range(IDS)])
    workers = [rig.worker(cores=4)[0].token for _ in range(3)]
    edge, pilot = rig.edge_token.read_text(), rig.pilot_token.read_text()
    admin = rig.admin_token.read_text().strip()
    return {
        "user": [*users, admin],
        Scope.ADMIN: [admin],
        Scope.EDGE: [edge],
        Scope.RELAY: [rig.token("relay", f"{Scope.RELAY}:{SITE}").read_text()],
        Scope.PILOT: [pilot],
        Scope.WORKER: workers,
        "panda": [pilot, admin, pilot, users[0]],
        "wrong": [edge, pilot, workers[0], users[0], users[0][:-3], "a.b.c", ""],
    }


class Chance:
    """Makes requests of one client."""

    def __init__(self, tokens: dict[str, list[str]], seed: int) -> None:
        self._chance = random.Random(seed)
        self._tokens = tokens
        document = description()
        schemas = document["components"]["schemas"]
        self._contents = [
            RandomContent(schemas, seed + nr, wrong) for nr, wrong in enumerate((0, 0.02, 0.2))
        ]
        self._operations = {
            route.name: document["paths"][PREFIX + route.path][route.method.lower()]
            for route in ROUTES
        }
        self._routes = [route for route in ROUTES if route.answer is not None]
        named = legacy._NAMES  # noqa: SLF001 -- data, read as what it is
        self._old = {name: sorted(known) for name, (known, _) in named.items()}

    def meet(self, worker: str) -> None:
        """Speak for this worker instead of another."""
        workers = self._tokens[Scope.WORKER]
        workers[self._chance.randrange(len(workers))] = worker

    def request(self) -> tuple[bytes, Route | None]:
        """The bytes of a request, and the native route that it is for."""
        kind = self._chance.random()
        if kind < 0.6:
            return self._native()
        return (self._legacy() if kind < 0.8 else self._v1()), None

    def _native(self) -> tuple[bytes, Route]:
        route = self._chance.choice(self._routes)
        random_content = self._chance.choice(self._contents)
        number = self._chance.choice([self._chance.randint(1, IDS), 0, 999, 2**63, "x", -1])
        path = PREFIX + route.path.replace("{job_id}", str(number))
        operation, body = self._operations[route.name], b""
        if route.method == "GET":
            given = {
                one["name"]: random_content.of(one["schema"])
                for one in operation.get("parameters", [])
                if one["in"] == "query" and self._chance.random() < 0.5
            }
            path += "?" + urlencode(impatient(route.ask, given), errors="replace")
        else:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            body = _text(impatient(route.ask, random_content.of(schema)))
        scope = route.scope
        kinds = scope if scope in self._tokens else "user"
        token = self._token(kinds)
        return _request(route.method, path, self._damaged(body), "application/json", token), route

    def _legacy(self) -> bytes:
        name = self._chance.choice(list(self._old))
        given = {word: self._value(word) for word in self._old[name] if self._chance.random() < 0.7}
        return self._panda(
            f"/server/panda/{name}", given, self._chance.choice(["GET", "POST", "POST"])
        )

    def _v1(self) -> bytes:
        method = self._chance.choice(list(v1.METHODS.values()))
        given = {
            one.name: self._typed(one.name, one.kind)
            for one in method.arguments
            if one.required or self._chance.random() < 0.3
        }
        if given and self._chance.random() < 0.2:
            given[self._chance.choice(list(given))] = self._chance.choice(EDGES)
        verb = method.verb if self._chance.random() < 0.95 else "PUT"
        return self._panda(f"/api/v1/{method.path}", given, verb)

    def _panda(self, path: str, given: dict[str, Any], verb: str) -> bytes:
        kind, body = "application/x-www-form-urlencoded", b""
        if verb == "GET":
            path += "?" + _form(given)
        elif (how := self._chance.random()) < 0.4:
            body = _form(given).encode()
        elif how < 0.9:
            kind, body = "application/json", _text(given)
            packed = how > 0.7 or (how > 0.45 and path.startswith("/server/"))  # legacy's only way
            body = gzip.compress(body, 1) if packed else body
        else:
            kind = "multipart/form-data; boundary=b"
            parts = (
                f'--b\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'
                for n, v in given.items()
            )
            body = ("".join(parts) + "--b--\r\n").encode("utf-8", "replace")
        return _request(verb, path, self._damaged(body), kind, self._token("panda"))

    def _value(self, word: str) -> Any:
        roll = self._chance.random()
        if word in ("jobId", "pandaID", "ids", "workerID", "worker_id"):
            return self._chance.randint(1, IDS)
        if word == "state" and roll < 0.8:
            return self._chance.choice(
                ["running", "starting", "finished", "failed", "holding", "x"]
            )
        if word in ("siteName", "site") and roll < 0.8:
            return QUEUE
        if word in (
            "jobList",
            "workers",
            "paramsList",
            "metrics",
            "data",
            "eventRanges",
            "dialogs",
            "command_ids",
        ):
            return json.dumps(self._deep(3))
        return self._chance.choice([*EDGES, "NULL", "None", "1", "a"])

    def _typed(self, word: str, kind: type) -> Any:
        if word in ("job_id", "worker_id") or (word == "timeout" and kind is int):
            return self._chance.randint(0, IDS)
        if word in ("site_name", "site", "panda_queue"):
            return QUEUE
        if word == "job_ids":
            return [self._chance.randint(1, IDS)]
        choices: dict[type, Callable[[], Any]] = {
            int: lambda: self._chance.choice([0, 1, 7, 2**31, 2**63, -1]),
            str: lambda: self._chance.choice(["a", "running", "finished", "x" * 300, "\x00"]),
            float: lambda: 0.5,
            complex: lambda: self._chance.choice([1, 0.5, 1e308]),
            bool: lambda: True,
            list: lambda: [self._deep(2) for _ in range(self._chance.randint(0, 3))],
            dict: lambda: {"a": self._deep(2)},
        }
        return choices.get(kind, lambda: self._deep(2))()

    def _deep(self, depth: int) -> Any:
        if depth == 0 or self._chance.random() < 0.3:
            return self._chance.choice(EDGES)
        if self._chance.random() < 0.5:
            return [self._deep(depth - 1) for _ in range(self._chance.randint(0, 3))]
        names = (
            "jobId",
            "job_id",
            "state",
            "job_status",
            "workerID",
            "status",
            "site",
            "timestamp",
        )
        return {self._chance.choice(names): self._deep(depth - 1) for _ in range(3)}

    def _token(self, kinds: str) -> str:
        wrong = self._chance.random() < 0.1
        return self._chance.choice(self._tokens["wrong" if wrong else kinds])

    def _damaged(self, body: bytes) -> bytes:
        """The body, one in twenty times broken in one place."""
        if not body or self._chance.random() > 0.05:
            return body
        at = self._chance.randrange(len(body))
        return self._chance.choice(
            [
                body[:at],
                body[:at] + bytes([self._chance.randrange(256)]) + body[at + 1 :],
                body * 2,
                b"[" * 3000,
            ]
        )


def _text(content: Any) -> bytes:
    return json.dumps(content).encode()


def _form(given: dict[str, Any]) -> str:
    return urlencode(given, errors="replace")


def _request(method: str, path: str, body: bytes, kind: str, token: str) -> bytes:
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    accept = "application/json" if len(body) % 2 else "text/plain"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Accept: {accept}\r\n{bearer}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii", "replace") + body


class Line:
    """A kept connection. Raises OSError when the server lets it go, TimeoutError for a hang."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._line: socket.socket | None = None
        self._rest = b""

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body."""
        if self._line is None:
            self._line = socket.create_connection(("127.0.0.1", self._port), HANGS_S)
            self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._line.sendall(request)
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        head = head.lower()
        _, _, length = head.partition(b"content-length: ")
        size = int(length.partition(b"\r\n")[0] or 0)
        while len(self._rest) < size:
            self._more()
        body, self._rest = self._rest[:size], self._rest[size:]
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body

    def _more(self) -> None:
        assert self._line is not None  # noqa: S101 -- made by ask()
        data = self._line.recv(262_144)
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        self._rest += data

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line, self._rest = None, b""


def _all_clients(
    rig: Rig, tokens: dict[str, list[str]], args: Namespace, faults: Faults
) -> Counter[int]:
    counts = [Counter[int]() for _ in range(CLIENTS)]
    until = time.monotonic() + args.seconds
    each = args.requests // CLIENTS
    threads = [
        threading.Thread(
            target=_client,
            args=(rig, Chance(tokens, args.seed * CLIENTS + nr), each, until, counts[nr], faults),
        )
        for nr in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts, Counter())


def _client(
    rig: Rig, chance: Chance, requests: int, until: float, count: Counter[int], faults: Faults
) -> None:
    with closing(Line(rig.port)) as line:
        for _ in range(requests):
            if time.monotonic() > until:
                return
            request, route = chance.request()
            try:
                status, body = line.ask(request)
            except TimeoutError:
                faults.add("hang", request)
                line.close()
                continue
            except OSError as error:  # of a request that no server would take: `PUT x y`
                line.close()
                if not rig.dispatcher.alive:
                    faults.add("died", request)
                    return
                faults.add("cut off", (request, error))
                continue
            count[status] += 1
            if status == 410:  # it has said goodbye for a worker
                chance.meet(rig.worker(cores=4)[0].token)
            if wrong := _wrong(route, status, body):
                faults.add(wrong, (request, status, body))


def _wrong(route: Route | None, status: int, body: bytes) -> str:
    """What is wrong with an answer; blank: nothing."""
    if b"Traceback" in body:
        return "a trace"
    if route is None:
        return "5xx" if status >= 500 and not UNREADABLE.match(body) else ""
    if status >= 500:
        return "5xx"
    kind = m.Problem if status >= 400 else route.answer
    if kind is m.Contents:  # a file, whatever is in it
        return ""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        msgspec.json.decode(body, type=kind)
        return ""
    return "an answer of another type"


def _read_back(rig: Rig, faults: Faults) -> None:
    """All jobs and events, by the types that the schemas are made from."""
    before, seen = None, 0
    while True:
        page = rig.client.jobs(JobsQuery(before=before, limit=1000))
        for row in page.jobs:
            if row.state not in JobState.__members__.values():
                faults.add("a state that is none", row)
            if seen < SHOWN:
                try:
                    rig.client.show(row.job_id)
                except Exception as error:  # noqa: BLE001 -- whatever it is, it is a fault
                    faults.add("a job that cannot be shown", (row.job_id, error))
            seen += 1
        before = page.next
        if before is None:
            break
    after = 0
    while True:
        ask = EventsQuery(after=after, limit=1000)
        events = rig.client.call("events", ask, answer=m.Events)
        if not events.events:
            return
        after = events.last


def _look_inside(rig: Rig, faults: Faults) -> None:
    """The log tells no bug, and the counters are what the jobs are."""
    text = rig.dispatcher.log.read_text(errors="replace")
    for word in ("request_broke", "stream_broke", "Traceback"):
        if word in text:
            at = text.index(word)
            faults.add(f"{word} in the log", text[max(0, at - 200) : at + 1500])
    counted: Counter[str] = Counter()
    for queue in rig.client.overview().queues:
        counted.update(queue.states)
    before, found = None, Counter[str]()
    while True:
        page = rig.client.jobs(JobsQuery(before=before, limit=1000))
        found.update(str(row.state) for row in page.jobs)
        before = page.next
        if before is None:
            break
    if +counted != +found:
        faults.add("counters are not what the jobs are", (counted, found))
