"""One plugin of each kind, as small as its port allows. Each implements the port of
`harvester_edge.ports` or `pilot.ports`, where what a method promises is said."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Sequence
from hashlib import md5 as new_md5
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.url import Url
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
from pilot.ports import Check, Container, ContainerSetup, Copied, Direct, JobError, Sandbox


class LedgerOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`backend.options` of a site of kind `ledger`."""

    most_workers: Annotated[int, Meta(ge=1)] = 100
    """Of one order; more are refused."""


class Ledger(Batch):
    """A batch system without machines: a file with a line for each worker, all of which stay
    queued."""

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


class Text:
    """`text://anything/WORDS`: a file whose content is the last part of its own URL. Nothing is
    written."""

    def __init__(self, **site: object) -> None:
        """`site`: what the site file says about storage, of which this needs nothing."""

    def allowed(self, url: Url) -> None:
        """Every such URL is, since it leads nowhere."""

    def get(self, url: Url, into: int, check: Check, *, md5: bool) -> Copied:
        content = str(url).rpartition("/")[2].encode()
        os.write(into, content)
        return Copied(
            size=len(content),
            adler32=f"{zlib.adler32(content):08x}",
            md5=new_md5(content, usedforsecurity=False).hexdigest() if md5 else None,
        )

    def put(self, source: int, url: Url, check: Check) -> Copied:
        raise JobError(Code.STORAGE_FORBIDDEN, f"{url} can only be read", transient=False)

    def delete(self, url: Url) -> None:
        """There is nothing to remove."""


class Lowest(Container):
    """No container: the payload runs as the pilot's user, after everything else on the node."""

    name = "lowest"
    private = False
    depth = 0
    status_fd = 0

    def __init__(self, setup: ContainerSetup) -> None:
        if not setup.bare:
            raise AilurusError("this site does not allow payloads outside a container")

    def tmp(self, directory: str) -> str:
        return directory

    def accepts(self, spec: JobSpec) -> None:
        if spec.container:
            raise JobError(Code.NOT_IMPLEMENTED, "no image can be started", field="container")

    def ran(self, status: str) -> bool:
        return True

    def wrap(self, argv: Sequence[str], box: Sandbox) -> Direct:
        return Direct(
            argv=["/usr/bin/nice", "-n", "19", *argv],
            environment=box.environment,
            directory=box.directory,
        )
