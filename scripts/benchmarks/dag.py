"""Dependent jobs: layers (two children each), a fan of 10,000 behind one job, and a chain."""

from __future__ import annotations

import contextlib
import secrets
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence

from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client
from benchmarks.submit import Beats
from tests.rig.figure import Figure, figure, percentile
from tests.rig.programs import TUNED, Postgres, Rig, null_job

LAYER = 5000  # jobs of one request: half of them wait for the other half
FAN = 10_000
CHAIN = 300
FINISHED = 4096  # parents finished among all
AT_ONCE = 64
ROOM = Room(cores=10**6, memory_mb=10**9, disk_mb=10**9)


def run(args: Namespace) -> Iterator[Figure]:
    """Submit all layers; finish some parents among them; then the fan and the chain."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Postgres(*TUNED)) if args.postgres else None
        rig = stack.enter_context(Rig(heartbeat_s=300, postgres=server))
        worker = rig.worker(cores=10**6)[1]
        jobs = args.jobs or 100_000
        where = f"{jobs:,} jobs" + (", PostgreSQL" if server else "")
        _layers(rig, 0)
        few = finish(worker, FINISHED // 4)
        began = time.monotonic()
        for start in range(LAYER, jobs, LAYER):
            _layers(rig, start)
        rate = (jobs - LAYER) / (time.monotonic() - began)
        yield figure(f"dag: submitted, {where}", rate, "jobs/s", at_least=10_000)
        many = finish(worker, FINISHED)
        yield figure(
            f"dag: finished with 2 children each, {where}",
            many,
            "/s",
            peer=few,
            at_least=0.5,
            note=f"in groups of {AT_ONCE}; peer: {LAYER:,} jobs",
        )
        beats = Beats(rig.worker()[1])
        beats.during(0.5)
        quiet = beats.during(3.0)
        yield from _fan(rig, worker, beats, quiet, where)
        yield from _chain(rig, worker, where)


def _layers(rig: Rig, start: int) -> None:
    """Half of the jobs are parents; each of the others waits for two of them, each parent has
    two."""
    half = LAYER // 2
    parents = [null_job(start + nr, priority=1) for nr in range(half)]
    children = [
        null_job(
            start + half + nr,
            depends_on=[parents[nr].name, parents[(nr + 1) % half].name],
        )
        for nr in range(half)
    ]
    rig.client.submit([*parents, *children])


def finish(worker: Client, jobs: int) -> float:
    """Acquire and finish so many, in groups; the rate of the reports alone."""
    spent = 0.0
    for _ in range(0, jobs, AT_ONCE):
        got = acquire(worker, AT_ONCE)
        spent += report(worker, got)
    return jobs / spent


def acquire(worker: Client, count: int, wait_s: float = 10.0) -> Sequence[m.Assignment]:
    ask = m.Acquire(request_id=secrets.token_hex(8), room=ROOM, count=count, wait_s=wait_s)
    return worker.call("acquire", ask, answer=m.Acquired).jobs


def report(worker: Client, jobs: Sequence[m.Assignment]) -> float:
    reports = tuple(
        m.Report(
            job_id=job.job_id, attempt_nr=job.attempt_nr, report_key=job.report_key, finished=True
        )
        for job in jobs
    )
    began = time.perf_counter()
    worker.call("report", m.Reports(reports=reports), answer=m.ReportVerdicts)
    return time.perf_counter() - began


def _one(worker: Client) -> m.Assignment:
    (job,) = acquire(worker, 1)
    return job


def _fan(
    rig: Rig, worker: Client, beats: Beats, quiet: Sequence[float], where: str
) -> Iterator[Figure]:
    """One job with 10,000 children: how long until all are ready, and what heartbeats notice."""
    specs: list[JobSpec] = [null_job(0, name="root", priority=10)]
    specs += [null_job(nr, name=f"leaf-{nr}", depends_on=["root"]) for nr in range(FAN)]
    rig.client.submit(specs)
    before = rig.client.overview().states.get("pending", 0)
    root = _one(worker)
    with beats.beside() as seen:
        began = time.perf_counter()
        report(worker, [root])
        while rig.client.overview().states.get("pending", 0) > before - FAN:
            time.sleep(0.005)
            if time.perf_counter() - began > 60:
                raise TimeoutError("the fan was not released")
        took = time.perf_counter() - began
    yield figure(f"dag: {FAN:,} children released, {where}", took, "s", at_most=1)
    yield figure(
        "dag: heartbeats' p99 meanwhile",
        1000 * percentile(seen, 0.99),
        "ms",
        peer=1000 * percentile(quiet, 0.99),
        at_most=3,
        note=f"{len(seen)} beats; peer: quiet",
    )


def _chain(rig: Rig, worker: Client, where: str) -> Iterator[Figure]:
    """Each waits for the one before it: from a report to the next job in hand."""
    specs = [null_job(0, name="link-0", priority=20)]
    specs += [
        null_job(nr, name=f"link-{nr}", depends_on=[f"link-{nr - 1}"], priority=20)
        for nr in range(1, CHAIN)
    ]
    rig.client.submit(specs)
    job, took = _one(worker), []
    for _ in range(CHAIN - 1):
        began = time.perf_counter()
        report(worker, [job])
        job = _one(worker)
        took.append(time.perf_counter() - began)
    yield figure(f"dag: a link of a chain, p50, {where}", 1000 * statistics.median(took), "ms")
    yield figure(f"dag: a link of a chain, p99, {where}", 1000 * percentile(took, 0.99), "ms")
