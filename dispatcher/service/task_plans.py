"""Asks planners which points of a search come next: at the leader, a few at a time.

What is asked follows from the tables, and an answer is taken in the commit that looks whether the
question still stands. So whoever dies meanwhile, it is asked again, and no point comes twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from uuid import uuid4

import msgspec

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol import search as points_of
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.search import Ask, Planner, Value
from ailurus.protocol.task import Task, TaskState
from ailurus.protocol.task_jobs import planner_of
from dispatcher.auth.caller import Caller
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.service import planner_process
from dispatcher.service.peers import Peers
from dispatcher.service.planner_process import PlannerFailed
from dispatcher.service.state import State
from dispatcher.tasks import records, search, views
from dispatcher.tasks.advance import Submitter, change
from dispatcher.tasks.records import StepRecord, TaskRecord
from dispatcher.tasks.search import Question

TOGETHER = 4
"""Planners that are asked at once."""
PAUSE_S = 2.0
"""Before a planner is asked again that has failed, and longer for each time."""
_encode = msgspec.json.Encoder().encode


class TaskPlans:
    """The part of the service that asks planners."""

    def __init__(
        self, state: State, peers: Peers, submitter: Submitter, came: Callable[[int], None]
    ) -> None:
        """`came` is called with a task for which there is something new."""
        self._state, self._peers, self._came = state, peers, came
        self._submitter = submitter
        self._turns = asyncio.Semaphore(TOGETHER)
        self._asking: set[tuple[int, int]] = set()

    def come(self, task_id: int, nr: int) -> None:
        """Have the planner of a step asked."""
        if (task_id, nr) not in self._asking:
            self._asking.add((task_id, nr))
            self._state.loops.once("task plans", self._ask(task_id, nr))

    async def _ask(self, task_id: int, nr: int) -> None:
        pause_s: float | None = PAUSE_S
        try:
            async with self._turns:
                pause_s = await self.turn(task_id, nr)
        finally:
            # From here on it may be asked again.
            self._asking.discard((task_id, nr))
            if pause_s is not None:
                asyncio.get_running_loop().call_later(pause_s, self._came, task_id)

    async def turn(self, task_id: int, nr: int) -> float | None:
        """Ask the planner of a step, if it is to be. In how many seconds its task is to be looked
        at; None: it need not."""
        if not self._peers.leads:
            return None
        asked = await self._state.store.read(partial(search.question, task_id=task_id, nr=nr))
        if asked is None:
            return None
        why = await (self._send if asked.ask.by is Planner.JOB else self._talk)(asked)
        return PAUSE_S * (asked.tries + 1) if why else 0.0

    async def _talk(self, asked: Question) -> str:
        """Ask a process. Why there was no answer."""

        def document() -> bytes:
            # iDDS's form, and which of those without a loss will have none.
            said = {"points": asked.points, "opt_space": asked.ask.space, "failed": asked.failed}
            return _encode(said)

        answer, why = b"", ""
        try:
            answer = await planner_process.ask_optuna(
                await asyncio.to_thread(document), asked.wanted, asked.answers
            )
        except PlannerFailed as failure:
            why = str(failure)
        await self._state.store.write(partial(search.tell, asked=asked, answer=answer, why=why))
        return why

    async def _send(self, asked: Question) -> str:
        """Submit a job that plans. Why there is none."""
        document = await asyncio.to_thread(lambda: asked.document)

        def write(tx: Tx) -> None:
            if search.still(tx, asked) is None:
                return
            task = asked.task
            points = search.keep(tx, task.owner, document, now=self._state.now())
            job = planner_of(
                task.task,
                asked.nr,
                asked.answers,
                task.task_id,
                wanted=asked.wanted,
                points=points,
            )
            self._submitter.check(job, task.owner, f"steps[{asked.nr}].over.ask.job")
            name = f"task {task.task_id} {asked.nr} planner {uuid4().hex}"
            job_id = self._submitter.store(tx, task, name, [job])
            search.send(tx, asked, job_id)

        try:
            await self._state.store.write(write)
        except AilurusError as error:
            why = _told(error.field, error.message)
        except Rejected as error:
            why = _told(error.field, error.title)
        else:
            return ""
        await self._state.store.write(partial(search.send, asked=asked, job_id=None, why=why))
        return why

    # --- what users ask ---

    async def add_points(
        self, ask: m.AddPoints, caller: Caller, found: Callable[[Tx, int, Caller], TaskRecord]
    ) -> m.PointsAdded:
        """Add points to a search. Raises Rejected for more than it may have."""

        def look(tx: Tx) -> tuple[TaskRecord, int, Ask, StepRecord]:
            task = found(tx, ask.task_id, caller)
            nr, spec = _search_of(task, ask.step)
            return task, nr, spec, records.steps(tx, task.task_id)[nr]

        def compare(tx: Tx) -> tuple[StepRecord, list[dict[str, Value]]]:
            task, nr, spec, count = look(tx)
            try:
                points_of.check_points(ask.points, spec.space, points_of.MOST_TOGETHER)
            except AilurusError as error:
                raise Rejected(422, error.message, field="points", remedy=error.remedy) from None
            keys = search.keys(tx, task.task_id, nr, 0, count.items)
            return count, points_of.fresh(ask.points, keys)

        # All points that a search has may be 40 MB: they are read where it is charged, and where
        # nobody's commit waits for it.
        seen, unknown = await self._state.store.read(compare)
        if not unknown and (not ask.end or seen.listed):
            return m.PointsAdded(added=0, items=seen.items)

        def write(tx: Tx) -> m.PointsAdded:
            task, nr, spec, count = look(tx)
            # Those that have come since.
            keys = search.keys(tx, task.task_id, nr, seen.items, count.items)
            new = points_of.fresh(unknown, keys)
            if not new and (not ask.end or count.listed):
                return m.PointsAdded(added=0, items=count.items)
            running = task.state in (TaskState.RUNNING, TaskState.PAUSED) and not task.finishing
            if count.listed or not running:
                raise Rejected(
                    409,
                    f"step {ask.step} takes no more points",
                    field="points",
                    remedy=f"see `dispatcher task why {task.task_id}`",
                )
            if count.items + len(new) > spec.max:
                raise Rejected(
                    422,
                    f"step {ask.step} would have {count.items + len(new)} points, of {spec.max}",
                    field="points",
                    remedy=f"at most {spec.max - count.items} more",
                )
            after = msgspec.structs.replace(
                search.add(tx, task.task_id, spec, count, new) if new else count,
                # Whom the dispatcher asks, goes on from there.
                planner_job=count.planner_job,
            )
            if ask.end:
                after = msgspec.structs.replace(after, listed=1)
            records.put_search(tx, task.task_id, after)
            change(tx, task, self._state.now(), verb="points", by=caller.subject)
            return m.PointsAdded(added=len(new), items=after.items)

        return await self._state.store.write(write)

    async def points(
        self, ask: api.PointsQuery, caller: Caller, found: Callable[[Tx, int, Caller], TaskRecord]
    ) -> m.Points:
        """Points of a search."""

        def look(tx: Tx) -> m.Points:
            task = found(tx, ask.task_id, caller)
            nr, _ = _search_of(task, ask.step)
            return views.points(tx, task, nr, ask.after, ask.limit)

        return await self._state.store.read(look)


def step_nr(task: Task, name: str) -> int:
    """The place of a step. Raises Rejected."""
    names = [one.name for one in task.steps]
    if name not in names:
        raise Rejected(
            404, f"the task has no step {name!r}", field="step", remedy=", ".join(names)[:500]
        )
    return names.index(name)


def _search_of(task: TaskRecord, name: str) -> tuple[int, Ask]:
    """The place of a step, and what it asks. Raises Rejected for one that is no search."""
    spec = task.task
    nr = step_nr(spec, name)
    if (ask := spec.steps[nr].over.ask) is None:
        searches = ", ".join(one.name for one in spec.steps if one.over.ask is not None)
        remedy = searches[:500] or "the task has none: `over: {ask: …}` makes a step one"
        raise Rejected(422, f"step {name} is no search", field="step", remedy=remedy)
    return nr, ask


def _told(field: str, what: str) -> str:
    """A fault in a sentence; some are of no field."""
    return f"{field}: {what}" if field else what
