"""The rules of the queue, each a plain function of a transaction."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol import states
from ailurus.protocol.errors import TAKEN_AWAY, Code
from ailurus.protocol.job import InputFile, JobSpec
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.states import JobState, Refusal, Standing
from ailurus.protocol.worker import Ending
from dispatcher.ports import Row, Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import dependencies, lanes
from dispatcher.rules.group_turns import Candidate, Turns

log = Log("queue")
_encode = msgspec.json.Encoder().encode
_decode_spec = msgspec.json.Decoder(JobSpec).decode
_FIELDS = frozenset(JobSpec.__struct_fields__)
REPORTED = frozenset({"finished", "failed"})  # states of attempts whose report has been accepted
END_OF_ATTEMPT: dict[str, object] = {
    "exit_code": None,
    "host": "",
    "runtime": "",
    "diagnosis": "",
    "remedy": "",
    "usage": None,
    "timing": None,
    "stderr_tail": "",
    "curve": None,
}


class Leased(Struct, frozen=True):
    """An attempt as it goes to its worker."""

    job_id: int
    attempt_nr: int
    shape: Shape
    spec: bytes
    owner: str = ""
    alone: bool = False  # its workers keep dying: nothing else runs beside it


class Unfit(Rejected):
    """A job that cannot be handed out as it is stored, and why: that job's fault, and nobody else's."""

    def __init__(self, why: str) -> None:
        super().__init__(409, why, remedy="submit the job anew")


class Gone(LookupError):
    """The store has no such job."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"no job {job_id}")


class Given(Struct, frozen=True):
    """What a worker gets, and how many jobs had to be failed on the way, since nobody can be given them."""

    jobs: list[Leased]
    unfit: int = 0


ANYTHING = Room(cores=1_000_000, memory_mb=2**62, disk_mb=2**62, gpus=1_000_000, nodes=1_000_000)
SUSPECT = 3  # workers lost while they had a job: it may be what kills them
PASSED = 100  # ready jobs looked at beyond those asked for, once some must not run on this node


# All that decides which jobs a worker gets, each by name: a change takes plain values.
def lease(  # noqa: PLR0913
    tx: Tx,
    *,
    worker_id: int,
    queue: str,
    room: Room,
    count: int,
    request: str,
    shapes: MutableMapping[int, Shape],
    now: float,
    suits: Callable[[Shape], bool] = lambda _: True,
    host: str = "",
    busy: bool = False,
    elsewhere: Callable[[Shape], bool] = lambda _: False,
    turns: Turns | None = None,
    again: bool = True,
    silent: bool = False,
) -> Given:
    """Hand up to `count` jobs that fit together in `room` to a worker, best priority first; of those
    whose shape `suits`.

    The same request `again` gets what it got: its first answer may have been lost on the way. A job that
    failed on this `host` is left to others if it can run `elsewhere`; one that lost several workers is
    handed out alone, to a worker that is not `busy`: it may be what kills them, and must not take
    others' attempts with it. A worker that was `silent` and has not yet said what it has is not handed
    what it lost: it may have it still. `turns`: of groups of users, which go before priority. A job that cannot
    be handed out, for whatever is wrong with it, fails, and the next is taken.
    """
    if again and (rows := tx.all("attempt.of_request", worker_id=worker_id, request=request)):
        return _given_again(tx, rows, worker_id, shapes, now)
    leased: list[Leased] = []
    unfit = 0
    passed: set[int] = set()
    turns = turns or Turns()
    for job_id, shape, group in _offered(tx, queue, room, count, shapes, suits, passed, turns):
        if len(leased) == count:
            break
        if not shape.fits(room):
            continue
        standing, place = _standing(tx, job_id)
        after = states.lease(standing)
        if isinstance(after, Refusal):
            continue
        if silent and _lost_by(tx, job_id, standing.attempt_nr, worker_id):
            passed.add(job_id)
            continue
        tried = _tried_on(tx, job_id) if standing.attempt_nr else {}
        alone = sum(tried.values()) >= SUSPECT
        if (alone and (busy or leased)) or (host in tried and elsewhere(shape)):
            passed.add(job_id)
            continue
        try:
            spec = body(tx, job_id)
        except Unfit as fault:
            fail(tx, job_id=job_id, why=str(fault), now=now)
            unfit += 1
            passed.add(job_id)
            continue
        room = room.less(shape)
        if group is not None:
            turns.take(tx, queue, group, shape.cores)
        _keep(tx, job_id, standing, after, place, worker_id=worker_id, now=now)
        tx.run(
            "attempt.add",
            job_id=job_id,
            attempt_nr=after.attempt_nr,
            worker_id=worker_id,
            request=request,
            now=now,
        )
        leased.append(Leased(job_id, after.attempt_nr, shape, spec, place.owner, alone=alone))
        if alone:
            break
    return Given(leased, unfit)


