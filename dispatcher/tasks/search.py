"""Steps whose items a planner says: when it is asked, what it is told, and what it answers.

A point is an item like others, its loss stands with its unit, and the step knows how many answers
were taken: a planner may be asked again for each of them, and only the first of its answers counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import search as points_of
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.search import Ask, Planner, Value
from ailurus.protocol.states import FINAL, JobState
from ailurus.protocol.task import TaskState, TaskStep
from dispatcher.ports import Tx
from dispatcher.rules import attempts, retention, uploads
from dispatcher.tasks import records, standing
from dispatcher.tasks.records import StepRecord, TaskRecord, UnitRecord
from dispatcher.tasks.standing import Standing

TRIES = 3
"""Once its planner has failed so often in a row, a task fails."""
Points = Sequence[dict[str, Value]]


class Question(Struct, frozen=True):
    """What a planner is asked, once."""

    task: TaskRecord
    nr: int
    ask: Ask
    answers: int
    tries: int
    wanted: int
    points: Sequence[tuple[Mapping[str, Any], float | None]]
    failed: Sequence[int]
    """Places of points that have failed, of those without a loss."""

    @property
    def document(self) -> bytes:
        """The same in iDDS's form."""
        return points_of.question(self.points, self.ask.space)


def wanted(step: TaskStep, count: StepRecord, one: Standing) -> int:
    """How many points the dispatcher is to ask a planner for now."""
    ask = step.over.ask
    if ask is None or ask.by is Planner.CLIENT or count.listed or count.planner_job or one.waits:
        return 0
    if count.waiting + count.open > ask.ahead:
        return 0
    return min(ask.batch, ask.max - count.items)


def ends(ask: Ask, count: StepRecord) -> bool:
    """Whether no more points are to begin, by what was found."""
    stop = ask.stop
    if stop.loss is not None and count.best is not None and count.best <= stop.loss:
        return True
    return stop.unimproved is not None and count.unimproved >= stop.unimproved


def question(tx: Tx, task_id: int, nr: int) -> Question | None:
    """What to ask the planner of a step; None: nothing now."""
    found = _due(tx, task_id, nr)
    if found is None:
        return None
    task, count, ask, most = found
    items = records.points(tx, task_id, nr, 0, count.items)
    known: dict[int, float] = dict(tx.all("unit.losses", task_id=task_id, step=nr))
    failed = [first for (first,) in tx.all("unit.lost", task_id=task_id, step=nr)]
    points = [(point, known.get(at)) for at, point in enumerate(items)]
    return Question(task, nr, ask, count.answers, count.planner_tries, most, points, failed)


def _due(tx: Tx, task_id: int, nr: int) -> tuple[TaskRecord, StepRecord, Ask, int] | None:
    task = records.find_task(tx, task_id)
    if task is None or task.state is not TaskState.RUNNING or task.finishing:
        return None
    spec, counts = task.task, records.steps(tx, task_id)
    step, count = spec.steps[nr], counts[nr]
    most = wanted(step, count, standing.standings(spec, counts, finishing=False)[nr])
    if step.over.ask is None or most <= 0 or count.planner_tries >= TRIES:
        return None
    return task, count, step.over.ask, most


def still(tx: Tx, asked: Question) -> StepRecord | None:
    """The step of a question, if nobody has answered it yet."""
    found = _due(tx, asked.task.task_id, asked.nr)
    if found is None:
        return None
    count = found[1]
    same = (count.answers, count.planner_tries) == (asked.answers, asked.tries)
    return count if same else None


def tell(tx: Tx, asked: Question, answer: bytes | str, why: str = "") -> bool:
    """Take an answer, or note `why` there is none. Whether the question stood."""
    count = still(tx, asked)
    if count is None:
        return False
    task_id = asked.task.task_id
    # Whoever adds points answers, too: since the question was read, nobody has.
    known = {points_of.key(point) for point, _ in asked.points} if not why else set()
    after = (
        failed(count, why)
        if why
        else heard(tx, task_id, asked.ask, count, answer, asked.wanted, known)
    )
    records.put_search(tx, task_id, after)
    return True


def send(tx: Tx, asked: Question, job_id: int | None, why: str = "") -> None:
    """Note the job that plans, or why there is none."""
    count = still(tx, asked)
    if count is not None:
        after = failed(count, why) if why else replace(count, planner_job=job_id, problem="")
        records.put_search(tx, asked.task.task_id, after)


def heard(
    tx: Tx,
    task_id: int,
    ask: Ask,
    count: StepRecord,
    answer: bytes | str,
    most: int,
    known: Collection[bytes],
) -> StepRecord:
    """A step after what its planner has answered. `known`: the keys of all points that it has."""
    try:
        points = points_of.points_from(answer, ask.space, most)
    except AilurusError as error:
        return failed(count, error.message)
    return add(tx, task_id, ask, count, points_of.fresh(points, known))


def keys(tx: Tx, task_id: int, nr: int, first: int, end: int) -> set[bytes]:
    """By which points of a step are known again, from one number up to another."""
    return set(map(points_of.key, records.points(tx, task_id, nr, first, end)))


def add(tx: Tx, task_id: int, ask: Ask, count: StepRecord, points: Points) -> StepRecord:
    """A step with more points, which it has not yet, and no more than it may have. Without a new
    one it has all."""
    new = points[: ask.max - count.items]
    tx.many("task_slice.add", records.slices(task_id, count.nr, count.items, new))
    items = count.items + len(new)
    return replace(
        count,
        items=items,
        listed=int(not new or items >= ask.max),
        answers=count.answers + 1,
        planner_job=None,
        planner_tries=0,
        problem="",
    )


