"""Crashes before, in and after any transaction, lost answers and failing jobs change nothing of
what a task comes to: each item counts once."""

from __future__ import annotations

import contextlib
import random
from collections import Counter

import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from ailurus.protocol.task import TaskState, Verb
from ailurus.protocol.task_file import task_from
from dispatcher.refusal import Rejected
from dispatcher.service.tasks import Tasks
from tests.dispatcher.helpers import ALICE, Worker, bench, new_id

ITEMS = 23


def job(command: str, **fields: object) -> dict[str, object]:
    return {"command": command, "queue": "q", **fields}


TASK = {
    "task": "chain",
    "steps": [
        {
            "name": "gen",
            "over": {"range": {"from": 1, "to": ITEMS}},
            "by": 3,
            "failed": {"attempts": 100},
            "job": job("gen {items}", outputs=["out"]),
        },
        {
            "name": "reco",
            "over": {"outputs": "gen"},
            "by": 2,
            "failed": {"attempts": 100},
            "job": job("reco {items}", inputs=["{items}"], outputs=["out"]),
        },
        {
            "name": "merge",
            "over": {"outputs": "reco"},
            "by": "all",
            "failed": {"attempts": 100},
            "job": job("merge {items}", inputs=["{items}"], outputs=["all"]),
        },
        {
            "name": "check",
            "over": {"list": ["a", "b", "bad", "c"]},
            "gate": {"after": "gen 50%"},
            "failed": {"goal": "75%"},
            "job": job("check {item}"),
        },
    ],
}


class Crash(Exception):
    """The dispatcher has died, as far as the caller can see."""


class Failing:
    """A transaction that breaks at one of its statements."""

    def __init__(self, tx, left: int) -> None:
        self._tx, self._left = tx, left

    def __getattr__(self, name: str):
        if name in ("one", "all", "run", "many"):
            self._left -= 1
            if self._left < 0:
                raise Crash("in")
        return getattr(self._tx, name)


class Crashing:
    """A store that dies by chance before, in or after a transaction."""

    def __init__(self, store, chance: random.Random, share: float) -> None:
        self._store, self._chance, self._share = store, chance, share
        self.crashes = Counter[str]()

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    async def write(self, change, *ahead):
        where = "no"
        if self._chance.random() < self._share:
            where = self._chance.choice(("before", "in", "after"))
        if where == "before":
            self._die(where)
        broken = change
        if where == "in":
            at = self._chance.randrange(12)
            broken = lambda tx: change(Failing(tx, at))  # noqa: E731
        try:
            answer = await self._store.write(broken, *ahead)
        except Crash:
            self._die(where)
        if where == "after":
            self._die(where)
        return answer

    def _die(self, where: str) -> None:
        self.crashes[where] += 1
        raise Crash(where)