def _given_again(
    tx: Tx, rows: Sequence[Row], worker_id: int, shapes: MutableMapping[int, Shape], now: float
) -> Given:
    """The answer to a request that was answered before; its first answer may have been lost."""
    leased = []
    for job_id, attempt_nr, shape_id in rows:
        try:
            spec = body(tx, job_id)
        except Unfit as fault:
            fail(tx, job_id=job_id, why=str(fault), now=now)
        else:
            shape = lanes.shape_of(tx, job_id) or _shape(tx, shapes, shape_id)
            leased.append(Leased(job_id, attempt_nr, shape, spec))
    return Given(leased, len(rows) - len(leased))


def fail(tx: Tx, *, job_id: int, why: str, now: float) -> None:
    """End a job that nobody can be given: its owner is told why, and nobody else waits behind it."""
    standing, place = _standing(tx, job_id)
    if standing.state in states.FINAL:
        return
    diagnosis = f"it cannot be handed out: {why}"[:2000]
    if standing.state in states.WITH_WORKER:
        code = Code.NOT_HANDED_OUT
        _end_attempt(tx, job_id, standing.attempt_nr, "failed", now, code=code, diagnosis=diagnosis)
    dependencies.end(
        tx, job_id, JobState.FAILED, code=Code.NOT_HANDED_OUT, diagnosis=diagnosis, now=now
    )
    dependencies.ended(tx, job_id, JobState.FAILED, place.name, now=now)
    log.error("job_not_handed_out", job_id=job_id, user=place.owner, reason=why[:2000])


def dry(tx: Tx, shapes: MutableMapping[int, Shape], turns: Turns, most: int = 20) -> None:
    """What handing out the next job does before it writes, for some of the queues where jobs wait.
    Raises what would stop a queue; a job that is unfit stops none."""
    names = sorted({row[0] for row in tx.all("counter.all") if row[2] == JobState.ACTIVATED})
    for name in names[:most]:
        for job_id, *_ in islice(_best(tx, name, ANYTHING, 1, shapes, lambda _: True, turns), 1):
            states.lease(_standing(tx, job_id)[0])
            _tried_on(tx, job_id)
            with suppress(Unfit):
                body(tx, job_id)


def _offered(
    tx: Tx,
    queue: str,
    room: Room,
    count: int,
    shapes: MutableMapping[int, Shape],
    suits: Callable[[Shape], bool],
    passed: set[int],
    turns: Turns,
) -> Iterable[Candidate]:
    """The best `count`, and if the caller had to pass over some of them a good many more."""
    seen = set()
    for one in _best(tx, queue, room, count, shapes, suits, turns):
        seen.add(one[0])
        yield one
    if passed:
        for one in _best(tx, queue, room, count + PASSED, shapes, suits, turns):
            if one[0] not in seen:
                yield one


def _best(
    tx: Tx,
    queue: str,
    room: Room,
    count: int,
    shapes: MutableMapping[int, Shape],
    suits: Callable[[Shape], bool],
    turns: Turns,
) -> Iterable[Candidate]:
    """Ready jobs that fit, best first: one index range a shape, merged. Those that do not fit are not
    even looked at, so they never stand in front of those that do. Where several groups have such jobs,
    only the group whose turn it is, is looked at."""

    def ready(name: str, shape_id: int, shape: Shape) -> list[tuple[int, float, int, Shape]]:
        if turns.mixed(tx, shape_id):
            return lanes.ready(tx, name, shape_id, count, room, suits)
        rows = tx.all("job.ready", queue=name, shape_id=shape_id, most=count)
        return [(-priority, rank, job_id, shape) for job_id, priority, rank in rows]

    kinds: dict[str, list[tuple[str, int, Shape]]] = {}
    for name, shape_id, shape in _ready(tx, queue, room, shapes, suits, turns):
        kinds.setdefault(turns.group(tx, shape_id), []).append((name, shape_id, shape))

    def best(group: str) -> Iterator[tuple[int, Shape]]:
        for _, _, job_id, shape in heapq.merge(*(ready(*kind) for kind in kinds[group])):
            yield job_id, shape

    if len(kinds) > 1:
        return turns.merged(queue, {group: best(group) for group in kinds})
    return ((job_id, shape, None) for group in kinds for job_id, shape in best(group))


