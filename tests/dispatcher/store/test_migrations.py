"""R7: a dispatcher and the one after it serve one database side by side."""

from __future__ import annotations

import asyncio
import json
import sqlite3

import psycopg
import pytest

from ailurus.migrations import Migration
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.states import JobState
from dispatcher.store import open_store, schema
from tests.dispatcher.helpers import bench, job

NEXT = (
    (9001, "9001_more.pre.sql", "alter table job add column colour text not null default 'red';"),
    (9002, "9002_less.post.sql", "alter table job drop column diagnosis_of_old;"),
)
OLD = (9000, "9000_old.pre.sql", "alter table job add column diagnosis_of_old text;")


def steps(*more):
    known = schema.migrations()
    return lambda: [*known, *(Migration(nr, name, sql, name) for nr, name, sql in more)]


def columns(url):
    asked = "select column_name from information_schema.columns where table_name = 'job'"
    with psycopg.connect(url) as connection:
        return {row[0] for row in connection.execute(asked)}


def test_r7_the_versions_before_and_after_serve_side_by_side(postgres_server, monkeypatch):
    database = postgres_server.database()
    before, after = steps(OLD), steps(OLD, *NEXT)

    async def works(one, two):
        worker = await one.worker()
        (id_,) = await two.submit(job())
        (got,) = await worker.acquire(wait_s=5.0)
        assert await worker.report(got) == "accepted"
        assert await two.state(id_) is JobState.FINISHED

    async def main():
        monkeypatch.setattr(schema, "migrations", before)
        async with bench(database) as old:
            monkeypatch.setattr(schema, "migrations", after)
            async with bench(database) as new:
                await works(old, new)
                await works(new, old)
                await asyncio.sleep(1.5)
                assert {"colour", "diagnosis_of_old"} <= columns(database)
        monkeypatch.setattr(schema, "migrations", before)
        async with bench(database) as old:  # back to the version before: it still may
            await works(old, old)
        monkeypatch.setattr(schema, "migrations", after)
        async with bench(database) as new:
            await works(new, new)
            async with asyncio.timeout(5):
                while "diagnosis_of_old" in columns(database):  # noqa: ASYNC110 -- the leader does it
                    await asyncio.sleep(0.05)
            await works(new, new)
        monkeypatch.setattr(schema, "migrations", before)
        with pytest.raises(AilurusError, match="newer version"):
            open_store(database)

    asyncio.run(asyncio.wait_for(main(), 50))


FACT = (
    "insert into panda_fact (kind, owner, name, at, data) values ({0}, {0}, {0}, {0}, {0})"
    " on conflict (kind, owner, name) do update set at = excluded.at, data = excluded.data"
)
FACTS = "select kind, owner, name, at, data from panda_fact where kind = {0}"


class Before:
    """A connection of the version before, which keeps in `panda_fact` what is not PanDA's."""

    def __init__(self, place):
        file = place.startswith("sqlite:///")
        self._mark = "?" if file else "%s"
        self._at = (
            sqlite3.connect(place.removeprefix("sqlite:///"), isolation_level=None)
            if file
            else psycopg.connect(place, autocommit=True)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._at.close()

    def put(self, *fact):
        self._at.execute(FACT.format(self._mark), fact)

    def all(self, kind):
        return self._at.execute(FACTS.format(self._mark), (kind,)).fetchall()

    def undo(self):
        """Make it a store that no step 240 has been applied to."""
        for table in ("tail", "excluded_node", "about"):
            self._at.execute(f"drop table {table}")
        if self._mark == "?":
            for name in ("excluded", "excluded_again", "about"):
                self._at.execute(f"drop trigger {name}_of_before")
        else:
            self._at.execute("drop function native_of_before cascade")
            self._at.execute("drop function native_for_before")
        self._at.execute("delete from migration where number = 240")


def native(tx):
    """The excluded nodes and the name of the store."""
    return tx.all("node.excluded", now=0.0), tx.one("about.get", name="name")


def test_r7_what_left_the_table_of_pandas_facts_is_taken_along(place):
    async def main():
        async with bench(place):
            pass
        with Before(place) as before:
            before.undo()
            before.put("excluded", "s", "n1", 9e9, '{"until": 9e9, "reason": "fails"}')
            ((*_, name),) = before.all("store")
        async with bench(place) as b:
            found = await b.service.store.read(native)
            assert found == ([("s", "n1", 9e9, "fails")], (name,))
            assert b.service.state.hosts.excluded(("s", "n1"), 0.0).reason == "fails"

    asyncio.run(main())


def test_r7_a_nul_in_a_reason_stops_neither_the_upgrade_nor_the_version_before(place):
    async def main():
        async with bench(place):
            pass
        reason = r'{"until": 9e9, "reason": "a\u0000b"}'
        with Before(place) as before:
            before.undo()
            before.put("excluded", "s", "n1", 9e9, reason)
        async with bench(place) as b:
            with Before(place) as before:
                before.put("excluded", "s", "n2", 9e9, reason)
            excluded, _ = await b.service.store.read(native)
            assert [(site, host, why[0]) for site, host, _, why in excluded] == [
                ("s", "n1", "a"),
                ("s", "n2", "a"),
            ]

    asyncio.run(main())


def test_r7_both_versions_know_what_either_says_of_nodes_and_the_store(place):
    async def main():
        async with bench(place) as b:
            with Before(place) as before:
                for until, reason in ((8e9, "fails"), (9e9, "fails again")):
                    row = {"site": "s", "host": "ours", "until": until, "reason": reason}
                    await b.service.store.write(lambda tx, row=row: tx.run("node.exclude", **row))
                    before.put(
                        "excluded",
                        "s",
                        "theirs",
                        until,
                        f'{{"until": {until}, "reason": "{reason}"}}',
                    )
                ((_, _, host, until, data), *_) = before.all("excluded")
                assert (host, until) == ("ours", 9e9)
                assert json.loads(data) == {"until": 9e9, "reason": "fails again"}
                assert (await b.service.store.read(native))[0] == [
                    ("s", "ours", 9e9, "fails again"),
                    ("s", "theirs", 9e9, "fails again"),
                ]
                assert before.all("store")[0][4] == b.service.state.giver

    asyncio.run(main())


def test_r7_the_end_of_a_file_reaches_who_asked_at_the_other_version(postgres_server):
    place = postgres_server.database()

    async def main():
        async with bench(place) as b:
            store = b.service.store
            with Before(place) as before:
                for at, text in ((1.0, "a"), (2.0, "b")):
                    before.put("tail", "", "7", at, text)
                    row = {"job_id": 8, "at": at, "text": text}
                    await store.write(lambda tx, row=row: tx.run("tail.put", **row))
                assert await store.read(lambda tx: tx.one("tail.get", job_id=7)) == (2.0, "b")
                assert ("tail", "", "8", 2.0, "b") in before.all("tail")

    asyncio.run(main())
