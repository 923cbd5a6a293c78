"""What pilots say to a dispatcher in each dialect, as requests that wrk sends in order."""

from __future__ import annotations

import gzip
import json
import random
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME, PREFIX
from ailurus.protocol.panda_update import UPDATE
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from benchmarks import load
from benchmarks.load import Load
from tests.rig.programs import QUEUE, Rig, null_job, run

NODES = 64
ROOM = Room(cores=1, memory_mb=10**6, disk_mb=10**6)
BOUNDLESS = Room(cores=10**6, memory_mb=10**9, disk_mb=10**9)
PAD = {"environment": {"PAD": "x" * 2700}}
CHANGES = ("starting", "running", "transferring", "finished")
_encode = msgspec.json.Encoder().encode
_LUA = """
local requests, turn = {}, 0
local function bytes(hex) return (hex:gsub("..", function(c) return string.char(tonumber(c, 16)) end)) end
function init()  -- called once wrk knows the host
  for line in io.lines("%(file)s") do
    local path, kind, accept, token, body = line:match("([^\\t]*)\\t([^\\t]*)\\t([^\\t]*)\\t([^\\t]*)\\t(.*)")
    local headers = {["Content-Type"] = kind, ["Accept"] = accept, ["User-Agent"] = "pilot/3.7.0.36"}
    if token ~= "" then headers["Authorization"] = "Bearer " .. token end
    if %(close)s then headers["Connection"] = "close" end
    requests[#requests + 1] = wrk.format("POST", path, headers, bytes(body))
  end
end
function request()
    turn = turn %% #requests + 1
    return requests[turn]
end
%(pace)s
"""
_PACE = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } moment; int clock_gettime(int, moment *);")
local moment, due = ffi.new("moment"), 0
function delay()  -- each takes the next turn, whenever the answers come, so long as connections are free
    ffi.C.clock_gettime(1, moment)
    local now = tonumber(moment.s) * 1000 + tonumber(moment.ns) / 1e6
    due = math.max(due == 0 and now or due, now - 1000) + 1000 / %(per_s)s
    return math.max(0, math.floor(due - now))
end
"""


class PilotRequest(Struct, frozen=True):
    """One request."""

    path: str
    kind: str
    accept: str
    token: str
    body: bytes


class LeasedJob(Struct, frozen=True):
    """An attempt that a pilot of this dialect holds."""

    job_id: int
    attempt_nr: int
    key: str
    token: str


class Dialect(Struct, frozen=True):
    """How pilots of a kind ask for a job, and say that one is in a state."""

    name: str
    acquire: Callable[[int], PilotRequest]
    update: Callable[[LeasedJob, str], PilotRequest]
    held: tuple[LeasedJob, ...]


def wrk(
    url: str,
    requests: Sequence[PilotRequest],
    place: Path,
    *,
    seconds: int,
    connections: int = 64,
    close: bool = False,
    per_s: float = 0.0,
) -> Load:
    """Send the requests in order, as fast as they are answered or so many a second."""
    file = place / "requests.txt"
    file.write_text(
        "".join(f"{o.path}\t{o.kind}\t{o.accept}\t{o.token}\t{o.body.hex()}\n" for o in requests)
    )
    pace = _PACE % {"per_s": per_s} if per_s else ""
    script = place / "requests.lua"
    script.write_text(_LUA % {"file": file, "close": str(close).lower(), "pace": pace})
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, url]
    return load.read(run(*map(str, argv), seconds=seconds + 60))


def queued(rig: Rig, jobs: int) -> None:
    """Jobs with a body of 3 kB."""
    for start in range(0, jobs, 10_000):
        n = min(10_000, jobs - start)
        rig.client.submit([null_job(start + nr, priority=nr % 10, **PAD) for nr in range(n)])


def native(rig: Rig, held: int) -> Dialect:
    """Our own: a worker a node, registered, with a token of its own."""
    workers = [rig.worker(cores=10**6) for _ in range(NODES)]
    taken: list[LeasedJob] = []
    for nr, (registered, client) in enumerate(workers):
        ask = m.Acquire(request_id=f"hold-{nr}", room=BOUNDLESS, count=held // NODES)
        jobs = client.call("acquire", ask, answer=m.Acquired).jobs
        taken += (LeasedJob(j.job_id, j.attempt_nr, j.report_key, registered.token) for j in jobs)
    numbers = iter(range(10**9))

    def encoded(name: str, token: str, ask: Any) -> PilotRequest:
        json_ = "application/json"
        return PilotRequest(PREFIX + BY_NAME[name].path, json_, json_, token, _encode(ask))

    def acquire(nr: int) -> PilotRequest:
        ask = m.Acquire(request_id=f"a{next(numbers)}", room=ROOM)
        return encoded("acquire", workers[nr % NODES][0].token, ask)

    def update(one: LeasedJob, state: str) -> PilotRequest:
        usage = m.Usage(cpu_s=1.0, wall_s=1.0, rss_kb=1000)
        if state == "finished":
            report = m.Report(
                job_id=one.job_id,
                attempt_nr=one.attempt_nr,
                report_key=one.key,
                finished=True,
                usage=usage,
            )
            return encoded("report", one.token, m.Reports(reports=(report,)))
        word = JobState.HOLDING if state == "transferring" else JobState(state)
        told = m.Update(
            job_id=one.job_id, attempt_nr=one.attempt_nr, state=word, since=1.0, usage=usage
        )
        return encoded("beat", one.token, m.Beat(room=ROOM, jobs=(told,)))

    return Dialect("native", acquire, update, tuple(taken))


def _told(one: LeasedJob, state: str, spelling: str) -> dict[str, Any]:
    """An update with the fields that Pilot 3 sends while a payload runs."""
    values = {
        "job_id": one.job_id,
        "job_status": state,
        "attempt_nr": one.attempt_nr,
        "node": "node-1.example.org",
        "site_name": QUEUE,
        "scheduler_id": "bench",
        "pilot_id": "https://example.org/log|Bench|x86_64|3.7.0.36",
        "start_time": "2026-11-28 08:00:00",
        "core_count": 1,
        "cpu_consumption_time": 120,
        "cpu_consumption_unit": "s",
        "cpu_conversion_factor": 1.0,
        "n_events": 100,
        "max_rss": 100_000,
        "max_vmem": 200_000,
        "max_swap": 0,
        "max_pss": 90_000,
        "avg_rss": 100_000,
        "avg_pss": 90_000,
        "tot_rchar": 10_000,
        "tot_wchar": 10_000,
        "tot_rbytes": 10_000,
        "tot_wbytes": 10_000,
        "rate_rchar": 1.5,
        "rate_wchar": 1.5,
    }
    return {getattr(n, spelling): values[n.v1] for n in UPDATE if n.v1 in values}


def _panda(
    rig: Rig, held: int, name: str, encoded: Callable[[str, dict[str, Any]], PilotRequest]
) -> Dialect:
    """A dialect of PanDA's, whose jobs are taken by asking v1 for many at once."""
    spelling = "v1" if name == "v1" else "legacy"
    ids = _taken(rig, held, name)
    site, key, node = ("site_name", "pilot/acquire_jobs", "node")
    if spelling == "legacy":
        site, key = "siteName", "getJob"

    def acquire(nr: int) -> PilotRequest:
        given: dict[str, Any] = {site: QUEUE, node: f"n{nr % NODES}"}
        return encoded(key, given)

    def update(one: LeasedJob, state: str) -> PilotRequest:
        method = "pilot/update_job" if spelling == "v1" else "updateJob"
        return encoded(method, _told(one, state, spelling))

    return Dialect(name, acquire, update, tuple(LeasedJob(nr, 1, "", "") for nr in ids))


