"""Rows of tasks with names and types: see `dispatcher.rules.records`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.job import LOG
from ailurus.protocol.task import UNITS_LEFT, Item, Range, Task, TaskState, UnitState
from dispatcher.ports import Tx
from dispatcher.rules import item_pools, item_records

TOGETHER = 1000
"""Items of one slice."""
PAGE_BYTES = 8 * 2**20
"""Of what the tasks of a page say, which is read for each of them."""
_encode = msgspec.json.Encoder().encode
_task = msgspec.json.Decoder(Task).decode
_items = msgspec.json.Decoder(list[Item]).decode


class TaskRecord(Struct, frozen=True):
    """A task: `task.get`."""

    task_id: int
    owner: str
    user_group: str
    name: str
    state: TaskState
    active: int
    """Whether it may have work for `advance`, now or later."""
    finishing: int
    retrying: int
    reason: str
    created: float
    changed: float
    spec: Any

    @property
    def task(self) -> Task:
        """What it says; of each list only the first item."""
        return _task(self.spec)


class InputFile(Struct, frozen=True):
    """A file of a data set: `task_file.due`."""

    name: str
    item: int | None
    size: int
    body: bytes


class StepRecord(Struct, frozen=True):
    """How far a step is, in items: `step.all`."""

    nr: int
    items: int
    """How many are known."""
    fresh: int
    """Items from here on were never in a job."""
    ready: int
    """Were in a job that failed, and wait for another."""
    open: int
    """Are in jobs that are not final."""
    finished: int
    failed: int
    jobs: int
    open_jobs: int
    listed: int = 1
    """0: more may come into its data set."""
    coming: int = 0
    """Files of its data set that are no items yet."""
    held: int = 0
    """Files that are staged for it, or being so."""
    held_bytes: int = 0
    cramped: int = 0
    """No more files are staged before a job ends."""
    moved: float = 0.0
    """When a file was last staged, or first asked for."""
    looked: float = 0.0
    """When its data set was last listed."""
    problem: str = ""
    """Why the catalogue does not help, or the planner."""
    barren: int = 0
    """How many jobs in a row have failed that lease its items."""
    planned: int = 0
    """A planner says its items, and `listed` is 0 until it says no more."""
    answers: int = 0
    """Answers of the planner that were taken."""
    planner_job: int | None = None
    planner_tries: int = 0
    """How often it has failed since the last answer."""
    best: float | None = None
    """The least loss."""
    best_item: int | None = None
    unimproved: int = 0
    """How many losses since then were no less."""
    begun: int = 0
    """Of a step whose items are leased: how many were leased once. What is said above of such items
    stands in their cluster, and is read there."""
    before: int = 0
    """How many had finished when this was last written."""

    @property
    def waiting(self) -> int:
        """How many wait for a job."""
        return self.items - self.fresh + self.ready


class UnitRecord(Struct, frozen=True):
    """Items that go through a job together: `unit.ended`, `unit.ready`, `unit.failed`."""

    step: int
    first: int
    items: int
    nr: int
    tries: int
    job_id: int | None
    state: UnitState | None
    """None: it is not stored yet."""
    outcome: str
    """The state in which its job ended."""
    loss: float | None = None
    """In the result of its job, if that is to have one."""


class ShownUnit(Struct, frozen=True):
    """Items that go through a job together, for people: `unit.page`, `unit.page_left`,
    `unit.page_open`.

    In the order of its items, but for the last, where it is that of its jobs.
    """

    first: int
    items: int
    tries: int
    job_id: int | None
    state: str
    reason: str


class FoundTask(Struct, frozen=True):
    """A task that a request made: `task.find`."""

    task_id: int
    digest: str
    state: str


def shown_units(
    tx: Tx, task_id: int, step: int, *, state: str, after: int, most: int
) -> list[ShownUnit]:
    """Units of a step after a point: those in a state of which there is an index, else all."""
    where = {"task_id": task_id, "step": step, "after": after, "most": most}
    if state == UnitState.OPEN:
        rows = tx.all("unit.page_open", **where)
    elif state in UNITS_LEFT:
        rows = tx.all("unit.page_left", **where, state=state)
    else:
        rows = tx.all("unit.page", **where)
    return [ShownUnit(*row) for row in rows]


def find_request(tx: Tx, owner: str, request_id: str) -> FoundTask | None:
    """The task that a request made."""
    row = tx.one("task.find", owner=owner, request_id=request_id)
    return None if row is None else FoundTask(*row)


def find_task(tx: Tx, task_id: int) -> TaskRecord | None:
    """A task."""
    row = tx.one("task.get", task_id=task_id)
    return None if row is None else _record(row)


def page(tx: Tx, *, owner: str, state: str, before: int, most: int) -> Iterator[TaskRecord]:
    """Tasks, newest first: of those that say much only some."""
    left = PAGE_BYTES
    rows = tx.all("task.page", owner=owner, state=state, before=before, most=most)
    for nr, (task_id, length) in enumerate(rows):
        left -= length
        if nr and left < 0:
            return
        if (found := find_task(tx, task_id)) is not None:
            yield found


def _record(row: Sequence[Any]) -> TaskRecord:
    task_id, owner, group, name, state, *rest = row
    return TaskRecord(task_id, owner, group, name, TaskState(state), *rest)


def put_task(tx: Tx, task: TaskRecord, now: float) -> None:
    """Write how far a task is."""
    tx.run(
        "task.put",
        task_id=task.task_id,
        state=task.state,
        active=task.active,
        finishing=task.finishing,
        retrying=task.retrying,
        reason=task.reason,
        now=now,
    )


def steps(tx: Tx, task_id: int) -> list[StepRecord]:
    """How far the steps of a task are, in their order."""
    found = [StepRecord(*row) for row in tx.all("step.all", task_id=task_id)]
    if not found:
        return found
    for pool in item_records.pools(tx, **item_pools.pools_of(task_id)):
        nr = item_pools.step_of(pool.cluster_id)
        one = found[nr]
        left = pool.items - pool.finished - pool.failed
        # What is left of an attempt that is over may have been counted as finished.
        held = min(pool.held, left)
        found[nr] = replace(
            one,
            fresh=pool.items,
            ready=left - held,
            open=held,
            finished=pool.finished,
            failed=pool.failed,
            begun=pool.fresh,
            before=one.finished,
        )
    return found


def put_step(tx: Tx, task_id: int, step: StepRecord) -> None:
    """Write how far a step is."""
    tx.run("step.put", task_id=task_id, **msgspec.structs.asdict(step))


def put_source(tx: Tx, task_id: int, step: StepRecord) -> None:
    """Write what a step knows of its data set."""
    tx.run("step.source", task_id=task_id, **msgspec.structs.asdict(step))


def put_search(tx: Tx, task_id: int, step: StepRecord) -> None:
    """Write how far the search of a step is, and how many points it has."""
    tx.run("step.search", task_id=task_id, **msgspec.structs.asdict(step))


def ended(tx: Tx, task_id: int, most: int) -> list[UnitRecord]:
    """Units whose jobs have ended."""
    return [_unit(row) for row in tx.all("unit.ended", task_id=task_id, most=most)]


def ready(tx: Tx, task_id: int, step: int, most: int) -> list[UnitRecord]:
    """Units of a step that wait for another job, in their order."""
    rows = tx.all("unit.ready", task_id=task_id, step=step, most=most)
    return [_unit(row) for row in rows]


def failed(tx: Tx, task_id: int, most: int) -> list[UnitRecord]:
    """Units that have failed for good, in their order."""
    return [_unit(row) for row in tx.all("unit.failed", task_id=task_id, most=most)]


def _unit(row: Sequence[Any]) -> UnitRecord:
    step, first, items, nr, tries, job_id, state, outcome = row
    return UnitRecord(step, first, items, nr, tries, job_id, UnitState(state), outcome)


def unit_row(task_id: int, unit: UnitRecord, reason: str = "") -> dict[str, Any]:
    """A unit for `unit.add` and `unit.put`."""
    return {"task_id": task_id, "reason": reason, **msgspec.structs.asdict(unit)}


def slices(task_id: int, step: int, first: int, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Rows of items of which the first has that number."""
    return [
        {
            "task_id": task_id,
            "step": step,
            "first": first + at,
            "items": len(part),
            "body": _encode(part),
        }
        for at in range(0, len(items), TOGETHER)
        if (part := list(items[at : at + TOGETHER]))
    ]


