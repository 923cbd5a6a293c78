"""Messages between the dispatcher and the process of its catalogue: a line of JSON each way.

`answer` is the whole of what that process does with a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from dispatcher.ports import Catalogue, CatalogueUnavailable, Fault, NewFile


class Begin(Struct, frozen=True, kw_only=True, tag=True):
    """The first line: which plugin, and its options as the operator wrote them."""

    kind: str
    options: dict[str, Any] = {}


class Register(Struct, frozen=True, kw_only=True, tag=True):
    """Let the catalogue know files, with all that belongs to them."""

    files: tuple[NewFile, ...]


class Close(Struct, frozen=True, kw_only=True, tag=True):
    """Close data sets."""

    datasets: tuple[str, ...]


class Faults(Struct, frozen=True, kw_only=True, tag=True):
    """What could not be done; all else is done."""

    faults: tuple[Fault, ...] = ()


class NotNow(Struct, frozen=True, kw_only=True, tag=True):
    """The catalogue cannot be asked."""

    reason: str
    remedy: str = ""


Request = Register | Close
Answer = Faults | NotNow
LONGEST = 16 * 1024 * 1024
"""Bytes of a line."""


def answer(catalogue: Catalogue, request: Request) -> Answer:
    """Do what is asked."""
    try:
        match request:
            case Register(files=files):
                return Faults(faults=tuple(_registered(catalogue, files)))
            case Close(datasets=datasets):
                return Faults(faults=tuple(catalogue.close(datasets)))
    except CatalogueUnavailable as away:
        return NotNow(reason=away.reason, remedy=away.remedy)


def _registered(catalogue: Catalogue, files: Sequence[NewFile]) -> list[Fault]:
    """Step by step, each with the files for which the one before went well."""
    faults: dict[int, Fault] = {}
    steps: tuple[Callable[[Sequence[NewFile]], Sequence[Fault]], ...] = (
        catalogue.register,
        catalogue.attach,
        catalogue.keep,
    )
    for step in steps:
        left = [file for file in files if file.key not in faults]
        if left:
            faults.update(_by_key(step(left)))
    return list(faults.values())


def _by_key(faults: Sequence[Fault]) -> Mapping[int, Fault]:
    return {fault.key: fault for fault in faults}


encode = msgspec.json.Encoder().encode
decode_begin = msgspec.json.Decoder(Begin).decode
decode_request = msgspec.json.Decoder(Request).decode
decode_answer = msgspec.json.Decoder(Answer).decode
