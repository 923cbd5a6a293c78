"""R7: a dispatcher and the one after it serve one database side by side."""

from __future__ import annotations

import asyncio

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
