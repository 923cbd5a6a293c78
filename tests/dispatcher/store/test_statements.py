"""What a statement declares above its text is what the databases make of it."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import psycopg
import pytest

from dispatcher.store import open_store
from dispatcher.store.postgres_tx import READING_AHEAD
from dispatcher.store.queries import Statement, parse, postgres_statements, statements
from dispatcher.store.schema import for_sqlite, migrations

CHANGES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
BEHIND_FUNCTIONS = {"old.partition": {"old_job"}, "worker.skip": {"worker"}}
"""Tables that a function changes, which a plan does not show."""
PARAMETER = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")


@pytest.fixture(scope="module")
def schema():
    with closing(sqlite3.connect(":memory:")) as connection:
        for step in migrations():
            connection.executescript(for_sqlite(step))
        yield connection


@pytest.fixture(scope="module")
def planner(postgres_server):
    """A connection to our tables that plans statements for any values."""
    url = postgres_server.database()
    opened = open_store(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set plan_cache_mode = force_generic_plan")
        connection.execute("select old_job_partition(0)")  # a table without parts is not planned
        yield connection
    import asyncio

    asyncio.run(opened.close())


def seen_by_sqlite(connection, one):
    """What SQLite looks up to run a statement: (operation, table, column), without its triggers."""
    seen = []
    tables = {row[0] for row in connection.execute("select name from sqlite_master")}
    triggers = {
        row[0]
        for row in connection.execute("select name from sqlite_master where type = 'trigger'")
    }
    connection.set_authorizer(
        lambda what, table, column, _, trigger: seen.append((what, table, column, trigger)) or 0
    )
    try:
        connection.execute(f"explain {one.text}", dict.fromkeys(one.parameters)).fetchall()
    finally:
        connection.set_authorizer(None)
    return {
        (what, table, column)
        for what, table, column, trigger in seen
        # What a common table expression does is said with its name.
        if trigger not in triggers and table in tables
    }


def tables_in_sqlite(connection, one):
    seen = seen_by_sqlite(connection, one)
    writes = {table for what, table, _ in seen if what in CHANGES}
    reads = {table for what, table, _ in seen if what == sqlite3.SQLITE_READ}
    return reads - writes, writes


def plan_of(connection, one, *, locking=False):
    """The nodes of PostgreSQL's plan."""
    names = sorted(one.parameters)
    text = one.text + (f" for update of {one.locks}" if locking and one.locks else "")
    numbered = PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", text)
    values = f"({', '.join(['null'] * len(names))})" if names else ""
    types = ", ".join("double precision" if name == "now" else "unknown" for name in names)
    connection.execute(f"prepare looked {types and f'({types})'} as {numbered}".encode())
    try:
        explain = f"explain (format json) execute looked{values}"
        ((answer,),) = connection.execute(explain.encode()).fetchall()
    finally:
        connection.execute("deallocate looked")
    return list(nodes(answer[0]["Plan"]))


def nodes(plan):
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def tables_in_postgres(connection, name, one):
    found = plan_of(connection, one)
    writes = {
        node["Relation Name"]
        for node in found
        if node["Node Type"] == "ModifyTable" and "Relation Name" in node
    } | BEHIND_FUNCTIONS.get(name, set())
    reads = {
        re.sub(r"^old_job_.*", "old_job", node["Relation Name"])
        for node in found
        if "Relation Name" in node and node["Node Type"] != "ModifyTable"
    }
    return reads - writes, writes


# --- what it is for, reads and writes -------------------------------------------------------------


@pytest.mark.parametrize("name", [*(postgres_statements() | statements())])
def test_a_statement_says_what_it_is_for(name):
    one = (postgres_statements() | statements())[name]
    assert re.fullmatch(r"[A-Z`].{9,}\.", one.purpose, re.DOTALL), one.purpose


@pytest.mark.parametrize("name", [*statements()])
def test_sqlite_reads_and_writes_what_is_declared(schema, name):
    one = statements()[name]
    assert (set(one.reads), set(one.writes)) == tables_in_sqlite(schema, one)


@pytest.mark.parametrize("name", [*postgres_statements()])
def test_postgresql_reads_and_writes_what_is_declared(planner, name):
    one = postgres_statements()[name]
    assert (set(one.reads), set(one.writes)) == tables_in_postgres(planner, name, one)


