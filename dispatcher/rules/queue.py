"""Which jobs a worker gets: those that fit, best priority first, in the order of their users'
turns."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import suppress
from itertools import islice

from msgspec import Struct

from ailurus.protocol import states
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.states import JobState, Refusal
from dispatcher.ports import Tx
from dispatcher.rules import attempts, lanes, records, specs, transitions
from dispatcher.rules.attempts import SUSPECT, OpenAttempt, WorkerAttempt
from dispatcher.rules.group_turns import Candidate, Carried, Turns
from dispatcher.rules.records import JobRecord
from dispatcher.rules.specs import Unfit

ANYTHING = Room(
    cores=1_000_000,
    memory_mb=2**62,
    disk_mb=2**62,
    gpus=1_000_000,
    gpu_share=1,
    nodes=1_000_000,
)
# Ready jobs looked at beyond those requested, once some must not run on this node.
PASSED = 100


class LeaseRequest(Struct, frozen=True, kw_only=True):
    """A worker's request for jobs."""

    queue: str
    room: Room
    """The jobs of one request fit in it together."""
    count: int = 1
    suits: Callable[[Shape], bool] = lambda shape: not shape.machine
    """Which shapes the worker takes of those that fit; none that needs a kind of machine, unless it
    is known what the worker's is."""
    worker_id: int = 0
    request_id: str = ""
    again: bool = True
    """Whether a request with an id that was answered before gets that answer: it may have been
    lost."""
    host: str = ""
    elsewhere: Callable[[Shape], bool] = lambda _: False
    """Whether a worker on another host could run the shape."""
    busy: bool = False
    """Whether the worker has jobs that a suspect job must not take with it."""
    carries: Carried = Carried.NOTHING
    """The most that a job may carry for the worker."""
    silent: bool = False
    """Whether the worker was taken for lost and has not said yet what it still has."""


class Memory(Struct, frozen=True):
    """What a dispatcher remembers from one lease to the next."""

    shapes: MutableMapping[int, Shape]
    """By number."""
    turns: Turns
    """Of groups of users, which go before priority."""


class Leased(Struct, frozen=True):
    """An attempt as it goes to its worker."""

    attempt: OpenAttempt
    shape: Shape
    spec: bytes


class Given(Struct, frozen=True):
    """What a worker gets, and how many jobs failed on the way because no worker can be given
    them."""

    jobs: list[Leased]
    unfit: int = 0


def lease(tx: Tx, request: LeaseRequest, memory: Memory, *, now: float) -> Given:
    """Lease jobs to a worker.

    A job that failed on the worker's host is left to other workers if it can run elsewhere. One
    that lost several workers is leased alone, to a worker that is not busy: it may be what kills
    them. A silent worker does not get what it lost: it may still have it. A job that cannot be
    handed out, for whatever is wrong with it, fails, and the next is taken.
    """
    if request.again and (known := _answered(tx, request)):
        return _given_again(tx, request, known, memory, now=now)
    leased: list[Leased] = []
    unfit, room = 0, request.room
    passed: set[int] = set()
    for job_id, shape, group in _offered(tx, request, memory, passed):
        if len(leased) == request.count:
            break
        if not shape.fits(room):
            continue
        job = records.get_job(tx, job_id)
        if isinstance(states.lease(job), Refusal):
            continue
        tried = attempts.tried_on(tx, job_id) if job.attempt_nr else {}
        alone = sum(tried.values()) >= SUSPECT
        if (
            (request.silent and _is_lost(tx, job, request.worker_id))
            or (alone and (request.busy or leased))
            or (request.host in tried and request.elsewhere(shape))
        ):
            passed.add(job_id)
            continue
        try:
            spec = specs.body(tx, job_id)
        except Unfit as fault:
            attempts.fail_unfit(tx, job_id=job_id, why=str(fault), now=now)
            unfit += 1
            passed.add(job_id)
            continue
        room = room.taking(shape)
        if group is not None:
            memory.turns.take(tx, request.queue, group, shape.cores)
        leased.append(Leased(_begin(tx, job, request, alone=alone, now=now), shape, spec))
        if alone:
            break
    return Given(leased, unfit)


def any_ready(tx: Tx, request: LeaseRequest, memory: Memory) -> bool:
    """Whether a job waits that `lease` could hand out."""
    return any(
        not memory.turns.mixed(tx, number)
        or lanes.ready(tx, name, number, 1, request.room, request.suits)
        for name, number, _ in _fitting(tx, request, memory)
    )


def rehearse(tx: Tx, memory: Memory, most: int = 20) -> None:
    """Run the reads of `lease` for one job a queue, for readiness; raise what would stop that
    queue. At most `most` queues are tried."""
    names = {one.queue for one in records.counters(tx) if one.state == JobState.ACTIVATED}
    for name in sorted(names)[:most]:
        request = LeaseRequest(queue=name, room=ANYTHING, suits=lambda _: True)
        for job_id, *_ in islice(_best(tx, request, memory, 1), 1):
            states.lease(records.get_job(tx, job_id))
            attempts.tried_on(tx, job_id)
            with suppress(Unfit):
                specs.body(tx, job_id)


