"""What the dispatcher writes down as having happened: a type each kind.

The fields of a type are the object `data` of its row, of `dispatcher events` and of the route
`events`. Dispatchers of other versions and users' programs read them: names of kinds and fields
stay as they are, and a field that is added has a default. The number, the time, the job and the
worker stand beside them (`Entry`).
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import Struct

from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending, Phase


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event of whatever kind."""

    kind: ClassVar[str]


class Entry(Struct, frozen=True, kw_only=True):
    """An event in its place among all, in the order of their commits."""

    seq: int
    at: float
    job_id: int | None = None
    worker_id: int | None = None
    event: Event


class Submitted(Event, frozen=True):
    """Jobs of one queue, shape and state have come."""

    kind = "submitted"
    queue: str
    shape_id: int
    state: JobState
    jobs: int
    first: int
    """The first and the last job of the whole submission."""
    last: int


class StateChanged(Event, frozen=True):
    """A job has changed its state; the worker is the one that has it from now on."""

    kind = "state"
    state: JobState
    old: JobState
    queue: str
    shape_id: int
    attempt_nr: int | None = None
    """None only from a version before."""
    code: int | None = None
    """Of an end."""
    user: str | None = None
    """The owner, of a lease and of an end: a listener counts ends by user and reads no row."""
    alone: bool = False
    """Of a lease: nothing else is to run beside it."""
    by: str | None = None
    """Who cancelled it."""
    task_id: int | None = None
    """Of an end: the task whose job it is."""


class TaskChanged(Event, frozen=True):
    """A task has begun, has changed its state, or somebody has steered it."""

    kind = "task"
    task_id: int
    name: str
    state: str
    user: str
    reason: str = ""
    verb: str = ""
    """What was done to it, if that was by somebody."""
    by: str = ""


class ChildrenDue(Event, frozen=True):
    """A job has ended, and not all that depend on it know yet."""

    kind = "unfolding"


class ActionBegun(Event, frozen=True):
    """Somebody does something to many jobs."""

    kind = "action"
    action: int
    by: str
    verb: str
    query: str
    """Of which jobs; blank where they were named."""
    jobs: int | None = None
    """How many were counted."""
    to: str | None = None
    """The queue or the priority that they get."""


class ActionEnded(Event, frozen=True):
    """It is complete."""

    kind = "action_ended"
    action: int
    by: str
    verb: str
    done: int
    kept: int
    """Jobs that stayed as they were: they had ended, say."""


class Handled(Event, frozen=True):
    """Somebody did something to a job."""

    kind = "handled"
    by: str
    verb: str
    action: int
    """The number of an `ActionBegun`, which says of which jobs."""
    queue: str | None = None
    """Where it is now, and its place there, after `move`."""
    shape_id: int | None = None
    old: str | None = None
    new: str | None = None


class Retried(Event, frozen=True):
    """A job was submitted once more, as `new`."""

    kind = "retried"
    by: str
    new: int


class RetryOf(Event, frozen=True):
    """A job is the job `of` once more."""

    kind = "retry"
    by: str
    of: int


class Registering(Event, frozen=True):
    """Outputs of a job are due in the catalogue of data."""

    kind = "registering"
    files: int
    """How many."""


class OutputSettled(Event, frozen=True):
    """An output of a job needs nothing more from us."""

    file: str
    did: str
    """`scope:name`."""
    reason: str


class Registered(OutputSettled, frozen=True):
    """The catalogue has it."""

    kind = "registered"


class NotRegistered(OutputSettled, frozen=True):
    """The catalogue refused it."""

    kind = "not_registered"


class DatasetClosed(Event, frozen=True):
    """Nothing more comes into a data set."""

    kind = "dataset_closed"
    dataset: str


class WorkerChanged(Event, frozen=True):
    """A worker has come, moved on, or ended. What is None is not said."""

    kind = "worker"
    phase: Phase
    ending: Ending | None = None
    site: str | None = None
    """Where an ended worker was, as far as is known: its site, queue and host."""
    queue: str | None = None
    host: str | None = None
    back: bool = False
    """It had been taken for lost."""
    silent_s: float | None = None


class EdgeChanged(Event, frozen=True):
    """An edge has begun to serve a site, or serves it in another way."""

    kind = "edge"
    site: str
    instance: str
    epoch: int
    online: bool


class HostExcluded(Event, frozen=True):
    """A node gets no jobs until a time."""

    kind = "host"
    site: str
    host: str
    until: float
    reason: str


class HarvesterLine(Event, frozen=True):
    """A line of a Harvester's log, for operators."""

    kind = "harvester"
    instance: str
    module: str
    identifier: str
    level: str
    message: str


class TokensRevoked(Event, frozen=True):
    """A token is good no more, or those that a subject has had so far."""

    kind = "token_revoked"
    what: str
    """`id:…` or `sub:…`."""


class Unknown(Event, frozen=True):
    """An event that this version cannot read: a newer one wrote it."""

    kind = ""


KINDS: dict[str, type[Event]] = {
    one.kind: one
    for one in (
        Submitted,
        StateChanged,
        TaskChanged,
        ChildrenDue,
        ActionBegun,
        ActionEnded,
        Handled,
        Retried,
        RetryOf,
        Registering,
        Registered,
        NotRegistered,
        DatasetClosed,
        WorkerChanged,
        EdgeChanged,
        HostExcluded,
        HarvesterLine,
        TokensRevoked,
    )
}


def of_users(shown: m.Event) -> Entry:
    """An event that was read as users see it."""
    try:
        event = msgspec.convert(shown.data, KINDS[shown.kind])
    except (KeyError, msgspec.ValidationError):
        event = Unknown()
    return Entry(
        seq=shown.seq, at=shown.at, job_id=shown.job_id, worker_id=shown.worker_id, event=event
    )
