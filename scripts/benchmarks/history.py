"""What must be true after the kills, read from the store and the storage with everything stopped."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from zlib import adler32

from benchmarks.rig import Rig


def faults(rig: Rig, job_ids: Sequence[int], expected: Mapping[int, bytes]) -> Iterator[str]:
    """Every way in which the history is not what was promised, one line each."""
    store = sqlite3.connect(f"file:{rig.store}?mode=ro", uri=True)
    try:
        yield from _states(store, job_ids)
        catalogued = set()
        for job_id, url, size, checksum in store.execute(
            "select job_id, url, size, adler32 from file"
        ):
            path = Path(urlsplit(url).path)
            catalogued.add(path)
            yield from _output(job_id, path, size, checksum, expected[job_id])
        files = Counter(row[0] for row in store.execute("select job_id from file"))
        yield from (
            f"job {nr} has {files[nr]} files in the catalogue" for nr in job_ids if files[nr] != 1
        )
        strays = [
            path for path in rig.storage.rglob("*") if path.is_file() and path not in catalogued
        ]
        yield from (f"stray file {path.relative_to(rig.storage)}" for path in strays)
    finally:
        store.close()


def _states(store: sqlite3.Connection, job_ids: Sequence[int]) -> Iterator[str]:
    states = dict(store.execute("select job_id, state from job"))
    for job_id in job_ids:
        if states.get(job_id) != "finished":
            why = store.execute("select diagnosis from job where job_id = ?", (job_id,)).fetchone()
            yield f"job {job_id} is {states.get(job_id)}: {why and why[0]}"
    if extra := set(states) - set(job_ids):
        yield f"{len(extra)} jobs that nobody asked for"
    ends = Counter(
        row[0]
        for row in store.execute(
            "select job_id from event where kind = 'state' and json_extract(data, '$.state') = 'finished'"
        )
    )
    yield from (f"job {nr} finished {ends[nr]} times" for nr in job_ids if ends[nr] != 1)
    query = "select job_id, count(*) from attempt where state = 'finished' group by job_id"
    won = dict(store.execute(query))
    yield from (
        f"job {nr} has {won.get(nr, 0)} attempts that won" for nr in job_ids if won.get(nr) != 1
    )
    query = "select count(*) from attempt where ended is null"
    if left := store.execute(query).fetchone()[0]:
        yield f"{left} attempts have not ended"
    counted = "select state, sum(n) from counter group by state having sum(n) <> 0"
    if (counters := dict(store.execute(counted))) != {"finished": len(job_ids)}:
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
    store = sqlite3.connect(f"file:{rig.store}?mode=ro", uri=True)
    try:
        return Counter(dict(store.execute("select state, count(*) from attempt group by state")))
    finally:
        store.close()
