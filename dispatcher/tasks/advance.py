"""Brings a task forward: a slice of its work a commit, until there is nothing to do for now.

All that is known stands in the tables, so a crash anywhere costs nothing: an item is in one unit,
a unit has one job at a time, and both are written in the commit that makes the job. What became of
a job is noted in the commit of its report (`transitions`), and read here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import FINAL, JobState
from ailurus.protocol.task import ENDED, By, Item, TaskState, UnitState, is_item, size_of
from ailurus.protocol.task_jobs import consumer_of, job_of
from dispatcher.events import TaskChanged
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import attempts, retention
from dispatcher.tasks import inputs, pulling, records, search, standing
from dispatcher.tasks.records import Source, StepRecord, TaskRecord, UnitRecord

# Jobs that are made, told or cancelled in one commit, and items of them.
JOBS, ITEMS = 200, 5000
# Files that become items in one commit, unless a single job has left more.
FILES = 10_000


class Submitter(Protocol):
    """How a task submits its jobs, as its owner would."""

    def check(self, job: JobSpec, owner: str, where: str) -> None:
        """Raise Rejected for a job that its owner may not submit; its fields are below `where`."""

    def store(self, tx: Tx, task: TaskRecord, name: str, jobs: Sequence[JobSpec]) -> int:
        """Store jobs under the name of a request; returns the first id."""


class Advanced(Struct, frozen=True):
    """What was done in a commit."""

    more: bool
    """Whether there may be more to do now."""
    cancelled: tuple[int, ...] = ()
    """Jobs that nobody need run any more."""
    pulling: bool = False
    """Items are leased meanwhile, of which no event tells."""
    asks: tuple[int, ...] = ()
    """Steps whose planner is to be asked."""


REST = Advanced(more=False)


def advance(tx: Tx, task_id: int, jobs: Submitter, *, now: float) -> Advanced:
    """Do the next slice of a task's work."""
    task = records.find_task(tx, task_id)
    if task is None or not task.active:
        return REST
    work = _Work(tx, task, jobs, now)
    if work.settle():
        return Advanced(more=True)
    if task.state in ENDED:
        inputs.release_all(tx, task)
    if task.retrying:
        work.retry()
        return Advanced(more=True)
    if task.state in (TaskState.CANCELLED, TaskState.FAILED):
        return work.cancel()
    if task.state is not TaskState.RUNNING:
        return REST
    more = work.take_files() or work.hear_planners() or work.make_jobs() or work.end()
    asks = () if more else search.due(task, work.steps)
    return Advanced(more=more, cancelled=work.cancelled, pulling=work.pulling, asks=asks)


def change(
    tx: Tx, task: TaskRecord, now: float, *, verb: str = "", by: str = "", **news: Any
) -> TaskRecord:
    """Write a task with some fields changed; says so where that is its state, or `by` does a
    `verb` to it."""
    after = replace(task, **news)
    records.put_task(tx, after, now)
    if verb or after.state is not task.state:
        event = TaskChanged(
            task_id=task.task_id,
            name=task.name,
            state=after.state,
            user=task.owner,
            reason=after.reason,
            verb=verb,
            by=by,
        )
        tx.tell(event, at=now)
    return after


