"""Ten times ATLAS's load, held on two cores with whoever makes it; then more, until something
gives."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from collections.abc import Iterator

from benchmarks import load
from benchmarks.dialects import JOBS, UPDATES
from benchmarks.load import Load
from benchmarks.pilot_requests import NODES, Dialect, daily, native, queued, wrk
from tests.rig import proc
from tests.rig.figure import Figure, figure
from tests.rig.programs import TUNED, Postgres, Rig

SECONDS = 10
STEPS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)  # of what was asked, until it is not held
HELD_SHARE = 0.97  # of the rate
HELD_P99_MS = 250.0
CONNECTIONS = 512


def run(args: Namespace) -> Iterator[Figure]:
    """`--times` ATLAS's load, and on."""
    if not load.available():
        sys.stderr.write("bench run4: wrk is missing (scripts/setup --system): left out\n")
        return
    where = "PostgreSQL, " if args.postgres else ""
    asked = [args.times * step for step in STEPS]
    jobs = sum(round(JOBS * times * SECONDS) + NODES for times in asked)
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(Postgres(*TUNED)) if args.postgres else None
        rig = stack.enter_context(Rig(heartbeat_s=300, postgres=postgres))
        queued(rig, 2 * jobs + NODES)
        dialect = native(rig, jobs + NODES)
        first, held, note = 0, 0.0, ""
        for times in asked:
            count = round(JOBS * times * SECONDS) + NODES
            seen, note = _step(rig, dialect, first, count, times)
            first += count
            rate = seen.rate / ((UPDATES + JOBS) * times)
            good = rate >= HELD_SHARE and seen.p99_ms <= HELD_P99_MS and not seen.failed
            first_step = times == args.times
            name = f"run4: {where}{times:g} × ATLAS's load"
            yield figure(f"{name}, part of its requests answered", rate, seed=args.seed, note=note,
                         at_least=HELD_SHARE if first_step else None)  # fmt: skip
            yield figure(f"{name}, p99", seen.p99_ms, "ms", seed=args.seed,
                         at_most=HELD_P99_MS if first_step else None)  # fmt: skip
            if not good:
                break
            held = times
        yield figure(
            f"run4: {where}most that was held",
            held,
            "× ATLAS's load",
            seed=args.seed,
            note=f"{held * UPDATES:.0f} updates/s + {held * JOBS:.0f} jobs/s; then: {note}",
        )


def _step(rig: Rig, dialect: Dialect, first: int, count: int, times: float) -> tuple[Load, str]:
    """One rate for some seconds, and what it took of the cores."""
    updates, jobs = UPDATES * times, JOBS * times
    held = dialect.held[first : first + count]
    requests = daily(dialect, held, updates=updates, jobs=jobs, seconds=SECONDS)
    dispatcher, server = proc.cpu_s(rig.dispatcher.pid), _server(rig)
    seen = wrk(
        rig.url, requests, rig.directory, seconds=SECONDS,
        connections=CONNECTIONS, per_s=updates + jobs,
    )  # fmt: skip
    share = 100 * (proc.cpu_s(rig.dispatcher.pid) - dispatcher) / SECONDS
    note = f"{seen.rate:.0f} of {updates + jobs:.0f} requests/s, dispatcher {share:.0f} % of a core"
    if rig.postgres is not None:
        note += f", PostgreSQL {100 * (_server(rig) - server) / SECONDS:.0f} %"
    return seen, note + (f", {seen.failed} failed" if seen.failed else "")


def _server(rig: Rig) -> float:
    return rig.postgres.cpu_s() if rig.postgres is not None else 0.0
