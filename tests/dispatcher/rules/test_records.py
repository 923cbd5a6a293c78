"""A record has the columns of its statement, in their order."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from dispatcher.rules import records, worker_records
from dispatcher.store.queries import statements
from dispatcher.store.schema import for_sqlite, migrations

# What a caller knows, and the statement need not return.
FIRST = {"site.get": ("site",)}
LAST = {"job.standing": ("job_id",)}


def made_of() -> dict[str, type]:
    """The record of each statement, as its docstring names it."""
    found = {}
    for module in (records, worker_records):
        for one in vars(module).values():
            if isinstance(one, type) and one.__module__ == module.__name__ and one.__doc__:
                for name in re.findall(r"`(\w+\.\w+)`", one.__doc__.partition("\n\n")[0]):
                    found[name] = one
    return found


@pytest.fixture(scope="module")
def columns():
    """Gives the names of a statement's columns."""
    with closing(sqlite3.connect(":memory:")) as store:
        for step in migrations():
            store.executescript(for_sqlite(step))

        def names(statement: str) -> list[str]:
            one = statements()[statement]
            values = {name: "[]" if name == "ids" else 0 for name in one.parameters}
            return [column[0] for column in store.execute(one.text, values).description]

        yield names


@pytest.mark.parametrize("statement", sorted(made_of()))
def test_a_record_has_the_columns_of_its_statement(columns, statement):
    fields = made_of()[statement].__struct_fields__
    found = columns(statement)
    assert list(fields) == [*FIRST.get(statement, ()), *found, *LAST.get(statement, ())]


def test_the_walk_sees_the_records():
    assert {"job.standing", "attempt.get"} <= set(made_of())
