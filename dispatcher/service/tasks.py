"""Users' tasks, and the loop that brings them forward: at the leader, when something has happened
to one of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ailurus.loops import Loop
from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from ailurus.protocol.search import Planner
from ailurus.protocol.task import Task, TaskState
from ailurus.protocol.task_file import check_task
from ailurus.protocol.task_jobs import samples
from dispatcher.auth.caller import Caller
from dispatcher.catalogue import settings as scopes
from dispatcher.catalogue.link import Ask
from dispatcher.events import Entry, StateChanged, TaskChanged
from dispatcher.ports import Tx, Unavailable
from dispatcher.refusal import Rejected
from dispatcher.rules import preparing, submission
from dispatcher.rules.group_turns import group_of
from dispatcher.rules.submission import Request
from dispatcher.rules.uploads import use_for_task
from dispatcher.service import planner_process
from dispatcher.service.intake import Intake
from dispatcher.service.peers import Peers
from dispatcher.service.state import State, log
from dispatcher.service.storing import Storing
from dispatcher.service.task_files import TaskFiles
from dispatcher.service.task_plans import TaskPlans, step_nr
from dispatcher.tasks import intake, item_pages, records, verbs, views
from dispatcher.tasks.advance import Advanced, advance
from dispatcher.tasks.missed import catch_up, misses
from dispatcher.tasks.records import TaskRecord

LOOK_S = 5.0
"""How often a dispatcher looks whether it leads by now."""
CATCH_UP_S = 600.0
"""How often the leader looks for ends that were not noted: during an upgrade a dispatcher of the
version before may end jobs."""
STUCK_S = 60.0


class Tasks:
    """The part of the service that has tasks."""

    def __init__(self, state: State, peers: Peers, jobs: Intake, catalogue: Ask | None) -> None:
        self._state = state
        self._peers = peers
        self._jobs = jobs
        self._submitter = _Submitter(state, peers)
        self.files = TaskFiles(state, peers, catalogue, self._come)
        self.plans = TaskPlans(state, peers, self._submitter, self._come)
        self._led = False
        self._caught_up = 0.0
        # In the order in which they get their turn.
        self._due: dict[int, None] = {}
        # In which items are leased: nothing tells of each.
        self._pulling = set[int]()
        self._wake = asyncio.Event()

    def start(self) -> None:
        """Begin to bring tasks forward."""
        self._state.store.listen(self._heed)
        self._state.loops.task("tasks", self._run, turn_s=STUCK_S)
        self.files.start()

    # --- what users ask ---

    async def submit_task(self, ask: m.SubmitTask, caller: Caller) -> m.TaskSubmitted:
        """Accept a task, once, however often it is sent."""
        return await self.accept(ask, caller)

    async def accept(
        self,
        ask: m.SubmitTask,
        caller: Caller,
        *,
        uploads: bool = False,
        numbered: Callable[[Task, int], Task] = lambda task, _: task,
    ) -> m.TaskSubmitted:
        """Accept a task, once. `uploads`: its jobs may name uploaded files, which are kept with it;
        `numbered` gives the task as it is once its id is known."""
        store, owner, now = self._state.store, caller.subject, self._state.now()
        digest = await asyncio.to_thread(intake.digest_of, ask.task)
        known = await store.read(lambda tx: records.find_request(tx, owner, ask.request_id))
        if known is not None:
            if known.digest != digest:
                raise submission.id_reused(ask.request_id)
            if known.state != TaskState.SUBMITTING:
                return m.TaskSubmitted(task_id=known.task_id, repeated=True)
        else:
            await self._check(ask, caller, uploads=uploads)
        group = group_of(caller.groups, self._state.settings.groups)

        def begin(tx: Tx) -> int:
            named = {"request_id": ask.request_id, "digest": digest}
            begun = intake.begin(tx, ask.task, owner=owner, group=group, now=now, **named)
            if uploads:
                jobs = [job for _, job in samples(ask.task)]
                use_for_task(tx, jobs, owner, begun, now=now)
            return begun

        task_id = await store.write(begin)
        for rows in intake.parts(numbered(ask.task, task_id), task_id):
            await store.write(partial(_add_slices, rows=rows))
        await store.write(lambda tx: intake.open_up(tx, task_id, now=now))
        return m.TaskSubmitted(task_id=task_id)

    async def _check(self, ask: m.SubmitTask, caller: Caller, *, uploads: bool) -> None:
        """Raise Rejected for a task whose jobs would be refused, if a user submitted them."""

        def look() -> list[tuple[str, JobSpec]]:
            check_task(ask.task)
            return samples(ask.task)

        self._may_stage(ask.task, caller)
        _has_planners(ask.task)
        try:
            jobs = await asyncio.to_thread(look)
        except AilurusError as error:
            field = f"task.{error.field}"
            raise Rejected(422, error.message, field=field, remedy=error.remedy) from None
        for where, job in jobs:
            try:
                await self._jobs.check([job], caller, uploads=uploads)
            except Rejected as error:
                error.field = f"task.{where}" + error.field.removeprefix("jobs[0]")
                raise

    def _may_stage(self, task: Task, caller: Caller) -> None:
        """Raise Rejected for data sets without a catalogue, and for files that the caller may not
        have staged."""
        settings = self._state.settings.catalogue
        for nr, step in enumerate(task.steps):
            if step.over.dataset is not None and settings is None:
                raise Rejected(
                    422,
                    "this dispatcher has no catalogue",
                    field=f"task.steps[{nr}].over.dataset",
                    remedy="let its operator give `dispatcher serve` a --catalogue",
                )
            gate = step.staged
            if gate is None or settings is None:
                continue
            if not settings.may_stage(caller.subject, gate.staged):
                raise Rejected(
                    403,
                    f"{caller.subject} may not have files staged at {gate.staged}",
                    field=f"task.steps[{nr}].gate.staged",
                    remedy="ask the dispatcher's operator: `staging` in the catalogue's file",
                )

    async def tasks(self, ask: api.TasksQuery, caller: Caller) -> m.TaskPage:
        """Tasks, newest first."""
        owner = ask.user if caller.may(api.Scope.ADMIN) else caller.subject
        if ask.user and ask.user != owner:
            return m.TaskPage(tasks=())

        now = self._state.now()

        def look(tx: Tx) -> tuple[tuple[m.TaskRow, ...], int | None]:
            said = {"owner": owner, "state": ask.state}
            found = list(records.page(tx, **said, before=ask.before or 2**62, most=ask.limit))
            told = tuple(views.row(tx, one, now) for one in found)
            last = found[-1].task_id if found else 0
            more = tx.all("task.page", **said, before=last, most=1)
            return told, last if more else None

        told, more = await self._state.store.read(look)
        return m.TaskPage(tasks=told, next=more)

    async def task(self, ask: api.TaskQuery, caller: Caller) -> m.TaskDetail:
        """All about a task."""

        def look(tx: Tx) -> m.TaskDetail:
            found = _found(tx, ask.task_id, caller)
            row = views.row(tx, found, self._state.now(), why=True)
            counts = records.steps(tx, found.task_id)
            staging = tuple(item_pages.staging(tx, found, counts))
            return m.TaskDetail(row=row, task=found.task, staging=staging)

        return await self._state.store.read(look)

    async def task_items(self, ask: api.TaskItemsQuery, caller: Caller) -> m.TaskItemPage:
        """Items of a step of a task, with their jobs."""

        def look(tx: Tx) -> m.TaskItemPage:
            found = _found(tx, ask.task_id, caller)
            nr = step_nr(found.task, ask.step)
            return item_pages.page(tx, found, nr, state=ask.state, after=ask.after, most=ask.limit)

        return await self._state.store.read(look)

    async def points(self, ask: api.PointsQuery, caller: Caller) -> m.Points:
        """Points of a search."""
        return await self.plans.points(ask, caller, _found)

    async def add_points(self, ask: m.AddPoints, caller: Caller) -> m.PointsAdded:
        """Add points to a search."""
        return await self.plans.add_points(ask, caller, _found)

    async def steer_task(self, ask: m.SteerTask, caller: Caller) -> m.TaskRow:
        """Pause, resume, retry or finish a task."""
        by, verb = caller.subject, ask.verb
        return await self._changed(
            ask.task_id,
            caller,
            lambda tx, one: verbs.steer(tx, one, verb, by, now=self._state.now()),
        )

    async def cancel_task(self, ask: m.CancelTask, caller: Caller) -> m.TaskRow:
        """Cancel a task."""
        by = caller.subject
        return await self._changed(
            ask.task_id, caller, lambda tx, one: verbs.cancel(tx, one, by, now=self._state.now())
        )

    async def _changed(
        self, task_id: int, caller: Caller, verb: Callable[[Tx, TaskRecord], TaskRecord]
    ) -> m.TaskRow:
        def write(tx: Tx) -> m.TaskRow:
            return views.row(tx, verb(tx, _found(tx, task_id, caller)), self._state.now())

        return await self._state.store.write(write)

    # --- the loop ---

    def _heed(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            match one.event:
                case StateChanged(task_id=int(task_id)) | TaskChanged(task_id=task_id):
                    self._come(task_id)

    def _come(self, task_id: int) -> None:
        """Have a task brought forward."""
        self._due.setdefault(task_id)
        self._wake.set()

    async def _run(self, loop: Loop) -> None:
        while True:
            loop.turned()
            await self._look(loop)
            if self._led and self._due:
                await self._turn()
                continue
            self._due.clear()
            loop.turned(LOOK_S)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                self._due |= dict.fromkeys(self._pulling)
            self._wake.clear()

    async def _look(self, loop: Loop) -> None:
        """Read which tasks there are once we begin to lead, as those before us may have ended in
        between, and now and then from there on."""
        now = time.monotonic()
        if self._peers.leads and (not self._led or now > self._caught_up + CATCH_UP_S):
            rows = await self._state.store.read(lambda tx: tx.all("task.active"))
            for (task_id,) in rows:
                loop.turned()
                if await self._state.store.read(partial(misses, task_id=task_id)):
                    while await self._state.store.write(partial(catch_up, task_id=task_id)):
                        loop.turned()
                self._due.setdefault(task_id)
            self._caught_up = now
        self._led = self._peers.leads

    async def _turn(self) -> None:
        """Do a slice of the work of the first task; it is the last then, if it has more."""
        task_id = next(iter(self._due))
        del self._due[task_id]
        try:
            done = await self.advance(task_id)
        except Unavailable:
            self._due.setdefault(task_id)
            raise
        # A bug of ours: it stops this task, and no other.
        except Exception:  # noqa: BLE001
            log.error("task_broke", trace=True, task_id=task_id)
            await self._state.store.write(lambda tx: verbs.stop(tx, task_id, now=self._state.now()))
            return
        for nr in done.asks:
            self.plans.come(task_id, nr)
        if done.more:
            self._due.setdefault(task_id)
        elif done.pulling:
            self._pulling.add(task_id)
        else:
            self._pulling.discard(task_id)

    async def advance(self, task_id: int) -> Advanced:
        """Do the next slice of a task's work. Raises Unavailable."""
        done = await self._state.store.write(
            lambda tx: advance(tx, task_id, self._submitter, now=self._state.now())
        )
        for job_id in done.cancelled:
            self._state.leases.drop(job_id)
            self._state.log_arrived(job_id)
        return done


