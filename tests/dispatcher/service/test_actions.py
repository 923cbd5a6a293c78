"""What is done to many jobs is done to each once, also after a kill, and is written down."""

from __future__ import annotations

import asyncio
import threading

import pytest
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.api import Filter, JobsQuery, NoQuery, Scope
from ailurus.protocol.states import JobState
from dispatcher.auth.caller import Caller
from dispatcher.events import ActionEnded
from dispatcher.refusal import Rejected
from dispatcher.rules import searches
from dispatcher.service import actions
from tests.dispatcher.helpers import ALICE, BOB, bench, job, new_id, run
from tests.rig.waiting import eventually

BOSS = Caller(subject="boss", scopes=frozenset({Scope.READ, Scope.CREATE, Scope.ADMIN}))
MANY = 1000


def cancel(query: str = "state:open", **more: object) -> m.CancelMany:
    return m.CancelMany(request_id=new_id(), query=query, **more)


def retry(query: str = "state:failed", **more: object) -> m.RetryMany:
    return m.RetryMany(request_id=new_id(), query=query, **more)


def change(verb: str, query: str = "state:open", **more: object) -> m.ChangeMany:
    return m.ChangeMany(request_id=new_id(), query=query, verb=verb, **more)


async def names(b, query: str) -> str:
    page = await b.service.users.jobs(JobsQuery(query=query, limit=1000), BOSS)
    return "".join(sorted(row.name for row in page.jobs))


async def told(b, kind: str) -> list[dict]:
    return [one.data for one in await b.told() if one.kind == kind]


# --- what it costs others ---


async def test_of_all_searches_one_reads_at_a_time(b, monkeypatch):
    for user in (ALICE, BOB):
        await b.submit(*(job(f"j{nr}") for nr in range(20)), caller=user)
    reading, most = [], [0]
    alone = threading.Event()

    def watched(real):
        def look(*args, **more):
            reading.append(None)
            most[0] = max(most[0], len(reading))
            alone.wait(0.05)
            reading.pop()
            return real(*args, **more)

        return look

    monkeypatch.setattr(searches, "following", watched(searches.following))
    monkeypatch.setattr(searches, "count", watched(searches.count))
    await asyncio.gather(
        b.service.actions.cancel_many(cancel('"j1"'), ALICE),
        b.service.actions.cancel_many(cancel('"j1"'), BOB),
        b.service.users.count(Filter(query='"j1"'), BOSS),
    )
    assert most == [1]


# --- each verb ------------------------------------------------------------------------------------


def test_what_matches_is_cancelled_and_the_rest_is_not(place):
    async def test(b):
        await b.submit(*(job(name) for name in "abcd"))
        await b.submit(job("e"), caller=BOB)
        done = await b.service.actions.cancel_many(cancel("name:a,b,e"), ALICE)
        assert (done.done, done.kept, done.ended, done.job_ids) == (2, 0, True, (1, 2))
        assert await names(b, "state:cancelled") == "ab"
        (begun,) = await told(b, "action")
        assert begun == {"action": 1, "by": "alice", "verb": "cancel", "query": "name:a,b,e"}
        assert (await told(b, "action_ended"))[0]["done"] == 2
        assert [one["verb"] for one in await told(b, "handled")] == ["cancel", "cancel"]

    run(test, place)


def test_what_came_after_the_count_is_not_meant(place):
    async def test(b):
        await b.submit(*(job(name) for name in "abc"))
        counted = await b.service.users.count(Filter(query="state:open"), ALICE)
        await b.submit(*(job(name) for name in "xyz"))
        ask = cancel(last=counted.last, at=counted.at, jobs=counted.jobs)
        assert (await b.service.actions.cancel_many(ask, ALICE)).done == 3
        assert await names(b, "state:open") == "xyz"
        assert (await told(b, "action"))[0]["jobs"] == 3

    run(test, place)


def test_a_held_job_is_given_to_nobody_until_it_is_released(place):
    async def test(b):
        await b.submit(*(job(name) for name in "ab"))
        worker = await b.worker()
        assert (await b.service.actions.change_many(change("hold", "name:a"), ALICE)).done == 1
        assert (await b.service.actions.change_many(change("hold", "name:a"), ALICE)).kept == 1
        assert [one.job_id for one in await worker.acquire(2)] == [2]
        why = await b.service.users.why(NoQuery(), ALICE, job_id=1)
        assert ("held" in why.sentence, why.remedy) == (True, "dispatcher release 1")
        assert (await b.service.actions.change_many(change("release"), ALICE)).done == 1
        assert [one.job_id for one in await worker.acquire(2)] == [1]

    run(test, place)


