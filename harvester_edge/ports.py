"""The port of a batch system: what the edge calls, and what a plugin answers.

Every call ends within the site's command time-out.
"""

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
# No digit: what follows it in a tag is the number of nodes of an allocation.
NODES_MARK = "9"
MAX_NODES = len(DIGITS) ** 2 - 1


def nodes_of(tag: str) -> int:
    """The number of workers in one allocation of an order with that tag, one a node.

    The tag itself carries it, so that a listing is enough to know the workers of a job. Another
    user's job name may look like a tag: it counts as one node.
    """
    _, mark, digits = tag.rpartition(NODES_MARK)
    if not mark or len(digits) != 2 or not set(digits) <= set(DIGITS):
        return 1
    low, high = map(DIGITS.index, digits)
    return max(1, low + high * len(DIGITS))


def nodes_suffix(nodes: int) -> str:
    """The end of a tag whose allocations have so many nodes with a worker each."""
    high, low = divmod(nodes, len(DIGITS))
    return f"{NODES_MARK}{DIGITS[low]}{DIGITS[high]}" if nodes > 1 else ""


class BatchError(AilurusError):
    """The batch system did not answer, or not in a way we understand. Nothing is known from it."""


class Order(Struct, frozen=True, kw_only=True):
    """`count` equal workers, `together` of them in an allocation of `nodes` nodes: one a node, or
    one in all, on the first node, if `head`.

    Worker `index` is that number `index % together` of allocation `index // together`. Its
    directory is `directory/index`, which exists: its stdout and stderr go there, as files of those
    names. Cores, memory, disk, GPUs and walltime are of one node.
    """

    script: str
    directory: Path
    count: int
    nodes: int = 1
    head: bool = False
    """A lost node, other than the first, must not end the allocation."""
    cores: int
    memory_mb: int
    disk_mb: int
    gpus: int
    walltime_s: int
    wait_s: int = 0
    """A worker that has not started after so long is of no more use; 0: it always is."""
    exclude_nodes: tuple[str, ...] = ()
    """Nodes on which it should not run, by the names that pilots there give themselves."""
    extra: dict[str, Any] = {}
    """Changes of the batch system's options by the worker's slot."""

    @property
    def together(self) -> int:
        """Workers of one allocation."""
        return 1 if self.head else self.nodes

    @property
    def allocations(self) -> int:
        return self.count // self.together


class Accepted(Struct, frozen=True):
    """The batch system has taken the order. A worker whose index has no id may not exist."""

    ids: dict[int, BatchId]


class Rejected(Struct, frozen=True):
    """The batch system refused: no worker of the order exists or ever will."""

    reason: str


class Unclear(Struct, frozen=True):
    """Whether the batch system has taken the order is not known. `find` decides, never a second
    submission."""

    reason: str


class Sighting(Struct, frozen=True, kw_only=True, gc=False):
    """A worker as the batch system lists it. `phase` None: in a state that the plugin does not
    know."""

    batch_id: BatchId
    tag: Tag
    index: int
    phase: Phase | None
    ending: Ending | None = None
    detail: str = ""


RENAMED = "the batch system has it under another name"


def renamed_job(one: Sighting, tag: Tag) -> Sighting:
    """A worker of `tag` that can only be found by its batch id, since something has renamed its
    job."""
    detail = f"{RENAMED}, {one.tag}: do `options.submit` or the site's own rules rename jobs?"
    return msgspec.structs.replace(one, tag=tag, detail=detail)


class Batch(Protocol):
    """A batch system. A plugin may inherit from this class for the defaults below."""

    poll_s: float
    """How often to list, unless the site says otherwise; so the next two."""
    settle_s: float
    """How long after a submission its absence begins to mean something."""
    grace_s: float
    """How long a worker must be absent from the listings to be lost."""
    index: str
    """The worker's index in its order, as a shell expression in the script."""
    batch_id: str = ""
    """The batch system's id of the worker, as a shell expression in the script; empty: the pilot
    knows the variable that has it, or there is none."""
    most_nodes: int = 1
    """Nodes that one allocation may have."""
    heads: bool = False
    """Whether it starts orders of `head`."""
    history: bool = True
    """Whether `find` can tell how a worker ended that has left the listing."""

    def submit(self, order: Order, tag: Tag) -> Accepted | Rejected | Unclear:
        """Submit an order under its tag, once. Raises nothing: a failure is an outcome, too."""
        ...

    def listing(self) -> tuple[Sighting, ...]:
        """All workers of the site, by one command. Raises BatchError."""
        ...

    def find(self, tag: Tag, ids: Collection[BatchId], age_s: float) -> tuple[Sighting, ...]:
        """The workers of an order that was submitted `age_s` seconds ago, in the queue or its
        history.

        `ids`: batch ids of its workers, for those whose job was renamed. Raises BatchError.
        """
        ...

    def cancel(self, ids: Collection[BatchId]) -> None:
        """End these workers; called again while they last. Raises BatchError."""
        ...

    def trial(self, order: Order, tag: Tag) -> str | None:
        """Why the batch system would never start a worker of the order; empty: it would; None: it
        cannot tell. Submits nothing. Raises BatchError."""
        return None


class BatchClass(Protocol):
    """A plugin's class. `Options` is a Struct, so that a typo in a site file is found."""

    Options: type[Struct]
    poll_s: float
    index: str
    batch_id: str
    most_nodes: int
    heads: bool

    def __call__(self, options: Any, root: Path, prefix: str, *, timeout_s: float) -> Batch:
        """Make one. `root`: the directory with a directory for each order, named by its tag.
        `prefix`: the beginning of the site's tags. `timeout_s`: how long one command may take."""
        ...
