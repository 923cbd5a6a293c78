"""Dispatchers that die before, in and after transactions, pilots that are lost and come back, items
that fail and news that come twice: each item of a step whose items are leased counts once."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.item import ItemOutcome
from ailurus.protocol.states import JobState
from ailurus.protocol.task import TaskState, Verb
from ailurus.protocol.task_file import task_from
from dispatcher.service.tasks import Tasks
from tests.dispatcher.helpers import ALICE, Worker, bench, new_id
from tests.dispatcher.tasks.test_by_chance import Crash, Crashing

ITEMS, FEW = 17, 4
"""The quick tests have few on PostgreSQL, where a dispatcher takes long to begin."""
SHARE = 0.1
"""Of transactions in which a dispatcher dies."""
OUTCOMES = [*[ItemOutcome.FINISHED] * 6, *ItemOutcome]


def task(items: int, *, outputs: bool) -> dict[str, object]:
    payloads = {"arguments": ["{item}"], **({"outputs": ["out-{index}"]} if outputs else {})}
    sim = {
        "name": "sim",
        "over": {"range": {"from": 1, "to": items}},
        "pull": {"consumers": 3, "items": 6},
        "failed": {"attempts": 3},
        "job": {"command": "./sim", "queue": "q", "payloads": payloads},
    }
    merge = {
        "name": "merge",
        "over": {"outputs": "sim"},
        "by": "all",
        "failed": {"attempts": 100},
        "job": {"command": "cat {items}", "queue": "q", "inputs": ["{items}"], "outputs": ["all"]},
    }
    return {"task": "es", "steps": [sim, merge] if outputs else [sim]}


class Consumer:
    """A worker with a job, and the items that it has."""

    def __init__(self, worker: Worker, one: m.RawAssignment) -> None:
        self.worker, self.one = worker, one
        self.held: list[m.RawItemLease] = []
        self.ends: list[m.ItemEnd] = []
        self.finished: list[m.RawItemLease] = []
        self.request = new_id()
        self.settled = self.over = False


class Run:
    """A task, pilots of which some are lost, and a dispatcher that dies again and again."""

    def __init__(self, place: str, chance: random.Random, items: int, *, outputs: bool) -> None:
        self.place, self.chance, self.items, self.outputs = place, chance, items, outputs
        self.crashes = Counter[str]()
        self.task_id = self.retried = self.lost = 0
        self.workers: list[Worker] = []
        self.consumers: list[Consumer] = []

    async def go(self) -> m.TaskRow:
        row = None
        while row is None:
            async with bench(self.place) as b:
                store = Crashing(b.service.store, self.chance, SHARE)
                for worker in self.workers:
                    worker.service = b.service
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
        spec = task_from(task(self.items, outputs=self.outputs))
        ask: object = m.SubmitTask(request_id="once", task=spec)
        self.task_id = (await b.service.tasks.submit_task(ask, ALICE)).task_id
        steps = (self._advance, self._acquire, self._work, self._report, self._lose)
        while True:
            await self.chance.choices(steps, (6, 3, 9, 5, 1))[0](b)
            row = (await b.service.tasks.task(api.TaskQuery(task_id=self.task_id), ALICE)).row
            for step in row.steps:
                counts = (step.waiting, step.open, step.finished, step.failed)
                assert sum(counts) == step.items
                assert min(counts) >= 0
            if row.state is TaskState.FINISHED:
                return row
            if row.state is TaskState.FAILED:
                self.retried += 1
                ask = m.SteerTask(task_id=self.task_id, verb=Verb.RETRY)
                await b.service.tasks.steer_task(ask, ALICE)

    async def _advance(self, b) -> None:
        await b.service.tasks.advance(self.task_id)

    async def _acquire(self, b) -> None:
        if len(self.workers) > 500:
            return
        worker = await b.worker()
        self.workers.append(worker)
        for one in await worker.acquire(1):
            self.consumers.append(Consumer(worker, one))

    async def _work(self, b) -> None:
        """A pilot tells some ends, some of them again, and leases more."""
        there = [one for one in self.consumers if not one.over and not one.settled]
        if not there:
            return
        mine = self.chance.choice(there)
        if "payloads" not in msgspec.json.decode(mine.one.spec):
            mine.settled = True
            return
        for lease in mine.held[: self.chance.randrange(len(mine.held) + 1)]:
            mine.held.remove(lease)
            outcome = self.chance.choice(OUTCOMES)
            end = m.ItemEnd(index=lease.index, attempt=lease.attempt, outcome=outcome)
            mine.ends.append(end)
            if outcome is ItemOutcome.FINISHED:
                mine.finished.append(lease)
        begun = tuple(
            m.ItemBegun(index=one.index, attempt=one.attempt, at=1.0) for one in mine.held[:2]
        )
        told = tuple(mine.ends)
        got = await mine.worker.exchange(mine.one, 3, request=mine.request, ended=told, begun=begun)
        mine.request = new_id()
        if self.chance.random() < 0.8:
            mine.ends = mine.ends[len(told) :]
        known = {(one.index, one.attempt) for one in mine.held}
        stop = {(one.index, one.attempt) for one in got.stop}
        mine.held = [one for one in mine.held if (one.index, one.attempt) not in stop]
        mine.held += [one for one in got.items if (one.index, one.attempt) not in known]
        mine.settled = got.settled and not mine.held

    async def _report(self, b) -> None:
        done = [one for one in self.consumers if not one.over and one.settled]
        if not done:
            return
        mine = self.chance.choice(done)
        spec = msgspec.json.decode(mine.one.spec)
        bad = self.chance.random() < 0.2
        named = [(f"out-{one.index}", one.attempt, one.index) for one in mine.finished]
        if "payloads" not in spec:
            named = [("all", 1, None)]
        files = tuple(
            m.DoneFile(
                name=name,
                url=f"file:///s/{mine.one.job_id}.{mine.one.attempt_nr}.{name}.{attempt}",
                size=1,
                adler32="0" * 8,
                item=index,
            )
            for name, attempt, index in {name: (name, nr, i) for name, nr, i in named}.values()
            if self.outputs
        )
        facts = {"finished": False, "code": 1305} if bad else {"files": files}
        verdict = await mine.worker.report(mine.one, **facts)
        # Of an attempt that another has followed a failure is no news.
        assert verdict in ("accepted", "alreadydone", *["badattemptnr"] * bad), verdict
        mine.over = self.chance.random() < 0.9

    async def _lose(self, b) -> None:
        """No pilot is heard for long; some come back."""
        self.lost += 1
        for one in self.consumers:
            one.over |= self.chance.random() < 0.8
        await b.forward(2**30)


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    """The test itself brings tasks forward."""
    monkeypatch.setattr(Tasks, "start", lambda self: None)


RUNS = [
    ("sqlite", 1, ITEMS, True),
    ("postgres", 1, FEW, True),
    *(
        pytest.param(*one, marks=pytest.mark.slow)
        for one in (
            ("sqlite", 0, ITEMS, False),
            ("sqlite", 2, ITEMS, False),
            ("sqlite", 3, ITEMS, True),
            ("postgres", 1, ITEMS, True),
        )
    ),
]


@pytest.mark.parametrize(("place", "seed", "items", "outputs"), RUNS, indirect=["place"])
async def test_each_leased_item_counts_once_whatever_dies(place, seed, items, outputs):
    run = Run(place, random.Random(seed), items, outputs=outputs)
    row = await run.go()
    assert row.state is TaskState.FINISHED, row
    assert run.crashes
    if items == ITEMS:
        # Fewer may by chance be over before all of it has happened.
        assert set(run.crashes) == {"before", "in", "after"}
        assert run.lost
    assert (row.steps[0].items, row.steps[0].finished, row.steps[0].failed) == (items, items, 0)
    if not outputs:
        return
    assert (row.steps[1].items, row.steps[1].finished) == (items, items)
    async with bench(place) as b:
        rows = (await b.listed()).jobs
        details = [await b.service.users.show(None, ALICE, job_id=one.job_id) for one in rows]
    done = [one for one in details if one.row.state is JobState.FINISHED]
    merges = [one for one in done if one.row.name.startswith("es.merge.")]
    assert len(merges) == 1
    # The merged file has what each item left once.
    urls = [file.url for file in merges[0].spec.inputs]
    named = sorted(int(url.split(".out-")[1].partition(".")[0]) for url in urls)
    assert named == list(range(items))
