"""1,000 open pages and 20 changes a second: what that costs the dispatcher, and how late pages see
it."""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from ailurus.wire.client import Client
from benchmarks.pages import Arrived
from tests.rig import proc
from tests.rig.figure import Figure, figure, percentile
from tests.rig.programs import Rig, null_job

PAGES = 1000
SECONDS = 12.0
CHANGES_PER_S = 20
CHANGES = (JobState.STARTING, JobState.RUNNING, JobState.HOLDING)
Told = dict[tuple[int, str], float]


def run(args: Namespace) -> Iterator[Figure]:
    """The same changes without pages first: what is left is the pages'."""
    with Rig(heartbeat_s=300) as rig:
        worker = rig.worker(cores=10_000)[1]
        held = _held(rig, worker, int(SECONDS * CHANGES_PER_S))
        alone, _ = _changing(rig, worker, held[: len(held) // 2], SECONDS / 2)
        before = rig.dispatcher.use()
        argv = [sys.executable, "-m", "benchmarks.pages", str(rig.port), str(rig.admin_token)]
        with subprocess.Popen(
            [*argv, str(PAGES), str(SECONDS)], stdout=subprocess.PIPE, text=True
        ) as pages:
            try:
                assert pages.stdout is not None  # noqa: S101 -- asked for above
                pages.stdout.readline()
                after = rig.dispatcher.use()
                share, told = _changing(rig, worker, held[len(held) // 2 :], SECONDS - 2)
                arrived = msgspec.json.decode(pages.stdout.readline(), type=Arrived)
            finally:
                pages.kill()
    delays = [
        at - told[job_id, state] for job_id, state, at in arrived.seen if (job_id, state) in told
    ]
    yield figure(
        "console: 1,000 pages, 20 changes/s",
        share,
        "% of a core",
        at_most=10,
        note=f"without pages {alone:.1f} %; {arrived.bytes / 1e6:.0f} MB sent",
    )
    yield figure("console: change to page, p99", percentile(delays, 0.99), "s", at_most=0.5,
                 note=f"{len(delays)} seen; p50 {percentile(delays, 0.5):.3f} s")  # fmt: skip
    yield figure(
        "console: memory a page",
        1024 * (after.rss_mb - before.rss_mb) / PAGES,
        "kB",
        at_most=100,
        note=f"{arrived.closed} closed early" if arrived.closed else "",
    )


def _held(rig: Rig, worker: Client, jobs: int) -> list[m.Assignment]:
    rig.client.submit([null_job(nr) for nr in range(jobs)])
    room = Room(cores=10**6, memory_mb=10**9, disk_mb=10**9)
    ask = m.Acquire(request_id="all", room=room, count=jobs)
    return list(worker.call("acquire", ask, answer=m.Acquired).jobs)


def _changing(
    rig: Rig, worker: Client, held: list[m.Assignment], seconds: float
) -> tuple[float, Told]:
    """Changes of state at their rate; the dispatcher's share of a core, and when each was told."""
    pid, told = rig.dispatcher.pid, Told()
    before, began = proc.cpu_s(pid), time.monotonic()
    steps = ((job, state) for job in held for state in CHANGES)
    for nr in range(int(seconds * CHANGES_PER_S)):
        job, state = next(steps)
        update = m.Update(
            job_id=job.job_id, attempt_nr=job.attempt_nr, state=state, since=time.time()
        )
        told[job.job_id, state] = time.monotonic()
        worker.call("beat", m.Beat(room=Room(cores=1), jobs=(update,)), answer=m.BeatAnswer)
        time.sleep(max(0.0, began + (nr + 1) / CHANGES_PER_S - time.monotonic()))
    share = 100 * (proc.cpu_s(pid) - before) / (time.monotonic() - began)
    time.sleep(0.5)
    return share, told
