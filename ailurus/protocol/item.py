"""An item: one payload of a job that carries many, and its life.

A pilot leases some at a time under its lease of the job. An item is the pair of its job and its
place in the list, its *index*; one run of it is that pair and the number of an attempt.

It waits until it is leased, runs, and ends. A failed attempt, one whose node was lost, and one that
the pilot gave back put it back to wait; so does the end of the job's own attempt. The first attempt
that finished wins, even one that had been given up; a failure counts only for the current one. An
item that has finished never changes again, and is counted once.

`TABLE` is the program, as that of `states.py` is for jobs; `docs/states.md` is drawn from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from ailurus.protocol.fields import Count, Name, Positive, Text, Value, Variable
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.payloads import DEFAULT_TRIES
from ailurus.protocol.states import Refusal

TOGETHER = 1000
"""Items of one slice, and of one lease."""
SLICE_LENGTH = 500_000
"""Characters of a slice, about."""
MOST_LOST = 5
"""Nodes that may be lost under an item: one more, and it may be what kills them."""


class ItemSpec(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """What an item asks for. What it leaves out is as its job says."""

    name: Name | None = None
    command: Annotated[Text, Meta(max_length=100_000)] = ""
    """One shell line, in place of the job's program."""
    arguments: Annotated[tuple[Value, ...], Meta(max_length=10_000)] = ()
    """Words that are added to the job's `command`, or given to its `script`, as they stand."""
    environment: Annotated[dict[Variable, Value], Meta(max_length=10_000)] = {}
    """Added to the job's."""
    inputs: Annotated[tuple[InputFile, ...], Meta(max_length=1000)] = ()
    outputs: Annotated[tuple[OutputFile, ...], Meta(max_length=1000)] = ()
    """What it leaves in the job's directory, which no other item may leave; taken from there with
    the outputs of the job, when all have ended. An item without one of them has failed."""
    cores: Annotated[int, Meta(ge=1, le=100_000)] = 1
    memory_mb: Positive | None = None
    """None: of the job's memory as large a share as of its cores."""
    gpus: Count = 0
    walltime_s: Annotated[int, Meta(ge=1, le=31_536_000)] | None = None
    estimate_s: Annotated[float, Meta(ge=0)] | None = None


def slices(items: Iterable[ItemSpec]) -> Iterator[list[ItemSpec]]:
    """Items in slices as they are uploaded: always the same ones of the same items."""
    part: list[ItemSpec] = []
    size = 0
    for item in items:
        length = len(item.command) + sum(map(len, item.arguments)) + 100 * len(item.inputs)
        length += 100 * len(item.outputs)
        length += sum(len(key) + len(value) for key, value in item.environment.items())
        if part and (len(part) == TOGETHER or size + length > SLICE_LENGTH):
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        yield part


class ItemState(StrEnum):
    """An item's state."""

    WAITING = "waiting"
    LEASED = "leased"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = ItemState
FINAL_ITEM = frozenset({S.FINISHED, S.FAILED, S.CANCELLED})
OPEN_ITEM = frozenset(S) - FINAL_ITEM
HELD_ITEM = frozenset({S.LEASED, S.RUNNING})
"""States in which a pilot has the item."""


class ItemOutcome(StrEnum):
    """How an attempt of an item ended."""

    FINISHED = "finished"
    FAILED = "failed"
    # Its node is gone: no fault of the item, until it becomes a habit.
    LOST = "lost"
    # It was not begun.
    RETURNED = "returned"


class ItemChange(StrEnum):
    """What can happen to an item."""

    LEASE = "lease"
    RUN = "run"
    FINISH = "finish"
    RETRY = "retry"
    RETURN = "return"
    FAIL = "fail"
    CANCEL = "cancel"
    AGAIN = "again"
    REDO = "redo"


class ItemStep(Struct, frozen=True):
    """Where a change of an item leads, and from which states."""

    to: ItemState
    start: frozenset[ItemState]
    when: str


