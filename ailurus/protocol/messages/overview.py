"""Messages that show the whole system: queues, sites, troubles, failures, events."""

from __future__ import annotations

from typing import Any, Final

from msgspec import field

from ailurus.protocol.messages.base import Answer
from ailurus.protocol.messages.edges import SiteDecision


class GroupRow(Answer):
    """A group of users in a queue."""

    # Blank: users without a group.
    name: str
    # Its weight relative to those of the other groups.
    share: float
    # Jobs ready to run.
    waiting: int
    # The fraction of leases that it gets now.
    due: float = 0.0
    # Cores leased since this dispatcher started, while several groups waited.
    handed_out: int = 0


class QueueRow(Answer):
    """A queue: the jobs that wait in it and the workers and sites that serve it."""

    name: str
    states: dict[str, int]
    # When the oldest activated job became ready.
    oldest_waiting: float | None = None
    workers: int = 0
    sites: tuple[str, ...] = ()
    # Empty where groups do not take turns.
    groups: tuple[GroupRow, ...] = ()
    # Troubles of the sites that serve it.
    troubles: tuple[str, ...] = ()


class Event(Answer):
    """Something that happened, in the order it was committed."""

    seq: int
    at: float
    # Submitted, state, worker, edge, ...
    kind: str
    job_id: int | None = None
    worker_id: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


class Events(Answer):
    events: tuple[Event, ...]
    last: int


class SiteRow(Answer):
    """A site as its edge last described it."""

    site: str
    online: bool
    # Whether its edge still has the lease.
    heard: bool
    queues: tuple[str, ...]
    # By phase.
    workers: dict[str, int]
    word: SiteDecision | None = None
    # Nodes that get no jobs for a while.
    excluded: tuple[str, ...] = ()
    # The last request of its edge.
    last_heard: float = 0.0


TROUBLES: Final = (
    "edge-silent",
    "site-paused",
    "site-held",
    "pilots-lost",
    "pilots-silent",
    "nodes-excluded",
    "unserved",
    "catalogue-away",
    "not-registered",
)


class Trouble(Answer):
    """A problem that an operator should look at."""

    # One of `TROUBLES`.
    kind: str
    sentence: str
    remedy: str = ""
    since: float | None = None
    site: str = ""
    # Queues that it affects.
    queues: tuple[str, ...] = ()


class FailureRow(Answer):
    """Failed jobs that look alike: the same code, and diagnoses that differ in numbers and paths
    alone."""

    # Pass as `kind` to list exactly these jobs.
    kind: int
    code: int
    # The diagnosis of one of them.
    diagnosis: str
    jobs: int
    # When the last of them failed.
    last: float
    first: float | None = None
    """When the first of them failed; None: before that was written down."""
    site: str = ""
    """Where; blank: not known, or no worker had them."""
    fault: str = ""
    """Whose it is, as its code tells: payload, input, site, node, us, unknown."""


class FailureCell(Answer):
    """Failed jobs with one code at one site."""

    code: int
    site: str
    """Blank: not known, or no worker had them."""
    jobs: int


class Failures(Answer):
    """Failed jobs by what went wrong and where, the most frequent kinds first."""

    kinds: tuple[FailureRow, ...]
    more: int
    """How many kinds there are beyond these."""
    jobs: int
    """In all of them."""
    cells: tuple[FailureCell, ...] = ()
    """The same by code and site, of all kinds."""


class PilotSums(Answer):
    """All pilots that send heartbeats, together."""

    alive: int = 0
    # Those of them that are late with their heartbeat.
    silent: int = 0
    cores: int = 0
    # Cores with a job.
    used: int = 0


class Overview(Answer):
    """The system in numbers: of all jobs for an administrator, of the caller's own for a user."""

    now: float
    version: str
    states: dict[str, int]
    queues: tuple[QueueRow, ...]
    workers: dict[str, int]
    finished_per_min: float
    failed_per_min: float
    sites: tuple[SiteRow, ...] = ()
    pilots: PilotSums = PilotSums()
    # Worst first.
    troubles: tuple[Trouble, ...] = ()
    # The kinds with most jobs, of those that still occur.
    failures: tuple[FailureRow, ...] = ()
    # How many kinds there are in all.
    failure_kinds: int = 0
