"""A null job from its submission until `wait` has seen it finished, beside the bare chain."""

from __future__ import annotations

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any
from zlib import adler32

from ailurus.protocol.states import JobState
from benchmarks.bare import chain
from tests.rig.figure import Figure, figure, percentile
from tests.rig.programs import Rig, null_job, server

JOBS = 150
WARM_UP = 10


def run(args: Namespace) -> Iterator[Figure]:
    """Bare and ours in turn, twice; medians of all."""
    with Rig(cores=2) as rig:
        with server(
            sys.executable, "-m", "benchmarks.bare.chain", rig.directory / "bare.db", "2000"
        ) as (_, port):
            rig.pilot()
            rig.warm()
            timed(rig, WARM_UP)
            chain.one_by_one(int(port), WARM_UP)
            bare: list[float] = []
            ours: list[float] = []
            for _ in range(2):
                bare += chain.one_by_one(int(port), JOBS)
                ours += timed(rig, JOBS)
        copying = timed(rig, JOBS // 2, **_with_files(rig))
    p50, p99, bare_p50 = statistics.median(ours), percentile(ours, 0.99), statistics.median(bare)
    yield figure("latency: null job p50", 1000 * p50, "ms", peer=1000 * bare_p50, at_most=12)
    yield figure("latency: null job p99", 1000 * p99, "ms", peer=1000 * p50, at_most=3,
                 note="peer: own p50")  # fmt: skip
    more = 1000 * (statistics.median(copying) - p50)
    yield figure("latency: + 1 input + 1 output, p50", more, "ms", at_most=60)
    yield from _boxed()


def _boxed() -> Iterator[Figure]:
    """The same where the site keeps payloads in bubblewrap: for information."""
    with Rig(cores=2, container={"default": "bubblewrap", "bare": False}) as rig:
        rig.pilot()
        rig.warm()
        timed(rig, WARM_UP)
        boxed = timed(rig, JOBS // 2)
    yield figure("latency: null job in bubblewrap p50", 1000 * statistics.median(boxed), "ms")


def timed(rig: Rig, jobs: int, **fields: Any) -> Sequence[float]:
    """Seconds from submit to finished seen, one job after the other."""
    took = []
    for nr in range(jobs):
        began = time.perf_counter()
        (job_id,) = rig.client.submit([null_job(nr, **fields)]).job_ids
        state = rig.client.wait([job_id], 30).states[job_id]
        took.append(time.perf_counter() - began)
        if state is not JobState.FINISHED:
            raise RuntimeError(f"job {job_id} is {state}: {rig.client.show(job_id).row.diagnosis}")
    return took


def _with_files(rig: Rig) -> dict[str, Any]:
    data = b"one input" * 1000
    (rig.storage / "in.dat").write_bytes(data)
    return {
        "command": "cp in.dat out.dat",
        "inputs": [
            {
                "name": "in.dat",
                "url": f"file://{rig.storage}/in.dat",
                "size": len(data),
                "adler32": f"{adler32(data):08x}",
            }
        ],
        "outputs": [{"name": "out.dat"}],
    }
