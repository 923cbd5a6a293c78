"""What the fields of a filter say, which are older than the language of queries. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ailurus.protocol import query as q
from ailurus.protocol.api import Filter
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.query_text import parse
from ailurus.protocol.states import JobState


def meaning(ask: Filter) -> q.Query:
    """The query that a filter is. Raises AilurusError with the field that is wrong."""
    return q.both(parse(ask.query), *_older(ask))


def text(ask: Filter) -> str:
    """The same as one text. Raises AilurusError for a field that is wrong, and for a beginning of a
    name that the language cannot say."""
    said = " ".join(q.spoken(one) for one in _older(ask))
    if ask.query.strip():
        said = f"({ask.query}) {said}" if said else ask.query
    # Who acts on what a text finds is to meet no other jobs.
    if parse(said) != meaning(ask):
        raise AilurusError(
            f"{ask.name!r} is not as names of jobs begin",
            field="name",
            remedy="take what is before the first such sign, or the whole name",
        )
    return said


def _older(ask: Filter) -> Iterator[q.Query]:
    if states := [_state(word) for word in ask.state.split(",") if word]:
        yield q.Words("state", tuple(q.Word(one.value) for one in dict.fromkeys(states)))
    if ask.queue:
        yield q.Words("queue", (q.Word(ask.queue),))
    if ask.user:
        yield q.Words("user", (q.Word(ask.user),))
    if ask.name.endswith("*"):
        yield q.Words("name", (q.Word(ask.name[:-1], q.Wild.END),))
    elif ask.name:
        yield q.Words("name", (q.Word(ask.name),))
    if ask.code is not None:
        yield q.Numbers("code", (ask.code,))
    if ask.kind is not None:
        yield q.Numbers("kind", (ask.kind,))


def _state(word: str) -> JobState:
    try:
        return JobState(word)
    except ValueError:
        raise AilurusError(
            f"{word!r} is no state", field="state", remedy=", ".join(JobState)
        ) from None
