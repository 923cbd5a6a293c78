"""Sweeps: one entry of a file for each point of a grid of values. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ailurus.protocol.errors import AilurusError

MOST_VALUES = 1_000_000
"""Of one name."""


def swept(entry: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """One entry per point of `sweep`; `{seed}` in any text becomes the value of seed."""
    sweep = entry.pop("sweep", None)
    if sweep is None:
        yield entry
        return
    if not isinstance(sweep, Mapping) or not sweep:
        raise AilurusError(
            "expected names with lists", field=f"{where}.sweep", remedy="seed: [1, 2, 3]"
        )
    axes = [
        [(str(name), value) for value in _axis(axis, f"{where}.sweep.{name}")]
        for name, axis in sweep.items()
    ]
    for point in itertools.product(*axes):
        yield {key: filled(value, dict(point)) for key, value in entry.items()}


def _axis(axis: object, where: str) -> Sequence[object]:
    if (
        isinstance(axis, Mapping)
        and set(axis) <= {"from", "to", "step"}
        and {"from", "to"} <= set(axis)
    ):
        first, last, step = axis["from"], axis["to"], axis.get("step", 1)
        if all(type(number) is int for number in (first, last, step)) and step > 0:
            if (last - first) // step >= MOST_VALUES:
                raise AilurusError(
                    f"more than {MOST_VALUES} values", field=where, remedy="a larger step"
                )
            return range(first, last + 1, step)
    elif isinstance(axis, Sequence) and not isinstance(axis, str) and axis:
        return axis
    raise AilurusError("expected a list or whole numbers", field=where, remedy="{from: 1, to: 8}")


def filled(value: Any, point: Mapping[str, object]) -> Any:
    """A value with `{seed}` in each text replaced by what `point` has for seed."""
    if isinstance(value, str):
        for name, replacement in point.items():
            value = value.replace("{" + name + "}", str(replacement))
        return value
    if isinstance(value, Mapping):
        return {key: filled(one, point) for key, one in value.items()}
    return [filled(one, point) for one in value] if isinstance(value, list | tuple) else value


def unfilled(text: object, payloads: object, where: str) -> None:
    """Raise AilurusError if a job's text looks as if each payload had its own: `{n}` in it, where
    the payloads sweep over `n` and say it nowhere."""
    if not isinstance(text, str) or not isinstance(payloads, Mapping):
        return
    sweep = payloads.get("sweep")
    own = str({key: value for key, value in payloads.items() if key != "sweep"})
    for name in sweep if isinstance(sweep, Mapping) else ():
        word = f"{{{name}}}"
        if word in text and word not in own:
            raise AilurusError(
                f"{word} is not filled in here: a payload's own are the texts of `payloads`",
                field=where,
                remedy=f'payloads: {{arguments: ["{word}"], sweep: …}} adds it to `command`',
            )
