"""A query finds what it says, in both databases, and no text of it becomes SQL."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.protocol import messages as m
from ailurus.protocol import query as q
from ailurus.protocol.api import Filter, JobsQuery, Scope
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from dispatcher.store.queries import fragments, statements
from dispatcher.store.searching import searched
from tests.ailurus.test_query import trees
from tests.dispatcher.helpers import ALICE, BOB, bench, job

BOSS = Caller(subject="boss", scopes=frozenset({Scope.READ, Scope.ADMIN}))
TEXTS = {"sqlite": fragments(), "postgres": fragments(postgres=True)}
PAGE = statements()["job.page"].text


def form(query: q.Query) -> q.Query:
    """The same with every value that a person wrote replaced."""
    if isinstance(query, q.Not):
        return q.Not(form(query.of))
    if isinstance(query, q.All | q.Either):
        return type(query)(tuple(form(one) for one in query.of))
    if isinstance(query, q.Words):
        return q.Words(query.field, tuple(q.Word("x", one.wild) for one in query.words))
    if isinstance(query, q.Label):
        return q.Label("x", tuple(q.Word("x", one.wild) for one in query.words))
    if isinstance(query, q.Numbers):
        return q.Numbers(query.field, (0,) * len(query.numbers))
    if isinstance(query, q.Compared):
        return q.Compared(query.field, query.sign, 0.0)
    return q.Text("x")


@given(trees, st.sampled_from(sorted(TEXTS)))
def test_the_text_of_a_search_holds_nothing_that_a_person_wrote(query, store):
    text, values = searched(PAGE, query, 1.0, TEXTS[store])
    plain, _ = searched(PAGE, form(query), 1.0, TEXTS[store])
    assert text == plain
    assert set(values) <= set(re.findall(r":(\w+)", text))


@settings(max_examples=200, deadline=None)
@given(trees)
def test_sqlite_runs_every_query(schema, query):
    text, values = searched(PAGE, query, 1.0, TEXTS["sqlite"])
    schema.execute(text, {"least": 0, "before": 9, "owner": "", "most": 1, **values}).fetchall()


@pytest.fixture(scope="module")
def schema():
    from dispatcher.store.schema import for_sqlite, migrations

    with closing(sqlite3.connect(":memory:")) as connection:
        for step in migrations():
            connection.executescript(for_sqlite(step))
        yield connection


FOUND = {
    "": "abcdefg",
    "state:activated": "efg",
    "state:open": "acdefg",
    "state:final": "b",
    "not state:activated": "abcd",
    "state:running,failed": "ab",
    "queue:other": "g",
    "queue:o*,q": "abcdefg",
    "queue:*the*": "g",
    "queue:*er": "g",
    "queue:OTHER": "",
    "name:a": "a",
    "b or c": "bc",
    "(b or c) state:failed": "b",
    "code:1305": "b",
    "code!=1305": "acdefg",
    "code>0": "b",
    "priority>=5": "f",
    "priority<-1": "e",
    "priority>-2 priority<5": "abcdg",
    "try>0": "abcd",
    "try:0": "efg",
    "site:*": "abcdefg",
    'site:""': "abcdefg",
    "host:node1": "abcd",
    "not host:node1": "efg",
    "host:node*": "abcd",
    "user:alice": "abcdef",
    "user!=alice": "g",
    'text:"DISK full"': "b",
    'text:"disk%full"': "",
    "text:_": "",
    '"\' or 1=1 --"': "",
    "label:campaign": "fg",
    "label:campaign=mc23": "f",
    "label:campaign=mc23,mc24": "fg",
    "label:campaign=mc* not queue:other": "f",
    "not label:campaign": "abcde",
    "label:campaign=mc24 or b": "bg",
    "age<1d": "abcdefg",
    "age>1d": "",
    "changed<1d": "abcdefg",
    # Their pilot says that they have run since 1970.
    "duration>1d": "ab",
    "not duration>1d": "cdefg",
    "duration<1d": "",
    "id:1": "a",
    "id:2-4": "bcd",
    "id:2-4 or name:g": "bcdg",
    "2-3": "bc",
    "kind:1": "b",
    "not kind:1": "acdefg",
    "kind:77": "",
}


async def world(b):
    """Seven jobs, a to g: one runs, one failed, two are held by a worker, three wait."""
    worker = await b.worker(host="node1")
    await b.submit(*(job(name) for name in "abcd"))
    a, failed, *_ = await worker.acquire(4)
    await worker.beat(a)
    await worker.beat(failed)
    await worker.report(failed, finished=False, code=1305, diagnosis="cannot write: Disk full 17")
    await b.submit(
        job("e", priority=-2), job("f", priority=5, labels={"campaign": "mc23", "of": "x"})
    )
    await b.submit(job("g", queue="other", labels={"campaign": "mc24"}), caller=BOB)


def test_a_query_finds_what_it_says(place):
    async def test():
        async with bench(place) as b:
            await world(b)
            for text, names in FOUND.items():
                page = await b.service.users.jobs(JobsQuery(query=text), BOSS)
                assert "".join(sorted(row.name for row in page.jobs)) == names, text
                counted = await b.service.users.count(Filter(query=text), BOSS)
                assert (counted.jobs, counted.last) == (len(names), 7), text

    asyncio.run(test())


def test_others_jobs_are_not_there(place):
    async def test():
        async with bench(place) as b:
            await world(b)
            for text in (
                "",
                "user:alice or not user:alice",
                "name:g or id:1-9",
                "kind:1",
                "label:of=x",
            ):
                page = await b.service.users.jobs(JobsQuery(query=text), BOB)
                assert {row.user for row in page.jobs} <= {"bob"}, text
                assert set((await b.service.users.count(Filter(query=text), BOB)).users) <= {"bob"}

    asyncio.run(test())


def test_the_old_fields_say_a_part_of_the_query(place):
    async def test():
        async with bench(place) as b:
            await world(b)
            for ask, names in (
                (JobsQuery(state="activated", query="priority>0"), "f"),
                (JobsQuery(name="b*", code=1305, kind=1, user="alice", queue="q"), "b"),
                (JobsQuery(name="*"), "abcdefg"),
            ):
                page = await b.service.users.jobs(ask, BOSS)
                assert "".join(sorted(row.name for row in page.jobs)) == names
            with pytest.raises(Rejected, match="no state"):
                await b.service.users.jobs(JobsQuery(state="odd"), BOSS)
            with pytest.raises(Rejected, match="at character 1") as refused:
                await b.service.users.jobs(JobsQuery(query="stat:x"), BOSS)
            assert (refused.value.status, refused.value.field) == (422, "query")

    asyncio.run(test())


def test_a_count_tells_states_and_owners(place):
    async def test():
        async with bench(place) as b:
            await world(b)
            counted = await b.service.users.count(Filter(), BOSS)
            assert counted == m.Counted(
                jobs=7,
                states={"activated": 3, "sent": 2, "running": 1, "failed": 1},
                users={"alice": 6, "bob": 1},
                owners=2,
                at=counted.at,
                last=7,
            )
            assert (await b.service.users.count(Filter(), ALICE)).jobs == 6

    asyncio.run(test())
