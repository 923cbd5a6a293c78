"""What a cancellation of many jobs stopped that waited comes back, each once, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import Filter, JobsQuery, NoQuery
from ailurus.protocol.api_submissions import SubmissionQuery
from dispatcher.refusal import Rejected
from dispatcher.rules import undoing
from tests.dispatcher.helpers import ALICE, BOB, bench, job, run
from tests.dispatcher.service.test_actions import BOSS, cancel, change, names, told

THOUSAND = 1000


async def undo(b, action: int, caller=ALICE) -> m.Acted:
    return await b.service.actions.undo(m.Undo(action=action), caller)


def test_what_waited_comes_back_and_what_ran_or_was_held_does_not(place):
    async def test(b):
        await b.submit(*(job(name) for name in "abcd"))
        worker = await b.worker()
        (ran,) = await worker.acquire(1)
        await b.service.actions.change_many(change("hold", "name:b"), ALICE)
        done = await b.service.actions.cancel_many(cancel(), ALICE)
        assert (done.done, done.undo, done.undo_until > b.service.state.now()) == (4, 2, True)
        back = await undo(b, done.action)
        assert (ran.job_id, back.job_ids, len(back.new_ids)) == (1, (3, 4), 2)
        assert await names(b, "state:open") == "cd"
        assert await names(b, "state:cancelled") == "abcd"
        shown = await b.service.users.show(NoQuery(), ALICE, job_id=back.new_ids[0])
        assert (shown.retry_of, shown.retry_by) == (3, "alice")

    run(test, place)


def test_what_waited_for_them_comes_back_with_them(place):
    async def test(b):
        await b.submit(*(job(f"p{nr}") for nr in range(2)))
        for parent in (1, 2):
            await b.submit(job(f"c{parent}", depends_on=(parent,)))
        await b.submit(job("g", depends_on=(3,)))
        await b.submit(job("theirs"), caller=BOB)
        done = await b.service.actions.cancel_many(cancel("name:p0"), ALICE)
        assert done.undo == 1
        back = await undo(b, done.action)
        assert back.job_ids == (1, 3, 5)
        states = {
            row.name: row.state for row in (await b.service.users.jobs(JobsQuery(), ALICE)).jobs[:3]
        }
        assert states == {"p0": "activated", "c1": "pending", "g": "pending"}

    run(test, place)


def test_it_is_undone_once_by_whoever_did_it_while_there_is_time(place, monkeypatch):
    async def test(b):
        await b.submit(*(job(name) for name in "ab"))
        done = await b.service.actions.cancel_many(cancel(), ALICE)
        with pytest.raises(Rejected, match="no action") as refused:
            await undo(b, done.action, BOB)
        assert refused.value.status == 404
        assert (await undo(b, done.action)).done == 2
        assert (await undo(b, done.action)).done == 2
        assert await names(b, "state:open") == "ab"
        held = await b.service.actions.change_many(change("hold"), ALICE)
        with pytest.raises(Rejected, match="no cancellation"):
            await undo(b, held.action)
        await b.service.actions.cancel_many(cancel(), ALICE)
        late = await b.service.actions.cancel_many(cancel(), ALICE)
        with pytest.raises(Rejected, match="had waited"):
            await undo(b, late.action)
        monkeypatch.setattr(undoing, "UNDO_S", -1.0)
        with pytest.raises(Rejected, match="minutes ago"):
            await undo(b, done.action)
        while await b.service.store.write(lambda tx: undoing.tidy(tx, now=b.service.state.now())):
            pass
        assert await b.service.store.read(lambda tx: undoing.following(tx, done.action, 0, 1)) == []

    run(test, place)


def test_its_submission_says_what_was_done_to_it(place):
    async def test(b):
        (first, *_) = await b.submit(*(job(name) for name in "abc"))
        await b.submit(job("d"))
        await b.service.actions.change_many(change("priority", "name:a,b", priority=3), ALICE)
        done = await b.service.actions.cancel_many(cancel(), BOSS)
        await undo(b, done.action, BOSS)
        ask = SubmissionQuery(submission=first)
        acts = (await b.service.submissions.submission(ask, ALICE)).acts
        assert [(one.by, one.verb, one.jobs) for one in acts] == [
            ("boss", "undo", 3),
            ("boss", "cancel", 3),
            ("alice", "priority", 2),
        ]
        begun = (await told(b, "action"))[-1]
        assert (begun["verb"], begun["to"], begun["jobs"]) == ("undo", str(done.action), 4)

    run(test, place)


# --- kill -9 --------------------------------------------------------------------------------------


async def _for_a_while(url: str, verb: str) -> None:
    """Begin to do it, slice by slice, in a process that somebody kills."""
    async with bench(url) as b:
        write = b.service.state.store.write

        async def slowly(change, *more):
            answer = await write(change, *more)
            print("slice", flush=True)
            await asyncio.sleep(0.02)
            return answer

        if verb == "cancel":
            await b.submit(*(job(f"j{nr}") for nr in range(THOUSAND)))
        b.service.state.store.write = slowly
        if verb == "cancel":
            await b.service.actions.cancel_many(cancel("queue:q state:activated"), ALICE)
        else:
            await undo(b, 1)


def _killed(url: str, verb: str) -> None:
    """Do it in a process that is killed (kill -9) while it is under way."""
    code = (
        "from tests.dispatcher.service import test_undo as t; import asyncio;"
        f" t.actions_of(50); asyncio.run(t._for_a_while({url!r}, {verb!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        for _ in range(6):
            assert process.stdout.readline() == b"slice\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def actions_of(n: int) -> None:
    """Let a slice be so many jobs."""
    from dispatcher.service import actions

    actions.SLICE = n


@pytest.mark.timeout(120)
def test_a_thousand_jobs_are_cancelled_and_brought_back_once_each_after_kill_9(tmp_path):
    url = f"sqlite:///{tmp_path / 'queue.db'}"

    async def go_on(actions: int) -> dict[str, int]:
        """What a dispatcher that starts makes of it, by the numbers of states."""
        async with bench(url) as b, asyncio.timeout(30):
            while (await told_of(b))["action_ended"] < actions:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert (await told_of(b))["action"] == actions
            return (await b.service.users.count(Filter(), BOSS)).states

    _killed(url, "cancel")
    assert 0 < done_so_far(tmp_path, "handled") < THOUSAND
    assert asyncio.run(go_on(1)) == {"cancelled": THOUSAND}
    _killed(url, "undo")
    assert 0 < done_so_far(tmp_path, "retried") < THOUSAND
    assert asyncio.run(go_on(2)) == {"cancelled": THOUSAND, "activated": THOUSAND}
    with closing(sqlite3.connect(tmp_path / "queue.db")) as store:
        for kind in ("handled", "retried"):
            rows = store.execute("select job_id from event where kind = ?", (kind,)).fetchall()
            assert sorted(job_id for (job_id,) in rows) == list(range(1, THOUSAND + 1))


def done_so_far(place: Path, kind: str) -> int:
    """How many jobs have such an event."""
    with closing(sqlite3.connect(place / "queue.db")) as store:
        ((n,),) = store.execute("select count(*) from event where kind = ?", (kind,))
    return n


async def told_of(b) -> Counter[str]:
    rows = await b.service.store.read(lambda tx: tx.all("event.after", after=0, most=100_000))
    return Counter(row[2] for row in rows)
