"""Tasks as users see them."""

from __future__ import annotations

from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from ailurus.protocol.task import TaskStep
from dispatcher.ports import Tx
from dispatcher.tasks import inputs, pulling, records, search, standing
from dispatcher.tasks.records import StepRecord, TaskRecord
from dispatcher.tasks.standing import Standing


def row(tx: Tx, task: TaskRecord, now: float, *, why: bool = False) -> m.TaskRow:
    """A task, and how far its steps are; `why`: also of which items no job could be made."""
    spec, counts = task.task, records.steps(tx, task.task_id)
    found = standing.standings(spec, counts, finishing=bool(task.finishing))
    lost = [_lost(tx, task.task_id, one) if why and one.failed else "" for one in counts]
    run = [
        min(one.open, pulling.running(tx, task.task_id, one.nr)) if step.pulled is not None else 0
        for step, one in zip(spec.steps, counts, strict=True)
    ]
    best = [_best(tx, task.task_id, one) if one.best_item is not None else None for one in counts]
    steps = zip(spec.steps, counts, found, lost, run, best, strict=True)
    return m.TaskRow(
        task_id=task.task_id,
        name=task.name,
        user=task.owner,
        state=task.state,
        created=task.created,
        changed=task.changed,
        steps=tuple(_step(*one, now=now) for one in steps),
        reason=task.reason,
    )


def _step(
    step: TaskStep,
    count: StepRecord,
    found: Standing,
    lost: str,
    running: int,
    best: m.Best | None,
    *,
    now: float,
) -> m.StepRow:
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
        sentence=", ".join(filter(None, (_sentence(step, count, found, running, now, best), lost))),
        running=running,
        best=best,
    )


def _lost(tx: Tx, task_id: int, count: StepRecord) -> str:
    """Of which items of a step no job could be made, or which have left no loss, and why."""
    found = tx.one("unit.why", task_id=task_id, step=count.nr)
    if found is None:
        return ""
    first, items, reason, outcome = found
    which = f"item {first + 1}" if items == 1 else f"items {first + 1} to {first + items}"
    if outcome == JobState.FINISHED:
        return f"{which} has failed: {reason}"
    return f"no job could be made of {which}: {reason}"


def _of_files(step: TaskStep, count: StepRecord, now: float) -> list[str]:
    """How the files of a data set are that are no items yet."""
    said = [] if count.listed else [f"{step.over.did} is open: more may come"]
    if (gate := step.staged) is not None and count.coming:
        said.append(f"{count.coming} files are not staged at {gate.staged} yet")
        said.append(f"{count.held} of {gate.files} are on their way or kept there")
        for_s = now - count.moved
        if count.held and not count.cramped and not count.open and for_s > inputs.STALLED_S:
            said.append(f"staging stands still for {for_s / 60:.0f} minutes")
    return said + [count.problem] * bool(count.problem)


def _best(tx: Tx, task_id: int, count: StepRecord) -> m.Best:
    """The point with the least loss."""
    nr, loss = count.best_item or 0, count.best or 0.0
    (point,) = records.Source(tx, task_id, count.nr, None).items(nr, 1)
    return m.Best(nr=nr, item=point, loss=loss)


def _sentence(
    step: TaskStep,
    count: StepRecord,
    found: Standing,
    running: int,
    now: float,
    best: m.Best | None,
) -> str:
    if found.waits:
        return found.waits
    said = [
        f"{count.finished} of {count.items}{'' if found.closed else ' known'} items have finished"
    ]
    if step.pulled is not None and (count.open or count.open_jobs):
        said.append(f"{count.open} are leased by {count.open_jobs} jobs, {running} of them run")
    elif count.open:
        said.append(f"{count.open} are in {count.open_jobs} jobs")
    if step.over.dataset is not None and not found.over:
        said += _of_files(step, count, now)
    said += search.sentence(step, count, best.item if best is not None else None)
    if count.planned and count.waiting:
        said.append(f"{count.waiting} wait for a job")
    elif count.waiting and not found.closed and not count.open:
        waited = " and ".join(step.over.sources) or step.over.did
        said.append(f"{count.waiting} wait for more of {waited}")
    elif count.waiting:
        what = "a job" if step.pulled is None else "room in one of its jobs"
        said.append(f"{count.waiting} wait for {what}")
    if count.barren:
        said.append(f"its last {count.barren} jobs have failed")
    if count.failed:
        said.append(f"{count.failed} have failed (goal: {step.failed.goal})")
    return ", ".join(said)


def points(tx: Tx, task: TaskRecord, nr: int, after: int, most: int) -> m.Points:
    """Points of a search after one: those that had a job, and then those that wait for a first."""
    task_id, count = task.task_id, records.steps(tx, task.task_id)[nr]
    units = tx.all("unit.points", task_id=task_id, step=nr, after=after + 1, most=most)
    rows = {
        first: {"state": state, "job_id": job_id, "loss": loss, "reason": reason}
        for first, _, state, job_id, loss, reason in units
    }
    room = min(most, count.items - after - 1)
    items = records.Source(tx, task_id, nr, None).items(after + 1, room) if room > 0 else ()
    found = tuple(
        m.SearchPoint(nr=at, item=item, **rows.get(at, {"state": "waiting"}))
        for at, item in enumerate(items, after + 1)
    )
    last = after + len(found)
    return m.Points(points=found, next=last if last + 1 < count.items else None)
