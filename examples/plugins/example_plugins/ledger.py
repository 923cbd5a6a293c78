"""A batch system without machines: a file with a line for each worker, all of which stay queued."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.worker import Ending, Phase
from harvester_edge.ports import (
    Accepted,
    Batch,
    BatchError,
    BatchId,
    Order,
    Rejected,
    Sighting,
    Tag,
    Unclear,
)


class LedgerOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`backend.options` of a site of kind `ledger`."""

    # Of one order; more are refused.
    most_workers: Annotated[int, Meta(ge=1)] = 100


class Ledger(Batch):
    """Its workers are the lines of `ledger`, in the edge's state directory."""

    Options = LedgerOptions
    poll_s, settle_s, grace_s = 1.0, 1.0, 5.0
    index = "0"

    def __init__(
        self, options: LedgerOptions, root: Path, prefix: str, *, timeout_s: float
    ) -> None:
        self._options, self._file, self._prefix = options, root / "ledger", prefix

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear:
        if order.count > self._options.most_workers:
            return Rejected(f"{order.count} workers in one order, the ledger takes less")
        ids = {index: BatchId(f"{tag}.{index}") for index in range(order.count)}
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(f"queued {tag} {index}\n" for index in ids)
        except OSError as error:
            # Some of the lines may be there: only `find` can tell.
            return Unclear(str(error))
        return Accepted(ids)

    def listing(self) -> tuple[Sighting, ...]:
        return tuple(one for one in self._sightings() if one.phase is not Phase.ENDED)

    def find(self, tag: Tag, ids: Collection[BatchId], age_s: float) -> tuple[Sighting, ...]:
        return tuple(one for one in self._sightings() if one.tag == tag)

    def cancel(self, ids: Collection[BatchId]) -> None:
        try:
            with self._file.open("a", encoding="utf-8") as file:
                for one in self.listing():
                    if one.batch_id in ids:
                        file.write(f"cancelled {one.tag} {one.index}\n")
        except OSError as error:
            raise BatchError(f"cannot write the ledger: {error}") from None

    def _sightings(self) -> tuple[Sighting, ...]:
        """The workers of this site, each as its last line has it. Raises BatchError."""
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise BatchError(f"cannot read the ledger: {error}") from None
        last: dict[tuple[str, str], str] = {}
        for line in text.splitlines():
            state, tag, index = line.split(" ")
            last[tag, index] = state
        return tuple(
            Sighting(
                batch_id=BatchId(f"{tag}.{index}"),
                tag=Tag(tag),
                index=int(index),
                phase=Phase.QUEUED if state == "queued" else Phase.ENDED,
                ending=None if state == "queued" else Ending.CANCELLED,
            )
            for (tag, index), state in last.items()
            if tag.startswith(self._prefix)
        )
