"""How jobs enter the queue: all of a request, or none, however often it is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.job import DEFAULT_ATTEMPTS, JobSpec
from ailurus.protocol.states import FINAL, FIRST, JobState
from dispatcher.events import ChildrenDue, Retried, RetryOf
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import (
    dependencies,
    item_lists,
    records,
    retention,
    specs,
    submission_records,
    transitions,
)
from dispatcher.rules.lanes import Lanes
from dispatcher.rules.preparing import Prepared, prepared

# Jobs of one commit: heartbeats get their turn between two.
TOGETHER = 1000
# Jobs of a submission that are counted when somebody looks: then those who submit one job at a time
# pay for no counters.
COUNTED_ON_SIGHT = 100
# That a job waits for another: of one commit.
LINKS = 1000
# Of one submission.
MOST_LINKS = 1_000_000
_encode = msgspec.json.Encoder().encode


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
    task_id: int = 0
    """The task that makes them; 0: a user submits them."""
    name: str = ""
    labels: Mapping[str, str] = {}
    retry_of: int | None = None
    """The first job of the submission that this one tries again."""


class Known(Struct, frozen=True):
    """A request that was taken before; `digest` None: by a version that did not keep it."""

    answer: m.Submitted
    digest: str | None


def check_links(jobs: Sequence[JobSpec]) -> None:
    """Raise Rejected for a submission whose jobs wait for more than a store can write in some
    seconds."""
    total = sum(len(job.depends_on) for job in jobs)
    if total > MOST_LINKS:
        raise Rejected(
            422,
            f"these jobs have {total} dependencies: a submission may have {MOST_LINKS}",
            field="jobs",
            remedy="submit them in several requests, or let one job wait for all parents and the others "
            "for that one",
        )


def known(tx: Tx, by: str, request_id: str) -> Known | None:
    """The first answer to a request that comes again."""
    found = submission_records.find_request(tx, by, request_id)
    if found is None or not found.complete:
        return None
    ids = tuple(range(found.first, found.first + found.jobs))
    answer = m.Submitted(job_ids=ids, repeated=True, submission=found.first)
    return Known(answer, found.digest)


def check_complete(job_ids: Sequence[int], states: Mapping[int, JobState]) -> None:
    """Raises Rejected for a job that is still being submitted."""
    for nr, job_id in enumerate(job_ids):
        if states[job_id] is JobState.DEFINED:
            raise Rejected(
                409,
                f"job {job_id} is still being submitted",
                field=f"job_ids[{nr}]",
                remedy="cancel it when its submission has been answered",
            )


def id_reused(request_id: str) -> Rejected:
    """The refusal of a request whose id stands for something else."""
    return Rejected(
        422,
        f"request {request_id!r} was sent before with other contents",
        field="request_id",
        remedy="an id belongs to one request: give this one its own",
    )


class Taken(Exception):
    """The same request is being stored, or has been stored meanwhile, by another process."""


def begin(tx: Tx, request: Request, jobs: int, *, process: str, now: float) -> int:
    """Set ids aside for a request. Returns the first one. Raises Taken."""
    found = submission_records.find_request(tx, request.by, request.request_id)
    if found is not None:
        if found.complete or found.process != process:
            raise Taken
        # this dispatcher began it, and could not go on
        drop(tx, request.by, request.request_id, found.first, found.jobs)
    last: int = records.value(tx.one("series.take", name="job", by=jobs), jobs - 1)
    first = last - jobs + 1
    begun = tx.one(
        "request.add",
        owner=request.by,
        request_id=request.request_id,
        first=first,
        jobs=jobs,
        made=now,
        process=process,
        digest=request.digest,
        name=request.name or None,
        labels=_encode(request.labels).decode() if request.labels else None,
        of_user=request.owner if request.owner != request.by else None,
        retry_of=request.retry_of,
        task_id=request.task_id or None,
    )
    if begun is None:
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
    found = submission_records.find_request(tx, request.by, request.request_id)
    if found is None or found.first != first:
        raise Taken


def add(
    tx: Tx,
    request: Request,
    jobs: Sequence[Prepared],
    lanes: Lanes,
    *,
    first: int,
    ranks: Sequence[float],
    now: float,
    tally: int | None = None,
) -> None:
    """Store some jobs of a request, of which `first` is the id of the first; nobody sees them yet,
    and what they wait for is stored by `link`. `ranks`: when each job's turn comes, among the users
    of its owner's group. `tally`: the submission in whose tally they are counted."""
    new: list[dict[str, Any]] = [
        {
            "job_id": job_id,
            "queue": job.spec.queue,
            "shape_id": lanes.number(
                job.spec.queue, job.shape, item_lists.carried(tx, request.owner, job.spec)
            ),
            "priority": job.spec.priority,
            "max_attempts": job.spec.max_attempts or DEFAULT_ATTEMPTS,
            "retry_all": job.spec.max_attempts is not None,
            "created": now,
            "owner": request.owner,
            "rank": rank,
            "name": job.spec.name,
            "spec": job.body,
            "wants": job.wants,
            "items": job.spec.payloads.count if job.spec.payloads else 0,
            "task_id": request.task_id,
            "tally": tally,
        }
        for job_id, (job, rank) in enumerate(zip(jobs, ranks, strict=True), start=first)
    ]
    transitions.define(tx, new, owner=request.owner)
    tx.many("body.add", new)
    tx.many(
        "label.add",
        (
            {"job_id": job_id, "name": name, "value": value}
            for job_id, job in enumerate(jobs, start=first)
            for name, value in job.spec.labels.items()
        ),
    )
    mixed = {number for number in {row["shape_id"] for row in new} if lanes.mixed(number)}
    if mixed:
        sized = (
            records.sized(row["job_id"], job.shape)
            for row, job in zip(new, jobs, strict=True)
            if row["shape_id"] in mixed
        )
        tx.many("sized.add", sized)


