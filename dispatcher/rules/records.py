"""Rows of the store with names and types.

Outside `store/` a row of more than three columns is read here only. A record has the columns of its
statement as fields, in their order; a test compares them. Records are frozen structs: to make one
costs 40 ns, less than a named tuple.

`find_…` returns None for what is not in the store, `get_…` raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol.resources import Shape
from ailurus.protocol.states import JobState, Progress
from dispatcher.ports import Row, Tx

_encode = msgspec.json.Encoder().encode
_SIZES = ("cores", "memory_mb", "disk_mb", "gpus", "nodes", "walltime_s")  # of a shape, as stored
_STATES = {state.value: state for state in JobState}


class NoSuchJob(LookupError):
    """The store has no such job."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"no job {job_id}")


class JobRecord(Progress, frozen=True):
    """What the rules need of a job: `job.standing`."""

    queue: str
    shape_id: int
    worker_id: int | None
    owner: str
    name: str
    parents_left: int
    job_id: int


class ChildRecord(Struct, frozen=True):
    """A job one of whose parents has finished: `job.parent_done`."""

    job_id: int
    parents_left: int
    state: JobState
    queue: str
    shape_id: int
    attempt_nr: int
    owner: str


class AttemptRecord(Struct, frozen=True):
    """Whose an attempt is, and how far it is: `attempt.get`."""

    worker_id: int
    state: str


class BodyRecord(Struct, frozen=True):
    """A specification as it was submitted, encoded: `body.get`."""

    spec: Any
    """Bytes, unless somebody has damaged the store."""
    wants: int
    """How many inputs have no URL: jobs that it depends on make them."""


class MadeFile(Struct, frozen=True):
    """An output of a job, for those that depend on it: `file.of_parents`."""

    name: str
    url: str
    size: int | None
    adler32: str | None
    md5: str | None


class CounterRecord(Struct, frozen=True):
    """How many jobs of a queue and a shape are in a state: `counter.all`."""

    queue: str
    shape_id: int
    state: str
    n: int


class DefinedRecord(Struct, frozen=True):
    """How many jobs of a submission are alike: `job.defined_range`."""

    queue: str
    shape_id: int
    blocked: bool
    n: int
    owner: str


def find_job(tx: Tx, job_id: int) -> JobRecord | None:
    """A job."""
    row = tx.one("job.standing", job_id=job_id)
    return None if row is None else _job(row, job_id)


def get_job(tx: Tx, job_id: int) -> JobRecord:
    """A job that must be there. Raises NoSuchJob."""
    row = tx.one("job.standing", job_id=job_id)
    if row is None:
        raise NoSuchJob(job_id)
    return _job(row, job_id)


def _job(row: Row, job_id: int) -> JobRecord:
    state, attempt_nr, most, retry_all, queue, shape_id, worker_id, owner, name, parents_left = row
    return JobRecord(
        _STATES[state],
        attempt_nr,
        most,
        retry_all == 1,
        queue,
        shape_id,
        worker_id,
        owner,
        name,
        parents_left,
        job_id,
    )


def parent_finished(tx: Tx, children: Sequence[int]) -> list[ChildRecord]:
    """Note that a parent of these jobs has finished, and return them."""
    rows = tx.all("job.parent_done", ids=_encode(children).decode())
    return [ChildRecord(job_id, left, _STATES[state], *rest) for job_id, left, state, *rest in rows]


def defined(tx: Tx, first: int, last: int) -> list[DefinedRecord]:
    """The jobs of a submission that is being stored, counted."""
    rows = tx.all("job.defined_range", first=first, last=last)
    return [
        DefinedRecord(queue, shape_id, bool(blocked), n, owner)
        for queue, shape_id, blocked, n, owner in rows
    ]


def find_attempt(tx: Tx, job_id: int, attempt_nr: int) -> AttemptRecord | None:
    """An attempt of a job."""
    row = tx.one("attempt.get", job_id=job_id, attempt_nr=attempt_nr)
    return None if row is None else AttemptRecord(*row)


def find_body(tx: Tx, job_id: int) -> BodyRecord | None:
    """What was submitted of a job."""
    row = tx.one("body.get", job_id=job_id)
    return None if row is None else BodyRecord(*row)


def files_of_parents(tx: Tx, job_id: int) -> dict[str, MadeFile]:
    """What the jobs that a job depends on have made, by name."""
    return {
        name: MadeFile(name, url, size, adler32 or None, md5)
        for name, url, size, adler32, md5 in tx.all("file.of_parents", child=job_id)
    }


def shapes(tx: Tx) -> dict[int, Shape]:
    """All shapes, by their numbers and by those of their lanes."""
    found = (*tx.all("shape.all"), *tx.all("lane.shapes"))
    return {number: _shape(sizes) for number, *sizes in found}


def find_size(tx: Tx, job_id: int) -> Shape | None:
    """The own shape of a job in a mixed lane."""
    row = tx.one("sized.get", job_id=job_id)
    return None if row is None else _shape(row)


def ready_sized(
    tx: Tx, queue: str, shape_id: int, most: int
) -> list[tuple[int, float, int, Shape]]:
    """The first ready jobs of a mixed lane: priority, rank, id, and each with its own shape."""
    found = tx.all("job.ready_sized", queue=queue, shape_id=shape_id, most=most)
    return [(priority, rank, job_id, _shape(sizes)) for job_id, priority, rank, *sizes in found]


def _shape(sizes: Sequence[int]) -> Shape:
    return Shape(**dict(zip(_SIZES, sizes, strict=True)))


def counters(tx: Tx) -> list[CounterRecord]:
    """How many jobs there are, by queue, shape and state."""
    return [CounterRecord(*row) for row in tx.all("counter.all")]
