"""The store: what is acknowledged is durable, what fails changes nothing, commits are shared."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.protocol.errors import AilurusError
from dispatcher.events import Event
from dispatcher.ports import NOTHING, Ahead, Unavailable
from dispatcher.store import open_store, sqlite
from dispatcher.store.queries import statements
from dispatcher.store.schema import for_sqlite, migrations

ADD = {"site": "s", "queue": "q", "intent": "", "idx": 0, "deadline": None}


class Noted(Event, frozen=True):
    kind = "test"
    note: Any = None


def with_store(place, test):
    async def main():
        store = open_store(place)
        try:
            await asyncio.wait_for(test(store), 30)
        finally:
            await store.close()

    asyncio.run(main())


def workers(tx):
    return len(tx.all("worker.alive"))


@pytest.mark.parametrize("ahead", [NOTHING, Ahead(jobs=[1])], ids=["any length", "brief"])
def test_a_change_that_raises_leaves_nothing_and_harms_no_other(place, ahead):
    def good(tx):
        tx.one("worker.plan", **ADD)
        tx.count("q", 1, "activated", 1)
        tx.tell(Noted(), at=1.0)

    def bad(tx):
        good(tx)
        raise ValueError("no")

    async def test(store):
        answers = await asyncio.gather(
            *(store.write(c, ahead) for c in (good, bad, good)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [type(None), ValueError, type(None)]
        assert await store.read(workers) == 2
        assert await store.read(lambda tx: tx.all("counter.all")) == [("q", 1, "activated", 2)]
        assert [
            row[0] for row in await store.read(lambda tx: tx.all("event.after", after=0, most=9))
        ] == [1, 2]

    with_store(place, test)


def test_changes_that_arrive_together_share_a_commit_and_its_events_come_in_order(place):
    heard = []

    async def test(store):
        store.listen(lambda events: heard.append([event.seq for event in events]))
        await asyncio.gather(
            *(store.write(lambda tx: tx.tell(Noted(), at=1.0)) for _ in range(100))
        )
        assert [seq for commit in heard for seq in commit] == list(range(1, 101))
        assert len(heard) < 50

    with_store(place, test)


@given(st.lists(st.sampled_from([1, 30, 64, 65, 0]), max_size=40))
@settings(max_examples=30)
def test_changes_are_made_in_the_order_in_which_they_were_asked_for(sizes):
    """Those that look at few jobs, at many and at any number (0), in whatever order they come."""
    made = []

    async def test(store):
        def change(tx, nr):
            tx.tell(Noted(note=nr), at=1.0)
            return nr

        asked = (
            store.write(partial(change, nr=nr), Ahead(jobs=range(size)))
            for nr, size in enumerate(sizes)
        )
        store.listen(lambda events: made.extend(one.event.note for one in events))
        assert await asyncio.gather(*asked) == made == list(range(len(sizes)))

    with TemporaryDirectory() as folder:
        with_store(f"sqlite:///{folder}/queue.db", test)


@pytest.mark.parametrize("ahead", [NOTHING, Ahead(jobs=[1])], ids=["any length", "brief"])
def test_a_bug_in_what_a_commit_writes_down_stops_nobody_else(place, ahead):
    async def test(store):
        with pytest.raises(TypeError):
            await store.write(lambda tx: tx.tell(Noted(note=object()), at=1.0), ahead)
        await store.write(lambda tx: tx.one("worker.plan", **ADD), ahead)
        assert await store.read(workers) == 1

    with_store(place, test)


def test_a_brief_change_that_breaks_its_commit_is_run_once(tmp_path):
    runs = []

    def change(tx):
        runs.append(1)
        tx.tell(Noted(note=object()), at=1.0)

    async def test(store):
        with pytest.raises(TypeError):
            await store.write(change, Ahead(jobs=[1]))
        assert len(runs) == 1

    with_store(f"sqlite:///{tmp_path / 'queue.db'}", test)


@pytest.mark.parametrize(
    ("killed", "forgotten"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_no_number_of_an_event_is_given_twice_and_none_is_left_out_unless_killed(
    tmp_path, killed, forgotten
):
    """`killed`: the file as it is while it is served; `forgotten`: retention has taken all
    events."""

    async def tell(store, events):
        def change(tx):
            for _ in range(events):
                tx.tell(Noted(), at=1.0)

        seen = []
        store.listen(lambda batch: seen.extend(event.seq for event in batch))
        await store.write(change)
        last = await store.read(lambda tx: tx.one("event.last"))
        assert last == (seen[-1],)
        return seen

    async def test():
        first = open_store(f"sqlite:///{tmp_path / 'queue.db'}")
        told = [*await tell(first, 3), *await tell(first, 2 * sqlite.AHEAD)]
        assert told == list(range(1, len(told) + 1))
        if forgotten:
            await first.write(lambda tx: tx.all("event.trim", before=2.0, most=10**6))
        path = tmp_path / "queue.db"
        if killed:
            path = tmp_path / "copy.db"
            with closing(sqlite3.connect(first.path)) as live, closing(sqlite3.connect(path)) as to:
                live.backup(to)
        else:
            await first.close()
        second = open_store(f"sqlite:///{path}")
        begun = (await tell(second, 1))[0]
        await second.close()
        if killed:
            await first.close()
        assert len(told) < begun <= len(told) + 1 + (sqlite.AHEAD if killed else 0)

    asyncio.run(test())


def test_a_second_dispatcher_on_the_same_file_is_refused(tmp_path):
    async def test(store):
        with pytest.raises(AilurusError, match="another dispatcher serves"):
            open_store(f"sqlite:///{tmp_path / 'queue.db'}")

    with_store(f"sqlite:///{tmp_path / 'queue.db'}", test)


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    async def nothing(store):
        pass

    with_store(f"sqlite:///{tmp_path / 'queue.db'}", nothing)
    with closing(sqlite3.connect(tmp_path / "queue.db")) as database, database:
        database.execute("insert into migration values (9999, 'x', 'x', 0)")
    with pytest.raises(AilurusError, match="newer version"):
        open_store(f"sqlite:///{tmp_path / 'queue.db'}")


WRITER = """
import asyncio, sys
from dispatcher.store import open_store
from dispatcher.store.schema import for_sqlite, migrations

