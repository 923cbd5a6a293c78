"""One pilot: how fast it starts and ends, what it weighs, what watching costs, jobs through it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks.bare import chain
from tests.rig import proc
from tests.rig.figure import ROOT, Figure, figure
from tests.rig.programs import BIN, Program, Rig, null_job, server
from tests.rig.proxy import Proxy
from tests.rig.waiting import until

LEAN = "import json, subprocess, selectors, signal, logging, argparse, ssl, http.client, dataclasses, threading, msgspec"
FROZEN = ROOT / "dist/pilot"
STARTS = 5
SLOTS = 16
JOBS = 1000
MANY = 256
WATCHED_S = 20.0


def run(args: Namespace) -> Iterator[Figure]:
    """Each part with a dispatcher of its own."""
    yield from _start_and_exit()
    yield from _memory_and_watching()
    yield from _many_jobs()


def _start_and_exit() -> Iterator[Figure]:
    """From exec to the first acquire that arrives, and from the last report to the exit."""
    lean = statistics.median(_seconds(sys.executable, "-c", LEAN) for _ in range(STARTS))
    with Rig() as rig, Proxy(rig.port) as proxy:
        began = [_one_job(rig, proxy, BIN / "pilot") for _ in range(STARTS)]
        start = statistics.median(one[0] for one in began)
        yield figure(
            "pilot: start to first acquire",
            start,
            "s",
            peer=lean,
            at_most=4,
            note="peer: Python with lean imports",
        )
        yield figure("pilot: start to first acquire", start, "s", at_most=0.4)
        ended = statistics.median(one[1] for one in began)
        yield figure("pilot: last report to exit", ended, "s", at_most=0.2)
        if not FROZEN.exists():
            sys.stderr.write(
                "no dist/pilot: scripts/build-pilot makes it; its start is not measured\n"
            )
            return
        first, *others = [_one_job(rig, proxy, FROZEN)[0] for _ in range(1 + STARTS)]
        yield figure(
            "pilot as a file: first start to first acquire",
            first,
            "s",
            at_most=1.0,
            note=f"{FROZEN.stat().st_size / 1e6:.0f} MB",
        )
        yield figure(
            "pilot as a file: start to first acquire", statistics.median(others), "s", at_most=0.4
        )


def _seconds(*argv: str) -> float:
    began = time.monotonic()
    subprocess.run(argv, check=True)
    return time.monotonic() - began


def _one_job(rig: Rig, proxy: Proxy, program: Path) -> tuple[float, float]:
    """A pilot for one job: seconds to its first acquire, and from its report to its end."""
    proxy.seen.clear()
    began = time.monotonic()
    pilot = rig.pilot("--max-jobs", "1", url=proxy.url, program=program)
    until(lambda: _times(proxy, "/worker/acquire"), 20, f"an acquire (see {pilot.log})")
    start = _times(proxy, "/worker/acquire")[0] - began
    rig.client.submit([null_job()])
    pilot.process.wait(20)
    return start, time.monotonic() - _times(proxy, "/worker/report")[-1]


def _times(proxy: Proxy, path: str) -> list[float]:
    return [seen.at for seen in proxy.seen if seen.path.endswith(path)]


def _memory_and_watching() -> Iterator[Figure]:
    """Payloads that sleep, four processes each: what the pilot and its guardian weigh and use."""
    with Rig(heartbeat_s=300, cores=MANY) as rig:
        pilot = rig.pilot()
        rig.warm()
        asleep = "sleep 300 & sleep 300 & sleep 300 & wait"
        running = 0
        for payloads, at_most in ((1, 45.0), (SLOTS, None), (MANY, 80.0)):
            more = range(running, payloads)
            rig.client.submit([null_job(nr, command=asleep) for nr in more])
            running = payloads
            until(partial(_runs, rig, running), 60, f"{running} payloads run")
            time.sleep(1)
            yield figure(
                f"pilot: memory, {payloads} payloads",
                _weight(pilot),
                "MB",
                at_most=at_most,
                note=f"{pilot.use().threads} threads",
            )
        scan = _scan()
        before, began = _cpu(pilot), time.monotonic()
        time.sleep(WATCHED_S)
        spent, took = _cpu(pilot) - before, time.monotonic() - began
    yield figure(
        f"pilot: watching {MANY} × 4 processes",
        100 * spent / took,
        "% of a core",
        at_most=0.5,
        note=f"one bare scan {1000 * scan:.0f} ms",
    )
    yield figure(
        "pilot: the same, in 10 s",
        1000 * spent / took * 10,
        "ms",
        peer=1000 * scan,
        at_most=1.5,
        note="peer: one bare scan of /proc",
    )


def _runs(rig: Rig, payloads: int) -> bool:
    return rig.client.overview().states.get("running", 0) >= payloads


def _scan() -> float:
    """CPU seconds of reading every process's state once."""
    began = time.process_time()
    for pid in proc.processes():
        with suppress(OSError):
            Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
    return time.process_time() - began


def _both(pilot: Program) -> list[int]:
    """The pilot and its guardian: the child that is no payload."""
    return [pilot.pid, *proc.children(pilot.pid)]


def _cpu(pilot: Program) -> float:
    return sum(proc.cpu_s(pid) for pid in _both(pilot))


def _weight(pilot: Program) -> float:
    """Both together, shared pages counted once."""
    return sum(proc.pss_mb(pid) for pid in _both(pilot))


def _many_jobs() -> Iterator[Figure]:
    """1,000 null jobs through 16 slots, beside the bare packed chain."""
    with Rig(heartbeat_s=10, cores=SLOTS) as rig:
        bare_argv = [
            sys.executable,
            "-m",
            "benchmarks.bare.chain",
            rig.directory / "bare.db",
            "5000",
        ]
        with server(*bare_argv) as (_, port):
            pilot = rig.pilot()
            rig.warm()
            _through(rig, 200)
            chain.packed(int(port), 200, SLOTS)
            bare = [JOBS / chain.packed(int(port), JOBS, SLOTS)]
            early, cpu = pilot.use(), _cpu(pilot)
            took = _through(rig, JOBS)
            late, spent = pilot.use(), _cpu(pilot) - cpu
            bare.append(JOBS / chain.packed(int(port), JOBS, SLOTS))
    yield figure(
        "pilot: 1,000 null jobs, 16 slots",
        JOBS / took,
        "/s",
        peer=statistics.mean(bare),
        at_least=0.25,
        note="peer: bare packed chain",
    )
    yield figure("pilot: CPU a null job", 1000 * spent / JOBS, "ms", at_most=5)
    yield figure(
        "pilot: growth of memory over 1,000 jobs",
        late.rss_mb - early.rss_mb,
        "MB",
        at_most=2,
        note=f"{early.rss_mb:.1f} → {late.rss_mb:.1f} MB",
    )
    yield figure(
        "pilot: growth of descriptors over 1,000 jobs",
        late.descriptors - early.descriptors,
        at_most=0,
        note=f"{early.descriptors} → {late.descriptors}",
    )


def _through(rig: Rig, jobs: int) -> float:
    """Seconds from the submission until all have finished."""
    began = time.monotonic()
    job_ids = rig.client.submit([null_job(nr) for nr in range(jobs)]).job_ids
    states = rig.client.wait(job_ids, 120).states
    took = time.monotonic() - began
    if any(state != "finished" for state in states.values()):
        raise RuntimeError("not all jobs finished")
    return took
