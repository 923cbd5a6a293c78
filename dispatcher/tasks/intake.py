"""How a task enters the store: its items in slices, which nobody sees before the last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ailurus.protocol.task import Item, Task, TaskState, TaskStep, known
from dispatcher.events import TaskChanged
from dispatcher.ports import Tx, Unavailable
from dispatcher.refusal import Rejected
from dispatcher.rules import submission
from dispatcher.rules.records import value
from dispatcher.tasks import records

MOST_ACTIVE = 1000
"""Tasks of a user that are not at their end."""
# Items written in one commit.
TOGETHER = 5 * records.TOGETHER
_encode = msgspec.json.Encoder().encode


def digest_of(task: Task) -> str:
    """What a request says."""
    return hashlib.sha256(_encode(task)).hexdigest()


def begin(
    tx: Tx, task: Task, *, owner: str, group: str, request_id: str, digest: str, now: float
) -> int:
    """Begin a task that nobody sees, or go on with one that a dispatcher has begun. Returns its id.
    Raises Rejected for one more than a user may have."""
    if (found := records.find_request(tx, owner, request_id)) is not None:
        if found.digest != digest:
            raise submission.id_reused(request_id)
        if found.state == TaskState.SUBMITTING:
            # It may be half forgotten, and is not to be forgotten now.
            _add_steps(tx, task, found.task_id)
            if (begun := records.find_task(tx, found.task_id)) is not None:
                records.put_task(tx, begun, now)
        return found.task_id
    if value(tx.one("task.count_active", owner=owner), 0) >= MOST_ACTIVE:
        raise Rejected(
            429,
            f"you have {MOST_ACTIVE} tasks that are not at their end",
            remedy="wait for one of them, or let one task have more items",
        )
    made = tx.one(
        "task.add",
        owner=owner,
        user_group=group,
        request_id=request_id,
        digest=digest,
        name=task.task,
        state=TaskState.SUBMITTING,
        now=now,
        spec=_encode(replace(task, steps=tuple(map(_short, task.steps)))),
    )
    if made is None:
        raise Unavailable("another dispatcher is storing this request")
    task_id = value(made, 0)
    _add_steps(tx, task, task_id)
    return task_id


def _add_steps(tx: Tx, task: Task, task_id: int) -> None:
    rows = [
        {
            "task_id": task_id,
            "nr": nr,
            "items": known(step) or len(_listed(step)),
            "listed": int(step.over.dataset is None and step.over.ask is None),
            "planned": int(step.over.ask is not None),
        }
        for nr, step in enumerate(task.steps)
    ]
    tx.many("step.add", rows)


def parts(task: Task, task_id: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of its lists, as much as a commit takes."""
    for nr, step in enumerate(task.steps):
        items = _listed(step)
        for first in range(0, len(items), TOGETHER):
            yield records.slices(task_id, nr, first, items[first : first + TOGETHER])


def open_up(tx: Tx, task_id: int, *, now: float) -> None:
    """Let a task begin whose items are all there: from here on it is accepted."""
    task = records.find_task(tx, task_id)
    if task is None or task.state is not TaskState.SUBMITTING:
        return
    records.put_task(tx, replace(task, state=TaskState.RUNNING, active=1), now)
    event = TaskChanged(task_id=task_id, name=task.name, state=TaskState.RUNNING, user=task.owner)
    tx.tell(event, at=now)


def _listed(step: TaskStep) -> Sequence[Item]:
    """The items of a step that its task says one by one."""
    if step.over.ask is not None:
        return step.over.ask.first
    return step.over.list or ()


def _short(step: TaskStep) -> TaskStep:
    """A step with only the first item of its list, or of the points that it begins with: it is read
    whenever the task goes on."""
    items, ask = step.over.list, step.over.ask
    if ask is not None:
        return replace(step, over=replace(step.over, ask=replace(ask, first=ask.first[:1])))
    return step if items is None else replace(step, over=replace(step.over, list=items[:1]))
