"""Slices of lists of items, as they are stored."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from dispatcher.ports import Tx
from dispatcher.rules.item_records import ListRecord


class Slice(Struct, frozen=True):
    """A slice ready to be stored; made off the transaction."""

    first: int
    items: int
    bare: int
    cores: int
    memory_mb: int
    gpus: int
    outputs: int
    inputs: int
    named: Mapping[str, int]
    """The item that names an output, by the name in storage; of globs nothing is known."""
    body: bytes
    digest: str


def grow(tx: Tx, found: ListRecord, part: Slice, *, now: float) -> None:
    """Add a slice to a list, at its end."""
    tx.run(
        "slice.add",
        list_id=found.list_id,
        first=part.first,
        items=part.items,
        digest=part.digest,
        body=part.body,
    )
    tx.run(
        "list.grow",
        list_id=found.list_id,
        items=found.items + part.items,
        bare=found.bare + part.bare,
        cores=max(found.cores, part.cores),
        memory_mb=max(found.memory_mb, part.memory_mb),
        gpus=max(found.gpus, part.gpus),
        outputs=part.outputs,
        inputs=part.inputs,
        bytes=len(part.body),
        now=now,
    )