def test_a_held_job_waits_for_its_parents_as_well(place):
    async def test(b):
        await b.submit(job("a"), job("b", depends_on=("a",)))
        await b.service.actions.change_many(change("hold", "name:b"), ALICE)
        worker = await b.worker()
        (parent,) = await worker.acquire(2)
        await b.service.actions.change_many(change("release", "name:b"), ALICE)
        assert await b.state(2) is JobState.PENDING
        await b.service.actions.change_many(change("hold", "name:b"), ALICE)
        await worker.report(parent)
        assert await b.state(2) is JobState.PENDING
        await b.service.actions.change_many(change("release", "name:b"), ALICE)
        assert await b.state(2) is JobState.ACTIVATED

    run(test, place)


def test_a_job_of_higher_priority_goes_first(place):
    async def test(b):
        await b.submit(*(job(name) for name in "abc"))
        await b.service.actions.change_many(change("priority", "name:c", priority=9), ALICE)
        worker = await b.worker()
        assert [one.job_id for one in await worker.acquire(1)] == [3]
        (event,) = await told(b, "handled")
        assert (event["old"], event["new"]) == ("0", "9")

    run(test, place)


def test_a_job_that_is_moved_wakes_who_waits_in_the_other_queue(place):
    async def test(b):
        await b.submit(job("a", cores=2), job("b", depends_on=("a",)))
        there = await b.worker("other")
        waiting = asyncio.create_task(there.acquire(1, wait_s=20.0))
        await asyncio.sleep(0)
        moved = await b.service.actions.change_many(change("move", queue="other"), ALICE)
        assert moved.done == 2
        (got,) = await asyncio.wait_for(waiting, 10)
        assert got.job_id == 1
        overview = await b.service.figures.overview(NoQuery(), BOSS)
        assert {one.name: one.states for one in overview.queues if one.states} == {
            "other": {"sent": 1, "pending": 1}
        }
        await there.report(got, finished=False, code=1305, diagnosis="no")
        again = await b.service.actions.retry_many(retry(), ALICE)
        assert again.new_ids == (3, 4)
        assert await names(b, "queue:other state:activated") == "a"

    run(test, place)


def test_only_the_owner_and_an_admin_act(place):
    async def test(b):
        await b.submit(*(job(name) for name in "ab"))
        assert (await b.service.actions.cancel_many(cancel(), BOB)).done == 0
        ask = m.CancelMany(request_id="x", job_ids=(1,))
        with pytest.raises(Rejected, match="no job 1"):
            await b.service.actions.cancel_many(ask, BOB)
        assert (await b.service.actions.cancel_many(cancel("name:a"), BOSS)).done == 1

    run(test, place)


@pytest.mark.parametrize(
    "ask",
    [
        cancel(""),
        cancel(" "),
        cancel("stat:x"),
        m.CancelMany(request_id="x", query="name:a", job_ids=(1,)),
    ],
)
def test_a_request_that_says_nothing_or_two_things_is_refused(tmp_path, ask):
    async def test(b):
        await b.submit()
        with pytest.raises(Rejected) as refused:
            await b.service.actions.cancel_many(ask, ALICE)
        assert (refused.value.status, refused.value.field) == (422, "query")
        assert await told(b, "action") == []

    run(test, tmp_path)


def test_a_verb_needs_what_it_gives(tmp_path):
    async def test(b):
        for verb in ("priority", "move"):
            with pytest.raises(Rejected, match="to what"):
                await b.service.actions.change_many(change(verb), ALICE)

    run(test, tmp_path)


def test_a_request_comes_again_and_nothing_is_done_twice(place):
    async def test(b):
        await b.submit(*(job(name) for name in "ab"))
        ask = cancel()
        first = await b.service.actions.cancel_many(ask, ALICE)
        await b.submit(job("c"))
        again = await b.service.actions.cancel_many(ask, ALICE)
        assert again == replace(first, job_ids=())
        with pytest.raises(Rejected, match="other contents"):
            await b.service.actions.cancel_many(replace(ask, query="name:c"), ALICE)

    run(test, place)


