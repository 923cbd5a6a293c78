"""10,000 jobs in one request, beside bare decode and insert; then 1,000 jobs that wait for 9,000
others each; and what heartbeats notice of both."""

from __future__ import annotations

import http.client
import secrets
import sqlite3
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import PREFIX
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client
from tests.rig.figure import Figure, figure, percentile
from tests.rig.programs import Rig, null_job

JOBS = 10_000
CHUNK = 2000  # jobs a commit, as the bare peer inserts them
QUIET_S = 10.0
ROUNDS = 10
BEATS = 1000  # heartbeats beside submissions, so that their p99 is no single one of them
PARENTS = 9000
CHILDREN = 1000
LINES_S = 90.0  # a machine that is slower submits fewer of them
AT_ONCE = 110  # of them in one request: a submission may have a million lines


def run(args: Namespace) -> Iterator[Figure]:
    """Bare and ours in turn; heartbeats beside ours, and without it."""
    with Rig(heartbeat_s=300) as rig:
        beats = Beats(rig.worker()[1])
        beats.during(0.5)
        yield from _large(rig, beats)
        yield from _linked(rig, beats)


def _large(rig: Rig, beats: Beats) -> Iterator[Figure]:
    """Many jobs in one request."""
    body = _body()
    bare: list[float] = []
    ours: list[float] = []
    quiet = beats.during(QUIET_S)
    busy: list[float] = []
    while len(ours) < ROUNDS or len(busy) < BEATS:
        if len(bare) < ROUNDS:
            bare.append(_bare(body, rig.directory / f"bare{len(bare)}.db"))
        sent = _body()
        with beats.beside() as seen:
            ours.append(_ours(rig, sent))
        busy += seen
    best = min(ours[:ROUNDS])
    yield figure(
        "submit: 10,000 jobs in one request",
        best,
        "s",
        peer=min(bare),
        at_most=2.5,
        note=f"{len(body) / 1e6:.1f} MB; peer: bare decode + insert",
    )
    yield figure("submit: the same", best, "s", at_most=2)
    yield figure(
        "submit: heartbeats' p99 meanwhile",
        1000 * percentile(busy, 0.99),
        "ms",
        peer=1000 * percentile(quiet, 0.99),
        at_most=3,
        note=f"{len(busy)} beats; peer: quiet",
    )


def _linked(rig: Rig, beats: Beats) -> Iterator[Figure]:
    """Jobs that wait for many others each."""
    parents = _send(rig, _body(PARENTS))
    quiet = beats.during(QUIET_S)
    began = time.perf_counter()
    with beats.beside() as seen:
        children = 0
        while children < CHILDREN and time.perf_counter() - began < LINES_S:
            _send(rig, _children(parents, children))
            children = min(CHILDREN, children + AT_ONCE)
    lines_s = time.perf_counter() - began
    yield figure(
        "submit: what jobs wait for",
        1e6 * lines_s / (children * PARENTS),
        "us a line",
        note=f"{children} jobs, each after {PARENTS}: {lines_s:.0f} s",
    )
    yield figure(
        "submit: heartbeats' p99 meanwhile, too",
        1000 * percentile(seen, 0.99),
        "ms",
        peer=1000 * percentile(quiet, 0.99),
        at_most=3,
        note=f"{len(seen)} beats; peer: quiet",
    )


def _body(jobs_of_it: int = JOBS) -> bytes:
    pad = {"environment": {"PAD": "x" * 850}}
    jobs = tuple(null_job(nr, **pad) for nr in range(jobs_of_it))
    return msgspec.json.encode(m.Submit(request_id=secrets.token_hex(8), jobs=jobs))


def _children(parents: tuple[int, ...], at: int) -> bytes:
    numbers = range(at, min(CHILDREN, at + AT_ONCE))
    jobs = tuple(null_job(nr, depends_on=parents) for nr in numbers)
    return msgspec.json.encode(m.Submit(request_id=secrets.token_hex(8), jobs=jobs))


def _ours(rig: Rig, body: bytes) -> float:
    began = time.perf_counter()
    ids = _send(rig, body)
    took = time.perf_counter() - began
    if len(ids) != JOBS:
        raise RuntimeError("not all jobs were taken")
    return took


def _send(rig: Rig, body: bytes) -> tuple[int, ...]:
    connection = http.client.HTTPConnection("127.0.0.1", rig.port, timeout=120)
    headers = {
        "Authorization": f"Bearer {rig.admin_token.read_text().strip()}",
        "Content-Type": "application/json",
    }
    connection.request("POST", f"{PREFIX}/jobs", body, headers)
    answer = connection.getresponse().read()
    return msgspec.json.decode(answer, type=m.Submitted).job_ids


def _bare(body: bytes, path: Path) -> float:
    """Decode with types, insert in slices, durable; the hot row and the body apart."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = wal", "synchronous = full"):
        connection.execute(f"pragma {pragma}").close()
    connection.executescript(
        "create table job (id integer primary key, state, queue, prio, name);"
        "create index ready on job (queue, prio desc, id) where state = 0;"
        "create table body (id integer primary key, body blob)"
    )
    began = time.perf_counter()
    jobs = enumerate(msgspec.json.decode(body, type=m.Submit).jobs)
    while part := list(islice(jobs, CHUNK)):
        connection.execute("begin immediate")
        connection.executemany(
            "insert into job values (?, 0, ?, ?, ?)",
            [(nr, job.queue, job.priority, job.name) for nr, job in part],
        )
        connection.executemany(
            "insert into body values (?, ?)", [(nr, msgspec.json.encode(job)) for nr, job in part]
        )
        connection.execute("commit")
    took = time.perf_counter() - began
    connection.close()
    return took


class Beats:
    """Heartbeats of one worker, as fast as 100 a second; how long each takes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ask = m.Beat(room=Room(cores=1))

    def during(self, seconds: float) -> list[float]:
        """The times of those in so many seconds."""
        with self.beside() as seen:
            time.sleep(seconds)
        return seen

    @contextmanager
    def beside(self) -> Iterator[list[float]]:
        """Beat while the block runs; the times, complete when it has ended."""
        seen: list[float] = []
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(0.01):
                began = time.perf_counter()
                self._client.call("beat", self._ask, answer=m.BeatAnswer)
                seen.append(time.perf_counter() - began)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield seen
        finally:
            stop.set()
            thread.join()
