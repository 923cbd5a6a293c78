"""Messages that show the whole system: queues, sites, troubles, failures, events."""

from __future__ import annotations

from typing import Any

from msgspec import field

from ailurus.protocol.messages.base import Answer
from ailurus.protocol.messages.edges import SiteDecision


class GroupRow(Answer):
    """A group of users in a queue."""

    name: str  # blank: who is in no group
    share: float  # beside the others' shares
    waiting: int  # jobs ready to run
    due: float = 0.0  # its part of what is handed out now, of 1
    # Cores, since the start of the dispatcher asked, while several groups waited.
    handed_out: int = 0


class QueueRow(Answer):
    """A queue: what waits in it and what serves it."""

    name: str
    states: dict[str, int]
    oldest_waiting: float | None = None  # when the oldest activated job became ready
    workers: int = 0
    sites: tuple[str, ...] = ()
    groups: tuple[GroupRow, ...] = ()  # where turns are taken between groups
    troubles: tuple[str, ...] = ()  # what is wrong with those that serve it


class Event(Answer):
    """Something that happened, in the order it was committed."""

    seq: int
    at: float
    kind: str  # submitted, state, worker, edge, ...
    job_id: int | None = None
    worker_id: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


class Events(Answer):
    events: tuple[Event, ...]
    last: int


class SiteRow(Answer):
    """A site as its edge last spoke of it."""

    site: str
    online: bool
    heard: bool  # whether its edge still has the lease
    queues: tuple[str, ...]
    workers: dict[str, int]  # by phase
    word: SiteDecision | None = None
    excluded: tuple[str, ...] = ()  # nodes that get no jobs
    last_heard: float = 0.0  # its edge


class Trouble(Answer):
    """Something that somebody should look at."""

    kind: str  # edge-silent, site-paused, site-held, pilots-lost, pilots-silent, nodes-excluded, unserved
    sentence: str
    remedy: str = ""
    since: float | None = None
    site: str = ""
    queues: tuple[str, ...] = ()  # that it concerns


class FailureRow(Answer):
    """Failed jobs that look alike: the same code, and diagnoses that differ in numbers and paths
    alone."""

    kind: int  # for the `kind` of a list of jobs: it gives exactly these
    code: int
    diagnosis: str  # of one of them
    jobs: int
    last: float  # when the last of them failed


class PilotSums(Answer):
    """All pilots that are heard of, together."""

    alive: int = 0
    silent: int = 0  # of these: late with their heartbeat
    cores: int = 0
    used: int = 0  # cores with a job


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
    troubles: tuple[Trouble, ...] = ()  # worst first
    failures: tuple[FailureRow, ...] = ()  # the largest kinds of those that still happen
    failure_kinds: int = 0  # how many there are in all
