"""Messages of users and their tools: submission, jobs and their logs, tokens."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from ailurus.protocol.fields import (
    Key,
    LabelName,
    LabelValue,
    Moment,
    Name,
    QueueName,
    Whole,
)
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages.base import Answer, StrictRequest
from ailurus.protocol.messages.files import FileRecord
from ailurus.protocol.messages.items import ItemCounts
from ailurus.protocol.messages.usage import Usage
from ailurus.protocol.messages.workers import CredentialKind, Staging
from ailurus.protocol.states import JobState


class Submit(StrictRequest):
    """Submits jobs. The caller makes `request_id`; a repeated request returns the first answer."""

    request_id: Key
    jobs: Annotated[tuple[JobSpec, ...], Meta(min_length=1, max_length=100_000)]
    # What the user calls all of it, and finds it by.
    name: Annotated[str, Meta(max_length=200)] = ""
    labels: Annotated[dict[LabelName, LabelValue], Meta(max_length=20)] = field(
        default_factory=dict
    )


class Submitted(Answer):
    # In the order of the request.
    job_ids: tuple[int, ...]
    # The request had been accepted before.
    repeated: bool = False
    submission: int | None = None
    """The number of all of it: that of its first job. None: an earlier version took it, or nothing
    was submitted."""


class JobRow(Answer):
    """A job in a list."""

    job_id: int
    name: str
    queue: str
    user: str
    state: JobState
    attempt_nr: int
    priority: int
    created: float
    changed: float
    worker_id: int | None = None
    code: int = 0
    diagnosis: str = ""


class JobPage(Answer):
    jobs: tuple[JobRow, ...]
    # Pass as `before` for the page after this one.
    next: int | None = None
    cut: bool = False
    """The time was up before the page was full: jobs from `next` on were not looked at."""


class Counted(Answer):
    """How many jobs match a query, now."""

    jobs: int
    states: dict[str, int]
    users: dict[str, int]
    """Of the owners with most of them."""
    owners: int
    """How many owners there are in all."""
    at: float
    last: int
    """The greatest id that there is: what is submitted later was not counted."""
    cut: bool = False
    """The time was up: there are at least so many."""


class Sample(Answer):
    """One point of a job's resource curves."""

    at: float
    usage: Usage


class Attempt(Answer):
    """One run of a job, and how long each of its phases took."""

    attempt_nr: int
    worker_id: int
    state: str
    site: str = ""
    host: str = ""
    leased: float = 0.0
    # The first update: stage-in begins.
    started: float | None = None
    running: float | None = None
    # The payload has ended: stage-out begins.
    holding: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    code: int = 0
    diagnosis: str = ""
    remedy: str = ""
    # The container runtime that ran it.
    runtime: str = ""
    usage: Usage | None = None
    # While it moves files, as its pilot said last.
    staging: Staging | None = None
    timing: dict[str, float] = field(default_factory=dict)
    stderr_tail: str = ""
    # Its result document, JSON text.
    result: str = ""
    # When its worker registered.
    registered: float | None = None


class JobDetail(Answer):
    """All that is known about a job."""

    row: JobRow
    spec: JobSpec
    attempts: tuple[Attempt, ...] = ()
    files: tuple[FileRecord, ...] = ()
    parents: tuple[int, ...] = ()
    children: tuple[int, ...] = ()
    activated: float | None = None
    retry_of: int | None = None
    """The job that this one retries, and the user who asked for it."""
    retry_by: str = ""
    retried_as: int | None = None
    """The job that retries this one."""
    items: ItemCounts | None = None
    submission: int | None = None
    """The submission that it is of; None: a task made it, or that was forgotten."""


class NewCredential(StrictRequest):
    """Keeps a credential of the caller under a name, in place of one that it has by now."""

    name: Name
    # A token (a JWT), or a proxy: certificates and key in PEM.
    secret: Annotated[str, Meta(min_length=1, max_length=65_536)]


class ForgetCredentials(StrictRequest):
    names: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=100)]


class CredentialRow(Answer):
    """What people see of a credential: never the secret."""

    name: str
    kind: CredentialKind
    # When it expires, in seconds since the epoch; None: it does not say.
    expires: float | None
    # Whom it is for, as it says itself.
    subject: str
    changed: float


class CredentialRows(Answer):
    credentials: tuple[CredentialRow, ...]


class Why(Answer):
    """Why a job is in its state: one sentence, then what it waits for, with numbers."""

    job_id: int
    state: JobState
    # An `Outlook`.
    verdict: str
    sentence: str
    blockers: tuple[str, ...] = ()
    remedy: str = ""


