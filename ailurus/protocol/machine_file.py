"""How a job file says what kind of machine a job needs. Pure.

`arch` may be one word, `gpus` a number, a share of one (0.5) or a mapping with either, and
`architecture` is PanDA's field of that name, in place of both.
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
LEAST_SHARE, MOST_SHARE = 10, 90
"""Of a GPU, in hundredths."""
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
    count = found.get("gpus", fields.get("gpus"))
    if isinstance(count, float) and not count.is_integer():
        at = f"{where}.gpus.count" if isinstance(fields["gpus"], Mapping) else f"{where}.gpus"
        found |= _share(count, at)
    return found


def as_written(field: str, where: str) -> str:
    """A field in which something is wrong, where `gpus` is a mapping."""
    if field == f"{where}.gpus":
        return f"{where}.gpus.count"
    inside = field.replace(f"{where}.{_HERE}.memory_mb", f"{where}.gpus.memory")
    return inside.replace(f"{where}.{_HERE}", f"{where}.gpus")


def check(gpus: int, share: int, each: EachGpu | None, where: str) -> None:
    """Raise AilurusError for a job that says what each GPU must be and wants none, or that wants a
    share of several, or of one too small to count."""
    if share and (gpus != 1 or share < LEAST_SHARE):
        raise AilurusError(
            "a share is of one GPU, and at least a tenth of it",
            field=f"{where}.gpu_share",
            remedy=f"gpus: 1 with a gpu_share of {LEAST_SHARE} to {MOST_SHARE} hundredths",
        )
    if each is not None and not gpus:
        raise AilurusError(
            "it is said what each GPU must be, and none is asked for",
            field=f"{where}.gpus",
            remedy="say how many: `gpus: {count: 1, …}`",
        )


def _share(count: float, where: str) -> dict[str, Any]:
    """A share of a GPU in the job's fields: hundredths, and no fraction of these."""
    hundredths = round(count * 100) if 0 < count < 1 else 0
    if not LEAST_SHARE <= hundredths <= MOST_SHARE or abs(count * 100 - hundredths) > 1e-6:
        raise AilurusError(
            f"{count} is neither a number of GPUs nor a share of one",
            field=where,
            remedy="a whole number, or 0.1 to 0.9 with at most two digits for a share of one GPU",
        )
    return {"gpus": 1, "gpu_share": hundredths}


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
