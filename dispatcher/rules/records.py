"""Rows of the store with names and types: jobs, attempts and counters.

Outside `store/` a row of more than three columns is read only here, in `worker_records.py`, and in
`views.py`, where it becomes a message. A record has the columns of its
statement as fields, in their order; a test compares them. Records are frozen structs: to make one
costs 40 ns, less than a named tuple.

`find_…` returns None for what is not in the store, `get_…` raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ailurus.protocol.resources import Shape
from ailurus.protocol.states import AttemptState, JobState, Progress
from dispatcher.ports import Row, Tx

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
# Of a shape, as stored.
_SIZES = ("cores", "memory_mb", "disk_mb", "gpus", "nodes", "walltime_s", "machine")
# Added to the nodes of a shape that needs a kind of machine, once for each number of a kind: to a
# version that does not know of machines such a job fits nowhere.
_NODES = 10_000_000
# Added likewise, once for each hundredth of a GPU that a job shares: these are more nodes than a
# worker tells, and with those of the job itself, which are fewer, not so many as above.
_SHARED_NODES = 100_000
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
    items: int
    """How many it carries."""
    task_id: int
    """Whose job it is; 0: a user submitted it."""
    tally: int | None
    """The submission in whose tally it is counted; None: in none."""
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
    state: AttemptState
    leased: float
    running: float | None
    """Since when its payload runs, as far as its worker has said."""
    booked: str | None
    """What it was summed up as when it was lost, encoded."""


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


class OpenRecord(Struct, frozen=True):
    """An attempt that has not ended, and the owner of its job: `attempt.open`."""

    job_id: int
    attempt_nr: int
    worker_id: int
    state: str
    owner: str


class TailRecord(Struct, frozen=True):
    """The end of a running job's file, and when it came: `tail.get`."""

    at: float
    text: str


class FailureRecord(Struct, frozen=True):
    """A kind of failures: `failure.top`."""

    kind: int
    code: int
    example: str
    n: int
    last: float
    first: float | None
    """None: an earlier version counted it first."""
    site: str


class CredentialRecord(Struct, frozen=True):
    """A credential of a user, without the secret: `credential.all`."""

    name: str
    kind: str
    expires: float | None
    subject: str
    changed: float


class SealedCredential(Struct, frozen=True):
    """A credential as it is stored: `credential.get`."""

    kind: str
    expires: float | None
    sealed: str


class OldJob(Struct, frozen=True):
    """A job that was moved away: `old.states_of`."""

    job_id: int
    state: str
    owner: str
    detail: bytes | None
    """The whole of it, where the version that moved it wrote no state."""


class DueRecord(Struct, frozen=True):
    """An output that the catalogue is to know: `registration.due`."""

    job_id: int
    name: str
    owner: str
    scope: str
    lfn: str
    rse: str
    size: int
    adler32: str
    dataset: str
    """`scope:name`; blank: none."""
    lifetime_s: int | None
    tries: int


class RegistrationRecord(Struct, frozen=True):
    """How far the registration of an output is: `registration.of_job`."""

    name: str
    state: str
    """`due`, `done` or `refused`."""
    reason: str
    remedy: str


class DefinedRecord(Struct, frozen=True):
    """How many jobs of a submission are alike: `job.defined_range`."""

    queue: str
    shape_id: int
    blocked: bool
    n: int
    owner: str


def value(row: Row | None, default: T) -> T:
    """The only column of a row, or `default` where there is none."""
    return default if row is None or row[0] is None else row[0]


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
    (
        state,
        attempt_nr,
        most,
        retry_all,
        queue,
        shape_id,
        worker_id,
        owner,
        name,
        left,
        items,
        task_id,
        tally,
    ) = row
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
        left,
        items,
        task_id,
        tally,
        job_id,
    )


def job_range(tx: Tx) -> tuple[int, int]:
    """The least and the largest id of a job; (0, -1) if there is none."""
    least, last = tx.one("job.range") or (None, None)
    return (0, -1) if least is None else (least, last)


def parent_finished(tx: Tx, children: Sequence[int]) -> list[ChildRecord]:
    """Note that a parent of these jobs has finished, and return them."""
    rows = tx.all("job.parent_done", ids=_encode(children).decode())
    return [ChildRecord(job_id, left, _STATES[state], *rest) for job_id, left, state, *rest in rows]


