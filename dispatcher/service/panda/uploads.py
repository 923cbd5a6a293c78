"""Files that Harvester leaves with its server: logs, which grow, and checkpoints of searches.

They are small and few, and kept in the store like everything that only PanDA's clients report.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64decode, b64encode

from dispatcher.ports import Tx
from dispatcher.rules import worker_records
from dispatcher.service import Service

# Bytes of a file; of a log, the end is kept.
LONGEST = 1_000_000
_KIND = "file"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}")
_CHECKPOINT = re.compile(r"\d{1,18}_\d{1,18}")


async def put(service: Service, name: str, data: bytes) -> str:
    """Keep a file; returns the name under which it is kept. Raises ValueError for a name or size
    that is not kept."""
    named = _named(name)
    if len(data) > LONGEST:
        raise ValueError(f"Exceeded size limit {len(data)}>{LONGEST}")
    await service.store.write(lambda tx: _keep(tx, named, data, service.state.now()))
    return named


async def append(service: Service, name: str, data: bytes) -> None:
    """Add a packed piece to a log. Raises ValueError for what is not packed or has no name."""
    engine = zlib.decompressobj()
    try:
        piece = engine.decompress(data, LONGEST)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    named = _named(name)

    def change(tx: Tx) -> None:
        _keep(tx, named, ((_kept(tx, named) or b"") + piece)[-LONGEST:], service.state.now())

    await service.store.write(change)


async def get(service: Service, name: str) -> bytes | None:
    """The content of a file, if there is one of that name."""
    return await service.store.read(lambda tx: _kept(tx, name[:200]))


async def remove(service: Service, name: str) -> bool:
    """Forget a file. False: there was none."""

    def change(tx: Tx) -> bool:
        known = _kept(tx, name[:200]) is not None
        tx.run("fact.drop", kind=_KIND, owner="", name=name[:200])
        return known

    return await service.store.write(change)


def checkpoint(task_and_point: str) -> str:
    """The name under which a checkpoint is kept. Raises ValueError for what is none."""
    name = task_and_point.rsplit("/", 1)[-1]
    if not _CHECKPOINT.fullmatch(name):
        raise ValueError("Failed to extract task and sub IDs")
    return f"hpo_cp_{name}"


def _named(name: str) -> str:
    last = name.rsplit("/", 1)[-1]
    if not _NAME.fullmatch(last):
        raise ValueError("the file has no name that could be kept")
    return last


def _kept(tx: Tx, name: str) -> bytes | None:
    fact = worker_records.find_fact(tx, _KIND, "", name)
    return b64decode(fact.data) if fact else None


def _keep(tx: Tx, name: str, data: bytes, now: float) -> None:
    tx.run("fact.put", kind=_KIND, owner="", name=name, at=now, data=b64encode(data).decode())