def any_ready(
    tx: Tx,
    queue: str,
    room: Room,
    shapes: MutableMapping[int, Shape],
    suits: Callable[[Shape], bool],
    turns: Turns,
) -> bool:
    """Whether a job waits that `lease` could hand out."""
    return any(
        not turns.mixed(tx, number) or lanes.ready(tx, name, number, 1, room, suits)
        for name, number, _ in _ready(tx, queue, room, shapes, suits, turns)
    )


def _ready(
    tx: Tx,
    queue: str,
    room: Room,
    shapes: MutableMapping[int, Shape],
    suits: Callable[[Shape], bool],
    turns: Turns,
) -> Iterator[tuple[str, int, Shape]]:
    """Queues and shapes that have ready jobs and fit, or may: the jobs of a mixed lane are looked at."""
    for name, shape_id, _ in tx.all("counter.ready", queue=queue):
        shape = _shape(tx, shapes, shape_id)
        if turns.mixed(tx, shape_id) or (shape.fits(room) and suits(shape)):
            yield name, shape_id, shape


def all_shapes(tx: Tx) -> dict[int, Shape]:
    """Shape by number."""
    names = ("cores", "memory_mb", "disk_mb", "gpus", "nodes", "walltime_s")
    return {
        number: Shape(**dict(zip(names, sizes, strict=True)))
        for number, *sizes in (*tx.all("shape.all"), *tx.all("lane.shapes"))
    }


def _shape(tx: Tx, shapes: MutableMapping[int, Shape], number: int) -> Shape:
    if number not in shapes:  # another process was the first to meet it
        for one, shape in all_shapes(tx).items():
            tx.assign(shapes, one, shape)
    return shapes[number]


def body(tx: Tx, job_id: int) -> bytes:
    """The job's specification as its pilot gets it, inputs made by its parents filled in from where they
    are. Raises Unfit for one that no pilot could read, whatever is wrong with it."""
    row = tx.one("body.get", job_id=job_id)
    made = {}
    if row is not None and row[1]:
        made = {name: rest for name, *rest in tx.all("file.of_parents", child=job_id)}
    try:
        return _filled(row, made)
    except Unfit:
        raise
    except Exception as fault:
        raise Unfit(f"its specification cannot be read: {fault}") from fault


def specification(tx: Tx, job_id: int, name: str) -> JobSpec:
    """A job's specification, to be shown: as far as it can be read, were it only its name."""
    with suppress(Unfit):
        return decoded(body(tx, job_id))[0]
    row = tx.one("body.get", job_id=job_id)
    with suppress(msgspec.MsgspecError, TypeError, ValueError):
        return _decode_spec(bytes(row[0]) if row is not None else b"")
    return JobSpec(name=name)


def decoded(spec: bytes) -> tuple[JobSpec, dict[str, Any]]:
    """A stored specification, and the fields of it that only a newer version knows. Raises
    MsgspecError for one that no version could read."""
    try:
        return _decode_spec(spec), {}
    except msgspec.ValidationError:
        fields = msgspec.json.decode(spec, type=dict[str, Any])
        newer = {name: fields.pop(name) for name in fields.keys() - _FIELDS}
        if not newer:
            raise
        return msgspec.convert(fields, JobSpec), newer


def _filled(row: Row | None, made: Mapping[str, Sequence[object]]) -> bytes:
    """What was stored, completed; decoded in any case, for nothing is handed out that cannot be. What
    only a newer version can read is left to its pilots: while versions run side by side they are there."""
    if row is None:
        raise Unfit("its specification is not in the store")
    spec = bytes(row[0])
    job, newer = decoded(spec)
    if not row[1]:
        return spec
    whole = replace(job, inputs=tuple(_located(file, made) for file in job.inputs))
    return _encode({**msgspec.to_builtins(whole), **newer} if newer else whole)


def _located(file: InputFile, made: Mapping[str, Sequence[object]]) -> InputFile:
    if file.url or file.name not in made:  # an optional output that was not made: the pilot says so
        return file
    url, size, adler32, md5 = made[file.name]
    try:
        return msgspec.convert(
            {"name": file.name, "url": url, "size": size, "adler32": adler32 or None, "md5": md5},
            InputFile,
        )
    except msgspec.ValidationError as error:
        raise Unfit(f"input {file.name}, as a job before it left it: {error}") from None


