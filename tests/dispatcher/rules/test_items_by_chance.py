"""Items of a job under losses, late and repeated news, and retries by chance: each finishes at most
once, what is counted is what is there, and the job ends exactly when its rule says."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.item import ItemOutcome, ItemState
from ailurus.protocol.states import FINAL, JobState
from tests.dispatcher.helpers import ALICE

FOREVER = 2**40
COUNT, NEEDED = 40, 30
OUTCOMES = [*[ItemOutcome.FINISHED] * 4, *ItemOutcome]


class Run:
    """A job of items, whoever has it now, and all news that were ever told."""

    def __init__(self, b, chance: random.Random) -> None:
        self.b, self.chance = b, chance
        self.told: list[tuple[object, object, m.ItemEnd]] = []
        self.holders: list[tuple[object, object, list[m.RawItemLease]]] = []
        self.finished: set[int] = set()
        self.job_id = 0

    async def start(self) -> None:
        self.job_id = await self.b.carrying(COUNT, goal=str(NEEDED), item_attempts=3)

    async def acquire(self) -> None:
        worker = await self.b.worker()
        for one in await worker.acquire():
            self.holders.append((worker, one, []))

    async def work(self) -> None:
        """The latest holder tells some ends, and leases more."""
        worker, one, held = self.holders[-1]
        self.chance.shuffle(held)
        ended = [self._end(held.pop()) for _ in range(self.chance.randrange(len(held) + 1))]
        begun = tuple(
            m.ItemBegun(index=i.index, attempt=i.attempt, at=1.0) for i in held[: len(held) // 2]
        )
        request = f"r{self.chance.randrange(10**9)}"
        count = self.chance.randrange(8)
        for _ in range(self.chance.choice((1, 1, 2))):
            answer = await worker.exchange(
                one, count, request=request, ended=tuple(ended), begun=begun
            )
        self.told += [(worker, one, end) for end in ended]
        held += answer.items
        await self._report(worker, one, settled=answer.settled)

    def _end(self, item: m.RawItemLease) -> m.ItemEnd:
        outcome = self.chance.choice(OUTCOMES)
        transient = self.chance.random() < 0.5
        return m.ItemEnd(
            index=item.index, attempt=item.attempt, outcome=outcome, transient=transient
        )

    async def _report(self, worker, one, *, settled: bool) -> None:
        state = await self.b.state(self.job_id)
        if settled and state not in FINAL:
            await worker.report(one)
            counts = await self.b.counts(self.job_id)
            finished = counts.finished >= NEEDED
            wanted = JobState.FINISHED if finished else JobState.FAILED
            assert await self.b.state(self.job_id) is wanted
            assert counts.finished + counts.failed == COUNT

    async def late(self) -> None:
        """Somebody who had it before tells what it still has, or something once more."""
        worker, one, held = self.chance.choice(self.holders)
        ends = [self._end(item) for item in held[:3]]
        ends += [end for who, _, end in self.told if who is worker][:3]
        await worker.exchange(one, ended=tuple(ends))

    async def lose(self) -> None:
        await self.b.forward(FOREVER)

    async def leave(self) -> None:
        worker, one, _ = self.holders[-1]
        await worker.report(one, finished=False, transient=True, code=1200)

    async def check(self) -> None:
        counts = await self.b.counts(self.job_id)
        rows = (await self.b.items(self.job_id, limit=1000)).items
        found = Counter(row.state for row in rows)
        assert [row.index for row in rows] == list(range(COUNT))
        for state in ItemState:
            assert getattr(counts, state) == found[state]
            page = (await self.b.items(self.job_id, state=state, limit=1000)).items
            assert [one.index for one in page] == [r.index for r in rows if r.state is state]
        # Nobody takes back what has finished.
        done = {row.index for row in rows if row.state is ItemState.FINISHED}
        assert self.finished <= done
        self.finished = done
        state = await self.b.state(self.job_id)
        assert (state is JobState.FINISHED) <= (counts.finished >= NEEDED)


@pytest.mark.parametrize("seed", range(6))
async def test_each_item_finishes_at_most_once_and_the_job_ends_by_its_rule(b, seed):
    chance = random.Random(seed)
    run = Run(b, chance)
    await run.start()
    await run.acquire()
    for _ in range(150):
        state = await b.state(run.job_id)
        if state is JobState.FINISHED:
            break
        if state in FINAL:
            ask = m.Retry(job_ids=(run.job_id,))
            (run.job_id,) = (await b.service.intake.retry(ask, ALICE)).job_ids
        if state is JobState.ACTIVATED or state in FINAL:
            await run.acquire()
        step = chance.choices((run.work, run.late, run.lose, run.leave), (12, 3, 1, 1))
        await step[0]()
        await run.check()
    await run.check()
