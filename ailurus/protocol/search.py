"""Steps whose items a planner says: points of a search, with the loss of each. Pure.

The forms are iDDS's: a planner is given
`{"points": [[point, loss or null], …], "opt_space": …}` and answers with a list of points, of which
an empty one ends the search; an evaluation leaves `{"status": 0, "loss": 0.1}`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from math import isfinite
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.fields import Variable

MOST_POINTS = 10_000
"""Of one step."""
MOST_TOGETHER = 1000
"""Points of one answer."""
LONGEST_POINT = 4096
"""Bytes of one, as JSON."""
POINTS, NEXT = "points.json", "next.json"
"""What a job that plans is given, and what it leaves."""

Value = (
    Annotated[str, Meta(max_length=LONGEST_POINT)]
    | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | float
    | bool
)
Point = Annotated[dict[Variable, Value], Meta(min_length=1, max_length=100)]
_points = msgspec.json.Decoder(list[Point])
_encode = msgspec.json.Encoder(order="sorted").encode


class Planner(StrEnum):
    """Who says which points come next."""

    CLIENT = "client"
    """A program of the user, by the API."""
    JOB = "job"
    OPTUNA = "optuna"
    """The dispatcher runs it in a process of its own."""


class Dimension(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one value of a point may be, as in iDDS's `opt_space`."""

    method: Annotated[str, Meta(min_length=1, max_length=40)]
    dimension: Annotated[
        dict[Variable, Value | Annotated[tuple[Value, ...], Meta(max_length=1000)]],
        Meta(max_length=20),
    ]


