"""How jobs enter the queue: all of a request, or none, however often it is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol import messages as m
from ailurus.protocol.job import DEFAULT_ATTEMPTS, JobSpec, Shape, shape_of
from ailurus.protocol.states import FINAL, JobState
from dispatcher.caller import Rejected
from dispatcher.groups import Turns
from dispatcher.ports import Tx

TOGETHER = 1000  # jobs of one commit: heartbeats get their turn between two
_encode = msgspec.json.Encoder().encode


class Prepared(Struct, frozen=True, gc=False):
    """A job ready to be stored; made off the event loop."""

    spec: JobSpec
    body: bytes
    shape: Shape
    wants: int


def prepare(jobs: Sequence[JobSpec]) -> list[Prepared]:
    """Encode the specifications as they will be sent to pilots."""
    return [
        Prepared(spec, _encode(spec), shape_of(spec), sum(not file.url for file in spec.inputs))
        for spec in jobs
    ]


def known(tx: Tx, owner: str, request_id: str) -> m.Submitted | None:
    """The first answer to a request that comes again."""
    row = tx.one("request.find", owner=owner, request_id=request_id)
    if row is None or not row[2]:
        return None
    return m.Submitted(job_ids=tuple(range(row[0], row[0] + row[1])), repeated=True)


class Taken(Exception):
    """The same request is being stored, or has been stored meanwhile, by another process."""


def begin(tx: Tx, owner: str, request_id: str, jobs: int, *, process: str, now: float) -> int:
    """Set ids aside for a request. Returns the first one. Raises Taken."""
    row = tx.one("request.find", owner=owner, request_id=request_id)
    if row is not None:
        if row[2] or row[3] != process:
            raise Taken
        drop(tx, owner, request_id, row[0], row[1])  # we began it, and could not go on
    row = tx.one("series.take", name="job", by=jobs)
    first = row[0] - jobs + 1 if row else 0
    row = tx.one(
        "request.add",
        owner=owner,
        request_id=request_id,
        first=first,
        jobs=jobs,
        made=now,
        process=process,
    )
    if row is None:
        raise Taken
    return first


def still_ours(tx: Tx, owner: str, request_id: str, first: int) -> None:
    """Raise Taken if a request was taken from us: we were silent, and thought to be gone."""
    row = tx.one("request.find", owner=owner, request_id=request_id)
    if row is None or row[0] != first:
        raise Taken


def add(
    tx: Tx,
    jobs: Sequence[Prepared],
    *,
    at: int,
    first: int,
    ids: dict[str, int],
    owner: str,
    sees: str,
    shapes: dict[int, Shape],
    ranks: Sequence[float],
    now: float,
    group: str,
    turns: Turns,
) -> None:
    """Store the jobs `at …` of a request that begins with job `first`; nobody sees them yet.

    `sees`: whose jobs may be depended on; empty for everybody's. `ranks`: whose turn comes when,
    among the users of the `group`.
    """
    rows: list[dict[str, Any]] = []
    edges: list[dict[str, int]] = []
    numbers = {
        shape: _number(tx, shape, shapes, group, turns) for shape in {job.shape for job in jobs}
    }
    for job_id, job in enumerate(jobs, start=first + at):
        spec = job.spec
        waits = 0
        if spec.depends_on:
            parents = _parents(tx, spec, ids, sees, index=job_id - first)
            edges += ({"parent": parent, "child": job_id} for parent, _ in parents)
            waits = sum(state != JobState.FINISHED for _, state in parents)
        rows.append(
            {
                "job_id": job_id,
                "queue": spec.queue,
                "shape_id": numbers[job.shape],
                "priority": spec.priority,
                "max_attempts": spec.max_attempts or DEFAULT_ATTEMPTS,
                "retry_all": spec.max_attempts is not None,
                "parents_left": waits,
                "created": now,
                "owner": owner,
                "rank": ranks[job_id - first - at],
                "name": spec.name,
                "spec": job.body,
                "wants": job.wants,
            }
        )
    for (queue, shape_id), n in Counter((row["queue"], row["shape_id"]) for row in rows).items():
        tx.count(queue, shape_id, JobState.DEFINED, n)
    tx.many("job.add", rows)
    tx.many("body.add", rows)
    tx.many("parent.add", edges)


def open_up(
    tx: Tx, owner: str, request_id: str, first: int, jobs: int, *, now: float
) -> m.Submitted:
    """Let all jobs of a request begin: from here on the submission is accepted."""
    last = first + jobs - 1
    groups = tx.all("job.defined_range", first=first, last=last)
    tx.run("job.open_range", first=first, last=last, now=now)
    for queue, shape, state, n, _ in groups:
        tx.count(queue, shape, JobState.DEFINED, -n)
        tx.count(queue, shape, state, n)
        tx.tell(
            "submitted",
            at=now,
            queue=queue,
            shape_id=shape,
            state=state,
            jobs=n,
            first=first,
            last=last,
        )
    tx.run("request.complete", owner=owner, request_id=request_id)
    return m.Submitted(job_ids=tuple(range(first, first + jobs)))


def drop(tx: Tx, owner: str, request_id: str, first: int, jobs: int) -> None:
    """Forget a request that was not accepted, with the jobs that nobody has seen."""
    last = first + jobs - 1
    for queue, shape, _, n, _ in tx.all("job.defined_range", first=first, last=last):
        tx.count(queue, shape, JobState.DEFINED, -n)
    for table in ("job", "body", "parent"):
        tx.run(f"{table}.drop_range", first=first, last=last)
    tx.run("request.drop", owner=owner, request_id=request_id)


def drop_broken(tx: Tx, process: str) -> int:
    """Forget submissions that the end of a process cut short: they were never answered. How many."""
    broken = tx.all("request.broken", process=process)
    for owner, request_id, first, jobs in broken:
        drop(tx, owner, request_id, first, jobs)
    return len(broken)


def _number(tx: Tx, shape: Shape, shapes: dict[int, Shape], group: str, turns: Turns) -> int:
    """The number of a shape in a group, given one if it is new; `shapes` learns it at once, for who
    leases next."""
    values = msgspec.structs.asdict(shape)
    row = tx.one("shape.find", **values) or tx.one("shape.add", **values)
    number = turns.lane(tx, int(row[0]) if row else 0, group)
    shapes[number] = shape
    return number


def _parents(
    tx: Tx, spec: JobSpec, ids: dict[str, int], sees: str, index: int
) -> list[tuple[int, str]]:
    """The jobs that `spec` waits for, and their states. Raises Rejected for those it cannot wait for."""
    found: dict[int, str] = {}
    for nr, parent in enumerate(spec.depends_on):
        if isinstance(parent, str):
            found[ids[parent]] = JobState.DEFINED
            continue
        row = tx.one("job.standing", job_id=parent)
        where = f"jobs[{index}].depends_on[{nr}]"
        if row is None or (sees and row[7] != sees):
            raise Rejected(
                422, f"there is no job {parent}", field=where, remedy="see `dispatcher jobs`"
            )
        if row[0] in FINAL and row[0] != JobState.FINISHED:
            raise Rejected(
                422,
                f"job {parent} is {row[0]}",
                field=where,
                remedy="retry it, and depend on the new job",
            )
        found[parent] = row[0]
    return list(found.items())
