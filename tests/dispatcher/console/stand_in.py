"""A pilot that only talks: registers, takes jobs, says that they run, logs, reports. Runs nothing.

The browser tests need pages full of life in a second or two, with texts that no real payload may
choose; what a real pilot does is tested with a real pilot.
"""

from __future__ import annotations

import math
import random
import sys
import threading
import time
import uuid
from pathlib import Path

from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending
from ailurus.wire.client import Client
from ailurus.wire.credentials import fixed_token

COLOURS = ("\x1b[32m", "\x1b[36m", "\x1b[1;34m", "\x1b[33m", "")


class StandIn:
    """One worker; `tick` is one heartbeat."""

    def __init__(self, url: str, token: str, queue: str, host: str, cores: int = 8) -> None:
        self.total = Room(cores=cores, memory_mb=cores * 2000, disk_mb=100_000)
        ask = m.Register(
            instance=uuid.uuid4().hex,
            queue=queue,
            site="CERN-PROD",
            host=host,
            total=self.total,
            version="0.1.0",
        )
        told = Client(url, fixed_token(token)).call("register", ask, answer=m.Registered)
        self.client = Client(url, fixed_token(told.token))
        self.url = url
        self.jobs: dict[int, tuple[m.Assignment, float, dict[str, int]]] = {}
        self.staging: dict[int, m.Staging] = {}
        """How far the inputs of jobs are whose payloads have not begun."""

    def room(self) -> Room:
        held = [job.spec for job, _, _ in list(self.jobs.values())]
        return Room(
            cores=max(0, self.total.cores - sum(spec.cores for spec in held)),
            memory_mb=max(0, self.total.memory_mb - sum(spec.memory_mb for spec in held)),
            disk_mb=max(0, self.total.disk_mb - sum(spec.disk_mb for spec in held)),
        )

    def acquire(self, count: int = 4) -> list[m.Assignment]:
        ask = m.Acquire(request_id=f"a{random.random()}", room=self.room(), count=count)
        got = self.client.call("acquire", ask, answer=m.Acquired).jobs
        for job in got:
            self.jobs[job.job_id] = (job, time.time(), {"stdout": 0, "stderr": 0})
        return list(got)

    def beat(self) -> None:
        now = time.time()
        updates = []
        for job, since, _ in list(self.jobs.values()):
            age = now - since
            staging = self.staging.get(job.job_id)
            running = age > 1.0 and staging is None
            usage = m.Usage(
                cpu_s=age * 0.92 * job.spec.cores,
                wall_s=age,
                rss_kb=int(300_000 + 900_000 * (1 - math.exp(-age / 20)) + 40_000 * math.sin(age)),
                max_rss_kb=1_300_000,
                disk_mb=int(20 + age * 4),
                processes=3,
            )
            state = JobState.RUNNING if running else JobState.STARTING
            updates.append(
                m.Update(
                    job_id=job.job_id,
                    attempt_nr=job.attempt_nr,
                    state=state,
                    since=since + (1.0 if running else 0.2),
                    usage=usage if running else None,
                    staging=staging,
                )
            )
        told = self.client.call(
            "beat", m.Beat(jobs=tuple(updates), room=self.room()), answer=m.BeatAnswer
        )
        for command in told.commands:
            if command.action is m.Action.KILL:
                self.jobs.pop(command.job_id, None)

    def say(self, job_id: int, text: str, stream: str = "stdout") -> None:
        job, _, offsets = self.jobs[job_id]
        piece = m.LogPiece(
            job_id=job_id,
            attempt_nr=job.attempt_nr,
            stream=stream,
            offset=offsets[stream],
            text=text,
        )
        offsets[stream] += len(text.encode())
        self.client.call("log_pieces", m.LogPieces(pieces=(piece,)), answer=m.Done)

    def report(self, job_id: int, **facts: object) -> None:
        job, since, _ = self.jobs.pop(job_id)
        now = time.time()
        said = {
            "finished": True,
            "exit_code": 0,
            "ended": now,
            "host": "lxplus042",
            "runtime": "bubblewrap",
            "timing": {"stage_in": 0.8, "run": now - since - 1.0, "stage_out": 0.2},
            "usage": m.Usage(cpu_s=now - since, wall_s=now - since, max_rss_kb=1_300_000),
        }
        said.update(facts)
        report = m.Report(
            job_id=job_id, attempt_nr=job.attempt_nr, report_key=job.report_key, **said
        )
        self.client.call("report", m.Reports(reports=(report,)), answer=m.ReportVerdicts)

    def bye(self) -> None:
        self.client.call("bye", m.Bye(ending=Ending.DONE), answer=m.Done)


class Beating:
    """A stand-in whose heart beats by itself."""

    def __init__(self, pilot: StandIn) -> None:
        self.pilot = pilot
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            self.pilot.beat()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self.pilot.bye()


def busy(
    url: str, token: str, queue: str, host: str, stop: threading.Event, cores: int = 8
) -> None:
    """A worker that lives: for looking at the pages by hand."""
    pilot = StandIn(url, token, queue, host, cores)
    chance = random.Random(host)
    ends: dict[int, float] = {}
    events: dict[int, int] = {}
    while not stop.wait(0.5):
        for job in pilot.acquire():
            ends[job.job_id] = time.time() + chance.uniform(8, 60)
            pilot.say(job.job_id, "\x1b[1mPythia 8.317\x1b[0m  Z → μ⁺μ⁻ at 13.6 TeV, seed 4711\n")
        pilot.beat()
        for job_id in list(pilot.jobs):
            events[job_id] = events.get(job_id, 0) + chance.randint(80, 140)
            colour = chance.choice(COLOURS)
            line = f"{colour}event {events[job_id]:>7}\x1b[0m  m(μμ) = {chance.gauss(91.2, 2.5):6.2f} GeV"
            pilot.say(job_id, f"{line}  weight {chance.random():.4f}\n")
            if chance.random() < 0.05:
                pilot.say(job_id, "\x1b[33mWarning:\x1b[0m track fit did not converge\n", "stderr")
            if time.time() > ends.get(job_id, 0):
                if chance.random() < 0.06:
                    pilot.report(
                        job_id,
                        finished=False,
                        exit_code=139,
                        code=1305,
                        diagnosis=f"the payload failed: segmentation fault in event {events[job_id]}",
                        remedy="run it with the same seed under a debugger",
                        stderr_tail="Pythia::next(): vertex out of range\nSegmentation fault (core dumped)",
                    )
                else:
                    file = m.DoneFile(
                        name="zmumu.root",
                        url=f"file:///storage/out/{job_id}.1.zmumu.root",
                        size=chance.randint(10**6, 10**8),
                        adler32=f"{chance.getrandbits(32):08x}",
                    )
                    pilot.report(job_id, files=(file,))


def main() -> None:
    url, token_file = sys.argv[1:3]
    token = Path(token_file).read_text(encoding="utf-8").strip()
    stop = threading.Event()
    hosts = [("zpeak", f"lxb{n:04d}.cern.ch", 8) for n in (17, 18, 42)] + [("merge", "wn-207", 4)]
    threads = [
        threading.Thread(target=busy, args=(url, token, queue, host, stop, cores), daemon=True)
        for queue, host, cores in hosts
    ]
    for thread in threads:
        thread.start()
    time.sleep(float(sys.argv[3]) if len(sys.argv) > 3 else 120)
    stop.set()


if __name__ == "__main__":
    main()
