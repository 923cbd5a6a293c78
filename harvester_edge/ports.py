"""What the edge asks of a batch system. Every call ends within the site's command time-out."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NewType, Protocol

import msgspec
from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.worker import Ending, Phase

BatchId = NewType("BatchId", str)
Tag = NewType("Tag", str)
"""The name of an intent in the batch system: unique, and starts with the site's own prefix."""
DIGITS = "abcdefghijklmnopqrstuvwxyz234567"
MANY = "9"  # no digit: after it the tag tells the nodes of an allocation
MOST_NODES = len(DIGITS) ** 2 - 1


def nodes_of(tag: str) -> int:
    """Nodes of one allocation of that order. The tag itself says it, so that whoever finds its job knows
    of its workers, without book or accounts. Somebody else's name may look like one: it is of one node."""
    _, many, digits = tag.rpartition(MANY)
    if not many or len(digits) != 2 or not set(digits) <= set(DIGITS):
        return 1
    low, high = map(DIGITS.index, digits)
    return max(1, low + high * len(DIGITS))


def naming(nodes: int) -> str:
    """What a tag ends with that tells so many nodes."""
    high, low = divmod(nodes, len(DIGITS))
    return f"{MANY}{DIGITS[low]}{DIGITS[high]}" if nodes > 1 else ""


class BatchError(AilurusError):
    """The batch system did not answer, or not in a way we understand. Nothing is known from it."""


class Order(Struct, frozen=True, kw_only=True):
    """`count` equal workers, one a node, `nodes` of them in an allocation: worker `index` is node
    `index % nodes` of allocation `index // nodes`. It has the directory `place/index`, which exists: its
    stdout and stderr go there, as files of those names. What follows is of one node."""

    script: str
    place: Path
    count: int
    nodes: int = 1
    cores: int
    memory_mb: int
    disk_mb: int
    gpus: int
    walltime_s: int
    wait_s: int = 0
    """A worker that has not begun after so long is of no more use; 0: it always is."""
    avoid: tuple[str, ...] = ()
    """Nodes on which it should not run, by the names that pilots there give themselves."""
    extra: dict[str, Any] = {}
    """What its slot changes of the batch system's options."""


class Accepted(Struct, frozen=True):
    """The batch system has taken the order. An index without id is not known to be there."""

    ids: dict[int, BatchId]


class Rejected(Struct, frozen=True):
    """The batch system said no: no worker of the order exists or ever will."""

    reason: str


class Unclear(Struct, frozen=True):
    """Nobody knows. Only `find` decides, never a second submission."""

    reason: str


class Sighting(Struct, frozen=True, kw_only=True, gc=False):
    """A worker as the batch system shows it. `phase` None: in a state that we do not know."""

    batch_id: BatchId
    tag: Tag
    index: int
    phase: Phase | None
    ending: Ending | None = None
    detail: str = ""


MISLAID = "the batch system has it under another name"


def mislaid(one: Sighting, tag: Tag) -> Sighting:
    """A worker of that tag which the batch system shows only by its id, since something renamed it."""
    detail = f"{MISLAID}, {one.tag}: do `options.submit` or the site's own rules rename jobs?"
    return msgspec.structs.replace(one, tag=tag, detail=detail)


class Batch(Protocol):
    """A batch system. The class is made with (options, workers' directory, tag prefix), and with how
    long one of its commands may take."""

    poll_s: float
    """How often to look, unless the site says otherwise; so the next two."""
    settle_s: float
    """How long after a submission its absence begins to mean something."""
    grace_s: float
    """How long a worker must be absent from the listings to be lost."""
    index: str
    """The worker's index in its order, as a shell expression in the script."""
    most_nodes: int
    """Nodes that one allocation may have."""

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear: ...

    def listing(self) -> tuple[Sighting, ...]:
        """All of ours, by one command. Raises BatchError."""

    def find(self, tag: Tag, ids: Collection[BatchId], age_s: float) -> tuple[Sighting, ...]:
        """The workers of an order that was given `age_s` seconds ago, in the queue or in its history. `ids`:
        of its workers, for those that have lost the tag. Raises BatchError."""

    def cancel(self, ids: Collection[BatchId]) -> None:
        """End these; asked again while they last. Raises BatchError."""


class BatchClass(Protocol):
    """What a plugin names: `Options` is a Struct, so that a typo in a site file is found."""

    Options: type[Struct]

    def __call__(self, options: Any, root: Path, prefix: str, *, timeout_s: float) -> Batch: ...