class ParentLink(NamedTuple):
    """That a job waits for another: their places in the request, or the id of the other and its
    place in `depends_on`."""

    child: int
    parent: int
    # In `depends_on`; below 0: the parent is of this request.
    nr: int = -1


def links(jobs: Sequence[Prepared], places: Mapping[str, int]) -> Iterator[ParentLink]:
    """What the jobs of a request wait for, each once. `places`: of its jobs, by name.

    Jobs in a row that wait for the same ones come parent by parent: the rows of one parent lie
    together.
    """
    waiting = ((nr, job) for nr, job in enumerate(jobs) if job.spec.depends_on or job.after)
    for (depends_on, after), group in groupby(
        waiting, key=lambda one: (one[1].spec.depends_on, one[1].after)
    ):
        inside = dict.fromkeys(after)
        outside: dict[int, int] = {}
        for nr, parent in enumerate(depends_on):
            if not isinstance(parent, str):
                outside.setdefault(parent, nr)
            elif not after:
                # Else they are these, and no name is needed.
                inside.setdefault(places[parent])
        if inside or outside:
            children = [child for child, _ in group]
            yield from (ParentLink(child, place) for place in inside for child in children)
            yield from (
                ParentLink(child, parent, nr)
                for parent, nr in outside.items()
                for child in children
            )


def link(
    tx: Tx,
    part: Sequence[ParentLink],
    jobs: Sequence[Prepared],
    filled: MutableMapping[int, Prepared],
    *,
    first: int,
    sees: str,
) -> None:
    """Store some of what the jobs of a request wait for. A job gets those inputs filled in whose
    makers were moved away, and stands in `filled` from then on, by its place. `sees`: whose jobs
    may be depended on; empty for everybody's. Raises Rejected."""
    states, moved = _parents(tx, part, sees)
    waits: Counter[int] = Counter()
    files: dict[int, list[m.FileRecord]] = {}
    parents = []
    for child, parent, nr in part:
        ended = nr >= 0 and states[parent] == JobState.FINISHED
        waits[first + child] += not ended
        # a parent that has finished may still be telling its children: this one knows
        parents.append(
            {
                "parent": parent if nr >= 0 else first + parent,
                "child": first + child,
                "told": int(ended),
            }
        )
        if nr >= 0 and parent in moved and filled.get(child, jobs[child]).wants:
            files.setdefault(child, []).extend(moved[parent])
    tx.many("parent.add", parents)
    tx.many("job.wait_for", ({"job_id": child, "n": n} for child, n in waits.items() if n))
    for child, made in files.items():
        job = _filled(filled.get(child, jobs[child]), made)
        tx.assign(filled, child, job)
        tx.run("body.fill", job_id=first + child, spec=job.body, wants=job.wants)


def tallied(request: Request, jobs: int) -> bool:
    """Whether the jobs of a request are counted by each commit that changes one. A task counts its
    items itself."""
    return jobs > COUNTED_ON_SIGHT and not request.task_id