class Source:
    """The items of a step, read as they are asked for."""

    def __init__(self, tx: Tx, task_id: int, step: int, numbers: Range | None) -> None:
        self._tx, self._task_id, self._step, self._numbers = tx, task_id, step, numbers
        # What was read last, from one item to another.
        self._first, self._read = 0, list[Item]()

    def items(self, first: int, count: int) -> list[Item]:
        """So many, from that number on."""
        if (numbers := self._numbers) is not None:
            start = numbers.first + first * numbers.step
            return list(range(start, start + count * numbers.step, numbers.step))
        if not self._first <= first <= first + count <= self._first + len(self._read):
            rows = self._tx.all(
                "task_slice.at",
                task_id=self._task_id,
                step=self._step,
                first=first,
                last=first + count - 1,
            )
            self._first = rows[0][0]
            self._read = [item for _, body in rows for item in _items(body)]
        at = first - self._first
        return self._read[at : at + count]


def points(tx: Tx, task_id: int, step: int, first: int, end: int) -> list[Any]:
    """Points of a step that a planner says, from one number up to another; a slice at a time, as
    all of them may have 40 MB."""
    source, found = Source(tx, task_id, step, None), list[Any]()
    for at in range(first, end, TOGETHER):
        found += source.items(at, min(TOGETHER, end - at))
    return found


def results(tx: Tx, job_ids: Sequence[int]) -> Mapping[int | None, str]:
    """The result documents of finished jobs, by job."""
    return dict(tx.all("unit.results", ids=_encode(job_ids).decode()))


def file_counts(tx: Tx, job_ids: Sequence[int]) -> Mapping[int | None, int]:
    """How many files jobs have left, by job."""
    return dict(tx.all("unit.file_counts", ids=_encode(job_ids).decode()))


def files_of(tx: Tx, job_ids: Sequence[int]) -> Mapping[int, list[tuple[str, Item]]]:
    """What jobs have left, by job: each file's name there, and the file as an item."""
    found: dict[int, list[tuple[str, Item]]] = defaultdict(list)
    taken: set[str] = set()
    rows = tx.all("unit.files", ids=_encode(job_ids).decode())
    for job_id, name, url, size, adler32, md5 in rows:
        if name == LOG:
            continue
        known = {"size": size, "adler32": adler32 or None, "md5": md5}
        # Jobs of one step leave files of one name, and a job may leave `a.b` beside `a/b`.
        plain = called = f"{job_id}.{name.replace('/', '.')}"
        nr = 1
        while called in taken:
            nr += 1
            called = f"{plain}-{nr}"
        taken.add(called)
        item = {"name": called, "url": url}
        found[job_id].append((name, item | {k: v for k, v in known.items() if v is not None}))
    return found


def files(tx: Tx, task_id: int, step: int, state: str, most: int) -> list[InputFile]:
    """Files of a step's data set that are in a state, in the order of their names."""
    rows = tx.all("task_file.due", task_id=task_id, step=step, state=state, most=most)
    return [InputFile(*row) for row in rows]