class _Submitter:
    """Submits the jobs of tasks."""

    def __init__(self, state: State, peers: Peers) -> None:
        self._state, self._peers = state, peers

    def check(self, job: JobSpec, owner: str, where: str) -> None:
        scopes.check(self._state.settings.catalogue, job, owner, where)

    def store(self, tx: Tx, task: TaskRecord, name: str, jobs: Sequence[JobSpec]) -> int:
        request = Request(
            by=task.owner,
            request_id=name,
            digest="",
            owner=task.owner,
            sees=task.owner,
            group=task.user_group,
            task_id=task.task_id,
        )
        prepared = preparing.prepare(jobs)
        return Storing(self._state, self._peers.name, request, prepared).at_once(tx, ()).job_ids[0]


def _has_planners(task: Task) -> None:
    """Raise Rejected for a planner that is not installed."""
    for nr, step in enumerate(task.steps):
        ask = step.over.ask
        if ask is not None and ask.by is Planner.OPTUNA and not planner_process.has_optuna():
            raise Rejected(
                422,
                "this dispatcher has no Optuna",
                field=f"task.steps[{nr}].over.ask.by",
                remedy="let its operator install ailurus[optuna], or plan in a job: `by: job`",
            )


def _add_slices(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> None:
    tx.many("task_slice.add", rows)


def _found(tx: Tx, task_id: int, caller: Caller) -> TaskRecord:
    """A task that the caller may see. Others' do not exist for it: raises Rejected."""
    task = records.find_task(tx, task_id)
    if task is None or not caller.owns(task.owner):
        raise Rejected(
            404, f"there is no task {task_id}", field="task_id", remedy="see `dispatcher task list`"
        )
    return task