def failed(count: StepRecord, why: str) -> StepRecord:
    """A step whose planner has failed."""
    return replace(
        count, planner_job=None, planner_tries=count.planner_tries + 1, problem=why[:1000]
    )


def running(task: TaskRecord, counts: Sequence[StepRecord]) -> list[int]:
    """Steps whose planner has not said its last point."""
    if task.finishing:
        return []
    return [nr for nr, count in enumerate(counts) if count.planned and not count.listed]


def due(task: TaskRecord, counts: Sequence[StepRecord]) -> tuple[int, ...]:
    """Steps whose planner is to be asked now."""
    if not (searching := running(task, counts)):
        return ()
    spec = task.task
    found = standing.standings(spec, counts, finishing=False)
    return tuple(nr for nr in searching if wanted(spec.steps[nr], counts[nr], found[nr]) > 0)


def hear(tx: Tx, task: TaskRecord, nr: int, count: StepRecord) -> StepRecord | str | None:
    """A search that goes on, after what its job has planned, or at its end; or why its task fails.
    None: there is no news."""
    step = task.task.steps[nr]
    ask = step.over.ask
    if ask is None:
        return None
    if ends(ask, count):
        return replace(count, listed=1, items=count.fresh)
    if count.planner_tries >= TRIES:
        why = f"the planner has failed {count.planner_tries} times: {count.problem}"
        return f"step {step.name}: {why}"
    after = _hear_job(tx, task.task_id, ask, count)
    if after is None and count.items >= ask.max:
        return replace(count, listed=1)
    return after


def _hear_job(tx: Tx, task_id: int, ask: Ask, count: StepRecord) -> StepRecord | None:
    """A step after the end of the job that plans; None: it is not final."""
    job_id = count.planner_job
    if job_id is None:
        return None
    state = _state(tx, job_id) or JobState.CLOSED
    if state not in FINAL:
        return None
    if state is not JobState.FINISHED:
        return failed(count, f"job {job_id}, which plans, is {state}: dispatcher why {job_id}")
    answer = records.results(tx, [job_id]).get(job_id, "")
    if not answer:
        return failed(count, f"job {job_id} has left no points that could be read in next.json")
    known = keys(tx, task_id, count.nr, 0, count.items)
    after = heard(tx, task_id, ask, count, answer, ask.batch, known)
    if after.planner_tries:
        return replace(after, problem=f"job {job_id}: {after.problem}")
    return after


def again(tx: Tx, task_id: int, counts: Sequence[StepRecord]) -> None:
    """Ask planners again that have failed."""
    for count in counts:
        if count.planner_tries:
            records.put_search(tx, task_id, replace(count, planner_tries=0, problem=""))


def dismiss(tx: Tx, task: TaskRecord, count: StepRecord, *, now: float) -> tuple[int, ...]:
    """Cancel the job that plans for a step. Its id, if it was not final."""
    job_id = count.planner_job
    if job_id is None or (state := _state(tx, job_id)) is None or state in FINAL:
        return ()
    attempts.cancel(tx, job_id=job_id, by=f"task {task.task_id}", now=now)
    return (job_id,)


def _state(tx: Tx, job_id: int) -> JobState | None:
    found = retention.states_of(tx, [job_id]).get(job_id)
    return None if found is None else found[0]


def losses(
    tx: Tx, steps: Sequence[TaskStep], units: Collection[UnitRecord]
) -> dict[int, tuple[float | None, str]]:
    """What the finished units of searches have found, by job: the loss, or why there is none."""
    ids = [
        unit.job_id
        for unit in units
        if unit.job_id is not None
        and unit.outcome == JobState.FINISHED
        and steps[unit.step].over.ask is not None
    ]
    found = records.results(tx, ids) if ids else {}
    return {job_id: points_of.loss_of(found.get(job_id, "")) for job_id in ids}


def improved(count: StepRecord, item: int, loss: float) -> StepRecord:
    """A step after one more loss."""
    if count.best is None or loss < count.best:
        return replace(count, best=loss, best_item=item, unimproved=0)
    return replace(count, unimproved=count.unimproved + 1)


def keep(tx: Tx, owner: str, document: bytes, *, now: float) -> tuple[str, int]:
    """Keep what a job that plans is given, as a file of its owner; its SHA-256 and bytes. Raises
    AilurusError for one that is too large, and Rejected for one more than the owner may have."""
    return uploads.put(tx, owner, points_of.POINTS, document, now=now), len(document)


def sentence(step: TaskStep, count: StepRecord, best: Any) -> list[str]:
    """How a search stands."""
    ask = step.over.ask
    said: list[str] = []
    if ask is None:
        return said
    if count.best is not None:
        point = msgspec.json.encode(best).decode()
        said.append(f"the least loss is {count.best:g}, at {point[:300]}")
    if count.listed:
        return said
    said.append(f"{count.items} of at most {ask.max} points are asked for")
    if count.planner_job:
        said.append(f"job {count.planner_job} says which come next")
    elif ask.by is Planner.CLIENT:
        said.append("points come by the API")
    else:
        said.append(f"the planner has answered {count.answers} times")
    if count.problem:
        said.append(
            f"the planner has failed {count.planner_tries} of {TRIES} times: {count.problem}"
        )
    return said