class Stop(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a search ends before its last point."""

    loss: float | None = None
    """A point's loss is at most so."""
    unimproved: Annotated[int, Meta(ge=1, le=MOST_POINTS)] | None = None
    """So many points in a row were no better than the best."""


class Ask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Points that a planner says, as the losses of those before come in."""

    by: Planner
    max: Annotated[int, Meta(ge=1, le=MOST_POINTS)]
    """Points in all."""
    batch: Annotated[int, Meta(ge=1, le=MOST_TOGETHER)] = 1
    """How many the planner is asked for at once."""
    ahead: Annotated[int, Meta(ge=0, le=MOST_POINTS)] = 0
    """It is asked when no more than so many are not evaluated yet."""
    space: Annotated[dict[Variable, Dimension], Meta(max_length=100)] = {}
    first: Annotated[tuple[Point, ...], Meta(max_length=MOST_TOGETHER)] = ()
    """Points to begin with."""
    job: Annotated[dict[Variable, Any], Meta(max_length=100)] | None = None
    """Of the planner `job`: as in a job file."""
    stop: Stop = Stop()


_SPACE = "space: {x: {method: uniform, dimension: {low: 0, high: 1}}}"
METHODS = ("categorical", "loguniform", "uniform", "uniformint")
"""What Optuna's planner knows of a space."""


def check_ask(ask: Ask, where: str) -> None:
    """What must hold in it beside its form. Raises AilurusError."""
    if not ask.space and not ask.first:
        raise AilurusError(
            "there is no point to begin with",
            field=f"{where}.space",
            remedy=f"{_SPACE}, or first: [{{x: 0}}]",
        )
    if (ask.job is not None) != (ask.by is Planner.JOB):
        raise AilurusError(
            "the planner `job` has a job, and no other has",
            field=f"{where}.job",
            remedy="by: job, and job: {command: …}",
        )
    if ask.by is Planner.OPTUNA:
        if not ask.space:
            raise AilurusError(
                "Optuna needs a space",
                field=f"{where}.space",
                remedy=_SPACE,
            )
        for name, one in ask.space.items():
            _check_dimension(one, f"{where}.space.{name}")
    if len(ask.first) > ask.max:
        raise AilurusError(
            f"{len(ask.first)} points to begin with, of {ask.max} in all",
            field=f"{where}.first",
            remedy=f"at most {ask.max}",
        )
    keys = set(map(key, ask.first))
    if len(keys) < len(ask.first):
        raise AilurusError(
            "a point stands there twice", field=f"{where}.first", remedy="name each once"
        )
    for nr, point in enumerate(ask.first):
        try:
            check_points([point], ask.space, 1)
        except AilurusError as error:
            where = f"{where}.first[{nr}]"
            raise AilurusError(error.message, field=where, remedy=error.remedy) from None


def _check_dimension(one: Dimension, where: str) -> None:
    if one.method not in METHODS:
        raise AilurusError(
            f"Optuna's planner knows no {one.method!r}",
            field=f"{where}.method",
            remedy=", ".join(METHODS),
        )
    said = one.dimension
    if one.method == "categorical":
        choices = said.get("categories")
        if not isinstance(choices, tuple) or not choices:
            raise AilurusError(
                "no categories",
                field=f"{where}.dimension",
                remedy="dimension: {categories: [a, b]}",
            )
        return
    ends = said.get("low"), said.get("high")
    bounds = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    if (
        len(bounds) < len(ends)
        or bounds[0] >= bounds[1]
        or (one.method == "loguniform" and bounds[0] <= 0)
        or (one.method == "uniformint" and any(isinstance(end, float) for end in bounds))
    ):
        raise AilurusError(
            f"no bounds for {one.method}",
            field=f"{where}.dimension",
            remedy="dimension: {low: 1, high: 10}",
        )


def some_point(ask: Ask) -> dict[str, Value]:
    """A point as there may be, to try a template with."""
    if ask.first:
        return ask.first[0]
    return {name: _some(one.dimension) for name, one in ask.space.items()}


def _some(said: Mapping[str, Any]) -> Value:
    choices = said.get("categories")
    if isinstance(choices, tuple) and choices:
        first: Value = choices[0]
        return first
    low = said.get("low")
    return low if isinstance(low, int | float) else 0


def key(point: Mapping[str, Value]) -> bytes:
    """By which it is known again."""
    return _encode(point)


def points_from(text: str | bytes, space: Collection[str], most: int) -> list[dict[str, Value]]:
    """The points of a planner's answer. Raises AilurusError that says what is wrong with it."""
    try:
        points = _points.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise AilurusError(
            f"the answer is no list of points: {error}"[:300],
            remedy='[{"x": 0.5}], or [] at the end',
        ) from None
    check_points(points, space, most)
    return points


def check_points(points: Sequence[Mapping[str, Value]], space: Collection[str], most: int) -> None:
    """Raise AilurusError for points that are too many, too long, or of another space; a blank one
    has any."""
    if len(points) > most:
        raise AilurusError(
            f"there are {len(points)} points, and {most} were asked for",
            remedy="as many as asked for, or fewer",
        )
    for nr, point in enumerate(points, 1):
        if (length := len(_encode(point))) > LONGEST_POINT:
            raise AilurusError(
                f"point {nr} has {length} bytes, of at most {LONGEST_POINT}",
                remedy="let it name a file",
            )
        if space and set(point) != set(space):
            others = ", ".join(sorted(set(point) ^ set(space)))
            raise AilurusError(
                f"point {nr} is none of the space: {others}"[:300],
                remedy=f"a value for each of {', '.join(space)}, and no other"[:300],
            )


def fresh(points: Sequence[dict[str, Value]], known: Collection[bytes]) -> list[dict[str, Value]]:
    """Those that are not known yet, each once."""
    new = {key(point): point for point in points}
    return [point for one, point in new.items() if one not in known]


def question(
    points: Sequence[tuple[Mapping[str, Any], float | None]], space: Mapping[str, Dimension]
) -> bytes:
    """What a planner is given: all points with their losses, null where there is none, and the
    space."""
    return msgspec.json.encode({"points": points, "opt_space": space})


def loss_of(result: str) -> tuple[float | None, str]:
    """The loss in the result document of an evaluation; or None, and why there is none."""
    try:
        found = msgspec.json.decode(result) if result else None
    except (msgspec.MsgspecError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return None, "its result is no mapping with a `loss`"
    if (status := found.get("status", 0)) not in (0, False):
        why = str(found.get("message", ""))[:200]
        return None, f"its result has status {str(status)[:40]}{': ' * bool(why)}{why}"
    loss = found.get("loss")
    if isinstance(loss, bool) or not isinstance(loss, int | float):
        return None, "its result has no number as `loss`"
    try:
        value = float(loss)
    except OverflowError:
        value = float("inf")
    return (value, "") if isfinite(value) else (None, "the loss of its result is not finite")


def planner_entry(ask: Ask, wanted: int, upload: str, size: int) -> dict[str, Any]:
    """The entry of a job file for a job that plans: its template, with iDDS's words filled in and
    the points as an input."""
    entry = dict(ask.job or {})
    words = {"%IN": POINTS, "%OUT": NEXT, "%NUM_POINTS": str(wanted), "%MAX_POINTS": str(ask.max)}
    for word in ("command", "script"):
        if isinstance(text := entry.get(word), str):
            for one, value in words.items():
                text = text.replace(one, value)
            entry[word] = text
    inputs = entry.get("inputs", ())
    if not isinstance(inputs, list | tuple):
        return entry
    points = {"name": POINTS, "url": upload, "size": size}
    return {**entry, "inputs": [*inputs, points], "result": NEXT}