def _begin(
    tx: Tx, job: JobRecord, request: LeaseRequest, *, alone: bool, now: float
) -> OpenAttempt:
    """Begin an attempt of a job."""
    worker_id = request.worker_id
    after = transitions.lease(tx, job, worker_id, alone=alone, now=now)
    assert isinstance(after, JobRecord)  # noqa: S101 -- the table was asked before
    attempts.begin(tx, after, worker_id, request_id=request.request_id, now=now)
    return OpenAttempt(job.job_id, after.attempt_nr, worker_id, after.state, job.owner, alone)


def _is_lost(tx: Tx, job: JobRecord, worker_id: int) -> bool:
    attempt = WorkerAttempt(job.job_id, job.attempt_nr, worker_id)
    return attempts.find_lost(tx, attempt) is not None


def _answered(tx: Tx, request: LeaseRequest) -> list[tuple[int, int, int]]:
    """What a request got before: job, attempt, and the number of its shape."""
    return tx.all("attempt.of_request", worker_id=request.worker_id, request=request.request_id)


def _given_again(
    tx: Tx,
    request: LeaseRequest,
    known: Sequence[tuple[int, int, int]],
    memory: Memory,
    *,
    now: float,
) -> Given:
    """The answer to a request that was answered before."""
    leased = []
    for job_id, _, shape_id in known:
        attempt = attempts.find_open(tx, job_id)
        # Another dispatcher may have ended it since.
        if attempt is None or attempt.worker_id != request.worker_id:
            continue
        try:
            spec = specs.body(tx, job_id)
        except Unfit as fault:
            attempts.fail_unfit(tx, job_id=job_id, why=str(fault), now=now)
        else:
            shape = records.find_size(tx, job_id) or _shape(tx, memory, shape_id)
            leased.append(Leased(attempt, shape, spec))
    return Given(leased, len(known) - len(leased))


def _offered(
    tx: Tx, request: LeaseRequest, memory: Memory, passed: set[int]
) -> Iterable[Candidate]:
    """The best jobs, as many as are requested, and a good many more if the caller `passed` over
    some."""
    seen = set()
    for candidate in _best(tx, request, memory, request.count):
        seen.add(candidate[0])
        yield candidate
    if passed:
        for candidate in _best(tx, request, memory, request.count + PASSED):
            if candidate[0] not in seen:
                yield candidate


def _best(tx: Tx, request: LeaseRequest, memory: Memory, count: int) -> Iterable[Candidate]:
    """Ready jobs that fit, best first: one index range a shape, merged. Those that do not fit are
    not even looked at, so they never stand in front of those that do. Where several groups have
    such jobs, only the group whose turn it is, is looked at."""
    turns = memory.turns

    def ready(name: str, shape_id: int, shape: Shape) -> list[tuple[int, float, int, Shape]]:
        if turns.mixed(tx, shape_id):
            return lanes.ready(tx, name, shape_id, count, request.room, request.suits)
        found = tx.all("job.ready", queue=name, shape_id=shape_id, most=count)
        return [(-priority, rank, job_id, shape) for job_id, priority, rank in found]

    kinds: dict[str, list[tuple[str, int, Shape]]] = {}
    for name, shape_id, shape in _fitting(tx, request, memory):
        kinds.setdefault(turns.group(tx, shape_id), []).append((name, shape_id, shape))

    def best(group: str) -> Iterator[tuple[int, Shape]]:
        for _, _, job_id, shape in heapq.merge(*(ready(*kind) for kind in kinds[group])):
            yield job_id, shape

    if len(kinds) > 1:
        return turns.merged(request.queue, {group: best(group) for group in kinds})
    return ((job_id, shape, None) for group in kinds for job_id, shape in best(group))


def _fitting(tx: Tx, request: LeaseRequest, memory: Memory) -> Iterator[tuple[str, int, Shape]]:
    """Queues and shapes that have ready jobs and fit, or may: the jobs of a mixed lane are looked
    at."""
    for name, shape_id, _ in tx.all("counter.ready", queue=request.queue):
        shape = _shape(tx, memory, shape_id)
        if memory.turns.carried(tx, shape_id) > request.carries:
            continue
        if memory.turns.mixed(tx, shape_id) or (shape.fits(request.room) and request.suits(shape)):
            yield name, shape_id, shape


def _shape(tx: Tx, memory: Memory, number: int) -> Shape:
    # Another process was the first to meet it.
    if number not in memory.shapes:
        for one, shape in records.shapes(tx).items():
            tx.assign(memory.shapes, one, shape)
    return memory.shapes[number]
