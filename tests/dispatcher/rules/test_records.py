"""A record has the columns of its statement, in their order."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import dispatcher
from dispatcher.rules import (
    action_records,
    feedback_records,
    item_records,
    records,
    submission_records,
    usage_records,
    worker_records,
)
from dispatcher.store.queries import statements
from dispatcher.store.schema import for_sqlite, migrations
from dispatcher.tasks import records as task_records

# What a caller knows, and the statement need not return.
FIRST = {"site.get": ("site",)}
LAST = {
    "job.standing": ("job_id",),
    # Where several jobs lease the items, from the lessee.
    "cluster.get": ("marks", "attempt_nr", "taken"),
    "step.all": ("begun", "before"),
    **dict.fromkeys(("unit.ended", "unit.ready", "unit.failed"), ("loss",)),
}


def made_of() -> dict[str, type]:
    """The record of each statement, as its docstring names it."""
    found = {}
    for module in (
        records,
        worker_records,
        item_records,
        task_records,
        action_records,
        feedback_records,
        submission_records,
        usage_records,
    ):
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


READERS = (
    "records.py",
    "submission_records.py",
    "worker_records.py",
    "item_records.py",
    "action_records.py",
    "usage_records.py",
    "feedback_records.py",
    "views.py",
)
ROOMS = ("rules", "service", "tasks", "panda")
SOURCES = Path(dispatcher.__file__).parent


def trees() -> Iterator[tuple[str, ast.Module]]:
    """The modules that read records, and must not read rows."""
    for room in ROOMS:
        for file in SOURCES.joinpath(room).rglob("*.py"):
            if file.name not in READERS:
                yield file.relative_to(SOURCES).as_posix(), ast.parse(file.read_text("utf-8"))


def reads(node: ast.AST) -> bool:
    """Whether a value comes from `tx.one` or `tx.all`."""
    return any(
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("one", "all")
        and ast.unparse(call.func.value).endswith("tx")
        for call in ast.walk(node)
    )


def numbered(tree: ast.AST) -> Iterator[int]:
    """Lines that take a column of a row by its number."""
    rows = {"row", "rows"}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if reads(value):
                rows.add(name)
            case ast.NamedExpr(target=ast.Name(id=name), value=value) if reads(value):
                rows.add(name)
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(
                value=value, slice=ast.Constant(value=int()) | ast.UnaryOp() | ast.Slice()
            ) if reads(value) or (isinstance(value, ast.Name) and value.id in rows):
                yield node.lineno


@pytest.mark.parametrize(
    "code",
    [
        "row[4]",
        "job = tx.one('job.standing')\njob[0]",
        "if job := self._tx.one('job.standing'): job[-1]",
        "(tx.one('event.last') or (0,))[0]",
        "[row[1:] for row in tx.all('site.all')]",
    ],
)
def test_the_walk_sees_a_column_taken_by_its_number(code):
    assert list(numbered(ast.parse(code)))


def test_no_column_is_taken_by_its_number():
    found = {name: list(numbered(tree)) for name, tree in trees()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_rows_of_more_than_three_columns_become_records(columns):
    """Where a statement is named, its rows are unpacked: by those who make records, or few
    columns."""
    wide = {
        name
        for name, one in statements().items()
        if one.text.startswith("select") or " returning " in one.text
        if len(columns(name)) > 3
    }
    assert {"job.standing", "job.page", "worker.row"} <= wide
    # `views.jobs` is told which page to read.
    pages = {name for name in wide if name.startswith("job.page")}
    found = {
        (name, node.value)
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in wide - pages
    }
    assert found == set()


def test_the_walk_sees_the_records():
    assert {"job.standing", "attempt.get"} <= set(made_of())