@pytest.mark.parametrize(
    "one",
    [
        Statement("select state from job", reads=frozenset({"body"})),
        Statement("update job set state = 'x'", reads=frozenset({"job"})),
        Statement("delete from job where job_id in (select job_id from body)", writes={"job"}),
    ],
)
def test_a_wrong_line_is_noticed(schema, planner, one):
    declared = (set(one.reads), set(one.writes))
    assert declared != tables_in_sqlite(schema, one)
    assert declared != tables_in_postgres(planner, "", one)


# --- locks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*postgres_statements()])
def test_only_a_change_locks_and_only_what_is_declared(planner, name):
    one = postgres_statements()[name]
    assert not any(node["Node Type"] == "LockRows" for node in plan_of(planner, one))
    if one.locks:
        table, _, how = one.locks.partition(" ")
        assert table in one.reads
        assert how in ("", "skip locked")
        assert not one.writes
        planned = plan_of(planner, one, locking=True)
        assert any(node["Node Type"] == "LockRows" for node in planned)


def test_what_is_read_ahead_locks_like_the_statement_that_it_stands_for():
    declared = postgres_statements()
    for ahead, alone in {"job.standings": "job.standing", "job.ready_whole": "job.ready"}.items():
        assert declared[ahead].locks == declared[alone].locks != ""


# --- many rows ------------------------------------------------------------------------------------

MANY = [name for name, one in postgres_statements().items() if one.key]


@pytest.mark.parametrize("name", MANY)
def test_a_statement_for_many_rows_takes_what_the_one_for_a_row_takes(name):
    one = postgres_statements()[name]
    (columns,) = re.findall(r" as r \(([^)]*)\)", one.text)
    assert one.parameters == {"rows"}
    assert {column.split()[0] for column in re.split(r",\s+", columns)} == statements()[
        name
    ].parameters


@pytest.mark.parametrize("name", MANY)
def test_the_key_of_many_rows_is_the_key_of_their_table(schema, name):
    one = postgres_statements()[name]
    (table,) = one.writes
    looked = schema.execute("select name from pragma_table_info(?) where pk > 0", (table,))
    assert {column for (column,) in looked} == set(one.key)


# --- what is read ahead ---------------------------------------------------------------------------


def columns_read_ahead(schema):
    """Columns of the statements that SQLite has as well; those of `job` are all in these."""
    alike = (
        "job.standing",
        "job.ready",
        "body.get",
        "attempt.get",
        "attempt.of_request",
        "counter.ready",
    )
    return {
        (table, column)
        for name in alike
        for what, table, column in seen_by_sqlite(schema, statements()[name])
        if what == sqlite3.SQLITE_READ
    } - {("attempt", "ended")}


def test_what_forgets_nothing_writes_no_column_that_is_read_ahead(schema):
    ahead = columns_read_ahead(schema)
    quiet = [name for name, one in postgres_statements().items() if one.forgets == "nothing"]
    assert quiet
    for name in quiet:
        seen = seen_by_sqlite(schema, statements()[name])
        assert not ahead & {(table, column) for what, table, column in seen if what in CHANGES}


def test_what_forgets_ids_changes_the_jobs_of_its_list_alone(planner):
    named = [name for name, one in postgres_statements().items() if one.forgets == "ids"]
    assert named
    for name in named:
        one = postgres_statements()[name]
        assert one.writes == {"job"}
        assert "where job_id in (select" in one.text


def test_every_statement_that_reads_ahead_is_known():
    only_there = {name for name, one in postgres_statements().items() if not one.writes}
    assert {*READING_AHEAD, "bulletin.spread"} == only_there - set(statements())
    assert {one.forgets for one in postgres_statements().values()} == {"", "ids", "nothing"}


# --- the files ------------------------------------------------------------------------------------


def test_a_statement_without_a_text_is_refused():
    with pytest.raises(ValueError, match="a has no text"):
        parse("-- name: a\n-- Nothing.\n\n-- name: b\n-- One.\nselect 1\n")


def test_comments_are_no_part_of_a_text():
    ((_, name, one),) = parse(
        "-- head\n\n-- name: a\n-- One.\n-- reads: t\nselect x\n-- y\n  from t\n"
    )
    assert (name, one.text, one.purpose) == ("a", "select x\n  from t", "One.")
