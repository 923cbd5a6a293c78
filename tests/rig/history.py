"""What must be true after the kills, read from the store and the storage with everything
stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from zlib import adler32

from tests.rig.programs import Rig


class Store(Protocol):
    """Whatever has a dispatcher with a store."""

    def rows(self, query: str) -> list[tuple[Any, ...]]: ...


def faults(rig: Rig, job_ids: Sequence[int], expected: Mapping[int, bytes]) -> Iterator[str]:
    """Every way in which the history is not what was promised, one line each."""
    yield from states(rig, job_ids)
    catalogued = set()
    files: Counter[int] = Counter()
    for job_id, url, size, checksum in rig.rows("select job_id, url, size, adler32 from file"):
        path = Path(urlsplit(url).path)
        catalogued.add(path)
        files[job_id] += 1
        yield from _output(job_id, path, size, checksum, expected[job_id])
    yield from (
        f"job {nr} has {files[nr]} files in the catalogue" for nr in job_ids if files[nr] != 1
    )
    strays = [path for path in rig.storage.rglob("*") if path.is_file() and path not in catalogued]
    yield from (f"stray file {path.relative_to(rig.storage)}" for path in strays)


def states(rig: Store, job_ids: Sequence[int]) -> Iterator[str]:
    """The same of jobs and attempts alone: each job has finished, once."""
    jobs = {nr: rest for nr, *rest in rig.rows("select job_id, state, diagnosis from job")}
    for job_id in job_ids:
        state, why = jobs.get(job_id, (None, ""))
        if state != "finished":
            yield f"job {job_id} is {state}: {why}"
    if extra := set(jobs) - set(job_ids):
        yield f"{len(extra)} jobs that nobody asked for"
    events = rig.rows("select job_id, data from event where kind = 'state'")
    ends = Counter(nr for nr, data in events if json.loads(data)["state"] == "finished")
    yield from (f"job {nr} finished {ends[nr]} times" for nr in job_ids if ends[nr] != 1)
    won = Counter(nr for (nr,) in rig.rows("select job_id from attempt where state = 'finished'"))
    yield from (f"job {nr} has {won[nr]} attempts that won" for nr in job_ids if won[nr] != 1)
    if left := rig.rows("select job_id from attempt where ended is null"):
        yield f"{len(left)} attempts have not ended"
    counted = "select state, sum(n) from counter group by state having sum(n) <> 0"
    if (counters := dict(rig.rows(counted))) != {"finished": len(job_ids)}:
        yield f"the counters say {counters}"


def _output(job_id: int, path: Path, size: int, checksum: str, expected: bytes) -> Iterator[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        yield f"output of job {job_id}: {error}"
        return
    if content != expected:
        yield f"output of job {job_id} is {content[:40]!r}"
    if (size, checksum) != (len(content), f"{adler32(content):08x}"):
        yield f"the catalogue says {size} bytes, {checksum} of job {job_id}'s output"


def attempts(rig: Rig) -> Counter[str]:
    """How attempts ended."""
    return Counter(dict(rig.rows("select state, count(*) from attempt group by state")))