class _Work:
    """A task in a transaction."""

    def __init__(self, tx: Tx, task: TaskRecord, jobs: Submitter, now: float) -> None:
        self._tx, self._task, self._jobs, self._now = tx, task, jobs, now
        self._spec = task.task
        self.steps = records.steps(tx, task.task_id)
        self.cancelled: tuple[int, ...] = ()

    @property
    def pulling(self) -> bool:
        """Whether jobs lease items."""
        steps = zip(self._spec.steps, self.steps, strict=True)
        return any(step.pulled is not None and count.open_jobs for step, count in steps)

    def settle(self) -> bool:
        """Tell units what became of their jobs, and let the files of those that finished be items
        of other steps. Whether there was any."""
        ended = self._some(records.ended(self._tx, self._task.task_id, JOBS))
        if not ended:
            return False
        rows, read = [], defaultdict(list)
        losses = search.losses(self._tx, self._spec.steps, ended)
        for unit in ended:
            step, count = self._spec.steps[unit.step], self.steps[unit.step]
            count = replace(count, open=count.open - unit.items, open_jobs=count.open_jobs - 1)
            loss, lacks = losses.get(unit.job_id or 0, (None, ""))
            if loss is not None:
                count = search.improved(count, unit.first, loss)
            if step.pulled is not None:
                count = pulling.told(count, unit.outcome)
                state = UnitState.FINISHED
            elif unit.outcome == JobState.FINISHED and not lacks:
                state = UnitState.FINISHED
            elif (unit.outcome == JobState.FAILED or lacks) and unit.tries < step.failed.attempts:
                state = UnitState.READY
            else:
                state = UnitState.FAILED
            # A step has a counter by that name.
            more = {state.value: getattr(count, state) + unit.items}
            self.steps[unit.step] = replace(count, **more)
            after = replace(unit, state=state, loss=loss)
            rows.append(records.unit_row(self._task.task_id, after, lacks))
            if state is not UnitState.READY:
                read[unit.step].append((unit.first, unit.items))
        self._tx.many("unit.put", rows)
        for nr, units in read.items():
            self.steps[nr] = inputs.release(self._tx, self._task.task_id, nr, self.steps[nr], units)
        self._add_outputs([unit for unit in ended if unit.outcome == JobState.FINISHED])
        self._write(*self.steps)
        return True

    def _some(self, ended: list[UnitRecord]) -> list[UnitRecord]:
        """The first of them, of which other steps read so many files as a commit takes."""
        if not any(step.over.sources for step in self._spec.steps):
            return ended
        files = records.file_counts(self._tx, [one.job_id for one in ended if one.job_id])
        left = FILES
        for nr, unit in enumerate(ended):
            left -= files.get(unit.job_id, 0)
            if nr and left < 0:
                return ended[:nr]
        return ended

    def _add_outputs(self, ended: Sequence[UnitRecord]) -> None:
        readers = defaultdict(list)
        for nr, step in enumerate(self._spec.steps):
            for name in dict.fromkeys(step.over.sources):
                readers[name].append(nr)
        jobs = {
            unit.job_id: readers[self._spec.steps[unit.step].name]
            for unit in ended
            if unit.job_id is not None
        }
        if not any(jobs.values()):
            return
        new: dict[int, list[Item]] = defaultdict(list)
        for job_id, files in records.files_of(self._tx, [one for one in jobs if jobs[one]]).items():
            for nr in jobs[job_id]:
                step = self._spec.steps[nr]
                new[nr] += [item for name, item in files if is_item(step, name)]
        for nr, items in new.items():
            count = self.steps[nr]
            slices = records.slices(self._task.task_id, nr, count.items, items)
            self._tx.many("task_slice.add", slices)
            self.steps[nr] = replace(count, items=count.items + len(items))

    def retry(self) -> None:
        """Have items tried again that failed."""
        failed = records.failed(self._tx, self._task.task_id, JOBS)
        for unit in failed:
            count = self.steps[unit.step]
            self.steps[unit.step] = replace(
                count, failed=count.failed - unit.items, ready=count.ready + unit.items
            )
            if self._spec.steps[unit.step].staged is not None:
                where = {"first": unit.first, "items": unit.items}
                self._tx.run("task_file.again", task_id=self._task.task_id, step=unit.step, **where)
        again = (replace(unit, state=UnitState.READY, tries=0) for unit in failed)
        self._tx.many("unit.put", (records.unit_row(self._task.task_id, one) for one in again))
        self._write(*self.steps)
        if len(failed) < JOBS:
            staged = zip(self._spec.steps, self.steps, strict=True)
            pulling.again(self._tx, self._task.task_id)
            inputs.again(
                self._tx,
                self._task.task_id,
                [count for step, count in staged if step.staged is not None],
            )
            search.again(self._tx, self._task.task_id, self.steps)
            change(self._tx, self._task, self._now, retrying=0)

    def cancel(self) -> Advanced:
        """Cancel jobs of a task that is at its end."""
        task_id = self._task.task_id
        self._dismiss(range(len(self.steps)))
        ids = [job_id for (job_id,) in self._tx.all("unit.open", task_id=task_id, most=JOBS)]
        states = retention.states_of(self._tx, ids)
        for job_id in ids:
            state, _ = states.get(job_id, (JobState.CLOSED, ""))
            if state in FINAL:
                # A dispatcher has ended it that knew of no tasks.
                self._tx.run("unit.end", job_id=job_id, state=state)
            else:
                attempts.cancel(self._tx, job_id=job_id, by=f"task {task_id}", now=self._now)
        # What has ended since `settle` looked is to be counted.
        more = bool(ids or records.ended(self._tx, task_id, 1))
        if not more:
            change(self._tx, self._task, self._now, active=0)
        return Advanced(more=more, cancelled=(*ids, *self.cancelled))

    def hear_planners(self) -> bool:
        """Take what jobs have planned, and see which searches are at their end. Whether any was."""
        for nr in search.running(self._task, self.steps):
            found = search.hear(self._tx, self._task, nr, self.steps[nr])
            if isinstance(found, str):
                self._fail(found)
                return True
            if found is not None:
                self.steps[nr] = found
                self._write(found)
                self._dismiss([nr] if found.listed else ())
                return True
        return False

    def _dismiss(self, numbers: Iterable[int]) -> None:
        """Cancel jobs that plan for these steps."""
        for nr in numbers:
            count = self.steps[nr]
            if count.planner_job is not None:
                self.cancelled += search.dismiss(self._tx, self._task, count, now=self._now)
                self.steps[nr] = replace(count, planner_job=None)
                self._write(self.steps[nr])

    def take_files(self) -> bool:
        """Let files of data sets be items that are there by now. Whether there were any."""
        if self._task.finishing:
            return False
        for nr, count in enumerate(self.steps):
            if count.coming or self._spec.steps[nr].staged is not None:
                after = inputs.take(self._tx, self._task.task_id, nr, count)
                if after is not None:
                    self.steps[nr] = after
                    self._write(after)
                    return True
        return False

    def make_jobs(self) -> bool:
        """Make jobs of the first step that may. Whether there were any."""
        finishing = bool(self._task.finishing)
        found = standing.standings(self._spec, self.steps, finishing=finishing)
        for nr, (one, count) in enumerate(zip(found, self.steps, strict=True)):
            step = self._spec.steps[nr]
            # Who finishes a task early is content with what there is.
            if not finishing and standing.aborts(step, count, one):
                self._fail(f"step {step.name}: {count.failed} of {count.items} items have failed")
                return True
            if one.waits:
                continue
            if step.pulled is not None:
                if self._pull(nr, count):
                    return True
                continue
            if one.closed and standing.too_many(step, count):
                self._fail(f"step {step.name}: {count.items} items are too many for one job")
                return True
            units = self._next(nr, count, one)
            if units:
                self._start(nr, units)
                return True
        return False

    def _pull(self, nr: int, count: StepRecord) -> bool:
        """Let the items of a step be leased, by as many jobs as it says. Whether anything was
        done."""
        step, task_id = self._spec.steps[nr], self._task.task_id
        if pulling.stuck(step, count):
            self._fail(f"step {step.name}: {count.barren} jobs in a row have failed")
            return True
        try:
            after = pulling.feed(self._tx, self._task, nr, count, now=self._now)
        except AilurusError as error:
            self._fail(f"step {step.name}: {error.field}: {error.message}")
            return True
        except Rejected as error:
            self._fail(f"step {step.name}: {error.field}: {error.title}")
            return True
        if after is not None:
            self.steps[nr] = after
            self._write(after)
            return True
        if count.begun and pulling.sweep(self._tx, task_id, nr):
            self.steps = records.steps(self._tx, task_id)
            return True
        wanted = pulling.wanted(step, count)
        if wanted <= 0:
            idle = pulling.let_go(self._tx, task_id, count, now=self._now)
            self.cancelled += idle
            return bool(idle)
        payloads = pulling.payloads_of(task_id, count)
        try:
            jobs = [
                consumer_of(self._spec, nr, count.jobs + at, payloads, task_id)
                for at in range(wanted)
            ]
            for job in jobs:
                self._jobs.check(job, self._task.owner, f"steps[{nr}].job")
        except (AilurusError, Rejected) as error:
            self._fail(f"step {step.name}: {error.field}: {error}")
            return True
        job_id = self._jobs.store(self._tx, self._task, f"task {task_id} {nr} {count.jobs}", jobs)
        rows = (
            UnitRecord(nr, nth, 0, nth, 1, job_id + at, UnitState.OPEN, "")
            for at, nth in enumerate(range(count.jobs, count.jobs + wanted))
        )
        self._tx.many("unit.add", [records.unit_row(task_id, one) for one in rows])
        after = replace(count, jobs=count.jobs + wanted, open_jobs=count.open_jobs + wanted)
        self.steps[nr] = after
        self._write(after)
        return True

    def _next(self, nr: int, count: StepRecord, one: standing.Standing) -> list[UnitRecord]:
        most = min(JOBS, standing.MOST_OPEN - count.open_jobs)
        step, task_id = self._spec.steps[nr], self._task.task_id
        most = min(most, max(1, ITEMS // step.most))
        if most <= 0:
            return []
        if count.ready and (again := records.ready(self._tx, task_id, nr, most)):
            return again
        last = count.items if step.staged is None else inputs.there(self._tx, task_id, count)
        # What waits for room to be staged waits for jobs that are made of what is there.
        rest = one.closed or bool(count.cramped and not count.open)
        if isinstance(step.by, By):
            at_once = max(ITEMS, step.most)
            sizes = self._sizes(nr, count.fresh, min(last, count.fresh + at_once))
            rest = rest and last <= count.fresh + at_once
            groups = standing.groups_by_size(
                step.by.files, size_of(step.by.bytes), sizes, count.fresh, most, rest=rest
            )
        else:
            groups = standing.groups(step, count.fresh, last, most, rest=rest)
        return [
            UnitRecord(nr, first, items, count.jobs + at, 0, None, None, "")
            for at, (first, items) in enumerate(groups)
        ]

    def _sizes(self, nr: int, first: int, last: int) -> list[int]:
        """Bytes of the files that some items are."""
        items = Source(self._tx, self._task.task_id, nr, None).items(first, last - first)
        return [int(one.get("size", 0)) if isinstance(one, dict) else 0 for one in items]

    def _start(self, nr: int, units: Sequence[UnitRecord]) -> None:
        """Make the jobs of some units; one of which none can be made has failed."""
        step, task_id = self._spec.steps[nr], self._task.task_id
        source = Source(self._tx, task_id, nr, step.over.range)
        specs, rows, name = [], [], ""
        for unit in units:
            items = source.items(unit.first, unit.items)
            state, reason = UnitState.OPEN, ""
            try:
                specs.append(self._job(nr, unit, items))
                # By its job before: a unit has several jobs, one after the other.
                name = name or f"task {task_id} {nr} {unit.first} {unit.job_id or 0}"
            except AilurusError as error:
                state, reason = UnitState.FAILED, f"{error.field}: {error.message}"
            except Rejected as error:
                state, reason = UnitState.FAILED, f"{error.field}: {error.title}"
            rows.append((replace(unit, tries=unit.tries + 1, state=state), reason))
        job_id = self._jobs.store(self._tx, self._task, name, specs) if specs else 0
        again, count = units[0].state is not None, self.steps[nr]
        written = []
        for unit, reason in rows:
            made = unit.state is UnitState.OPEN
            after = replace(unit, job_id=job_id) if made else unit
            written.append(records.unit_row(task_id, after, reason))
            job_id += made
            count = replace(
                count,
                fresh=count.fresh + unit.items * (not again),
                ready=count.ready - unit.items * again,
                open=count.open + unit.items * made,
                failed=count.failed + unit.items * (not made),
                jobs=count.jobs + (not again),
                open_jobs=count.open_jobs + made,
            )
        self._tx.many("unit.put" if again else "unit.add", written)
        lost = [(unit.first, unit.items) for unit, reason in rows if reason]
        self.steps[nr] = count = inputs.release(self._tx, task_id, nr, count, lost)
        self._write(count)
        reason = next((reason for _, reason in rows if reason), "")
        if reason and not self._task.reason:
            self._task = change(self._tx, self._task, self._now, reason=reason)

    def _job(self, nr: int, unit: UnitRecord, items: Sequence[Item]) -> JobSpec:
        """The job of a unit. Raises AilurusError, and Rejected for one that the user may not
        submit: its items may lead it where the first did not."""
        job = job_of(self._spec, nr, unit.nr, items, self._task.task_id)
        self._jobs.check(job, self._task.owner, f"steps[{nr}].job")
        return job

    def end(self) -> bool:
        """End a task that is over. Whether it still has work."""
        found = standing.standings(self._spec, self.steps, finishing=bool(self._task.finishing))
        if not all(one.over for one in found):
            return False
        bad = next((nr for nr, one in enumerate(found) if not one.good), None)
        if bad is None:
            self._dismiss(range(len(self.steps)))
            inputs.release_all(self._tx, self._task)
            change(self._tx, self._task, self._now, state=TaskState.FINISHED, active=0)
            return False
        count = self.steps[bad]
        reason = found[bad].waits or f"{count.failed} of {count.items} items have failed"
        self._fail(f"step {self._spec.steps[bad].name}: {reason}")
        return True

    def _fail(self, reason: str) -> None:
        # Why no job could be made of some items.
        reason = "; ".join(filter(None, (reason, self._task.reason)))
        change(self._tx, self._task, self._now, state=TaskState.FAILED, reason=reason)

    def _write(self, *steps: StepRecord) -> None:
        for step in steps:
            records.put_step(self._tx, self._task.task_id, step)
            if step.planned:
                records.put_search(self._tx, self._task.task_id, step)
