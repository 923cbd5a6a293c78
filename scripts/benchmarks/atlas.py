"""The load of ATLAS on one dispatcher: 330 updates and 8 jobs a second, for some seconds."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator

from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from ailurus.wire.client import Client
from tests.rig import proc
from tests.rig.figure import Figure, figure
from tests.rig.programs import Rig, null_job

SECONDS = 10
UPDATES = 330
JOBS = 8
WORKERS = 32
ROOM = Room(cores=8, memory_mb=10**6, disk_mb=10**6)


def run(args: Namespace) -> Iterator[Figure]:
    """Real changes at their rate; heartbeats that only renew make up the rest of the updates."""
    with Rig(heartbeat_s=300) as rig:
        clients = [rig.worker(cores=8)[1] for _ in range(WORKERS)]
        pid = rig.dispatcher.pid
        began, before = time.monotonic(), proc.cpu_s(pid)
        sent = 0
        for second in range(SECONDS):
            for nr in range(JOBS):
                sent += _one_job(rig, clients[(second * JOBS + nr) % WORKERS])
                for _ in range(UPDATES // JOBS - 4):
                    clients[sent % WORKERS].call("beat", m.Beat(room=ROOM), answer=m.BeatAnswer)
                    sent += 1
                time.sleep(max(0.0, began + second + (nr + 1) / JOBS - time.monotonic()))
        share = 100 * (proc.cpu_s(pid) - before) / (time.monotonic() - began)
    yield figure("dispatcher: load of ATLAS (330 updates/s + 8 jobs/s)", share, "% of a core",
                 at_most=10, note=f"{sent / SECONDS:.0f} requests/s")  # fmt: skip


def _one_job(rig: Rig, worker: Client) -> int:
    """Submitted, leased, three changes, reported; how many requests that was."""
    rig.client.submit([null_job()])
    ask = m.Acquire(request_id=f"a{time.monotonic_ns()}", room=ROOM)
    (job,) = worker.call("acquire", ask, answer=m.Acquired).jobs
    for state in (JobState.STARTING, JobState.RUNNING, JobState.HOLDING):
        update = m.Update(
            job_id=job.job_id, attempt_nr=job.attempt_nr, state=state, since=time.time()
        )
        worker.call("beat", m.Beat(room=ROOM, jobs=(update,)), answer=m.BeatAnswer)
    report = m.Report(
        job_id=job.job_id, attempt_nr=job.attempt_nr, report_key=job.report_key, finished=True
    )
    verdicts = worker.call("report", m.Reports(reports=(report,)), answer=m.ReportVerdicts).verdicts
    if verdicts[0].verdict != "accepted":
        raise RuntimeError(f"a report was not accepted: {verdicts[0].verdict}")
    return 6
