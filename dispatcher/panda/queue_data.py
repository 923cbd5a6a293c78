"""The operator's folder of queue and storage data in CRIC's form: `QUEUE.json`,
`ddmendpoints.json`.

A queue's file holds its data, or a map of its name to them. Site files there (`SITE.yaml`) describe
the queues of their slots; what is in CRIC's form comes before them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.submission import explained
from dispatcher.panda import site_files

STORAGES = "ddmendpoints"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}")


class _Queue(Struct, frozen=True):
    """The keys that the dispatcher reads; all are sent to the queue's pilots."""

    astorages: dict[str, list[str] | None] | None = None
    acopytools: dict[str, list[str] | None] | None = None
    status: str | None = None
    timefloor: float | None = None
    corecount: int | None = None
    # MB
    maxrss: float | None = None
    # MB
    maxwdir: float | None = None
    # seconds
    maxtime: float | None = None


def queue_data(folder: Path | None, name: str) -> dict[str, Any]:
    """The data of a queue; empty where the folder has none. Raises AilurusError."""
    data = _read(folder, name)
    inner = data.get(name)
    if isinstance(inner, dict) and len(data) == 1:
        data = inner
    _check(data, _Queue, f"{name}.json")
    return {**site_files.queue_data(folder, name), **data}


def storages(folder: Path | None) -> dict[str, Any]:
    """The data of storages, by name. Raises AilurusError."""
    data = _read(folder, STORAGES)
    _check(data, dict[str, dict[str, Any]], f"{STORAGES}.json")
    return {**site_files.storages(folder), **data}


def check(folder: Path | None) -> None:
    """Raise AilurusError for the first file that cannot be used."""
    if folder is None:
        return
    if not folder.is_dir():
        raise AilurusError(
            f"{folder} is no directory", field="--panda-queues", remedy="make it, or name another"
        )
    site_files.check(folder)
    for file in sorted(folder.glob("*.json")):
        if file.stem == STORAGES:
            storages(folder)
        elif _NAME.fullmatch(file.stem):
            queue_data(folder, file.stem)


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


def _check(data: dict[str, Any], kind: Any, file: str) -> None:
    try:
        msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        fault = explained(error)
        raise _bad(f"{file}: {fault.field}", fault.message) from None


def _bad(field: str, what: str) -> AilurusError:
    return AilurusError(what, field=field, remedy="mend it in the folder of --panda-queues")
