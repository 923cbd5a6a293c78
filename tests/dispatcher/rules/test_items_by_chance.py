"""Items of a job under losses, late and repeated news, and retries by chance: each finishes at most
once, what is counted is what is there, and the job ends exactly when its rule says."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import NoQuery
from ailurus.protocol.item import ItemOutcome, ItemState
from ailurus.protocol.job import OutputFile
from ailurus.protocol.states import FINAL, JobState
from tests.dispatcher.helpers import ALICE, job

FOREVER = 2**40
COUNT, NEEDED = 40, 30
OUTCOMES = [*[ItemOutcome.FINISHED] * 4, *ItemOutcome]


class Run:
    """A job of items, whoever has it now, and all news that were ever told."""

    def __init__(self, b, chance: random.Random, outputs: bool) -> None:
        self.b, self.chance, self.outputs = b, chance, outputs
        self.told: list[tuple[object, object, m.ItemEnd]] = []
        self.holders: list[tuple[object, object, list[m.RawItemLease]]] = []
        self.finished: set[int] = set()
        self.job_id = 0

    async def start(self) -> None:
        outputs = (OutputFile(name="{item}*.root"),) if self.outputs else ()
        payloads = await self.b.upload(COUNT, outputs=outputs)
        spec = job(payloads=payloads, goal=str(NEEDED), item_attempts=3)
        (self.job_id,) = await self.b.submit(spec)

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
            await worker.report(one, files=self._left(worker, one))
            counts = await self.b.counts(self.job_id)
            finished = counts.finished >= NEEDED
            wanted = JobState.FINISHED if finished else JobState.FAILED
            assert await self.b.state(self.job_id) is wanted
            assert counts.finished + counts.failed == COUNT

    def _left(self, worker, one) -> tuple[m.DoneFile, ...]:
        """What its pilot has stored: of all items that finished there."""
        if not self.outputs:
            return ()
        mine = [end for who, what, end in self.told if (who, what) == (worker, one)]
        return tuple(
            m.DoneFile(
                name=f"{nr}.root", url=f"file:///s/{nr}", size=1, adler32="00620062", item=nr
            )
            for nr in {end.index for end in mine if end.outcome is ItemOutcome.FINISHED}
        )

    async def late(self) -> None:
        """Somebody who had it before tells what it still has, or something once more."""
        worker, one, held = self.chance.choice(self.holders)
        ends = [self._end(item) for item in held[:3]]
        self.told += [(worker, one, end) for end in ends]
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
        done = {row.index for row in rows if row.state is ItemState.FINISHED}
        shown = await self.b.service.users.show(NoQuery(), ALICE, job_id=self.job_id)
        state = shown.row.state
        # Nobody takes back what has finished, and whose outputs are there.
        kept = {file.item for file in shown.files} if self.outputs else self.finished
        assert kept <= done
        if self.outputs and state is JobState.FINISHED:
            assert kept == done
        self.finished = done
        assert (state is JobState.FINISHED) <= (counts.finished >= NEEDED)


@pytest.mark.parametrize(("seed", "outputs"), [(seed, seed > 3) for seed in range(7)])
async def test_each_item_finishes_at_most_once_and_the_job_ends_by_its_rule(b, seed, outputs):
    chance = random.Random(seed)
    run = Run(b, chance, outputs)
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
