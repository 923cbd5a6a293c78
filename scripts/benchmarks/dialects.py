"""Native, legacy and v1, plain and over TLS, beside the bare stack; ATLAS's load in each of
them."""

from __future__ import annotations

import contextlib
import random
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator

from benchmarks import load
from benchmarks.dispatcher import used_s
from benchmarks.load import Lines, Load
from benchmarks.pilot_requests import (
    DIALECTS,
    Dialect,
    PilotRequest,
    daily,
    ninety_ten,
    queued,
    wrk,
)
from tests.rig.figure import Figure, figure
from tests.rig.programs import TUNED, Postgres, Rig, certificate, server
from tests.rig.waiting import until

HELD = 8_000  # attempts of each dialect
ACQUIRED = 40_000
BARE = 60_000
SECONDS = 3
DAY_S = 10
UPDATES, JOBS = 330, 8  # a second: ATLAS's load
OLD_RATE, OLD_MS = 61.0, 25.0  # requests/s and CPU a request of a real PanDA server, measured once


def run(args: Namespace) -> Iterator[Figure]:
    """Each dialect over plain HTTP, then all over TLS."""
    if not load.available():
        sys.stderr.write("bench dialects: wrk is missing (scripts/setup --system): left out\n")
        return
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(Postgres(*TUNED)) if args.postgres else None
        for tls in (False, True):
            with Rig(heartbeat_s=300, postgres=postgres, tls=tls) as rig:
                yield from _rig(rig, "PostgreSQL, " if args.postgres else "", args.seed, tls=tls)


def _rig(rig: Rig, where: str, seed: int, *, tls: bool) -> Iterator[Figure]:
    queued(rig, len(DIALECTS) * HELD + ACQUIRED)
    dialects = [make(rig, HELD) for make in DIALECTS]
    plain = "TLS" if tls else "plain"
    with _bare(rig, tls=tls) as measure_bare:
        for close in (False, True) if tls else (False,):
            how = f"{plain}, {'a new connection each' if close else 'kept'}"
            bare, bare_ms = measure_bare(close=close)
            half = slice(HELD // 2, None) if close else slice(0, HELD // 2)
            for dialect in dialects:
                requests = ninety_ten(
                    dialect, dialect.held[half], ("starting", "running", "transferring")
                )
                seen, ms = _measured(rig, requests, close=close)
                name = f"dialects: {where}{dialect.name}, {how}"
                wrong = f"{seen.failed} failed; " if seen.failed else ""
                yield figure(name, seen.rate, "/s", peer=bare.rate, at_least=0.6 if close else 0.5,
                             seed=seed, note=f"{wrong}p99 {seen.p99_ms:.0f} ms, bare {bare.p99_ms:.0f}; "
                             f"a PanDA server {OLD_RATE:.0f}/s")  # fmt: skip
                yield figure(
                    f"{name}, CPU a request",
                    ms,
                    "ms",
                    at_most=1.0 if close else 0.3,
                    seed=seed,
                    note=f"bare {bare_ms:.3f} ms, a PanDA server {OLD_MS:.0f} ms",
                )
    for close in (False, True) if tls else (False,):
        for dialect in dialects:
            yield _day(rig, dialect, where, seed, tls=tls, close=close)


def _day(rig: Rig, dialect: Dialect, where: str, seed: int, *, tls: bool, close: bool) -> Figure:
    """ATLAS's load for some seconds, in jobs without any update yet."""
    fresh = dialect.held[-NODES_AND_JOBS:]
    fresh = fresh[: len(fresh) // 2] if close else fresh[len(fresh) // 2 :]
    requests = daily(dialect, fresh, updates=UPDATES, jobs=JOBS, seconds=DAY_S)
    began = used_s(rig, rig.dispatcher.pid)
    seen = wrk(
        rig.url, requests, rig.directory, seconds=DAY_S, connections=64, close=close,
        per_s=UPDATES + JOBS,
    )  # fmt: skip
    share = 100 * (used_s(rig, rig.dispatcher.pid) - began) / DAY_S
    how = ("TLS" if tls else "plain") + (", a new connection each" if close else ", kept")
    return figure(
        f"dialects: {where}ATLAS's load, {dialect.name}, {how}",
        share,
        "% of a core",
        at_most=40 if close else 10,
        seed=seed,
        note=f"{seen.rate:.0f} requests/s, p99 {seen.p99_ms:.0f} ms, {seen.failed} failed",
    )


NODES_AND_JOBS = 2 * (64 + JOBS * DAY_S)


def _measured(rig: Rig, requests: list[PilotRequest], *, close: bool) -> tuple[Load, float]:
    before = used_s(rig, rig.dispatcher.pid)
    seen = wrk(rig.url, requests, rig.directory, seconds=SECONDS, close=close)
    return seen, 1000 * (used_s(rig, rig.dispatcher.pid) - before) / seen.requests


@contextlib.contextmanager
def _bare(rig: Rig, *, tls: bool) -> Iterator[Callable[..., tuple[Load, float]]]:
    """The bare stack on the same store, and what measures it."""
    place = rig.directory
    chance = random.Random(1)
    beats = [f'0\t{{"id": {chance.randrange(1, BARE)}}}' for _ in range(20_000)]
    lines = Lines(
        tokens=[], beats=beats, acquires=["0\t{}"], beat_path="/beat", acquire_path="/acquire"
    )
    (place / "bare").mkdir()
    secured = certificate(place / "bare")[:2] if tls else ()
    store = rig.postgres.database() if rig.postgres else place / "bare.db"
    argv = [sys.executable, "-m", "benchmarks.bare.stack", store, BARE, *secured]
    with server(*argv) as (peer, port):
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

        def loaded(*, close: bool, seconds: int = SECONDS) -> Load:
            return load.wrk(url, lines, place, seconds=seconds, connections=64, close=close)

        def measure(*, close: bool) -> tuple[Load, float]:
            before = used_s(rig, peer.pid)
            seen = loaded(close=close)
            return seen, 1000 * (used_s(rig, peer.pid) - before) / seen.requests

        until(lambda: loaded(close=False, seconds=1).requests, 90, "the bare stack has its rows")
        yield measure
