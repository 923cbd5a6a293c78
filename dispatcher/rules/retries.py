"""How final jobs are tried again: as new jobs, once each, with their owner and what they wait for.

The tries of a job are a chain: each is the retry of the one before. To retry any of them is to
retry the latest: if it is under way nothing new is made, if it ended without success it gets a
retry of its own. A new try waits for the latest try of each parent: one made by the same request,
one under way, or one that has finished, whose outputs are there. A parent without any of these is
tried again together with its child, or the child is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import FINAL, JobState
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import records, retention
from dispatcher.rules.group_turns import Turns
from dispatcher.rules.preparing import Prepared, prepared
from dispatcher.rules.submission import MOST_LINKS

_spec = msgspec.json.Decoder(JobSpec).decode


class Plan(Struct, frozen=True):
    """What a retry amounts to."""

    latest: tuple[int, ...]
    """Of each job that was named the latest try: one that is under way, or one to be tried
    again."""
    renewed: tuple[int, ...]
    """Those that are tried again, and below the new jobs, in the same order."""
    jobs: tuple[Prepared, ...]
    owner: str
    group: str


class _Past(Struct, frozen=True):
    """A job that ended, wherever it is kept."""

    owner: str
    spec: JobSpec
    parents: tuple[int, ...]
    group: str


def digest_of(job_ids: Sequence[int]) -> str:
    """What a retry says, to know it again when it comes again."""
    return hashlib.sha256(repr(tuple(job_ids)).encode()).hexdigest()


class Tries:
    """The chains of tries; each step is looked up once, however many name it and however long they
    are."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._states: dict[int, JobState] = {}
        self._latest: dict[int, int] = {}
        self._finished: dict[int, int | None] = {}

    def later(self, job_id: int) -> int | None:
        """The retry of a job."""
        return records.find_retry(self._tx, job_id)

    def latest(self, job_id: int) -> int:
        """The latest try of a job, which may be itself."""
        path = self._path(job_id, self._latest)
        last = self._latest.get(path[-1], path[-1])
        self._latest.update(dict.fromkeys(path, last))
        return last

    def finished(self, job_id: int) -> int | None:
        """The latest that has finished, of a job and its later tries."""
        path = self._path(job_id, self._finished)
        found = self._finished.get(path[-1])
        for one in reversed(path):
            if one not in self._finished:
                found = found or (one if self.state(one) is JobState.FINISHED else None)
                self._finished[one] = found
        return found

    def made(self, job_ids: Sequence[int], then: Container[int]) -> list[int]:
        """Of each job the first of its tries that was made `then`, or the latest."""
        found: dict[int, int] = {}
        for job_id in job_ids:
            path = self._path(job_id, found, then)
            end = found.get(path[-1], path[-1])
            found.update(dict.fromkeys(path, end))
        return [found[job_id] for job_id in job_ids]

    def state(self, job_id: int) -> JobState:
        """The state of a job; `closed` for one that was dropped with its month."""
        if job_id not in self._states:
            found = retention.states_of(self._tx, (job_id,)).get(job_id)
            # None: dropped with its month
            self._states[job_id] = found[0] if found is not None else JobState.CLOSED
        return self._states[job_id]

    def _path(
        self, job_id: int, known: Container[int], wanted: Container[int] = frozenset()
    ) -> list[int]:
        """A job and its later tries, as far as the first one that is `known` or `wanted`."""
        path = [job_id]
        while path[-1] not in known and path[-1] not in wanted:
            if (later := self.later(path[-1])) is None:
                break
            path.append(later)
        return path


