"""The operator's folder of descriptions: `QUEUE.json` of queues, `ddmendpoints.json` of storages, as CRIC has
them: what is said, or a map of names to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.submission import explained

STORAGES = "ddmendpoints"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}")


class _Queue(Struct, frozen=True):
    """What we read of a queue ourselves; the rest is its pilots' affair."""

    astorages: dict[str, list[str] | None] | None = None
    status: str | None = None
    timefloor: float | None = None
    corecount: int | None = None
    maxrss: float | None = None  # MB
    maxwdir: float | None = None  # MB
    maxtime: float | None = None  # seconds


def described(folder: Path | None, name: str) -> dict[str, Any]:
    """What the folder says of a queue; nothing, if it says nothing. Raises AilurusError."""
    said = _read(folder, name)
    inner = said.get(name)
    if isinstance(inner, dict) and len(said) == 1:
        said = inner
    _check(said, _Queue, f"{name}.json")
    return said


def storages(folder: Path | None) -> dict[str, Any]:
    """The storages that the folder describes, by name. Raises AilurusError."""
    said = _read(folder, STORAGES)
    _check(said, dict[str, dict[str, Any]], f"{STORAGES}.json")
    return said


def check(folder: Path | None) -> None:
    """Raise AilurusError for the first file that cannot be used."""
    if folder is None:
        return
    if not folder.is_dir():
        raise AilurusError(
            f"{folder} is no directory", field="--panda-queues", remedy="make it, or name another"
        )
    for file in sorted(folder.glob("*.json")):
        if file.stem == STORAGES:
            storages(folder)
        elif _NAME.fullmatch(file.stem):
            described(folder, file.stem)


def _read(folder: Path | None, name: str) -> dict[str, Any]:
    if folder is None or not _NAME.fullmatch(name):
        return {}
    try:
        text = (folder / f"{name}.json").read_bytes()
        return msgspec.json.decode(text, type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _bad(f"{name}.json", f"cannot be read: {error.strerror}") from None
    except msgspec.ValidationError:
        raise _bad(f"{name}.json", "is no JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"{name}.json", f"is not JSON: {error}") from None


def _check(said: dict[str, Any], kind: Any, file: str) -> None:
    try:
        msgspec.convert(said, kind)
    except msgspec.ValidationError as error:
        fault = explained(error)
        raise _bad(f"{file}: {fault.field}", fault.message) from None


def _bad(field: str, what: str) -> AilurusError:
    return AilurusError(what, field=field, remedy="mend it in the folder of --panda-queues")
