"""From what a job file says of its payloads to item specifications. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import JobSpec
from ailurus.protocol.submission import explained, files_of, measured, read_input, read_output
from ailurus.protocol.sweeps import filled, swept
from ailurus.protocol.units import duration_s, size_mb

_UNITS: dict[str, tuple[str, Callable[[Any], float]]] = {
    "memory": ("memory_mb", size_mb),
    "walltime": ("walltime_s", lambda text: int(duration_s(text))),
    "estimate": ("estimate_s", duration_s),
}
_KNOWN = sorted({*ItemSpec.__struct_fields__, *_UNITS})
_OF_JOB = frozenset({*JobSpec.__struct_fields__, "disk"}.difference(_KNOWN))


def items_from(tree: object, where: str, base: str) -> Iterator[ItemSpec]:
    """The items of a list, each a mapping or one shell line, or of a mapping with a `sweep`.

    `base` is the directory against which relative paths of inputs are read. Raises AilurusError
    with the field, as `jobs[0].payloads[3].cores`.
    """
    if isinstance(tree, Mapping) and "sweep" in tree:
        for nr, entry in enumerate(swept(dict(tree), where)):
            yield item_from(entry, f"{where}[{nr}]", base, nr)
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        if not tree:
            raise AilurusError("no payloads", field=where, remedy="give at least one")
        for nr, entry in enumerate(tree):
            yield item_from(entry, f"{where}[{nr}]", base, nr)
    else:
        raise AilurusError(
            "expected a list, a `sweep`, or a file of JSON lines",
            field=where,
            remedy="payloads: [{arguments: [1]}, {arguments: [2]}]",
        )


def item_from(entry: object, where: str, base: str, number: int) -> ItemSpec:
    """One item as people write it; `{item}` in what it says of its files is its number. Raises
    AilurusError with the field."""
    if isinstance(entry, str):
        entry = {"command": entry}
    if not isinstance(entry, Mapping):
        raise AilurusError(
            "expected a mapping or a shell line", field=where, remedy="{arguments: [1, 2]}"
        )
    if shared := next((name for name in entry if name in _OF_JOB), ""):
        raise AilurusError(
            "no field of a payload",
            field=f"{where}.{shared}",
            remedy="say it of the job, for all of its payloads",
        )
    fields: dict[str, Any] = measured(entry, _UNITS, where)
    for kind, read in (("inputs", read_input), ("outputs", read_output)):
        if kind in fields:
            files = filled(fields[kind], {"item": number})
            fields[kind] = files_of(files, f"{where}.{kind}", base, read)
    # YAML reads `[1, 2]` and `N: 3` as numbers.
    if isinstance(fields.get("arguments"), list | tuple):
        fields["arguments"] = [_text(one) for one in fields["arguments"]]
    if isinstance(fields.get("environment"), Mapping):
        fields["environment"] = {k: _text(v) for k, v in fields["environment"].items()}
    try:
        item = msgspec.convert(fields, ItemSpec)
    except msgspec.ValidationError as error:
        raise explained(error, where, _KNOWN) from None
    if item.command and item.arguments:
        raise AilurusError(
            "a command of its own, and arguments",
            field=f"{where}.arguments",
            remedy="`arguments` are for the job's program: put them into the command",
        )
    return item


def _text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
