"""What users do to tasks."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from ailurus.protocol.task import ENDED, TaskState, Verb
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.tasks import pulling, records, standing
from dispatcher.tasks.advance import change
from dispatcher.tasks.records import TaskRecord

_ALLOWED = {
    Verb.PAUSE: (TaskState.RUNNING, TaskState.PAUSED),
    Verb.RESUME: (TaskState.RUNNING, TaskState.PAUSED),
    Verb.FINISH: (TaskState.RUNNING, TaskState.PAUSED),
    Verb.RETRY: tuple(one for one in TaskState if one is not TaskState.SUBMITTING),
}
_BROKEN = "a bug of the dispatcher stopped it: its trace is in the log"


def steer(tx: Tx, task: TaskRecord, verb: Verb, by: str, *, now: float) -> TaskRecord:
    """Do that to a task for the user `by`. Raises Rejected where its state does not allow it."""
    if task.state not in _ALLOWED[verb]:
        allowed = " or ".join(_ALLOWED[verb])
        raise Rejected(
            409,
            f"task {task.task_id} is {task.state}",
            field="verb",
            remedy=f"only if it is {allowed}",
        )
    news: dict[str, Any] = {"verb": verb, "by": by}
    if verb is Verb.PAUSE:
        pulling.rest(tx, task.task_id, rests=True)
        return change(tx, task, now, **news, state=TaskState.PAUSED)
    if task.reason == _BROKEN:
        news["reason"] = ""
    if verb is not Verb.RETRY or task.state is not TaskState.PAUSED:
        pulling.rest(tx, task.task_id, rests=False)
    match verb:
        case Verb.RESUME:
            return change(tx, task, now, **news, state=TaskState.RUNNING)
        case Verb.FINISH:
            _cut(tx, task)
            return change(tx, task, now, **news, state=TaskState.RUNNING, finishing=1)
    ended = task.state in (TaskState.FAILED, TaskState.CANCELLED)
    if not ended and not any(step.failed for step in records.steps(tx, task.task_id)):
        raise Rejected(
            409,
            f"nothing of task {task.task_id} has failed",
            field="verb",
            remedy=f"see `dispatcher task show {task.task_id}`",
        )
    state = task.state if task.state is TaskState.PAUSED else TaskState.RUNNING
    news["reason"] = ""
    return change(tx, task, now, **news, state=state, retrying=1, active=1)


def _cut(tx: Tx, task: TaskRecord) -> None:
    """Let no more items of lists, ranges and searches begin. Those of a step whose gate is closed
    are what is to be done with what there is."""
    steps, counts = task.task.steps, records.steps(tx, task.task_id)
    found = standing.standings(task.task, counts, finishing=False)
    for step, count, one in zip(steps, counts, found, strict=True):
        if step.over.outputs is not None or one.waits:
            continue
        if step.pulled is not None:
            pulling.cut(tx, task.task_id, count)
        elif count.items > count.fresh:
            records.put_step(tx, task.task_id, replace(count, items=count.fresh))


def cancel(tx: Tx, task: TaskRecord, by: str, *, now: float) -> TaskRecord:
    """Cancel a task for the user `by`; one that is at its end stays as it is."""
    if task.state in ENDED:
        return task
    reason = f"cancelled by {by}"
    news: dict[str, Any] = {"verb": "cancel", "by": by, "reason": reason}
    return change(tx, task, now, **news, state=TaskState.CANCELLED, active=1)


def stop(tx: Tx, task_id: int, *, now: float) -> None:
    """Pause a task at which `advance` fails, so that its user knows."""
    task = records.find_task(tx, task_id)
    if task is not None and task.state is TaskState.RUNNING:
        change(tx, task, now, state=TaskState.PAUSED, reason=_BROKEN)
