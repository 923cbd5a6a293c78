"""The statements of `sql/`, as shipped beside this file, in both dialects.

`sql/README.md` explains the lines above a statement. Both databases run the same statements; one
that PostgreSQL needs in other words stands in `sql/postgres.sql` as well, under the same name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from itertools import takewhile

import msgspec
from msgspec import Struct

_PARAMETER = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")
_DIALECTS = ("sqlite.sql", "postgres.sql")


class Statement(Struct, frozen=True):
    """A statement and what the lines above it declare, as `sql/README.md` explains them."""

    text: str
    """With `:name` for parameters."""
    purpose: str = ""
    owner: str = ""
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    locks: str = ""
    key: tuple[str, ...] = ()
    forgets: str = ""

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(_PARAMETER.findall(self.text))

    def for_psycopg(self, *, locking: bool = False) -> str:
        """With `%(name)s` for parameters; `locking`: as a change runs it."""
        text = _PARAMETER.sub(r"%(\1)s", self.text.replace("%", "%%"))
        return f"{text} for update of {self.locks}" if locking and self.locks else text


@cache
def statements() -> dict[str, Statement]:
    """Every statement by name, as SQLite runs it."""
    return _expanded(_read("sqlite.sql"))


@cache
def postgres_statements() -> dict[str, Statement]:
    """The same as PostgreSQL runs them, and those that only it has."""
    return _expanded(_read("postgres.sql"))


@cache
def fragments(*, postgres: bool = False) -> Mapping[str, str]:
    """Every fragment by name, in the words of one of the databases."""
    return _read("postgres.sql" if postgres else "sqlite.sql")[1]


def _read(dialect: str) -> tuple[dict[str, Statement], dict[str, str]]:
    """Statements and fragments of all files but the other dialect's; those of `dialect` win."""
    folder = files("dispatcher.store").joinpath("sql")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    found: dict[str, Statement] = {}
    fragments: dict[str, str] = {}
    for file in (*(name for name in names if name not in _DIALECTS), dialect):
        for kind, name, one in parse(folder.joinpath(file).read_text("utf-8")):
            if kind == "fragment":
                fragments[name] = one.text
            else:
                found[name] = _instead_of(found.get(name), one)
    return found, fragments


def _instead_of(common: Statement | None, own: Statement) -> Statement:
    """A dialect's own statement: for the same purpose and the same callers as the common one."""
    if common is None:
        return own
    return msgspec.structs.replace(
        own, purpose=own.purpose or common.purpose, owner=own.owner or common.owner
    )


def _expanded(found: tuple[dict[str, Statement], dict[str, str]]) -> dict[str, Statement]:
    """The statements with the text of each fragment in the place of its name."""
    statements, fragments = found
    return {
        name: msgspec.structs.replace(one, text=one.text.format_map(fragments))
        for name, one in statements.items()
    }


def parse(text: str) -> list[tuple[str, str, Statement]]:
    """The entries of a file: its kind (`name` or `fragment`), its name and its declaration.

    Raises ValueError for an entry without a text.
    """
    found = []
    for kind, block in _blocks(text):
        name, *lines = block
        declared: dict[str, str] = {}
        purpose = []
        for line in takewhile(_is_comment, lines):
            field, colon, value = line.removeprefix("-- ").partition(": ")
            if colon and field in Statement.__struct_fields__:
                declared[field] = value
            else:
                purpose.append(line.removeprefix("-- "))
        words = "\n".join(line for line in lines if not _is_comment(line)).strip()
        if not words:
            raise ValueError(f"{name} has no text")
        found.append((kind, name, _statement(words, " ".join(purpose), declared)))
    return found


def _is_comment(line: str) -> bool:
    return line.startswith("--")


def _blocks(text: str) -> list[tuple[str, list[str]]]:
    """The lines of each entry, its name first."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        for kind in ("name", "fragment"):
            if line.startswith(f"-- {kind}: "):
                found.append((kind, [line.removeprefix(f"-- {kind}: ")]))
                break
        else:
            if found:
                found[-1][1].append(line)
    return found


def _statement(text: str, purpose: str, declared: Mapping[str, str]) -> Statement:
    def several(field: str) -> list[str]:
        return declared[field].split(", ") if field in declared else []

    return Statement(
        text=text,
        purpose=purpose,
        owner=declared.get("owner", ""),
        reads=frozenset(several("reads")),
        writes=frozenset(several("writes")),
        locks=declared.get("locks", ""),
        key=tuple(several("key")),
        forgets=declared.get("forgets", ""),
    )
