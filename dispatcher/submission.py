"""How jobs enter the queue: all of a request, or none, however often it is sent."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.job import DEFAULT_ATTEMPTS, JobSpec, Shape, shape_of
from ailurus.protocol.states import FINAL, JobState
from dispatcher import retention
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
    after: tuple[int, ...] = ()
    """Where in the request the jobs stand that a retried job waits for."""


class Request(Struct, frozen=True, kw_only=True):
    """What is to be stored once, however often it is sent."""

    by: str
    """Whose request it is: an id is one of its sender's."""
    request_id: str
    digest: str
    """What it says, to know it again."""
    owner: str
    """Whose the jobs are: another's if an admin retries them."""
    sees: str
    """Whose jobs may be depended on; empty for everybody's."""
    group: str
    retries: tuple[int, ...] = ()
    """The final jobs that these are new tries of, in their order; none: they are new."""


class Known(Struct, frozen=True):
    """A request that was taken before; `digest` None: by a version that did not keep it."""

    answer: m.Submitted
    digest: str | None


def prepare(jobs: Sequence[JobSpec]) -> list[Prepared]:
    """Encode the specifications as they will be sent to pilots."""
    return [prepared(spec) for spec in jobs]


def prepared(spec: JobSpec, after: tuple[int, ...] = ()) -> Prepared:
    """One of them."""
    wants = sum(not file.url for file in spec.inputs)
    return Prepared(spec, _encode(spec), shape_of(spec), wants, after)


def digest_of(jobs: Sequence[Prepared]) -> str:
    """What a request says. Defaults are left out of a body, so it is the same in the next version."""
    return hashlib.sha256(b"\n".join(job.body for job in jobs)).hexdigest()


def known(tx: Tx, by: str, request_id: str) -> Known | None:
    """The first answer to a request that comes again."""
    row = tx.one("request.find", owner=by, request_id=request_id)
    if row is None or not row[2]:
        return None
    ids = tuple(range(row[0], row[0] + row[1]))
    return Known(m.Submitted(job_ids=ids, repeated=True), row[4])


def another(request_id: str) -> Rejected:
    """The refusal of a request whose id stands for something else."""
    return Rejected(
        422,
        f"request {request_id!r} was sent before, and said something else",
        field="request_id",
        remedy="an id belongs to one request: give this one its own",
    )


class Taken(Exception):
    """The same request is being stored, or has been stored meanwhile, by another process."""


def begin(tx: Tx, request: Request, jobs: int, *, process: str, now: float) -> int:
    """Set ids aside for a request. Returns the first one. Raises Taken."""
    mine = {"owner": request.by, "request_id": request.request_id}
    row = tx.one("request.find", **mine)
    if row is not None:
        if row[2] or row[3] != process:
            raise Taken
        drop(tx, request.by, request.request_id, row[0], row[1])  # we began it, and could not go on
    row = tx.one("series.take", name="job", by=jobs)
    first = row[0] - jobs + 1 if row else 0
    row = tx.one(
        "request.add",
        **mine,
        first=first,
        jobs=jobs,
        made=now,
        process=process,
        digest=request.digest,
    )
    if row is None:
        raise Taken
    for new_id, job_id in enumerate(request.retries, start=first):
        claim = {"job_id": job_id, "new_id": new_id, "made_by": request.by, "made": now}
        if tx.one("retry.claim", **claim) is None:
            raise Rejected(
                409,
                f"job {job_id} is being retried by somebody else",
                field="job_ids",
                remedy=f"look at it: dispatcher show {job_id}",
            )
    return first


def still_ours(tx: Tx, request: Request, first: int) -> None:
    """Raise Taken if a request was taken from us: we were silent, and thought to be gone."""
    row = tx.one("request.find", owner=request.by, request_id=request.request_id)
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
    for job_id, asked in enumerate(jobs, start=first + at):
        job, spec = asked, asked.spec
        waits = 0
        if spec.depends_on:
            parents, job = _parents(tx, asked, ids, first, sees, index=job_id - first)
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


def open_up(tx: Tx, request: Request, first: int, jobs: int, *, now: float) -> m.Submitted:
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
    for new_id, job_id in enumerate(request.retries, start=first):
        tx.tell("retried", at=now, job_id=job_id, by=request.by, new=new_id)
        tx.tell("retry", at=now, job_id=new_id, by=request.by, of=job_id)
    tx.run("request.complete", owner=request.by, request_id=request.request_id)
    return m.Submitted(job_ids=tuple(range(first, first + jobs)))


def drop(tx: Tx, owner: str, request_id: str, first: int, jobs: int) -> None:
    """Forget a request that was not accepted, with the jobs that nobody has seen."""
    last = first + jobs - 1
    for queue, shape, _, n, _ in tx.all("job.defined_range", first=first, last=last):
        tx.count(queue, shape, JobState.DEFINED, -n)
    for table in ("job", "body", "parent", "retry"):
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
    tx: Tx, job: Prepared, ids: dict[str, int], first: int, sees: str, index: int
) -> tuple[list[tuple[int, str]], Prepared]:
    """The jobs that `job` waits for with their states, and the job with those inputs filled in whose
    makers were moved away. Raises Rejected for those it cannot wait for."""
    found: dict[int, str] = {first + place: JobState.DEFINED for place in job.after}
    moved: list[m.FileRecord] = []
    for nr, parent in enumerate(job.spec.depends_on):
        if isinstance(parent, str):
            if not job.after:  # else they are these, and no name is needed
                found[ids[parent]] = JobState.DEFINED
            continue
        row = tx.one("job.standing", job_id=parent)
        state, owner = (row[0], row[7]) if row is not None else ("", "")
        if row is None and (old := retention.kept(tx, parent)) is not None:
            state, owner = old.row.state, old.row.user
            moved += old.files
        where = f"jobs[{index}].depends_on[{nr}]"
        if not state or (sees and owner != sees):
            raise Rejected(
                422, f"there is no job {parent}", field=where, remedy="see `dispatcher jobs`"
            )
        if state in FINAL and state != JobState.FINISHED:
            raise Rejected(
                422,
                f"job {parent} is {state}",
                field=where,
                remedy="retry it, and depend on the new job",
            )
        found[parent] = state
    return list(found.items()), _filled(job, moved) if moved else job


def _filled(job: Prepared, files: Sequence[m.FileRecord]) -> Prepared:
    """The job with inputs that are outputs of jobs whose files the queue no longer lists."""
    made = {file.name: file for file in files}
    inputs = tuple(
        replace(
            one, url=made[one.name].url, size=made[one.name].size, adler32=made[one.name].adler32
        )
        if not one.url and one.name in made
        else one
        for one in job.spec.inputs
    )
    return prepared(replace(job.spec, inputs=inputs), job.after)