async def main():
    store = open_store(sys.argv[1])
    async def one(number):
        row = {"site": "s", "queue": "q", "intent": "i", "idx": number, "deadline": None}
        await store.write(lambda tx: tx.one("worker.plan", **row))
        print(number, flush=True)
    for start in range(0, 100_000, 20):
        await asyncio.gather(*(one(start + nr) for nr in range(20)))

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 150, 400])
def test_what_was_acknowledged_survives_kill_9(place, after):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, place], stdout=subprocess.PIPE, text=True
    )
    said = [process.stdout.readline() for _ in range(after)]
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    acknowledged = {int(line) for line in said if line.endswith("\n")}

    async def test(store):
        there = {
            row[1] for row in await store.read(lambda tx: tx.all("worker.of_intent", intent="i"))
        }
        assert acknowledged <= there

    with_store(place, test)


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_refuses_changes_and_loses_none(tmp_path):
    """R4: no acknowledged loss, and all goes on once there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", disk)
    try:
        big = "x" * 20_000

        async def test(store):
            kept, full = 0, False
            for _ in range(400):
                try:
                    await store.write(lambda tx: tx.tell(Noted(note=big), at=1.0))
                    kept += 1
                except Unavailable as error:
                    assert "full" in str(error)  # noqa: PT017 -- several may come, or none
                    full = True
            assert full
            rows = await store.read(lambda tx: tx.all("event.after", after=0, most=1000))
            assert [row[0] for row in rows] == list(range(1, kept + 1))
            await asyncio.to_thread(mount, "-o", "remount,size=9m", disk)
            await store.write(lambda tx: tx.tell(Noted(), at=1.0))

        with_store(f"sqlite:///{disk / 'queue.db'}", test)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_events_of_a_job_are_found_however_many_lie_between_and_go_with_their_age(place):
    async def test(store):
        for nr in range(50):
            await store.write(
                lambda tx, nr=nr: [
                    tx.tell(Noted(note=one), at=float(nr), job_id=1 + one % 3) for one in range(60)
                ]
            )

        async def same():
            told = await store.read(lambda tx: tx.all("event.after", after=0, most=9999))
            for job_id in (1, 2, 3):
                for after in (0, 1500, 2990):
                    found = await store.read(
                        lambda tx, ask=(job_id, after): tx.all(
                            "event.of_job", job_id=ask[0], after=ask[1], most=9999
                        )
                    )
                    assert found == [row for row in told if row[3] == job_id and row[0] > after]
            return len(told)

        assert await same() == 3000
        await store.write(lambda tx: tx.all("event.trim", before=30.0, most=5000))
        assert await same() == 1200

    with_store(place, test)


def test_an_older_file_learns_where_its_jobs_are_and_which_events_are_theirs(tmp_path):
    path = tmp_path / "queue.db"
    step_0170 = 170
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table migration (number integer primary key, name, digest, applied)")
        for step in migrations():
            if step.number < step_0170:
                db.executescript(for_sqlite(step))
                db.execute(
                    "insert into migration values (?, ?, ?, 0)",
                    (step.number, step.name, step.digest),
                )
        for job_id, state in ((1, "running"), (2, "finished"), (3, "activated")):
            db.execute(
                "insert into job (job_id, state, queue, shape_id, priority, max_attempts, retry_all,"
                " created, changed, owner, name) values (?, ?, 'q', 1, 0, 5, 0, 1, 1, 'me', 'n')",
                (job_id, state),
            )
            db.execute(
                "insert into attempt (job_id, attempt_nr, worker_id, request, state, leased, ended)"
                " values (?, 0, 1, '', ?, 1, ?)",
                (job_id, state, None if state == "running" else 1.0),
            )
            db.execute(
                "insert into event values (?, 1.0, 'state', ?, null, '{}')", (job_id, job_id)
            )
        db.execute("update series set last = 3 where name = 'event'")
        db.commit()
    page = {
        "least": 0,
        "before": 9,
        "owner": "",
        "most": 9,
    }

    async def test(store):
        for job_id, state in ((1, "running"), (2, "finished"), (3, "activated")):
            name = "job.page_with_worker" if state == "running" else "job.page_in_state"
            found = await store.read(
                lambda tx, name=name, state=state: tx.all(name, state=state, **page)
            )
            assert [row[0] for row in found] == [job_id]
            events = await store.read(
                lambda tx, job_id=job_id: tx.all("event.of_job", job_id=job_id, after=0, most=9)
            )
            assert [row[0] for row in events] == [job_id]

    with_store(f"sqlite:///{path}", test)


@pytest.mark.parametrize(
    ("query", "index"), [("job.page_in_state", "job_at_rest"), ("old.due", "job_ended")]
)
def test_a_statement_says_what_its_partial_index_holds_in_the_same_words(tmp_path, query, index):
    url = f"sqlite:///{tmp_path / 'queue.db'}"

    async def test(store):
        with closing(sqlite3.connect(store.path)) as looking:
            values = defaultdict(int)
            steps = looking.execute(
                f"explain query plan {statements()[query].text}", values
            ).fetchall()
        assert f"USING INDEX {index} " in str(steps)

    with_store(url, test)


@pytest.mark.parametrize("ahead", [NOTHING, Ahead(jobs=[1])], ids=["any length", "brief"])
def test_who_else_writes_to_the_file_delays_a_change_and_does_not_stop_the_event_loop(
    tmp_path, ahead
):
    async def test(store):
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            with pytest.raises(Unavailable, match="locked"):
                await asyncio.wait_for(store.write(lambda tx: tx.tell(Noted(), at=1.0), ahead), 2)
            other.execute("rollback")
        await store.write(lambda tx: tx.tell(Noted(), at=1.0), ahead)

    with_store(f"sqlite:///{tmp_path / 'queue.db'}", test)


@pytest.mark.parametrize(
    "foreign", [b"not a database, but long enough to be read as one" * 90, None]
)
def test_a_file_that_is_no_store_is_named_with_what_helps(tmp_path, foreign):
    path = tmp_path / "store.sqlite"
    if foreign is None:
        with closing(sqlite3.connect(path)) as other:
            other.execute("create table job (theirs)")
    else:
        path.write_bytes(foreign)
    with pytest.raises(AilurusError, match=re.escape(str(path))) as error:
        open_store(f"sqlite:///{path}")
    assert "another file" in error.value.remedy or "a new one" in error.value.remedy
