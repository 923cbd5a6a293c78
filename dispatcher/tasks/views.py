"""Tasks as users see them."""

from __future__ import annotations

from ailurus.protocol import messages as m
from ailurus.protocol.task import TaskStep
from dispatcher.ports import Tx
from dispatcher.tasks import records, standing
from dispatcher.tasks.records import StepRecord, TaskRecord
from dispatcher.tasks.standing import Standing


def row(tx: Tx, task: TaskRecord) -> m.TaskRow:
    """A task, and how far its steps are."""
    spec, counts = task.task, records.steps(tx, task.task_id)
    found = standing.standings(spec, counts, finishing=bool(task.finishing))
    steps = zip(spec.steps, counts, found, strict=True)
    return m.TaskRow(
        task_id=task.task_id,
        name=task.name,
        user=task.owner,
        state=task.state,
        created=task.created,
        changed=task.changed,
        steps=tuple(_step(*one) for one in steps),
        reason=task.reason,
    )


def _step(step: TaskStep, count: StepRecord, found: Standing) -> m.StepRow:
    return m.StepRow(
        name=step.name,
        items=count.items,
        closed=found.closed,
        waiting=count.waiting,
        open=count.open,
        finished=count.finished,
        failed=count.failed,
        jobs=count.jobs,
        open_jobs=count.open_jobs,
        sentence=_sentence(step, count, found),
    )


def _sentence(step: TaskStep, count: StepRecord, found: Standing) -> str:
    if found.waits:
        return found.waits
    said = [
        f"{count.finished} of {count.items}{'' if found.closed else ' known'} items have finished"
    ]
    if count.open:
        said.append(f"{count.open} are in {count.open_jobs} jobs")
    if count.waiting and not found.closed and not count.open:
        said.append(f"{count.waiting} wait for more of {' and '.join(step.over.sources)}")
    elif count.waiting:
        said.append(f"{count.waiting} wait for a job")
    if count.failed:
        said.append(f"{count.failed} have failed (goal: {step.failed.goal})")
    return ", ".join(said)
