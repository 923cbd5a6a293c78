"""Tasks: items submitted, made into jobs and finished; what heartbeats notice; tasks at rest."""

from __future__ import annotations

import contextlib
import time
from argparse import Namespace
from collections.abc import Iterator

from ailurus.protocol.task import ENDED
from ailurus.protocol.task_file import task_from
from benchmarks import dag
from benchmarks.submit import Beats
from tests.rig.figure import Figure, figure, percentile
from tests.rig.programs import QUEUE, TUNED, Postgres, Rig, null_job

LISTED = 100_000
TOGETHER = 100
"""Items of a job."""
RESTING = 1000
PLAIN = 4096
"""Jobs of no task, finished in the same way."""
JOB = {"command": "true", "queue": QUEUE, "memory": 10, "disk": 10}


def run(args: Namespace) -> Iterator[Figure]:
    """Submit a list; bring a large range to its end; look at tasks that wait for a pause to end."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Postgres(*TUNED)) if args.postgres else None
        rig = stack.enter_context(Rig(heartbeat_s=300, postgres=server))
        worker = rig.worker(cores=10**6)[1]
        items = args.jobs or 1_000_000
        where = f"{items:,} items by {TOGETHER}" + (", PostgreSQL" if server else "")
        yield from _resting(rig)
        yield _listed(rig)
        rig.client.submit([null_job(nr, priority=9) for nr in range(PLAIN)])
        plain = dag.finish(worker, PLAIN)
        beats = Beats(rig.worker()[1])
        beats.during(0.5)
        quiet = beats.during(3.0)
        over = {"range": {"from": 1, "to": items}}
        with beats.beside() as seen:
            task_id = _submitted(rig, over, by=TOGETHER)
            _made(rig, task_id, items // TOGETHER)
        yield figure(
            "tasks: heartbeats' p99 while its jobs are made",
            1000 * percentile(seen, 0.99),
            "ms",
            peer=1000 * percentile(quiet, 0.99),
            at_most=3,
            note=f"{len(seen)} beats, longest {1000 * max(seen):.0f} ms; peer: quiet",
        )
        began, spent = time.monotonic(), 0.0
        jobs = items // TOGETHER
        for _ in range(0, jobs, dag.AT_ONCE):
            spent += dag.report(worker, dag.acquire(worker, dag.AT_ONCE))
        rate = jobs / spent
        yield figure(
            f"tasks: jobs finished, {where}",
            rate,
            "/s",
            peer=plain,
            at_least=0.5,
            note="peer: no task",
        )
        while (row := rig.client.task(task_id).row).state not in ENDED:
            time.sleep(0.01)
        if row.steps[0].finished != items:
            raise RuntimeError(f"{row.steps[0].finished:,} of {items:,} items have finished")
        took = time.monotonic() - began
        yield figure(f"tasks: items finished, {where}", items / took, "items/s", at_least=20_000)
        use = rig.dispatcher.use()
        yield figure("tasks: memory of the dispatcher", use.rss_mb, "MB", at_most=1024)


def _submitted(rig: Rig, over: object, by: int = 1) -> int:
    step = {"name": "s", "over": over, "by": by, "job": JOB}
    return rig.client.submit_task(task_from({"task": "bench", "steps": [step]})).task_id


def _listed(rig: Rig) -> Figure:
    """A list, all of which is in the request."""
    began = time.monotonic()
    task_id = _submitted(rig, {"list": [f"item-{nr:06}" for nr in range(LISTED)]}, by=10_000)
    rate = LISTED / (time.monotonic() - began)
    rig.client.cancel_task(task_id)
    return figure(f"tasks: submitted, {LISTED:,} of a list", rate, "items/s", at_least=20_000)


def _made(rig: Rig, task_id: int, jobs: int) -> None:
    while rig.client.task(task_id).row.steps[0].jobs < min(jobs, 10_000):
        time.sleep(0.01)


def _resting(rig: Rig) -> Iterator[Figure]:
    """Tasks whose jobs wait in the queue."""
    ids = [_submitted(rig, {"list": [nr]}) for nr in range(RESTING)]
    _made(rig, ids[-1], 1)
    time.sleep(1.0)
    before, began = rig.dispatcher.use().cpu_s, time.monotonic()
    time.sleep(10.0)
    share = (rig.dispatcher.use().cpu_s - before) / (time.monotonic() - began)
    yield figure(f"tasks: {RESTING:,} at rest", 100 * share, "% of a core", at_most=1.0)
    for task_id in ids:
        rig.client.cancel_task(task_id)
    while any(rig.client.task(one).row.steps[0].open for one in ids[-10:]):
        time.sleep(0.01)