def mark(
    tx: Tx,
    *,
    job_id: int,
    attempt_nr: int,
    worker_id: int,
    state: JobState,
    since: float,
    now: float,
) -> bool:
    """A worker's word about an attempt that it holds. What does not apply changes nothing.

    Whether it was written, and with it that the worker was heard.
    """
    try:
        standing, place = _standing(tx, job_id)
    except Gone:  # what is said of one job harms no other
        return False
    after = states.advance(standing, state, attempt_nr)
    if isinstance(after, Refusal) or place.worker_id != worker_id:
        return False
    if after.state is standing.state:
        return False
    _keep(tx, job_id, standing, after, place, worker_id=worker_id, now=now)
    tx.run(
        "attempt.mark",
        job_id=job_id,
        attempt_nr=attempt_nr,
        state=state,
        since=min(since, now),
        now=now,
    )
    return True


def conclude(tx: Tx, report: m.Report, *, curve: str | None, now: float) -> Refusal | None:
    """The final report of an attempt; None: it counts, as it does when it comes a second time."""
    standing, place = _standing(tx, report.job_id)  # first: it waits for who reports the same now
    row = tx.one("attempt.get", job_id=report.job_id, attempt_nr=report.attempt_nr)
    if row is None:
        return Refusal.BAD_ATTEMPT
    if row[1] in REPORTED:
        return None
    after = states.conclude(
        standing,
        finished=report.finished,
        transient=report.transient,
        attempt_nr=report.attempt_nr,
        blameless=report.code in TAKEN_AWAY,
    )
    if isinstance(after, Refusal):
        _end_attempt(tx, report.job_id, report.attempt_nr, after.value, now, code=report.code)
        return after
    _end_attempt(
        tx,
        report.job_id,
        report.attempt_nr,
        "finished" if report.finished else "failed",
        now,
        code=report.code,
        exit_code=report.exit_code,
        host=report.host,
        runtime=report.runtime,
        diagnosis=report.diagnosis,
        remedy=report.remedy,
        usage=None if report.usage is None else _encode(report.usage).decode(),
        timing=_encode(report.timing).decode(),
        stderr_tail=report.stderr_tail,
        curve=curve,
    )
    if report.files:
        tx.many(
            "file.add",
            ({"job_id": report.job_id, **msgspec.structs.asdict(file)} for file in report.files),
        )
    _settle(tx, report.job_id, standing, after, place, report, now=now)
    return None


def expire(
    tx: Tx,
    *,
    job_id: int,
    attempt_nr: int,
    worker_id: int,
    reason: str,
    code: int,
    now: float,
    ending: Ending | None = None,
) -> None:
    """An attempt whose worker is gone: another one begins, though its own report may still win.

    A preemption is not the job's fault. A failed node is not either, until it becomes a habit: then it
    may be the job that fails them.
    """
    try:
        standing, place = _standing(tx, job_id)
    except Gone:  # nothing is left to try again; the leases of others run out all the same
        return
    blameless = ending is Ending.PREEMPTED or (
        ending is Ending.NODE_FAIL and sum(_tried_on(tx, job_id).values()) < SUSPECT
    )
    after = states.conclude(
        standing, finished=False, transient=True, attempt_nr=attempt_nr, blameless=blameless
    )
    if isinstance(after, Refusal) or place.worker_id != worker_id:
        return
    _end_attempt(tx, job_id, attempt_nr, "lost", now, code=code, diagnosis=reason)
    lost = m.Report(
        job_id=job_id,
        attempt_nr=attempt_nr,
        report_key="-",
        finished=False,
        code=code,
        diagnosis=reason,
    )
    _settle(tx, job_id, standing, after, place, lost, now=now)


def resume(
    tx: Tx,
    *,
    job_id: int,
    attempt_nr: int,
    worker_id: int,
    state: JobState,
    since: float,
    now: float,
) -> bool:
    """An attempt that was given up for lost goes on, where `worker_id` says that it still has it and no
    newer one has begun. Whether it is that worker's now."""
    try:
        standing, place = _standing(tx, job_id)
    except Gone:
        return False
    row = tx.one("attempt.get", job_id=job_id, attempt_nr=attempt_nr)
    after = states.resume(standing, attempt_nr)
    if row is None or tuple(row[:2]) != (worker_id, "lost") or isinstance(after, Refusal):
        return False
    _keep(tx, job_id, standing, after, place, worker_id=worker_id, now=now)
    tx.run("attempt.resume", job_id=job_id, attempt_nr=attempt_nr, now=now)
    mark(
        tx,
        job_id=job_id,
        attempt_nr=attempt_nr,
        worker_id=worker_id,
        state=state,
        since=since,
        now=now,
    )
    return True