def open_up(tx: Tx, request: Request, first: int, jobs: int, *, now: float) -> m.Submitted:
    """Let all jobs of a request begin: from here on the submission is accepted."""
    last = first + jobs - 1
    doomed = tx.all("job.doomed", first=first, last=last)
    transitions.open_range(tx, first, last, now=now)
    if tallied(request, jobs):
        tx.run("tally.begin", first=first, waiting=jobs)
    for job_id, code, diagnosis in doomed:
        dependencies.fail(tx, records.get_job(tx, job_id), code=code, diagnosis=diagnosis, now=now)
    failed = [job_id for job_id, *_ in doomed]
    if failed:
        tx.tell(ChildrenDue(), at=now, job_id=failed[0])
    for new_id, job_id in enumerate(request.retries, start=first):
        tx.tell(Retried(by=request.by, new=new_id), at=now, job_id=job_id)
        tx.tell(RetryOf(by=request.by, of=job_id), at=now, job_id=new_id)
    tx.run("request.complete", owner=request.by, request_id=request.request_id)
    return m.Submitted(job_ids=tuple(range(first, first + jobs)), submission=first)


def carry_items(tx: Tx, request: Request, jobs: Sequence[Prepared], first: int) -> None:
    """Give jobs that carry items theirs. Raises Rejected if they are gone."""
    for nr, job in enumerate(jobs):
        if job.spec.payloads is not None:
            retry_of = request.retries[nr] if request.retries else None
            item_lists.carry(tx, first + nr, job.spec, request.owner, retry_of)


def use_datasets(tx: Tx, jobs: Sequence[Prepared], first: int) -> None:
    """Note which data sets the jobs of a request write to, so that each is closed after the last of
    them."""
    used: dict[str, tuple[int, int]] = {}
    for job_id, job in enumerate(jobs, start=first):
        for dataset in {file.dataset for file in job.spec.outputs if file.dataset}:
            used[dataset] = used.get(dataset, (job_id, job_id))[0], job_id
    tx.many(
        "dataset_use.add",
        ({"dataset": name, "first": a, "last": b} for name, (a, b) in used.items()),
    )


def drop(tx: Tx, owner: str, request_id: str, first: int, jobs: int) -> None:
    """Forget a request that was not accepted, with the jobs that nobody has seen."""
    clear(tx, first, first + jobs - 1)
    tx.run("request.drop", owner=owner, request_id=request_id)


def clear(tx: Tx, first: int, last: int) -> None:
    """Forget some jobs of such a request, with what they wait for."""
    for group in records.defined(tx, first, last):
        tx.count(group.queue, group.shape_id, FIRST, -group.n, group.owner)
    for table in ("job", "body", "label", "parent", "retry", "sized"):
        tx.run(f"{table}.drop_range", first=first, last=last)


def spans(jobs: Sequence[Prepared]) -> Iterator[tuple[int, int]]:
    """The jobs of a request, first and last place, as they can be cleared in one commit each."""
    begin = rows = 0
    for place, job in enumerate(jobs):
        if place > begin and (rows > LINKS or place - begin == TOGETHER):
            yield begin, place - 1
            begin, rows = place, 0
        rows += len(job.spec.depends_on) + len(job.after)
    yield begin, len(jobs) - 1


def drop_broken(tx: Tx, process: str) -> int:
    """Forget submissions that the end of a process cut short: they were never answered. How
    many."""
    broken = submission_records.broken_requests(tx, process)
    for one in broken:
        drop(tx, one.owner, one.request_id, one.first, one.jobs)
    return len(broken)


def _parents(
    tx: Tx, part: Sequence[ParentLink], sees: str
) -> tuple[dict[int, str], dict[int, Sequence[m.FileRecord]]]:
    """The states of the jobs from outside a request that some of its jobs wait for, and the files
    of those that were moved away. Raises Rejected for those that cannot be waited for."""
    wanted = {one.parent: one for one in reversed(part) if one.nr >= 0}
    if not wanted:
        return {}, {}
    ids = _encode(sorted(wanted)).decode()
    found = {job_id: (state, owner) for job_id, state, owner in tx.all("job.parents", ids=ids)}
    moved: dict[int, Sequence[m.FileRecord]] = {}
    for child, parent, nr in sorted(wanted.values()):
        if parent not in found and (old := retention.kept(tx, parent)) is not None:
            found[parent] = (old.row.state, old.row.user)
            moved[parent] = old.files
        state, owner = found.get(parent, ("", ""))
        where = f"jobs[{child}].depends_on[{nr}]"
        # one that is still being submitted is not there yet, were it this very job
        if state in ("", FIRST) or (sees and owner != sees):
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
    return {parent: state for parent, (state, _) in found.items()}, moved


def _filled(job: Prepared, files: Sequence[m.FileRecord]) -> Prepared:
    """The job with inputs that are outputs of jobs whose files the queue no longer lists."""
    made = {file.name: file for file in files}
    inputs = specs.located(job.spec.inputs, made)
    return prepared(replace(job.spec, inputs=inputs), job.after)