def _taken(rig: Rig, held: int, name: str) -> Iterator[int]:
    for nr in range(NODES):
        ask = {"site_name": QUEUE, "node": f"{name}-{nr}", "n_jobs": held // NODES}
        request = urllib.request.Request(  # noqa: S310 -- our own server
            f"{rig.url}/api/v1/pilot/acquire_jobs",
            json.dumps(ask).encode(),
            {
                "Authorization": f"Bearer {rig.pilot_token.read_text().strip()}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60, context=rig.context) as answer:  # noqa: S310
            yield from (int(one["PandaID"]) for one in json.load(answer)["data"]["jobs"])


def legacy_form(rig: Rig, held: int) -> Dialect:
    """curl's form, text in the answer: pilots of old."""
    token = rig.pilot_token.read_text().strip()

    def encoded(method: str, given: dict[str, Any]) -> PilotRequest:
        kind = "application/x-www-form-urlencoded"
        return PilotRequest(
            f"/server/panda/{method}", kind, "text/plain", token, urlencode(given).encode()
        )

    return _panda(rig, held, "legacy form", encoded)


def legacy_packed(rig: Rig, held: int) -> Dialect:
    """gzip'd JSON, as Pilot 3 sends it to a legacy server."""
    token = rig.pilot_token.read_text().strip()

    def encoded(method: str, given: dict[str, Any]) -> PilotRequest:
        body = gzip.compress(json.dumps(given).encode(), 6)
        json_ = "application/json"
        return PilotRequest(f"/server/panda/{method}", json_, json_, token, body)

    return _panda(rig, held, "legacy packed", encoded)


def v1(rig: Rig, held: int) -> Dialect:
    """JSON, as Pilot 3 sends it to a server of today."""
    token = rig.pilot_token.read_text().strip()

    def encoded(method: str, given: dict[str, Any]) -> PilotRequest:
        json_ = "application/json"
        return PilotRequest(f"/api/v1/{method}", json_, json_, token, json.dumps(given).encode())

    return _panda(rig, held, "v1", encoded)


DIALECTS = (native, legacy_form, legacy_packed, v1)


def ninety_ten(
    dialect: Dialect, held: Iterable[LeasedJob], states: Sequence[str]
) -> list[PilotRequest]:
    """Changes of state and acquires, nine to one."""
    held = list(held)
    requests: list[PilotRequest] = []
    for state in states:
        for one in held:
            requests.append(dialect.update(one, state))
            if len(requests) % 10 == 9:
                requests.append(dialect.acquire(len(requests)))
    return requests


def daily(
    dialect: Dialect, held: Sequence[LeasedJob], *, updates: float, jobs: float, seconds: float
) -> list[PilotRequest]:
    """Each second so many jobs from acquire to final, in turns, and heartbeats that only renew for
    the rest of the updates."""
    count = min(int(jobs * seconds), len(held) - NODES)
    renewed = held[count:]
    chance = random.Random(1)
    filler = round(updates / jobs) - len(CHANGES) + 1
    requests: list[PilotRequest] = []
    for nr, one in enumerate(held[:count]):
        requests.append(dialect.acquire(nr))
        for state in CHANGES:
            requests.append(dialect.update(one, state))
            requests += (
                dialect.update(chance.choice(renewed), "running")
                for _ in range(filler // len(CHANGES))
            )
    return requests