def release(tx: Tx, *, job_id: int, attempt_nr: int, worker_id: int, now: float) -> bool:
    """A prefetched job given back unstarted. Whether the worker has it no more: one that has begun is
    not given back, and stays its worker's."""
    try:
        standing, place = _standing(tx, job_id)
    except Gone:
        return True
    after = states.release(standing, attempt_nr)
    if place.worker_id != worker_id or attempt_nr != standing.attempt_nr:
        return True
    if isinstance(after, Refusal):
        return standing.state not in states.WITH_WORKER
    _end_attempt(tx, job_id, attempt_nr, "released", now)
    _keep(tx, job_id, standing, after, place, worker_id=None, now=now)
    return True


def cancel(tx: Tx, *, job_id: int, by: str, now: float) -> bool:
    """Cancel a job. Whether it was not final yet."""
    standing, place = _standing(tx, job_id)
    after = states.cancel(standing)
    if isinstance(after, Refusal):
        return False
    diagnosis = f"cancelled by {by}"
    if standing.state in states.WITH_WORKER:
        _end_attempt(tx, job_id, standing.attempt_nr, "cancelled", now, diagnosis=diagnosis)
    code = Code.KILLED_BY_SERVER
    dependencies.end(tx, job_id, after.state, code=code, diagnosis=diagnosis, now=now, by=by)
    dependencies.ended(tx, job_id, after.state, place.name, now=now)
    return True


def _lost_by(tx: Tx, job_id: int, attempt_nr: int, worker_id: int) -> bool:
    """Whether that worker was taken for lost with the latest attempt in hand."""
    row = tx.one("attempt.get", job_id=job_id, attempt_nr=attempt_nr)
    return row is not None and tuple(row[:2]) == (worker_id, "lost")


def _tried_on(tx: Tx, job_id: int) -> dict[str, int]:
    """The nodes on which attempts failed, and how many workers were lost there with the job in hand
    (one that was preempted is not)."""
    tried: dict[str, int] = {}
    for host, lost in tx.all("attempt.tried_on", job_id=job_id, lost=int(Code.LOST_HEARTBEAT)):
        tried[host] = tried.get(host, 0) + bool(lost)
    return tried


class _Place(Struct, frozen=True):
    """What a job's row says besides its standing."""

    queue: str
    shape_id: int
    worker_id: int | None
    owner: str
    name: str
    row: Row


def _standing(tx: Tx, job_id: int) -> tuple[Standing, _Place]:
    row = tx.one("job.standing", job_id=job_id)
    if row is None:
        raise Gone(job_id)
    state, attempt_nr, most, retry_all, queue, shape_id, worker_id, owner, name, _ = row
    standing = Standing(
        state=JobState(state), attempt_nr=attempt_nr, max_attempts=most, retry_all=bool(retry_all)
    )
    return standing, _Place(queue, shape_id, worker_id, owner, name, row)


def _keep(
    tx: Tx,
    job_id: int,
    before: Standing,
    after: Standing,
    place: _Place,
    *,
    worker_id: int | None,
    now: float,
) -> None:
    tx.run(
        "job.set_state",
        job_id=job_id,
        state=after.state,
        attempt_nr=after.attempt_nr,
        max_attempts=after.max_attempts,
        worker_id=worker_id,
        now=now,
    )
    dependencies.moved(
        tx,
        job_id,
        before.state,
        after.state,
        place.queue,
        place.shape_id,
        place.owner,
        now=now,
        attempt_nr=after.attempt_nr,
        worker_id=worker_id,
    )


def _settle(
    tx: Tx,
    job_id: int,
    before: Standing,
    after: Standing,
    place: _Place,
    report: m.Report,
    *,
    now: float,
) -> None:
    """Put a job where the end of an attempt brought it: to its end, or back to be tried again."""
    if after.state is JobState.ACTIVATED:
        _keep(tx, job_id, before, after, place, worker_id=None, now=now)
        return
    if before.attempt_nr != report.attempt_nr and before.state in states.WITH_WORKER:
        _end_attempt(
            tx,
            job_id,
            before.attempt_nr,
            "overtaken",
            now,
            diagnosis="an earlier attempt finished first",
        )
    dependencies.end(
        tx,
        job_id,
        after.state,
        code=report.code,
        diagnosis=report.diagnosis,
        now=now,
        attempt_nr=report.attempt_nr,
        row=place.row,
    )
    dependencies.ended(tx, job_id, after.state, place.name, now=now)


def _end_attempt(
    tx: Tx, job_id: int, attempt_nr: int, state: str, now: float, code: int = 0, **facts: object
) -> None:
    tx.run(
        "attempt.end",
        **{**END_OF_ATTEMPT, **facts},
        job_id=job_id,
        attempt_nr=attempt_nr,
        state=state,
        ended=now,
        code=code,
    )
