"""What a search means: a query, whose jobs the caller may see, and at which index it begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol import query as q
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.filters import meaning
from ailurus.protocol.states import WITH_WORKER
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import submission_records, views

BEYOND = 2**62
"""A job id that no job has."""


class Wanted(Struct, frozen=True):
    """What is searched for."""

    query: q.Query
    owner: str
    """Whose jobs the caller may see; blank: everybody's."""
    now: float
    """The time at which ages are reckoned."""
    least: int = 0
    before: int = BEYOND
    """The ids that can match, from `least` to below `before`."""


class Beginning(Struct, frozen=True):
    """A statement with the values by which it finds its jobs at an index."""

    suffix: str
    values: dict[str, Any]
    few: bool
    """There are no more than workers hold, so all may be read at once: a kind of failure, a label
    or a state may be that of millions of jobs."""


def wanted(ask: api.Filter, owner: str, now: float) -> Wanted:
    """What a request searches for. Raises Rejected with the field that is wrong."""
    try:
        query = meaning(ask)
    except AilurusError as error:
        raise Rejected(422, error.message, field=error.field, remedy=error.remedy) from None
    least, before = _ids(query)
    return Wanted(query, owner, now, least, before)


def _ids(query: q.Query) -> tuple[int, int]:
    """Between which ids a job can match: at least the first, below the second."""
    least, before = 0, BEYOND
    for one in q.conjuncts(query):
        if isinstance(one, q.Numbers) and one.field == "id":
            least, before = max(least, min(one.numbers)), min(before, max(one.numbers) + 1)
        elif isinstance(one, q.Compared) and one.field == "id":
            number = int(one.number)
            if one.sign in (">", ">="):
                least = max(least, number)
            else:
                before = min(before, number + 1)
    return max(0, least), before


def begins(tx: Tx, search: Wanted) -> tuple[q.Query, list[Beginning]]:
    """The query with its kinds of failures as the store numbers them, and where the search for it
    begins."""
    query = _numbered(tx, search.query, search.owner)
    parts = q.conjuncts(query)
    for one in parts:
        if isinstance(one, q.Numbers) and one.field == "kind":
            return query, [Beginning("_of_kind", {"kind": kind}, few=False) for kind in one.numbers]
    for one in parts:
        if isinstance(one, q.Label) and one.words and not any(word.wild for word in one.words):
            return query, [
                Beginning("_of_label", {"label": one.key, "value": word.text}, few=False)
                for word in dict.fromkeys(one.words)
            ]
    for one in parts:
        if isinstance(one, q.Words) and one.field == "state":
            return query, [_in_state(word.text) for word in one.words]
    return query, [Beginning("", {}, few=False)]


def _in_state(state: str) -> Beginning:
    held = state in WITH_WORKER
    return Beginning("_with_worker" if held else "_in_state", {"state": state}, few=held)


def placed(tx: Tx, search: Wanted) -> Wanted:
    """With the jobs of the submissions that it names, and the numbers between which they are."""
    query = _numbered(tx, search.query, search.owner)
    least, before = _ids(query)
    return Wanted(
        query, search.owner, search.now, max(search.least, least), min(search.before, before)
    )


def _numbered(tx: Tx, query: q.Query, owner: str) -> q.Query:
    """With the numbers of the jobs of each submission, and all kinds of failures that look like
    those that are named."""
    if isinstance(query, q.Not):
        return q.Not(_numbered(tx, query.of, owner))
    if isinstance(query, q.All | q.Either):
        parts = tuple(_numbered(tx, one, owner) for one in query.of)
        return q.both(*parts) if isinstance(query, q.All) else q.Either(parts)
    if isinstance(query, q.Compared) and query.field == "submission":
        return _bound(tx, query)
    if isinstance(query, q.Numbers) and query.field == "submission":
        spans = tuple(_span(tx, number) for number in query.numbers)
        return spans[0] if len(spans) == 1 else q.Either(spans)
    if isinstance(query, q.Numbers) and query.field == "kind":
        return q.Numbers("kind", tuple(_alike(tx, query.numbers, owner)))
    return query


def _span(tx: Tx, number: int) -> q.Query:
    """The jobs of a submission; none, if there is no such."""
    found = submission_records.of_job(tx, number)
    if found is None:
        return q.Numbers("id", (-1,))
    first, last = found.first, found.first + found.jobs - 1
    return q.All((q.Compared("id", ">=", first), q.Compared("id", "<=", last)))


def _bound(tx: Tx, query: q.Compared) -> q.Query:
    """The jobs of the submissions before or after one."""
    found = submission_records.of_job(tx, int(query.number))
    first = found.first if found is not None else query.number
    last = found.first + found.jobs - 1 if found is not None else query.number
    return q.Compared("id", query.sign, first if query.sign in ("<", ">=") else last)


def _alike(tx: Tx, kinds: Iterable[int], owner: str) -> dict[int, None]:
    return {
        kind: None for one in kinds for (kind,) in tx.all("failure.alike", kind=one, owner=owner)
    }


def page(
    tx: Tx, query: q.Query, begin: Beginning, search: Wanted, values: Mapping[str, Any]
) -> list[m.JobRow]:
    """The newest jobs of a slice of ids that a search finds from one of its beginnings."""
    ask = {**values, **begin.values, "owner": search.owner}
    return views.jobs(tx, f"job.page{begin.suffix}", query, search.now, **ask)


def count(
    tx: Tx, query: q.Query, begin: Beginning, search: Wanted, values: Mapping[str, Any]
) -> list[tuple[str, str, int]]:
    """How many jobs of a slice a search finds, by owner and state."""
    ask = {**values, **begin.values, "owner": search.owner}
    rows = tx.search(f"job.count{begin.suffix}", query, search.now, **ask)
    return [(owner, state, n) for owner, state, n in rows]


def following(tx: Tx, search: Wanted, after: int, last: int, most: int) -> list[int]:
    """The next jobs after one that match, oldest first, up to the job `last`."""
    search = placed(tx, search)
    least, before = max(search.least, after + 1), min(search.before, last + 1)
    found = tx.search(
        "job.next",
        search.query,
        search.now,
        owner=search.owner,
        least=least,
        before=before,
        most=most,
    )
    return [job_id for (job_id,) in found]


def still(tx: Tx, search: Wanted, job_ids: Sequence[int]) -> frozenset[int]:
    """Of jobs that matched when they were found those that do so in this transaction, too."""
    query = _numbered(tx, search.query, search.owner)
    ids = msgspec.json.encode(job_ids).decode()
    found = tx.search("job.still", query, search.now, ids=ids)
    return frozenset(job_id for (job_id,) in found)
