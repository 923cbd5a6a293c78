"""What happens to the jobs of a submission, and around them, while it is being stored in slices."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from dispatcher.refusal import Rejected
from dispatcher.rules import submission
from tests.dispatcher.helpers import ALICE, job, run


def called(monkeypatch, name):
    """The calls of a function of `submission` from now on."""
    calls, real = [], getattr(submission, name)

    def counted(*arguments, **named):
        calls.append(name)
        return real(*arguments, **named)

    monkeypatch.setattr(submission, name, counted)
    return calls


async def half_stored(b, monkeypatch, *jobs, meanwhile):
    """Submit jobs in slices of one, and do something `meanwhile`: after the jobs, before what they
    wait for."""
    monkeypatch.setattr(submission, "LINKS", 1)
    begun, go_on = asyncio.Event(), asyncio.Event()
    write, added = b.service.store.write, called(monkeypatch, "add")

    async def slowly(change, *more):
        if added and not begun.is_set():
            begun.set()
            await go_on.wait()
        return await write(change, *more)

    monkeypatch.setattr(b.service.store, "write", slowly)
    submitting = asyncio.create_task(b.submit(*jobs))
    await begun.wait()
    try:
        await meanwhile()
    finally:
        go_on.set()
    return await submitting


CHILDREN = (job("k"), job("c1", depends_on=("k",)), job("c2", depends_on=("k", "c1")))


def test_a_job_that_is_being_stored_is_not_cancelled(place, monkeypatch):
    """Its children, linked later, were never told: `pending` for ever."""

    async def test(b):
        (before,) = await b.submit()
        ask = m.Cancel(job_ids=(before, before + 1))

        async def meanwhile():
            with pytest.raises(Rejected, match=f"job {before + 1} is still being submitted"):
                await b.service.users.cancel(ask, ALICE)

        ids = await half_stored(b, monkeypatch, *CHILDREN, meanwhile=meanwhile)
        assert set((await b.service.users.cancel(ask, ALICE)).cancelled) == {before, ids[0]}
        await settled(b, ids[1:], JobState.FAILED)

    run(test, place)


def test_a_job_that_is_being_stored_is_waited_for_by_no_other_submission(place, monkeypatch):
    """That one may be refused: who waited for its jobs did so for ever."""

    async def test(b):
        (before,) = await b.submit()

        async def meanwhile():
            with pytest.raises(Rejected, match=f"there is no job {before + 1}"):
                await b.submit(job("other", depends_on=(before + 1,)))

        bad = job("bad", depends_on=(999,))
        with pytest.raises(Rejected, match="there is no job 999"):
            await half_stored(b, monkeypatch, *CHILDREN, bad, meanwhile=meanwhile)
        assert {row.job_id for row in (await b.listed()).jobs} == {before}

    run(test, place)


def test_no_job_waits_for_itself(place):
    async def test(b):
        (before,) = await b.submit()
        for ahead in (1, 2):
            with pytest.raises(Rejected, match="there is no job"):
                await b.submit(job("a", depends_on=(before + ahead,)), job("b", depends_on=("a",)))

    run(test, place)


@pytest.mark.parametrize("good", [True, False])
def test_a_parent_that_fails_meanwhile_fails_all_below_or_nothing_at_all(place, monkeypatch, good):
    async def test(b):
        (parent,) = await b.submit(job("p", max_attempts=1))
        worker = await b.worker()
        (got,) = await worker.acquire()
        jobs = [
            job("c1", depends_on=(parent,)),
            job("d", depends_on=(parent,)),
            job("c2", depends_on=("c1",)),
            *([] if good else [job("bad", depends_on=(999,))]),
        ]
        write, links = b.service.store.write, called(monkeypatch, "link")

        async def counted(change, *more):
            answer = await write(change, *more)
            if len(links) == 2:  # both know of their parent, and `c2` does not yet
                monkeypatch.setattr(b.service.store, "write", write)
                await worker.report(got, finished=False, code=1305)
            return answer

        monkeypatch.setattr(submission, "LINKS", 1)
        monkeypatch.setattr(b.service.store, "write", counted)
        if good:
            ids = await b.submit(*jobs)
            await settled(b, ids, JobState.FAILED)
            assert (
                await b.service.users.show(None, ALICE, job_id=ids[0])
            ).row.diagnosis.startswith(f"depends on job {parent} (p), which is failed")
        else:
            with pytest.raises(Rejected, match="there is no job 999"):
                await b.submit(*jobs)
        states = Counter(row.state for row in (await b.listed()).jobs)
        overview = await b.service.figures.overview(None, ALICE)
        assert {one: n for one, n in overview.states.items() if n} == states

    run(test, place)


async def settled(b, ids, state):
    async with asyncio.timeout(10):
        while {await b.state(one) for one in ids} != {state}:  # noqa: ASYNC110 -- a loop tells them
            await asyncio.sleep(0)
