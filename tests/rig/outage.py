"""Storage that is away while jobs store their outputs: what becomes of these."""

from __future__ import annotations

import time
import zlib
from pathlib import Path

from msgspec import Struct

from ailurus.protocol.job import JobSpec, OutputFile
from ailurus.protocol.states import FINAL, JobState
from tests.rig.programs import Rig, null_job
from tests.rig.services import Service
from tests.rig.waiting import until

SIZE_BYTES = 1 << 20
# Between the end of an outage and the next try of an output, at most.
LATE_S = 60.0


class Outage(Struct, frozen=True, kw_only=True):
    """What an outage did."""

    outputs: int
    waited: int
    """Jobs whose payload had ended and whose output had no place when the storage came back."""
    done_s: float
    """From the end of the outage until all jobs had ended."""
    faults: tuple[str, ...] = ()


def run(xrootd: Service, place: Path, away_s: float, *, jobs: int = 8) -> Outage:
    """Jobs of half a second each, by davs: and root: in turn, while a real XRootD is stopped for
    `away_s` seconds. `place`: a directory of its store, open to all."""
    facts = xrootd.facts
    site = {
        "http_allow": [f"{facts['davs']}/"],
        "allow": [f"{facts['root']}/"],
        "xrootd": {"ca_dir": facts["ca_dir"], "ca": facts["ca_file"]},
        "outage_tolerance": away_s + 2 * LATE_S,
    }
    command = f"head -c {SIZE_BYTES} /dev/urandom > out; sleep 0.5"
    specs: list[JobSpec] = []
    for nr in range(jobs):
        scheme = ("davs", "root")[nr % 2]
        url = f"{facts[scheme]}/{place.name}/"
        output = OutputFile(name="out", url=url)
        specs.append(null_job(name=f"{scheme}-{nr}", command=command, outputs=[output]))
    with Rig(heartbeat_s=0.5, storage=site) as rig:
        rig.pilot("--ca", facts["ca_file"])
        ids = rig.client.submit(specs).job_ids
        until(lambda: any(_states(rig, ids, JobState.FINISHED)), 30, "one is stored")
        xrootd.ask("down")
        began = time.monotonic()
        try:
            while time.monotonic() < began + away_s:
                time.sleep(0.2)
            waited = len(_states(rig, ids, JobState.HOLDING))
        finally:
            xrootd.ask("up")
        back = time.monotonic()
        until(
            lambda: FINAL.issuperset(rig.client.wait(ids, timeout_s=0).states.values()),
            2 * LATE_S,
            "all end",
        )
        done_s = time.monotonic() - back
        faults = tuple(fault for one in ids for fault in _faults(rig, one, place))
    stored = len([path for path in place.rglob("*") if path.is_file()])
    if stored != jobs:
        faults += (f"{stored} files are there",)
    return Outage(outputs=jobs, waited=waited, done_s=done_s, faults=faults)


def _states(rig: Rig, ids: tuple[int, ...], state: JobState) -> list[int]:
    states = rig.client.wait(ids, timeout_s=0).states
    return [one for one, now in states.items() if now == state]


def _faults(rig: Rig, job_id: int, place: Path) -> list[str]:
    """What is wrong with a job: that it ran twice, or its file is none, or another."""
    shown = rig.client.show(job_id)
    if shown.row.state != JobState.FINISHED:
        return [f"job {job_id} is {shown.row.state}: {shown.row.diagnosis}"]
    if len(shown.attempts) != 1:
        return [f"job {job_id} had {len(shown.attempts)} attempts"]
    (file,) = shown.files
    data = (place / file.url.rpartition(f"/{place.name}/")[2]).read_bytes()
    if len(data) != SIZE_BYTES or f"{zlib.adler32(data):08x}" != file.adler32:
        return [f"{file.url} is not what the payload wrote"]
    return []
