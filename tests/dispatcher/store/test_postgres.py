"""What only a server can do to us: vanish, refuse, let two write at once."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

from ailurus.protocol.errors import AilurusError
from dispatcher.events import ChildrenDue, TokensRevoked
from dispatcher.ports import NOTICE_BYTES, Ahead, Unavailable
from dispatcher.store import open_store
from tests.dispatcher.helpers import job, run
from tests.rig.waiting import eventually

PLAN = {"site": "s", "queue": "q", "deadline": None}


@pytest.fixture
def database(postgres_server):
    return postgres_server.database()


def with_stores(test, *urls):
    async def main():
        stores = [open_store(url) for url in urls]
        try:
            await asyncio.wait_for(test(*stores), 50)
        finally:
            for store in stores:
                await store.close()

    asyncio.run(main())


def test_two_dispatchers_hear_all_events_in_one_order_without_a_gap(database):
    async def test(one, two):
        heard = {one: [], two: []}
        for store, seen in heard.items():
            store.listen(
                lambda events, seen=seen: seen.extend((e.seq, e.event.what) for e in events)
            )

        async def say(store, name):
            for _ in range(100):
                await store.write(lambda tx: tx.tell(TokensRevoked(what=str(name)), at=1.0))

        await asyncio.gather(*(say(s, n) for s, n in ((one, 1), (two, 2)) for _ in range(3)))
        await eventually(lambda: all(len(seen) == 600 for seen in heard.values()))
        assert [seq for seq, _ in heard[one]] == list(range(1, 601))
        assert heard[one] == heard[two]

    with_stores(test, database, database)


def test_what_is_spread_reaches_every_process(database):
    async def test(one, two):
        heard = []
        for store in (one, two):
            store.subscribe(heard.append)
            await store.write(lambda tx: None)  # it knows its event loop from here on
        await asyncio.sleep(0.1)
        await one.publish("a notice")
        await eventually(lambda: len(heard) == 2)
        assert heard == ["a notice"] * 2

    with_stores(test, database, database)


@pytest.mark.parametrize("letter", ["a", "é"])
def test_a_notice_that_has_too_many_bytes_is_refused_as_such(database, letter):
    fits = letter * (NOTICE_BYTES // len(letter.encode()))

    async def test(one):
        await one.publish(fits)
        with pytest.raises(ValueError, match="7900 bytes"):
            await one.publish(fits + letter)

    with_stores(test, database)


def test_what_is_read_after_many_rows_with_ids_is_what_they_wrote(database):
    async def test(b):
        ids = await b.submit(job("a"), job("b"))

        def change(tx):
            before = [tx.one("job.standing", job_id=id_)[0] for id_ in ids]
            rows = [{"ids": f"[{id_}]", "state": "pending", "now": 1.0} for id_ in ids]
            tx.many("job.activate", rows)
            return before, [tx.one("job.standing", job_id=id_)[0] for id_ in ids]

        before, after = await b.service.store.write(change, Ahead(ids))
        assert (before, after) == (["activated"] * 2, ["pending"] * 2)

    run(test, database)


def test_changes_that_stand_in_each_others_way_both_happen(database):
    """Rows are taken in opposite orders: PostgreSQL ends one of the two, which is done again."""

    async def test(one, two):
        def plan(tx):
            for idx in (0, 1):
                tx.one("worker.plan", intent="i", idx=idx, **PLAN)

        await one.write(plan)
        met = asyncio.Barrier(2)
        loop = asyncio.get_running_loop()

        def swap(first):
            tries = []

            def change(tx):
                tx.one("worker.planned", intent="i", idx=first, site="s")
                tries.append(1)
                if len(tries) == 1:  # both hold one row now
                    asyncio.run_coroutine_threadsafe(met.wait(), loop).result(10)
                tx.one("worker.planned", intent="i", idx=1 - first, site="s")
                tx.tell(ChildrenDue(), at=1.0)

            return change

        await asyncio.gather(one.write(swap(0)), two.write(swap(1)))
        events = await one.read(lambda tx: tx.all("event.after", after=0, most=9))
        assert [row[0] for row in events] == [1, 2]

    with_stores(test, database, database)


def test_a_number_too_large_and_a_nul_harm_only_whom_they_are_of(database):
    async def test(store):
        def good(tx):
            tx.tell(TokensRevoked(what="a\0b"), at=1.0)
            tx.one("worker.plan", intent="a\0b", idx=1, **PLAN)

        def bad(tx):
            good(tx)
            tx.one("worker.plan", intent="i", idx=2**70, **PLAN)

        answers = await asyncio.gather(
            *(store.write(c) for c in (good, bad, good)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [type(None), OverflowError, type(None)]

    with_stores(test, database)


@pytest.mark.slow
def test_r1_a_killed_server_loses_nothing_acknowledged_and_is_found_again(own_server):
    async def test(store):
        kept, numbers, going = [], itertools.count(), True

        async def load():
            while going:
                row = {"intent": "i", "idx": next(numbers), **PLAN}
                try:
                    await store.write(lambda tx, row=row: tx.one("worker.plan", **row))
                    kept.append(row["idx"])
                except Unavailable:
                    await asyncio.sleep(0.01)

        loads = [asyncio.create_task(load()) for _ in range(4)]
        for _ in range(2):
            before = len(kept)
            await eventually(lambda before=before: len(kept) > before + 50)
            await asyncio.to_thread(own_server.kill)
            await asyncio.sleep(0.3)
            before = len(kept)
            await asyncio.to_thread(own_server.start)
            await eventually(lambda before=before: len(kept) > before, 20)
        going = False
        await asyncio.gather(*loads)
        rows = await store.read(lambda tx: tx.all("worker.of_intent", intent="i"))
        assert set(kept) <= {row[1] for row in rows}

    with_stores(test, own_server.url)


@pytest.mark.slow
def test_a_dispatcher_that_stands_still_in_a_commit_holds_up_the_others_for_seconds(database):
    async def test(one, two):
        locked = threading.Event()

        def still(tx):
            tx.one("series.take", name="event", by=1)  # the lock that every commit takes at its end
            locked.set()
            time.sleep(8)

        stopped = asyncio.create_task(one.write(still))
        await eventually(locked.is_set)
        async with asyncio.timeout(7):
            await two.write(lambda tx: tx.tell(ChildrenDue(), at=1.0))
        with pytest.raises(Unavailable):
            await stopped
        await one.write(lambda tx: tx.tell(ChildrenDue(), at=1.0))
        events = await two.read(lambda tx: tx.all("event.after", after=0, most=9))
        assert [row[0] for row in events] == [1, 2]

    with_stores(test, database, database)


def test_a_server_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(AilurusError, match="cannot open the store"):
        open_store(f"postgresql://ailurus@/ailurus?host={tmp_path}")
