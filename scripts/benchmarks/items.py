"""A million items in one job: uploaded, leased and finished at the dispatcher alone."""

from __future__ import annotations

import contextlib
import secrets
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator

from ailurus.protocol import messages as m
from ailurus.protocol.api import ItemsQuery
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client
from benchmarks.submit import Beats
from tests.rig import proc
from tests.rig.figure import Figure, figure, percentile
from tests.rig.programs import TUNED, Postgres, Rig, null_job

ITEMS = 1_000_000
AT_ONCE = 500  # leased and told of in one request
RUN = 100_000  # items that run, of all
PAGES = 50
ROOM = Room(cores=10**6, memory_mb=10**9, disk_mb=10**9)


def run(args: Namespace) -> Iterator[Figure]:
    """Submit them; look at pages at both ends; run some of them."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Postgres(*TUNED)) if args.postgres else None
        rig = stack.enter_context(Rig(heartbeat_s=300, postgres=server))
        items = args.jobs or ITEMS
        where = f"{items:,} items" + (", PostgreSQL" if server else "")
        beats, worker = Beats(rig.worker()[1]), rig.worker(cores=10**6)[1]
        beats.during(0.5)
        quiet = beats.during(3.0)
        with beats.beside() as seen:
            began = time.monotonic()
            payloads = rig.client.upload(secrets.token_hex(8), _specs(items))
            (job_id,) = rig.client.submit([null_job(0, payloads=payloads)]).job_ids
            rate = items / (time.monotonic() - began)
        yield figure(f"items: submitted, {where}", rate, "items/s", at_least=20_000)
        yield _noticed("submitted", seen, quiet)
        first, last = (_page_ms(rig.client, job_id, after) for after in (-1, items - 200))
        yield figure(
            f"items: the last page, {where}",
            last,
            "ms",
            peer=first,
            at_most=2,
            note="peer: the first",
        )
        with beats.beside() as seen:
            rate, slowest = _done(worker, min(items, RUN))
        yield figure(f"items: leased and finished, {where}", rate, "items/s", at_least=5_000)
        yield figure(
            f"items: {AT_ONCE} ended and {AT_ONCE} leased, slowest of 100",
            1000 * slowest,
            "ms",
            note="one request, with its commit",
        )
        yield _noticed("finished", seen, quiet)
        yield figure(
            f"items: memory of the dispatcher, {where}",
            max(proc.use(one.pid).rss_mb for one in rig.dispatchers),
            "MB",
            at_most=1024,
        )


def _specs(items: int) -> Iterator[ItemSpec]:
    for nr in range(items):
        yield ItemSpec(arguments=("--seed", str(nr), "--out", f"run{nr}.dat"))


def _noticed(what: str, seen: list[float], quiet: list[float]) -> Figure:
    return figure(
        f"items: heartbeats' p99 while they are {what}",
        1000 * percentile(seen, 0.99),
        "ms",
        peer=1000 * percentile(quiet, 0.99),
        at_most=3,
        note=f"{len(seen)} beats; peer: quiet",
    )


def _page_ms(client: Client, job_id: int, after: int) -> float:
    """How long a page takes, p50, in ms."""
    took = []
    for _ in range(PAGES):
        began = time.perf_counter()
        client.items(job_id, ItemsQuery(after=after))
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


def _done(worker: Client, items: int) -> tuple[float, float]:
    """Run so many items, as a pilot would whose payloads take no time: the rate, and how long the
    slowest request of a hundred took, in seconds."""
    ask = m.Acquire(request_id=secrets.token_hex(8), room=ROOM, items=True, wait_s=10)
    (job,) = worker.call("acquire", ask, answer=m.Acquired, wait_s=10).jobs
    ended: tuple[m.ItemEnd, ...] = ()
    took: list[float] = []
    done = 0
    usage = m.Usage(cpu_s=0.1, wall_s=0.2, max_rss_kb=4000)
    began = time.monotonic()
    while done < items:
        exchange = m.ItemsRequest(
            request_id=secrets.token_hex(8),
            job_id=job.job_id,
            attempt_nr=job.attempt_nr,
            count=AT_ONCE,
            ended=ended,
        )
        start = time.perf_counter()
        got = worker.call("exchange_items", exchange, answer=m.ItemsAnswer).items
        took.append(time.perf_counter() - start)
        done += len(ended)
        now = time.time()
        ended = tuple(
            m.ItemEnd(
                index=item.index,
                attempt=item.attempt,
                outcome=ItemOutcome.FINISHED,
                exit_code=0,
                started=now,
                ended=now,
                host="node1",
                slot="3",
                usage=usage,
            )
            for item in got
        )
    return items / (time.monotonic() - began), percentile(took, 0.99)