def find_retry(tx: Tx, job_id: int) -> int | None:
    """The job that tries a job again."""
    row = tx.one("retry.of", job_id=job_id)
    return None if row is None else int(row[0])


def parents(tx: Tx, child: int) -> list[tuple[int, str]]:
    """The jobs that a job depends on, and their states."""
    return [(parent, state) for parent, state in tx.all("parent.states", child=child)]


def old_jobs(tx: Tx, job_ids: Sequence[int]) -> list[OldJob]:
    """Those of the jobs that were moved away."""
    return [OldJob(*row) for row in tx.all("old.states_of", ids=_encode(job_ids).decode())]


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
    return None if row is None else AttemptRecord(row[0], AttemptState(row[1]), *row[2:])


def find_body(tx: Tx, job_id: int) -> BodyRecord | None:
    """What was submitted of a job."""
    row = tx.one("body.get", job_id=job_id)
    return None if row is None else BodyRecord(*row)


def labels(tx: Tx, job_id: int) -> dict[str, str]:
    """What its user wrote on a job."""
    return dict(tx.all("label.of_job", job_id=job_id))


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


def find_shape(tx: Tx, shape: Shape) -> int | None:
    """The number of a shape."""
    machine = 0
    if shape.machine:
        machine = value(tx.one("machine.find", text=shape.machine), 0)
        if not machine:
            return None
    return value(tx.one("shape.find", **_stored(shape, machine)), None)


def add_shape(tx: Tx, shape: Shape) -> int:
    """Give a shape its number."""
    machine = 0
    if text := shape.machine:
        row = tx.one("machine.find", text=text) or tx.one("machine.add", text=text)
        machine = value(row, 0)
    return value(tx.one("shape.add", **_stored(shape, machine)), 0)


def sized(job_id: int, shape: Shape) -> dict[str, object]:
    """The row of a job in a mixed lane."""
    values = _stored(shape, int(shape.machine != ""))
    return {"job_id": job_id, "machine": shape.machine, **values}


def _stored(shape: Shape, machine: int) -> dict[str, object]:
    values = {name: getattr(shape, name) for name in _SIZES if name != "machine"}
    return {**values, "nodes": shape.nodes + _SHARED_NODES * shape.gpu_share + _NODES * machine}


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


def _shape(sizes: Sequence[Any]) -> Shape:
    values = dict(zip(_SIZES, sizes, strict=True))
    share, before_last = divmod(values["nodes"] - 1, _SHARED_NODES)
    return Shape(**{**values, "nodes": before_last + 1, "gpu_share": share})


def counters(tx: Tx) -> list[CounterRecord]:
    """How many jobs there are, by queue, shape and state."""
    return [CounterRecord(*row) for row in tx.all("counter.all")]


def open_attempts(tx: Tx) -> list[OpenRecord]:
    """The attempts that have not ended."""
    return [OpenRecord(*row) for row in tx.all("attempt.open")]


def find_tail(tx: Tx, job_id: int) -> TailRecord | None:
    """The end of a job's file that came last."""
    row = tx.one("tail.get", job_id=job_id)
    return None if row is None else TailRecord(*row)


def failures(tx: Tx, owner: str, since: float, most: int = 1000) -> list[FailureRecord]:
    """The most frequent kinds of failures of an owner, or of all if it is blank, that still
    occur."""
    found = tx.all("failure.top", owner=owner, since=since, most=most)
    return [FailureRecord(*row) for row in found]


def credentials(tx: Tx, owner: str) -> list[CredentialRecord]:
    """A user's credentials, by name."""
    return [CredentialRecord(*row) for row in tx.all("credential.all", owner=owner)]


def find_credential(tx: Tx, owner: str, name: str) -> SealedCredential | None:
    """A credential of a user."""
    row = tx.one("credential.get", owner=owner, name=name)
    return None if row is None else SealedCredential(*row)


def due_registrations(tx: Tx, now: float, most: int) -> list[DueRecord]:
    """Outputs that are to be registered now."""
    return [DueRecord(*row) for row in tx.all("registration.due", now=now, most=most)]


def registrations(tx: Tx, job_id: int) -> list[RegistrationRecord]:
    """How far the registration of a job's outputs is."""
    return [RegistrationRecord(*row) for row in tx.all("registration.of_job", job_id=job_id)]
