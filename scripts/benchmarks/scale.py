"""Many jobs queued beside a thousand, and many pilots: nothing gets slower or larger than it
must."""

from __future__ import annotations

import contextlib
import os
import secrets
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator

from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from benchmarks import many_pilots
from tests.rig import proc
from tests.rig.figure import Figure, figure, percentile
from tests.rig.programs import QUEUE, SITE, TUNED, Postgres, Rig, null_job

FEW, MANY = 1_000, 100_000
TIMES = 300
ROOM = Room(cores=1, memory_mb=10**6, disk_mb=10**6)


def run(args: Namespace) -> Iterator[Figure]:
    """One dispatcher, first with few jobs, then with many; then many pilots; then an unclean
    stop."""
    many_jobs = args.jobs or MANY
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Postgres(*TUNED)) if args.postgres else None
        rig = stack.enter_context(Rig(heartbeat_s=300, postgres=server))
        worker = rig.worker(cores=1000)[1]
        _submit(rig, FEW)
        few = _measured(rig, worker)
        began = time.monotonic()
        _submit(rig, many_jobs)
        rate = many_jobs / (time.monotonic() - began)
        many = _measured(rig, worker)
        where = f"{many_jobs:,} queued" + (", PostgreSQL" if server else "")
        yield figure(f"scale: submitted, {where}", rate, "jobs/s", at_least=10_000)
        yield from _compared(where, few, many)
        if args.pilots:
            yield from many_pilots.run(rig, args.pilots)
        rss = proc.use(rig.dispatcher.pid).rss_mb
        yield figure(f"scale: memory, {where}", rss, "MB", at_most=1024)
        rig.dispatcher.kill()
        began = time.monotonic()
        rig.serve()
        rig.client.overview()  # it listens before it can answer
        restart = time.monotonic() - began
        yield figure(f"scale: start after kill -9, {where}", restart, "s", at_most=10)


def _compared(
    where: str, few: dict[str, list[float]], many: dict[str, list[float]]
) -> Iterator[Figure]:
    for what, times in many.items():
        p50 = (statistics.median(times), statistics.median(few[what]))
        p99 = (percentile(times, 0.99), percentile(few[what], 0.99))
        yield figure(f"scale: {what} p50, {where}", 1000 * p50[0], "ms", peer=1000 * p50[1],
                     at_most=1.5, note="peer: 1,000 queued")  # fmt: skip
        yield figure(f"scale: {what} p99, {where}", 1000 * p99[0], "ms", peer=1000 * p99[1],
                     at_most=5, note="peer: 1,000 queued")  # fmt: skip
    for what in ("demand", "overview"):
        yield figure(
            f"scale: {what}, {where}", 1000 * statistics.median(many[what]), "ms", at_most=5
        )


def _submit(rig: Rig, jobs: int) -> None:
    pad = {"environment": {"PAD": "x" * 2700}}
    for start in range(0, jobs, 10_000):
        count = min(10_000, jobs - start)
        rig.client.submit([null_job(start + nr, priority=nr % 10, **pad) for nr in range(count)])


def _measured(rig: Rig, worker: Client) -> dict[str, list[float]]:
    """Acquire one, change its state by a heartbeat, look at the overview; seconds of each."""
    os.sync()  # what was just submitted is written out: it is not what is measured
    jobs: list[m.Assignment] = []

    def acquire() -> None:
        ask = m.Acquire(request_id=secrets.token_hex(8), room=ROOM)
        jobs.extend(worker.call("acquire", ask, answer=m.Acquired).jobs)

    def beat() -> None:
        job = jobs.pop()
        update = m.Update(
            job_id=job.job_id, attempt_nr=job.attempt_nr, state=JobState.RUNNING, since=time.time()
        )
        worker.call("beat", m.Beat(room=ROOM, jobs=(update,)), answer=m.BeatAnswer)

    edge = Client(rig.url, TokenFile(rig.edge_token))
    slots = (m.SlotShape(name="std", queue=QUEUE, room=ROOM),)
    hello = m.Hello(site=SITE, instance="bench", slots=slots, online=True)
    epoch = edge.call("hello", hello, answer=m.Welcome).epoch
    demand = m.DemandRequest(site=SITE, epoch=epoch)
    return {
        "acquire": _timed(acquire),
        "heartbeat": _timed(beat),
        "demand": _timed(lambda: edge.call("demand", demand, answer=m.Demand)),
        "overview": _timed(rig.client.overview),
    }


def _timed(what: Callable[[], object]) -> list[float]:
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        what()
        took.append(time.perf_counter() - began)
    return took
