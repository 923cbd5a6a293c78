"""How a job file says what kind of machine a job needs. Pure.

`arch` may be one word, `gpus` a number or a mapping, and `architecture` is PanDA's field of that
name, in place of both.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec

from ailurus.protocol import panda_architecture
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.machine import EachGpu
from ailurus.protocol.units import size_mb

PANDA = "architecture"
"""What PanDA's field is called, here too."""
_OF_GPUS = ("count", "model", "memory", "cuda", "vendor")
_HERE = "each_gpu"


def read(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Fields of a job in place of those that say it shortly. PanDA's field is taken out. Raises
    AilurusError with the field."""
    found: dict[str, Any] = {}
    if PANDA in fields:
        if taken := sorted({"arch", _HERE} & fields.keys()):
            raise AilurusError(
                f"it says the same as {taken[0]!r}",
                field=f"{where}.{PANDA}",
                remedy="leave one of them out",
            )
        try:
            wanted = panda_architecture.read(fields.pop(PANDA))
        except AilurusError as error:
            field = ".".join(filter(None, (where, PANDA, error.field)))
            raise AilurusError(error.message, field=field, remedy=error.remedy) from None
        found["arch"] = list(wanted.arch)
        if wanted.gpu is not None:
            found |= {"gpus": fields.get("gpus") or 1, _HERE: msgspec.to_builtins(wanted.gpu)}
    if isinstance(fields.get("arch"), str):
        found["arch"] = [fields["arch"]]
    if isinstance(fields.get("gpus"), Mapping):
        found |= _gpus(fields, found, f"{where}.gpus")
    return found


def as_written(field: str, where: str) -> str:
    """A field in which something is wrong, where `gpus` is a mapping."""
    if field == f"{where}.gpus":
        return f"{where}.gpus.count"
    inside = field.replace(f"{where}.{_HERE}.memory_mb", f"{where}.gpus.memory")
    return inside.replace(f"{where}.{_HERE}", f"{where}.gpus")


def check(gpus: int, each: EachGpu | None, where: str) -> None:
    """Raise AilurusError for a job that says what each GPU must be and wants none."""
    if each is not None and not gpus:
        raise AilurusError(
            "it is said what each GPU must be, and none is asked for",
            field=f"{where}.gpus",
            remedy="say how many: `gpus: {count: 1, …}`",
        )


def _gpus(fields: Mapping[str, Any], found: Mapping[str, Any], where: str) -> dict[str, Any]:
    if _HERE in fields or _HERE in found:
        raise AilurusError(
            f"`{PANDA if _HERE in found else _HERE}` says what they must be already",
            field=where,
            remedy="give a number here, or leave the other out",
        )
    each = dict(fields["gpus"])
    for key in each:
        if key not in _OF_GPUS:
            near = difflib.get_close_matches(str(key), _OF_GPUS, n=1)
            known = f"known: {', '.join(_OF_GPUS)}"
            remedy = f"did you mean `{near[0]}`?" if near else known
            raise AilurusError("no such field", field=f"{where}.{key}", remedy=remedy)
    count = each.pop("count", 1)
    if "memory" in each:
        try:
            each["memory_mb"] = size_mb(each.pop("memory"))
        except AilurusError as error:
            raise AilurusError(
                error.message, field=f"{where}.memory", remedy=error.remedy
            ) from None
    if isinstance(each.get("model"), str):
        each["model"] = [each["model"]]
    # YAML reads `cuda: 12.4` as a number.
    if type(each.get("cuda")) in (int, float):
        each["cuda"] = str(each["cuda"])
    return {"gpus": count, **({_HERE: each} if each else {})}