class WaitJobs(StrictRequest):
    """Waits for jobs; answered when all jobs are final, or after `timeout_s`."""

    job_ids: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=100_000)]
    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30.0


class JobStates(Answer):
    states: dict[int, JobState]


class Retry(StrictRequest):
    """Retries final jobs. The caller makes `request_id`; a repeated request returns the first
    answer. A client of an earlier version sends none."""

    job_ids: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=100_000)]
    request_id: Key | None = None


class Reregister(StrictRequest):
    """Has outputs of jobs that the catalogue of data refused registered again."""

    job_ids: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=10_000)]


class Reregistered(Answer):
    files: int
    """How many outputs are tried again."""


class Cancel(StrictRequest):
    """Cancels jobs. `soft`: a running payload may end by itself, and its report still counts."""

    job_ids: Annotated[tuple[int, ...], Meta(min_length=1, max_length=100_000)]
    soft: bool = False


class Cancelled(Answer):
    cancelled: tuple[int, ...]
    already_done: tuple[int, ...]


class Many(StrictRequest):
    """Something is done to many jobs: to those with these numbers, or to those that match a query
    and were there when they were counted. The caller makes `request_id`: who sends the request
    again, until the answer says that it has ended, goes on with it."""

    request_id: Key
    query: Annotated[str, Meta(max_length=2000)] = ""
    job_ids: Annotated[tuple[Whole, ...], Meta(max_length=100_000)] = ()
    last: Whole | None = None
    """As `Counted` said: no later job is meant. None: all that are there now."""
    at: Moment | None = None
    """As `Counted` said: ages are those of then."""
    jobs: Whole | None = None
    """How many were counted, for the records."""


class CancelMany(Many):
    """They are cancelled."""


class RetryMany(Many):
    """They are submitted anew, if they have ended."""


class ChangeMany(Many, kw_only=True):
    """Those that wait get another place in the line."""

    verb: Annotated[str, Meta(pattern=r"^(priority|move|hold|release)(?!\n)$")]
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] | None = None
    """Of the verb `priority`."""
    queue: QueueName | None = None
    """Of the verb `move`."""


class Undo(StrictRequest):
    """The jobs that an action has cancelled while they waited are submitted anew. Asked again, it
    goes on, and does nothing twice."""

    action: Whole
    """Its number, as the answer to the cancellation said."""


class Acted(Answer):
    """How far something is that is done to many jobs."""

    action: int
    """Its number, as events have it."""
    verb: str
    done: int
    kept: int
    """Jobs that stayed as they were: they had ended, say."""
    ended: bool
    job_ids: tuple[int, ...] = ()
    """Those to which something was done since this request came."""
    new_ids: tuple[int, ...] = ()
    """Of a retry: the new try of each."""
    reasons: tuple[str, ...] = ()
    """Why some stayed as they were, where there is more to say."""
    undo: int = 0
    """Of a cancellation: how many waited, which `Undo` brings back."""
    undo_until: float | None = None
    """As long as that can be asked for."""


class LogChunk(Answer):
    """A piece of a live or stored log. `offset` counts bytes; `end` is where the next piece
    starts."""

    offset: int
    end: int
    text: str
    # No more will follow: the attempt has ended, or none will ever begin.
    final: bool = False
    # Bytes between the requested offset and `offset` that are not stored.
    skipped: int = 0
    # Bytes of the whole stream, as far as is known.
    size: int = 0
    # Bytes of it that the dispatcher has stored.
    kept: int = 0
    # The attempt that wrote it; 0: none has begun.
    attempt_nr: int = 0


class NewToken(StrictRequest):
    """Asks for a token. Scopes are those of the WLCG profile and ours; see `Scope`."""

    subject: Annotated[
        str, Meta(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.@:/-]+(?!\n)$")
    ]
    scopes: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=20)]
    lifetime_s: Annotated[int, Meta(ge=1, le=31_536_000)] = 86_400
    groups: Annotated[tuple[Key, ...], Meta(max_length=20)] = ()
    """The claim `wlcg.groups`: the group whose turns the subject's jobs take."""


class Token(Answer):
    token: str
    expires: float


class Me(Answer):
    """Who the caller is, and what its token allows."""

    subject: str
    scopes: tuple[str, ...]


class Revoke(StrictRequest):
    """Revokes a token by its id, the claim `jti`, or all tokens of a subject so far. Tokens made
    later are valid."""

    subject: Annotated[str, Meta(max_length=300)] = ""
    token_id: Annotated[str, Meta(max_length=200)] = ""