def test_jobs_that_cannot_be_tried_again_keep_no_other_from_it(place):
    async def test(b):
        await b.submit(*(job(name) for name in "abc"))
        worker = await b.worker()
        for one in await worker.acquire(3):
            await worker.report(one, finished=False, code=1305, diagnosis="no")
        await b.service.intake.retry(m.Retry(job_ids=(2,)), ALICE)
        (again,) = await worker.acquire(1)
        await worker.report(again)
        done = await b.service.actions.retry_many(retry(), ALICE)
        assert (done.done, done.kept, done.job_ids, done.new_ids) == (2, 1, (1, 3), (5, 6))
        assert "which has finished" in done.reasons[0]

    run(test, place)


async def test_a_job_that_has_begun_since_it_was_found_waits_no_more(b, monkeypatch):
    await b.submit(*(job(name) for name in "abc"))
    worker = await b.worker()
    look = actions.Actions._look

    async def found(self, action):
        ids = await look(self, action)
        await worker.acquire(1)
        return ids

    monkeypatch.setattr(actions.Actions, "_look", found)
    done = await b.service.actions.cancel_many(cancel("state:activated"), ALICE)
    assert (done.job_ids, done.kept) == ((2, 3), 1)


# --- killed in between ----------------------------------------------------------------------------


async def until_killed(act, ask, slices: int) -> None:
    """Begin an action whose process is killed when it has done so many slices."""
    left = slices

    def late(action, tx, real=actions._next):
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("killed")
        return real(action, tx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actions, "_next", late)
        with pytest.raises(RuntimeError):
            await act(ask, ALICE)


@pytest.mark.parametrize("who", ["the client", "the next dispatcher"])
@pytest.mark.parametrize("verb", ["cancel", "retry", "move"])
def test_a_thousand_jobs_are_each_handled_once_whoever_is_killed(tmp_path, monkeypatch, verb, who):
    ask = {
        "cancel": cancel("queue:q state:activated"),
        "retry": retry("queue:q state:cancelled"),
        "move": change("move", "queue:q state:activated", queue="other"),
    }[verb]
    monkeypatch.setattr(actions, "SLICE", 100)

    async def begin():
        async with bench(tmp_path) as b:
            await b.submit(*(job(f"j{nr}") for nr in range(MANY)))
            if verb == "retry":
                everything = replace(cancel("state:open"), request_id="first")
                assert (await b.service.actions.cancel_many(everything, ALICE)).done == MANY
            act = getattr(b.service.actions, f"{verb if verb != 'move' else 'change'}_many")
            await until_killed(act, ask, 4)

    async def go_on():
        seen = []
        async with bench(tmp_path) as b:
            b.service.state.store.listen(lambda entries: seen.extend(one.event for one in entries))
            act = getattr(b.service.actions, f"{verb if verb != 'move' else 'change'}_many")
            if who == "the client":
                done = await act(ask, ALICE)
            else:
                await eventually(lambda: any(isinstance(one, ActionEnded) for one in seen))
                done = await act(ask, ALICE)
            assert (done.done, done.kept, done.ended) == (MANY, 0, True)
            counted = await b.service.users.count(Filter(), BOSS)
            if verb == "cancel":
                assert counted.states == {"cancelled": MANY}
            elif verb == "retry":
                assert counted.states == {"cancelled": MANY, "activated": MANY}
            else:
                counted = await b.service.users.count(Filter(query="queue:other"), BOSS)
                assert counted.jobs == MANY

            def each(tx):
                rows = tx.all("event.after", after=0, most=100_000)
                return [row[3] for row in rows if row[2] == "handled" and verb in row[5]]

            if verb != "retry":
                handled = await b.service.state.store.read(each)
                assert sorted(handled) == list(range(1, MANY + 1))

    asyncio.run(begin())
    asyncio.run(go_on())


def test_what_somebody_left_long_ago_is_ended_as_far_as_it_is(tmp_path, monkeypatch):
    ask = cancel("state:activated")
    monkeypatch.setattr(actions, "SLICE", 10)
    # Everything began longer ago than this.
    monkeypatch.setattr(actions, "RESUMED_S", -1.0)

    async def test():
        async with bench(tmp_path) as b:
            await b.submit(*(job(f"j{nr}") for nr in range(50)))
            await until_killed(b.service.actions.cancel_many, ask, 2)
        async with bench(tmp_path) as b:
            while not await told(b, "action_ended"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            counted = await b.service.users.count(Filter(query="state:cancelled"), ALICE)
            done = await b.service.actions.cancel_many(ask, ALICE)
            assert (counted.jobs, done.done, done.ended) == (20, 20, True)

    asyncio.run(test())