def plan(tx: Tx, job_ids: Sequence[int], turns: Turns) -> Plan:
    """What is to be done so that each of these jobs is tried again. Raises Rejected."""
    tries = Tries(tx)
    latest: list[int] = []
    renewed: dict[int, _Past] = {}
    links = 0
    for nr, job_id in enumerate(job_ids):
        last = tries.latest(job_id)
        latest.append(last)
        state = tries.state(last)
        if state in FINAL and last not in renewed:
            if last != job_id and state is JobState.FINISHED:
                raise Rejected(
                    409,
                    f"job {job_id} was tried again as job {last}, which has finished",
                    field=f"job_ids[{nr}]",
                    remedy=f"to run it once more: dispatcher retry {last}",
                )
            renewed[last] = _past(tx, last, turns)
            links += len(renewed[last].parents)
            if links > MOST_LINKS:
                raise Rejected(
                    422,
                    f"these jobs have more than {MOST_LINKS} dependencies",
                    field=f"job_ids[{nr}]",
                    remedy="retry them in several requests, parents first",
                )
        elif last == job_id and state not in FINAL:
            raise Rejected(
                409, f"job {job_id} is {state}", field=f"job_ids[{nr}]", remedy="cancel it first"
            )
    places = {job_id: nr for nr, job_id in enumerate(renewed)}
    owners = sorted({past.owner for past in renewed.values()})
    if len(owners) > 1:
        raise Rejected(
            422,
            f"these are jobs of {', '.join(owners)}",
            field="job_ids",
            remedy="retry the jobs of one user at a time",
        )
    return Plan(
        latest=tuple(latest),
        renewed=tuple(renewed),
        jobs=tuple(_again(tries, job_id, renewed, places) for job_id in renewed),
        owner=owners[0] if owners else "",
        group=next((past.group for past in renewed.values()), ""),
    )


def _again(
    tries: Tries, job_id: int, renewed: dict[int, _Past], places: dict[int, int]
) -> Prepared:
    """The new try of a job. `places`: where in the request stand those that are tried again."""
    past = renewed[job_id]
    outside: list[int] = []
    inside: list[int] = []
    for parent in past.parents:
        latest = tries.latest(parent)
        if latest in places:
            inside.append(latest)
        else:
            outside.append(_usable(tries, job_id, parent))
    names = tuple(renewed[one].spec.name for one in inside)
    spec = replace(past.spec, depends_on=(*outside, *names))
    return prepared(spec, after=tuple(places[one] for one in inside))


def _usable(tries: Tries, job_id: int, parent: int) -> int:
    """The try of a parent that a child can wait for. Raises Rejected."""
    latest = tries.latest(parent)
    if tries.state(latest) not in FINAL:
        return latest
    if (finished := tries.finished(parent)) is not None:
        return finished
    raise Rejected(
        409,
        f"job {job_id} depends on job {latest}, which is {tries.state(latest)}",
        field="job_ids",
        remedy=f"retry both: dispatcher retry {latest} {job_id}",
    )


def _past(tx: Tx, job_id: int, turns: Turns) -> _Past:
    job = records.find_job(tx, job_id)
    if job is None:
        old = retention.kept(tx, job_id)
        if old is None:
            raise Rejected(404, f"there is no job {job_id}", remedy="see `dispatcher jobs`")
        if not (old.spec.command or old.spec.script):
            raise _unreadable(job_id)
        if (task_id := records.value(tx.one("unit.task_of", job_id=job_id), 0)) > 0:
            raise _of_task(job_id, task_id)
        return _Past(old.row.user, old.spec, old.parents, "")
    if job.task_id:
        raise _of_task(job_id, job.task_id)
    body = records.find_body(tx, job_id)
    try:
        spec = _spec(body.spec if body is not None else b"")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _unreadable(job_id) from None
    priority = records.value(tx.one("job.priority", job_id=job_id), spec.priority)
    labels = records.labels(tx, job_id)
    spec = replace(spec, labels=labels, queue=job.queue, priority=priority)
    parents = tuple(parent for parent, _ in records.parents(tx, job_id))
    return _Past(job.owner, spec, parents, turns.group(tx, job.shape_id))


def _of_task(job_id: int, task_id: int) -> Rejected:
    return Rejected(
        409,
        f"job {job_id} is of task {task_id}, which would not know of another try",
        field="job_ids",
        remedy=f"retry what failed of it: dispatcher task retry {task_id}",
    )


def _unreadable(job_id: int) -> Rejected:
    return Rejected(
        409,
        f"the specification of job {job_id} can no longer be read",
        field="job_ids",
        remedy="submit it anew",
    )
