"""R7: a file of the version before opens with all that is in it, one of a later version only if it
may."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from ailurus.migrations import migrate, steps_in
from ailurus.protocol.errors import AilurusError
from harvester_edge import book
from harvester_edge.book import Book
from harvester_edge.panda import store as panda
from harvester_edge.relay import store as relay

STORES = {"book": Book, "relay": relay.RelayStore, "panda": panda.PandaStore}
MIGRATIONS = {"book": book.MIGRATIONS, "relay": relay.MIGRATIONS, "panda": panda.MIGRATIONS}


def tables(path):
    """The text of every table and index but the one of migrations."""
    with closing(sqlite3.connect(path)) as database:
        return set(
            database.execute("select name, sql from sqlite_master where tbl_name <> 'migration'")
        )


def applied(path):
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute("select number from migration order by 1")]


def of_before(path, kind):
    """A file as the version without a table of migrations made it."""
    with closing(sqlite3.connect(path)) as database:
        for step in steps_in(MIGRATIONS[kind]):
            database.executescript(step.sql)


@pytest.fixture(params=[*STORES])
def kind(request):
    return request.param


def test_a_file_of_the_version_before_is_adopted_as_it_is(kind, tmp_path):
    path = tmp_path / "one.sqlite"
    of_before(path, kind)
    before = tables(path)
    for _ in range(2):
        STORES[kind](path).close()
        assert tables(path) == before
        assert applied(path) == [step.number for step in steps_in(MIGRATIONS[kind])]


def test_a_new_file_has_the_tables_of_an_old_one(kind, tmp_path):
    of_before(tmp_path / "old.sqlite", kind)
    STORES[kind](tmp_path / "new.sqlite").close()
    assert tables(tmp_path / "new.sqlite") == tables(tmp_path / "old.sqlite")


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_book_of_each_version_before_gets_what_it_lacks(version, tmp_path):
    path = tmp_path / "book.sqlite"
    with closing(sqlite3.connect(path)) as database:
        for step in steps_in(book.MIGRATIONS)[:version]:
            database.executescript(step.sql)
        if version:
            database.execute("insert into meta values ('site', 'here')")
            database.commit()
    with closing(Book(path)) as opened:
        assert opened.meta("site") == ("here" if version else "")
        assert opened.live() == []
        assert opened.spent(0.0) == 0.0


def test_a_file_to_which_a_later_version_added_something_opens(kind, tmp_path):
    path = tmp_path / "one.sqlite"
    STORES[kind](path).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("insert into migration values (9999, '9999_more.pre.sql', '', 0)")
    STORES[kind](path).close()


def test_a_file_of_a_later_version_is_refused_by_its_name(kind, tmp_path):
    path = tmp_path / "one.sqlite"
    STORES[kind](path).close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("insert into migration values (9999, '9999_less.post.sql', '', 0)")
    with pytest.raises(AilurusError, match=r"one\.sqlite: made by a newer version") as refused:
        STORES[kind](path)
    assert refused.value.remedy == "install that version"


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "one.sqlite"
    (tmp_path / "0001_a.pre.sql").write_text("create table a (x);\n")
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        migrate(database, steps_in(tmp_path), path)
        (tmp_path / "0002_b.pre.sql").write_text("create table b (x);\ncreate table a (x);\n")
        with pytest.raises(sqlite3.OperationalError):
            migrate(database, steps_in(tmp_path), path)
    assert {name for name, _ in tables(path)} == {"a"}
    assert applied(path) == [1]


def test_a_step_that_was_edited_is_refused(tmp_path):
    path = tmp_path / "one.sqlite"
    step = tmp_path / "0001_a.pre.sql"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        step.write_text("create table a (x);\n")
        migrate(database, steps_in(tmp_path), path)
        step.write_text("create table a (x, y);\n")
        with pytest.raises(AilurusError, match=r"0001_a\.pre\.sql is not the one that was applied"):
            migrate(database, steps_in(tmp_path), path)