C = ItemChange
ITEM_TABLE: dict[ItemChange, ItemStep] = {
    C.LEASE: ItemStep(S.LEASED, frozenset({S.WAITING}), "a pilot gets it: a new attempt begins"),
    C.RUN: ItemStep(S.RUNNING, frozenset({S.LEASED}), "its pilot says that it runs"),
    C.FINISH: ItemStep(
        S.FINISHED, OPEN_ITEM, "an attempt has finished, were it one that had been given up"
    ),
    C.RETRY: ItemStep(S.WAITING, HELD_ITEM, "its attempt failed, and another one is allowed"),
    C.RETURN: ItemStep(
        S.WAITING, HELD_ITEM, "its pilot gives it back, its node is lost, or the job's attempt ends"
    ),
    C.FAIL: ItemStep(S.FAILED, HELD_ITEM, "its attempt failed, and was the last one"),
    C.CANCEL: ItemStep(S.CANCELLED, OPEN_ITEM, "its job is cancelled, or fails before it has run"),
    C.AGAIN: ItemStep(S.WAITING, frozenset({S.FAILED, S.CANCELLED}), "its job is tried again"),
    C.REDO: ItemStep(
        S.WAITING,
        frozenset({S.FINISHED}),
        "its job has outputs, and what it left for them went with the job's attempt",
    ),
}


class ItemProgress(Struct, frozen=True, kw_only=True):
    """The part of an item that decides what may happen to it."""

    state: ItemState = S.WAITING
    attempt: int = 0
    """The attempt that runs or was leased last; the first is 1."""
    failures: int = 0
    lost: int = 0


P = TypeVar("P", bound=ItemProgress)


def item_after(state: ItemState, change: ItemChange) -> ItemState | Refusal:
    """The state that follows `state`, as the table has it."""
    step = ITEM_TABLE[change]
    if state in step.start:
        return step.to
    return Refusal.ALREADY_DONE if state in FINAL_ITEM else Refusal.ILLEGAL


def _changed(item: P, change: ItemChange, **more: int) -> P | Refusal:
    state = item_after(item.state, change)
    return state if isinstance(state, Refusal) else replace(item, state=state, **more)


def lease_item(item: P) -> P | Refusal:
    """The item leased to a pilot: a new attempt begins."""
    return _changed(item, C.LEASE, attempt=item.attempt + 1)


def run_item(item: P, attempt: int) -> P | Refusal:
    """The item after its pilot said that this attempt runs. Said twice, it changes nothing."""
    if item.state in FINAL_ITEM:
        return Refusal.ALREADY_DONE
    if attempt != item.attempt or item.state not in HELD_ITEM:
        return Refusal.BAD_ATTEMPT
    return item if item.state is S.RUNNING else _changed(item, C.RUN)


def conclude_item(
    item: P, outcome: ItemOutcome, attempt: int, *, transient: bool, tries: int | None
) -> P | Refusal:
    """The item after an attempt of it ended. `tries`: how often it may fail, whatever the failure;
    None: `DEFAULT_TRIES` times, and only if another attempt can cure it (`transient`)."""
    if item.state in FINAL_ITEM:
        return Refusal.ALREADY_DONE
    if not 1 <= attempt <= item.attempt:
        return Refusal.BAD_ATTEMPT
    if outcome is ItemOutcome.FINISHED:
        return _changed(item, C.FINISH)
    if attempt != item.attempt or item.state not in HELD_ITEM:
        return Refusal.BAD_ATTEMPT
    if outcome is ItemOutcome.RETURNED:
        return _changed(item, C.RETURN)
    if outcome is ItemOutcome.LOST:
        change = C.RETURN if item.lost < MOST_LOST else C.FAIL
        return _changed(item, change, lost=item.lost + 1)
    again = item.failures + 1 < (tries or DEFAULT_TRIES) and (transient or tries is not None)
    return _changed(item, C.RETRY if again else C.FAIL, failures=item.failures + 1)
