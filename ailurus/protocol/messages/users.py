"""Messages of users and their tools: submission, jobs and their logs, tokens."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from ailurus.protocol.fields import Key, Whole
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages.base import Answer, StrictRequest
from ailurus.protocol.messages.workers import Usage
from ailurus.protocol.states import JobState


class Submit(StrictRequest):
    """Jobs to run. `request_id` is made by the caller: repeated, it returns the first answer."""

    request_id: Key
    jobs: Annotated[tuple[JobSpec, ...], Meta(min_length=1, max_length=100_000)]


class Submitted(Answer):
    job_ids: tuple[int, ...]  # in the order of the request
    repeated: bool = False  # the request had been taken before


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
    next: int | None = None  # pass as `before` for the page after this one


class FileRecord(Answer):
    """A file that a finished job left in storage."""

    name: str
    url: str
    size: int
    adler32: str
    job_id: int = 0


class Sample(Answer):
    """One point of a job's resource curves."""

    at: float
    usage: Usage


class Attempt(Answer):
    """One run of a job, and where each second of it went."""

    attempt_nr: int
    worker_id: int
    state: str
    site: str = ""
    host: str = ""
    leased: float = 0.0
    started: float | None = None  # first update: stage-in begins
    running: float | None = None
    holding: float | None = None  # payload ended, stage-out begins
    ended: float | None = None
    exit_code: int | None = None
    code: int = 0
    diagnosis: str = ""
    remedy: str = ""
    runtime: str = ""  # the container runtime that ran it
    usage: Usage | None = None
    timing: dict[str, float] = field(default_factory=dict)
    stderr_tail: str = ""
    registered: float | None = None  # when its worker began


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
    """The job that this is a new try of, and who asked for it."""
    retry_by: str = ""
    retried_as: int | None = None
    """The new try of this job."""


class Why(Answer):
    """Why a job is where it is: one sentence, then what holds it back, with numbers."""

    job_id: int
    state: JobState
    verdict: str  # runs | done | now | later | never
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
    """Try final jobs again. `request_id` is made by the caller: repeated, it returns the first
    answer; a client of a version before sends none."""

    job_ids: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=100_000)]
    request_id: Key | None = None


class Cancel(StrictRequest):
    """Cancel jobs. `soft`: a running payload may end by itself, and its report still counts."""

    job_ids: Annotated[tuple[int, ...], Meta(min_length=1, max_length=100_000)]
    soft: bool = False


class Cancelled(Answer):
    cancelled: tuple[int, ...]
    already_done: tuple[int, ...]


class LogChunk(Answer):
    """A piece of a live or kept log. `offset` counts bytes; `end` is where the next chunk
    starts."""

    offset: int
    end: int
    text: str
    final: bool = False  # this is all: the attempt has ended, or none will ever begin
    skipped: int = 0  # bytes before `offset`, from what was asked for on, that are not kept
    size: int = 0  # of the whole stream, as far as is known
    kept: int = 0  # bytes of it that the dispatcher has
    attempt_nr: int = 0  # whose; 0: none has begun


class NewToken(StrictRequest):
    """A token to make. Scopes are words of the WLCG profile and ours; see `Scope`."""

    subject: Annotated[
        str, Meta(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.@:/-]+(?!\n)$")
    ]
    scopes: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=20)]
    lifetime_s: Annotated[int, Meta(ge=1, le=31_536_000)] = 86_400
    groups: Annotated[tuple[Key, ...], Meta(max_length=20)] = ()
    """The claim `wlcg.groups`: in which group the subject's jobs take turns."""


class Token(Answer):
    token: str
    expires: float


class Revoke(StrictRequest):
    """Tokens that are to be refused from now on: one by its id, the claim `jti`, or all that a
    subject has had so far. What is made later is good."""

    subject: Annotated[str, Meta(max_length=300)] = ""
    token_id: Annotated[str, Meta(max_length=200)] = ""
