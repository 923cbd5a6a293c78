"""Asks the catalogue about the files of tasks' data sets: at the leader, step by step.

What is to be asked stands in the store before, what was answered after; each may be asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic

from msgspec.structs import replace

from ailurus.loops import Loop
from dispatcher.catalogue.link import CALL_S, Ask
from dispatcher.catalogue.messages import Faults, ListFiles, NotNow, Resolved, Stage, Staged
from dispatcher.ports import CatalogueUnavailable, Contents
from dispatcher.service.peers import Peers
from dispatcher.service.state import State
from dispatcher.tasks import inputs
from dispatcher.tasks.inputs import TOGETHER, Work

LONGEST_PAUSE_S = 60.0
LOOK_S = 2.0
"""How often it is looked for files that have come."""


class TaskFiles:
    """Brings files of data sets to the steps that read them."""

    def __init__(
        self, state: State, peers: Peers, ask: Ask | None, came: Callable[[int], None]
    ) -> None:
        """`came` is called with a task for which there is something new."""
        self._state, self._peers, self._ask, self._came = state, peers, ask, came
        # By task and step that cannot be helped: when to ask again, and the pause before.
        self._pauses: dict[tuple[int, int], tuple[float, float]] = {}

    def start(self) -> None:
        """Begin, if there is a catalogue."""
        if self._ask is not None:
            self._state.loops.task("task files", self._run, turn_s=CALL_S + 60.0)

    async def _run(self, loop: Loop) -> None:
        while True:
            loop.turned()
            if self._peers.leads:
                await self.turn(loop.turned)
            await asyncio.sleep(LOOK_S)

    async def turn(self, turned: Callable[[], object] = lambda: None) -> None:
        """Ask about each step once."""
        relisted = self._state.now() - inputs.RELIST_S
        rows = await self._state.store.read(lambda tx: tx.all("task_file.steps", relisted=relisted))
        self._pauses = {step: self._pauses[step] for step in rows if step in self._pauses}
        for task_id, nr in rows:
            turned()
            not_before, pause = self._pauses.get((task_id, nr), (0.0, LOOK_S))
            if monotonic() < not_before:
                continue
            problem, news = "", False
            work = await self._state.store.write(partial(inputs.plan, task_id=task_id, nr=nr))
            if work is None:
                continue
            try:
                news, problem = await self._list(task_id, nr, work, turned)
                if work.step.staged is not None:
                    came, trouble = await self._stage(task_id, nr, work)
                    news, problem = news or came, problem or trouble
            except CatalogueUnavailable as away:
                problem = f"the catalogue does not answer: {away.reason}"
            if problem:
                pause = min(2 * pause, LONGEST_PAUSE_S)
                self._pauses[task_id, nr] = monotonic() + pause, pause
            else:
                self._pauses.pop((task_id, nr), None)
            if problem != work.count.problem:
                await self._state.store.write(
                    partial(inputs.note, task_id=task_id, nr=nr, problem=problem)
                )
            if news:
                self._came(task_id)

    async def _list(
        self, task_id: int, nr: int, work: Work, turned: Callable[[], object]
    ) -> tuple[bool, str]:
        """List the data set of a step, if that is due. Whether it was, and what stands in the
        way."""
        count, now = work.count, self._state.now()
        if count.listed or not work.runs or now < count.looked + inputs.RELIST_S:
            return False, ""
        after, more, problem = "", True, ""
        while more:
            turned()
            contents, problem = await self._listing(work.step.over.did, after)
            more = contents is not None and contents.more > 0
            files = () if contents is None else contents.files
            if files:
                after = files[-1].name
            closed = contents is not None and not contents.open and not more
            room = await self._state.store.write(
                partial(inputs.add, task_id=task_id, nr=nr, step=work.step, files=files)
            )
            if not room:
                more = closed = False
                problem = (
                    f"the task has {inputs.MOST_FILES} items, and {work.step.over.did} more files: "
                    "make several tasks, each of some that `match`"
                )
            if not more:
                await self._state.store.write(
                    partial(inputs.looked, task_id=task_id, nr=nr, closed=closed, now=now)
                )
        return True, problem

    async def _listing(self, did: str, after: str) -> tuple[Contents | None, str]:
        """Some files of a data set, and why there are none."""
        assert self._ask is not None  # noqa: S101 -- nothing runs without it
        match await self._ask(ListFiles(did=did, after=after, most=TOGETHER)):
            case Resolved(contents=contents):
                return contents, f"the catalogue knows no {did} yet" * (contents is None)
            case Faults(faults=(fault, *_)):
                return None, fault.reason
            case NotNow(reason=reason, remedy=remedy):
                raise CatalogueUnavailable(reason, remedy)
            case other:
                raise CatalogueUnavailable(f"the catalogue answered {type(other).__name__}")

    async def _stage(self, task_id: int, nr: int, work: Work) -> tuple[bool, str]:
        """Ask for files, for those that have come, and let go of others. Whether any came, and what
        stands in the way."""
        assert work.step.staged is not None  # noqa: S101 -- the caller has looked
        assert self._ask is not None  # noqa: S101
        came, problem = False, ""
        others = await self._state.store.read(
            partial(inputs.others, task_id=task_id, nr=nr, work=work)
        )
        for some in inputs.parts(work):
            if not (some.asking or some.asked or some.read):
                continue
            # Those that others have staged as well are let go of by the last.
            free = [one for one in some.read if one.name not in others]
            part = replace(some, read=(*free, *(one for one in some.read if one.name in others)))
            ask = Stage(
                where=work.step.staged.staged,
                files=tuple(one.name for one in part.asking),
                look=tuple(one.name for one in part.asked),
                let_go=tuple(one.name for one in free),
            )
            match await self._ask(ask):
                case Staged() as answer:
                    problem = (
                        problem
                        or answer.problem
                        or next((f"{one.reason}" for one in (*answer.refused, *answer.kept)), "")
                    )
                    came |= await self._state.store.write(
                        partial(
                            inputs.told,
                            task_id=task_id,
                            nr=nr,
                            work=part,
                            here=answer.here,
                            refused={one.key for one in answer.refused},
                            kept={one.key for one in answer.kept},
                            now=self._state.now(),
                        )
                    )
                case Faults(faults=(fault, *_)):
                    raise CatalogueUnavailable(fault.reason, fault.remedy)
                case NotNow(reason=reason, remedy=remedy):
                    raise CatalogueUnavailable(reason, remedy)
                case other:
                    raise CatalogueUnavailable(f"the catalogue answered {type(other).__name__}")
        return came, problem
