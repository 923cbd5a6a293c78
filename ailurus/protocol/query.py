"""The language in which jobs are searched for: in the console's box, in addresses, at the command
line and in the API. Pure.

    state:failed site:CERN not code:1305 (age<2h or label:campaign=mc23) text:"disk full"

Terms that follow each other must all hold; `or`, `not` and parentheses are words of the language.
This is the tree; `query_text.parse` makes one of a text, and `spoken` a text of one. What a tree
means is in `dispatcher/store/searching.py`, and in words in `docs/query.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct


class Wild(StrEnum):
    """Which ends of a text a `*` leaves open."""

    NEITHER = ""
    END = "end"
    BEGINNING = "beginning"
    BOTH = "both"


class Word(Struct, frozen=True):
    """A text that a field may be; with a wildcard, a part of it."""

    text: str
    wild: Wild = Wild.NEITHER


class Words(Struct, frozen=True):
    """The field is one of these texts."""

    field: str
    words: tuple[Word, ...]


class Label(Struct, frozen=True):
    """The job has this label, with one of these values if there are any."""

    key: str
    words: tuple[Word, ...] = ()


class Numbers(Struct, frozen=True):
    """The field is one of these numbers."""

    field: str
    numbers: tuple[int, ...]


class Compared(Struct, frozen=True):
    """The field is less or more than a number: of seconds, where it is a time."""

    field: str
    sign: str
    number: float


class Text(Struct, frozen=True):
    """The name or the diagnosis contains this, in whatever case."""

    text: str


class Not(Struct, frozen=True):
    """What does not match."""

    of: Query


class All(Struct, frozen=True):
    """What matches each of these; of none: every job."""

    of: tuple[Query, ...] = ()


class Either(Struct, frozen=True):
    """What matches one of these, two or more."""

    of: tuple[Query, ...]


Query: TypeAlias = Words | Label | Numbers | Compared | Text | Not | All | Either
EVERY = All()

WORDS = ("state", "queue", "site", "host", "user", "name")
NUMBERS = ("id", "submission", "code", "kind", "priority", "try")
TIMES = ("age", "changed", "duration")
FIELDS = (*WORDS, *NUMBERS, *TIMES, "label", "text", "fault")
# What needs no quotes as a value.
_BARE = re.compile(r'[^\s()",*\\:=<>!#]+')


def both(*queries: Query) -> Query:
    """What matches all of these."""
    parts: list[Query] = []
    for one in queries:
        parts += one.of if isinstance(one, All) else (one,)
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def conjuncts(query: Query) -> tuple[Query, ...]:
    """What must hold each by itself."""
    return query.of if isinstance(query, All) else (query,)


def fields_of(query: Query) -> Iterator[str]:
    """The fields that a query speaks of."""
    if isinstance(query, Not):
        yield from fields_of(query.of)
    elif isinstance(query, All | Either):
        for one in query.of:
            yield from fields_of(one)
    elif isinstance(query, Label):
        yield "label"
    elif isinstance(query, Text):
        yield "text"
    else:
        yield query.field


def spoken(query: Query) -> str:
    """A query as text, which means the same."""
    if isinstance(query, Not):
        return f"not {_inner(query.of)}"
    if isinstance(query, All):
        return " ".join(_inner(one) for one in query.of)
    if isinstance(query, Either):
        return " or ".join(_inner(one) for one in query.of)
    if isinstance(query, Text):
        return f"text:{_quote(query.text)}"
    if isinstance(query, Label):
        values = ",".join(_said(word) for word in query.words)
        return f"label:{query.key}={values}" if query.words else f"label:{query.key}"
    if isinstance(query, Words):
        return f"{query.field}:{','.join(_said(word) for word in query.words)}"
    if isinstance(query, Numbers):
        return f"{query.field}:{','.join(map(str, query.numbers))}"
    return f"{query.field}{query.sign}{query.number:.15g}"


def _inner(query: Query) -> str:
    text = spoken(query)
    return f"({text})" if isinstance(query, All | Either) else text


def _said(word: Word) -> str:
    before = "*" if word.wild in (Wild.BEGINNING, Wild.BOTH) else ""
    after = "*" if word.wild in (Wild.END, Wild.BOTH) else ""
    if before or after:
        return f"{before}{word.text}{after}"
    return word.text if _BARE.fullmatch(word.text) else _quote(word.text)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
