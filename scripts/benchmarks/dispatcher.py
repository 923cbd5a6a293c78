"""Heartbeats and acquires, nine to one, beside a bare Starlette that shares commits in the same
store."""

from __future__ import annotations

import contextlib
import random
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME, PREFIX
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from benchmarks import atlas, load
from benchmarks.load import Lines, Load
from tests.rig import proc
from tests.rig.figure import Figure, figure
from tests.rig.programs import TUNED, Postgres, Rig, null_job, server

QUEUED = 60_000
HELD = 30_000  # attempts whose changes of state are the durable heartbeats
WORKERS = 64
ROUNDS = 2
SECONDS = 4
CHANGES = (JobState.STARTING, JobState.RUNNING, JobState.HOLDING)
encode = msgspec.json.Encoder().encode


def run(args: Namespace) -> Iterator[Figure]:
    """Both servers in turn, kept connections and new ones; then the load of ATLAS."""
    if load.available():
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(Postgres(*TUNED)) if args.postgres else None
            rig = stack.enter_context(Rig(heartbeat_s=300, postgres=server))
            yield from _beside(rig, random.Random(args.seed), args.seed)
    else:
        sys.stderr.write("bench dispatcher: wrk is missing (scripts/setup --system): left out\n")
    yield from atlas.run(args)


def _beside(rig: Rig, chance: random.Random, seed: int) -> Iterator[Figure]:
    ours, renewals = prepared(rig)
    beats = [f'0\t{{"id": {chance.randrange(1, QUEUED)}}}' for _ in range(20_000)]
    bare = Lines(
        tokens=[], beats=beats, acquires=["0\t{}"], beat_path="/beat", acquire_path="/acquire"
    )
    place = rig.directory
    store = rig.postgres.database() if rig.postgres else place / "bare.db"
    argv = [sys.executable, "-m", "benchmarks.bare.stack", store, str(QUEUED)]
    with server(*argv) as (peer, port):
        rounds: dict[str, list[tuple[Load, float]]] = {}

        def measure(name: str, lines: Lines, *, close: bool) -> None:
            mine = name.startswith("ours")
            url = rig.url if mine else f"http://127.0.0.1:{port}"
            pid = rig.dispatcher.pid if mine else peer.pid
            before = used_s(rig, pid)
            seen = load.wrk(url, lines, place, seconds=SECONDS, connections=64, close=close)
            used = used_s(rig, pid) - before
            spent = 1000 * used / seen.requests
            rounds.setdefault(name, []).append((seen, spent))

        measure("ours renewals", renewals, close=False)  # first: later every word is a change
        parts = _parts(ours, 2 * ROUNDS)
        for nr in range(ROUNDS):
            for close in (False, True):
                kind = "new" if close else "kept"
                measure(f"bare {kind}", bare, close=close)
                measure(f"ours {kind}", parts[2 * nr + close], close=close)
    yield from _figures(rounds, seed, "PostgreSQL, " if rig.postgres else "")


def used_s(rig: Rig, pid: int) -> float:
    """CPU of a process and, if it has one, of its server."""
    return proc.cpu_s(pid) + (rig.postgres.cpu_s() if rig.postgres else 0.0)


def _figures(
    rounds: dict[str, list[tuple[Load, float]]], seed: int, where: str
) -> Iterator[Figure]:
    def middle(name: str, what: Callable[[Load], float]) -> float:
        return statistics.median(what(seen) for seen, _ in rounds[name])

    def spent(name: str) -> float:
        return statistics.median(ms for _, ms in rounds[name])

    for kind in ("kept", "new"):
        ours, bare = f"ours {kind}", f"bare {kind}"
        wrong = sum(seen.failed for seen, _ in rounds[ours])
        yield figure(
            f"dispatcher: {where}90:10, {kind} connections",
            middle(ours, lambda s: s.rate),
            "/s",
            peer=middle(bare, lambda s: s.rate),
            at_least=0.5,
            seed=seed,
            note=f"{wrong} failed" if wrong else "",
        )
        yield figure(
            f"dispatcher: {where}CPU a request, {kind}",
            spent(ours),
            "ms",
            at_most=0.3,
            seed=seed,
            note=f"bare {spent(bare):.3f} ms",
        )
        yield figure(
            f"dispatcher: {where}p99, {kind}",
            middle(ours, lambda s: s.p99_ms),
            "ms",
            seed=seed,
            peer=middle(bare, lambda s: s.p99_ms),
        )
    yield figure(
        f"dispatcher: {where}beats that only renew",
        middle("ours renewals", lambda s: s.rate),
        "/s",
        note=f"{spent('ours renewals'):.3f} ms a request",
        seed=seed,
    )


def prepared(rig: Rig) -> tuple[Lines, Lines]:
    """Jobs queued and leased; what will be said about them, and what only renews."""
    pad = {"environment": {"PAD": "x" * 2700}}
    for start in range(0, QUEUED + HELD, 10_000):
        rig.client.submit([null_job(start + nr, priority=nr % 10, **pad) for nr in range(10_000)])
    tokens: list[str] = []
    held: list[tuple[int, m.Assignment]] = []
    for worker in range(1, WORKERS + 1):
        registered, client = rig.worker(cores=1000)
        tokens.append(registered.token)
        room = Room(cores=10**6, memory_mb=10**9, disk_mb=10**9)
        ask = m.Acquire(request_id=f"hold-{worker}", room=room, count=HELD // WORKERS)
        held += [(worker, job) for job in client.call("acquire", ask, answer=m.Acquired).jobs]
    room = Room(cores=1, memory_mb=10**6, disk_mb=10**6)

    def beats(*states: JobState) -> list[str]:
        return [
            _line(worker, m.Beat(room=room, jobs=(_update(job, state),)))
            for state in states
            for worker, job in held
        ]

    def acquires(kind: str) -> list[str]:
        asks = (m.Acquire(request_id=f"{kind}{nr}", room=room) for nr in range(15_000))
        return [_line(nr % WORKERS + 1, ask) for nr, ask in enumerate(asks)]

    paths = {f"{name}_path": PREFIX + BY_NAME[name].path for name in ("beat", "acquire")}
    return (
        Lines(tokens=tokens, beats=beats(*CHANGES), acquires=acquires("c"), **paths),
        Lines(tokens=tokens, beats=beats(JobState.SENT), acquires=acquires("r"), **paths),
    )


def _update(job: m.Assignment, state: JobState) -> m.Update:
    usage = m.Usage(cpu_s=1.0, wall_s=1.0, rss_kb=1000)
    return m.Update(
        job_id=job.job_id, attempt_nr=job.attempt_nr, state=state, since=1.0, usage=usage
    )


def _line(worker: int, ask: m.StrictRequest | m.LenientRequest) -> str:
    return f"{worker}\t{encode(ask).decode()}"


def _parts(lines: Lines, count: int) -> list[Lines]:
    """Each round says what none before it has said."""

    def part(of: Sequence[str], nr: int) -> Sequence[str]:
        return of[len(of) * nr // count : len(of) * (nr + 1) // count]

    return [
        msgspec.structs.replace(
            lines, beats=part(lines.beats, nr), acquires=part(lines.acquires, nr)
        )
        for nr in range(count)
    ]
