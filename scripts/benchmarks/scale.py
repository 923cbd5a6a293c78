"""100,000 jobs queued beside 1,000: acquire and heartbeat stay what they were."""

from __future__ import annotations

import secrets
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator

from ailurus.protocol import messages as m
from ailurus.protocol.job import Room
from ailurus.protocol.states import JobState
from ailurus.wire.client import Client
from benchmarks.figure import Figure, figure, percentile
from benchmarks.rig import Rig, null_job

FEW, MANY = 1_000, 100_000
TIMES = 300
ROOM = Room(cores=1, memory_mb=10**6, disk_mb=10**6)


def run(args: Namespace) -> Iterator[Figure]:
    """One dispatcher, first with few jobs, then with many."""
    with Rig(heartbeat_s=300) as rig:
        worker = rig.worker(cores=1000)[1]
        _submit(rig, FEW)
        few = _measured(rig, worker)
        _submit(rig, MANY)
        many = _measured(rig, worker)
        rig.dispatcher.stop()
        began = time.monotonic()
        rig.serve()
        rig.client.overview()  # it listens before it can answer
        restart = time.monotonic() - began
    for what, times in many.items():
        p50 = (statistics.median(times), statistics.median(few[what]))
        p99 = (percentile(times, 0.99), percentile(few[what], 0.99))
        at_most = (1.5, 5) if what != "overview" else (None, None)
        yield figure(f"scale: {what} p50, 100,000 queued", 1000 * p50[0], "ms", peer=1000 * p50[1],
                     at_most=at_most[0], note="peer: 1,000 queued")  # fmt: skip
        yield figure(f"scale: {what} p99, 100,000 queued", 1000 * p99[0], "ms", peer=1000 * p99[1],
                     at_most=at_most[1], note="peer: 1,000 queued")  # fmt: skip
    yield figure("scale: start with 100,000 queued", restart, "s", at_most=10)


def _submit(rig: Rig, jobs: int) -> None:
    pad = {"environment": {"PAD": "x" * 2700}}
    for start in range(0, jobs, 10_000):
        count = min(10_000, jobs - start)
        rig.client.submit([null_job(start + nr, priority=nr % 10, **pad) for nr in range(count)])


def _measured(rig: Rig, worker: Client) -> dict[str, list[float]]:
    """Acquire one, change its state by a heartbeat, look at the overview; seconds of each."""
    jobs: list[m.Assignment] = []

    def acquire() -> None:
        ask = m.Acquire(request_id=secrets.token_hex(8), room=ROOM)
        jobs.extend(worker.call("acquire", ask, answer=m.Acquired).jobs)

    def beat() -> None:
        job = jobs.pop()
        update = m.Update(
            job_id=job.job_id, attempt_nr=job.attempt_nr, state=JobState.RUNNING, since=time.time()
        )
        worker.call("beat", m.Beat(room=ROOM, jobs=(update,)), answer=m.Beaten)

    return {
        "acquire": _timed(acquire),
        "heartbeat": _timed(beat),
        "overview": _timed(rig.client.overview),
    }


def _timed(what: Callable[[], object]) -> list[float]:
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        what()
        took.append(time.perf_counter() - began)
    return took