class Run:
    """A task, a pilot that takes its jobs, and a dispatcher that dies again and again."""

    def __init__(self, place: str, chance: random.Random, share: float) -> None:
        self.place, self.chance, self.share = place, chance, share
        self.crashes = Counter[str]()
        self.task_id = 0
        self.worker: Worker | None = None
        self.held: list[m.RawAssignment] = []
        # What a pilot has done, and must tell until somebody has heard it.
        self.reports: list[tuple[m.RawAssignment, dict]] = []
        self.request = new_id()
        self.retried = 0

    async def go(self) -> m.TaskRow:
        """Live until the task is at its end; how it stands then."""
        row = None
        while row is None:
            async with bench(self.place) as b:
                store = Crashing(b.service.store, self.chance, self.share)
                if self.worker is None:
                    self.worker = await b.worker()
                self.worker.service = b.service
                b.service.state.store = store
                try:
                    row = await self._live(b)
                except Crash:
                    pass
                finally:
                    b.service.state.store = b.service.store
                    self.crashes += store.crashes
        return row

    async def _live(self, b) -> m.TaskRow:
        ask: object = m.SubmitTask(request_id="once", task=task_from(TASK))
        self.task_id = (await b.service.tasks.submit_task(ask, ALICE)).task_id
        while True:
            step = self.chance.choices(
                (self._advance, self._acquire, self._work, self._tell, self._steer), (6, 3, 4, 4, 1)
            )
            await step[0](b)
            row = (await b.service.tasks.task(api.TaskQuery(task_id=self.task_id), ALICE)).row
            self._adds_up(row)
            if row.state is TaskState.FINISHED:
                return row
            if row.state is TaskState.FAILED:
                self.retried += 1
                ask = m.SteerTask(task_id=self.task_id, verb=Verb.RETRY)
                await b.service.tasks.steer_task(ask, ALICE)

    async def _advance(self, b) -> None:
        await b.service.tasks.advance(self.task_id)

    async def _acquire(self, b) -> None:
        # The same request until it is answered.
        self.held += await self.worker.acquire(2, request=self.request)
        self.request = new_id()

    async def _work(self, b) -> None:
        if not self.held:
            return
        one = self.held.pop(self.chance.randrange(len(self.held)))
        detail = await b.service.users.show(None, ALICE, job_id=one.job_id)
        bad = "bad" in detail.spec.command or self.chance.random() < 0.2
        files = tuple(
            m.DoneFile(
                name=f.name, url=f"file:///store/{one.job_id}.{f.name}", size=1, adler32="0" * 8
            )
            for f in detail.spec.outputs
        )
        facts = {"finished": False, "code": 1305} if bad else {"files": files}
        self.reports.append((one, facts))

    async def _tell(self, b) -> None:
        if not self.reports:
            return
        one, facts = self.chance.choice(self.reports)
        verdict = await self.worker.report(one, **facts)
        # An answer that is lost is asked for again; sometimes one that was not.
        if self.chance.random() < 0.9:
            self.reports.remove((one, facts))
        assert verdict in ("accepted", "already_done"), verdict

    async def _steer(self, b) -> None:
        for verb in (Verb.PAUSE, Verb.RESUME):
            ask = m.SteerTask(task_id=self.task_id, verb=verb)
            # It may be at its end.
            with contextlib.suppress(Rejected):
                await b.service.tasks.steer_task(ask, ALICE)

    def _adds_up(self, row: m.TaskRow) -> None:
        for step in row.steps:
            assert step.waiting + step.open + step.finished + step.failed == step.items
            assert min(step.waiting, step.open, step.finished, step.failed) >= 0


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    """The test itself brings tasks forward."""
    monkeypatch.setattr(Tasks, "start", lambda self: None)


async def _finished(place: str) -> list[m.JobDetail]:
    async with bench(place) as b:
        rows = (await b.listed()).jobs
        details = [await b.service.users.show(None, ALICE, job_id=row.job_id) for row in rows]
    assert {one.row.state for one in details} <= {JobState.FINISHED, JobState.FAILED}
    return [one for one in details if one.row.state is JobState.FINISHED]


RUNS = [("sqlite", seed) for seed in range(5)] + [("postgres", seed) for seed in range(2)]


@pytest.mark.parametrize(("place", "seed"), RUNS, indirect=["place"])
async def test_each_item_counts_once_whatever_dies(place, seed):
    run = Run(place, random.Random(seed), share=0.3)
    row = await run.go()
    assert row.state is TaskState.FINISHED, row
    assert set(run.crashes) == {"before", "in", "after"}
    finished = await _finished(place)

    def of(step: str) -> list[m.JobDetail]:
        return [one for one in finished if one.row.name.startswith(f"chain.{step}.")]

    def used(step: str) -> list[str]:
        return [word for one in of(step) for word in one.spec.command.split()[1:]]

    def made(step: str) -> list[str]:
        return [f"{one.row.job_id}.{file.name}" for one in of(step) for file in one.files]

    assert sorted(used("gen"), key=int) == [str(nr) for nr in range(1, ITEMS + 1)]
    assert sorted(used("reco")) == sorted(made("gen"))
    assert sorted(used("merge")) == sorted(made("reco"))
    assert (len(of("gen")), len(of("reco")), len(of("merge"))) == (8, 4, 1)
    assert set(used("check")) == {"a", "b", "c"}
