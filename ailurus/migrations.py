"""Numbered steps that make a program's tables, and bring those of an older version up to date.

A step is a file `NNNN_name.pre.sql` or `NNNN_name.post.sql`. A `pre` step only adds: the version
before may go on with the tables, so a program can be put back by one version. A `post` step takes
something away or changes its meaning: a version that does not know it refuses the file. Which steps
were applied stands in a table `migration`, with a digest of their text: a file that was published
is never edited.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from msgspec import Struct

from ailurus.protocol.errors import AilurusError

_TABLE = "create table if not exists migration (number integer primary key, name, digest, applied)"
_EXISTS = "select 1 from sqlite_master where type = 'table' and name = 'migration'"
_TABLES = "select name from sqlite_master where type = 'table'"
_CREATES = re.compile(r"create table (?:if not exists )?(\w+)", re.IGNORECASE)
_DONE = "select number, digest, name from migration"
_NOTE = "insert into migration (number, name, digest, applied) values (?, ?, ?, unixepoch())"


class Migration(Struct, frozen=True):
    """One step of a schema. `pre` runs before the new version serves, `post` after the old is
    gone."""

    number: int
    name: str
    sql: str
    digest: str

    @property
    def post(self) -> bool:
        return is_post(self.name)


class Unfit(Exception):
    """The tables are not those that this version knows."""

    def __init__(self, title: str, remedy: str) -> None:
        super().__init__(title)
        self.remedy = remedy


def is_post(name: str) -> bool:
    """Whether a step takes something away, so that the version before it can no longer serve."""
    return not name.endswith(".pre.sql")


def steps_in(folder: Traversable) -> list[Migration]:
    """The steps whose files lie in `folder`, in order."""
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    texts = [(name, folder.joinpath(name).read_text("utf-8")) for name in names]
    return [
        Migration(int(name[:4]), name, text, hashlib.sha256(text.encode()).hexdigest())
        for name, text in texts
    ]


def pending(
    steps: Sequence[Migration], done: Mapping[int, str], names: Mapping[int, str]
) -> list[Migration]:
    """The steps that are still to be applied, given the digests and names of those that were.

    Raises Unfit if an applied step is not ours, unless a version after this one only added
    something.
    """
    for step in steps:
        if done.get(step.number, step.digest) != step.digest:
            raise Unfit(
                f"migration {step.name} is not the one that was applied",
                "install the version that made this store, or restore a back-up",
            )
    known = {step.number for step in steps}
    if newer := [nr for nr in done if nr not in known and is_post(names[nr])]:
        raise Unfit(f"made by a newer version (migration {max(newer)})", "install that version")
    return [step for step in steps if step.number not in done]


def migrate(
    connection: sqlite3.Connection,
    steps: Sequence[Migration],
    path: Path,
    *,
    text: Callable[[Migration], str] = lambda step: step.sql,
    adopted: Callable[[sqlite3.Connection], Sequence[int]] = lambda _: (),
) -> None:
    """Apply to the file at `path`, in one transaction, the steps that it lacks.

    `text` is what SQLite runs for a step. `adopted` returns the numbers of the steps that a file
    without a table of migrations has already. Raises AilurusError if another version or another
    program made the file, and sqlite3.Error.
    """
    try:
        if connection.execute(_EXISTS).fetchone() and not _missing(connection, steps):
            return
        connection.execute("begin immediate")
        try:
            _apply(connection, steps, text, adopted)
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
    except Unfit as unfit:
        raise AilurusError(f"{path}: {unfit}", remedy=unfit.remedy) from None


def _missing(connection: sqlite3.Connection, steps: Sequence[Migration]) -> list[Migration]:
    rows = connection.execute(_DONE).fetchall()
    return pending(
        steps, {nr: digest for nr, digest, _ in rows}, {nr: name for nr, _, name in rows}
    )


def _apply(
    connection: sqlite3.Connection,
    steps: Sequence[Migration],
    text: Callable[[Migration], str],
    adopted: Callable[[sqlite3.Connection], Sequence[int]],
) -> None:
    if not connection.execute(_EXISTS).fetchone():
        there = frozenset(adopted(connection))
        found = {name for (name,) in connection.execute(_TABLES)}
        ours = {name for step in steps for name in _CREATES.findall(step.sql)}
        if found and not found & ours:
            raise Unfit("another program's SQLite file", "name another file, or move this one away")
        connection.execute(_TABLE)
        for step in steps:
            if step.number in there:
                connection.execute(_NOTE, (step.number, step.name, step.digest))
    for step in _missing(connection, steps):
        for statement in _statements(text(step)):
            connection.execute(statement)
        connection.execute(_NOTE, (step.number, step.name, step.digest))


def _statements(script: str) -> Iterator[str]:
    """The statements of a script: `executescript` would end the transaction that they share."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
