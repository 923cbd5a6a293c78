"""Messages between a worker and the dispatcher: registration, acquire, heartbeat, report and
log."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Raw, Struct, field

from ailurus.protocol.fields import Adler32, Count, Key, Label, LongText, Md5, Whole
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages.base import Answer, LenientRequest
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from ailurus.protocol.url import FileUrl
from ailurus.protocol.worker import Ending


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a payload's process tree used, from its start to now (kB as PanDA counts them)."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    rss_kb: Whole = 0
    max_rss_kb: Whole = 0
    max_pss_kb: Whole = 0
    read_bytes: Whole = 0
    write_bytes: Whole = 0
    disk_mb: Whole = 0
    processes: Whole = 0
    stdout_bytes: Whole = 0  # written in all; told when it has ended
    stderr_bytes: Whole = 0


class Register(LenientRequest, kw_only=True):
    """A pilot begins. `instance` is random per process: the same one may repeat itself, another one
    with the same bootstrap token is a stray and is told to exit."""

    instance: Key
    queue: Key
    site: Label = ""
    host: Label = ""
    total: Room
    version: Label = ""
    batch_id: Label = ""


class Registered(Answer):
    worker_id: int
    token: str  # the worker token, good for acquire, beat, release, log, bye
    heartbeat_s: float
    lease_s: float
    giver: str = ""  # the name of this dispatcher and its store: whose refusals concern the worker


class Acquire(LenientRequest):
    """Up to `count` jobs that fit in `room`, together. Waits up to `wait_s` for the first one.

    `ahead`: the room is not free yet; the job is staged in until it is.
    """

    request_id: Key
    room: Room
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0
    ahead: bool = False


class Assignment(Answer):
    """An attempt of a job, handed to a worker. The report key authorises its final report; the seal
    comes back with whatever ends the attempt, and no request ever holds it: who says it is the
    dispatcher that gave it, and not somebody who stands at its address."""

    job_id: int
    attempt_nr: int
    report_key: str
    spec: JobSpec
    keep_log: bool = False  # also if it finishes: a PanDA server wants it
    seal: str = ""  # empty: from a dispatcher that has none


class Acquired(Answer):
    jobs: tuple[Assignment, ...]
    drain: bool = False  # take nothing more, finish and exit
    prefetch: bool = False  # more work waits than workers: one job may be staged in ahead
    giver: str = ""


class RawAssignment(Answer):
    """`Assignment` as the dispatcher writes it: the specification is the bytes it was stored as."""

    job_id: int
    attempt_nr: int
    report_key: str
    spec: Raw
    seal: str = ""


class RawAcquired(Answer):
    jobs: tuple[RawAssignment, ...]
    drain: bool = False
    prefetch: bool = False
    giver: str = ""


class Update(LenientRequest):
    """An attempt that this worker holds, and how it goes. Being listed renews its lease."""

    job_id: Whole
    attempt_nr: Whole
    state: JobState  # sent, starting, running or holding
    since: float  # when that state began
    usage: Usage | None = None
    tail: LongText | None = None  # answer to a `tail` command


class Beat(LenientRequest, kw_only=True):
    """One heartbeat a worker: renews the leases of all jobs listed."""

    jobs: Annotated[tuple[Update, ...], Meta(max_length=10_000)] = ()
    room: Room
    draining: bool = False


class Action(StrEnum):
    """What the dispatcher may tell a worker to do with an attempt."""

    KILL = "kill"  # PanDA tobekilled
    SOFT_KILL = "soft_kill"  # let the payload end by itself: TERM, then wait
    TAIL = "tail"  # answer with the end of a file in the job's directory
    LOG = "log"  # somebody looks: send the live log


class Command(Answer):
    job_id: int
    attempt_nr: int
    action: Action
    argument: str = ""
    seal: str = ""  # of the attempt; only with it a pilot ends one that came with a seal


class BeatAnswer(Answer):
    """The answer to a heartbeat: when to come again, and what to do."""

    heartbeat_s: float
    commands: tuple[Command, ...] = ()
    drain: bool = False


class DoneFile(LenientRequest):
    """An output in storage, measured by the pilot while it wrote it."""

    name: Label
    url: FileUrl
    size: Whole
    adler32: Adler32
    md5: Md5 | None = None


class Report(LenientRequest):
    """The final word about an attempt. Sent until it is answered, by whoever has it on disk."""

    job_id: Whole
    attempt_nr: Whole
    report_key: Key
    finished: bool
    code: Count = 0  # PanDA pilotErrorCode
    diagnosis: LongText = ""
    remedy: LongText = ""
    transient: bool = False
    exit_code: Annotated[int, Meta(ge=-1000, le=1000)] | None = None
    files: Annotated[tuple[DoneFile, ...], Meta(max_length=10_000)] = ()
    usage: Usage | None = None
    # Seconds by phase: stage_in, wait, run, stage_out.
    timing: Annotated[dict[Label, float], Meta(max_length=1000)] = field(default_factory=dict)
    ended: float = 0.0
    host: Label = ""
    runtime: Label = ""
    stderr_tail: LongText = ""


class Reports(LenientRequest):
    """Final reports of any workers: each is authorised by its own key, no token is needed."""

    reports: Annotated[tuple[Report, ...], Meta(min_length=1, max_length=1000)]


class ReportVerdict(Answer):
    """Whether a report counted: `accepted`, `alreadydone`, `badattemptnr`, `badkey`. With the
    attempt's seal it is the last word: the report need not be sent again, and if it was not
    accepted its files are to be deleted. Without it nobody who knows the attempt has spoken."""

    job_id: int
    attempt_nr: int
    verdict: str
    seal: str = ""


class ReportVerdicts(Answer):
    verdicts: tuple[ReportVerdict, ...]


class AttemptKey(LenientRequest):
    job_id: Whole
    attempt_nr: Whole


class Release(LenientRequest):
    """Prefetched jobs that will not be started here, given back."""

    jobs: Annotated[tuple[AttemptKey, ...], Meta(min_length=1, max_length=1000)]


class LogPiece(LenientRequest):
    """A piece of a payload's output. The same piece may come twice: `offset` places it."""

    job_id: Whole
    attempt_nr: Whole
    stream: Annotated[str, Meta(pattern=r"^(stdout|stderr)(?!\n)$")]
    offset: Whole
    text: Annotated[str, Meta(max_length=1_000_000)]
    final: bool = False


class LogPieces(LenientRequest):
    pieces: Annotated[tuple[LogPiece, ...], Meta(min_length=1, max_length=1000)]


class Bye(LenientRequest):
    """The worker ends, and why."""

    ending: Ending
    diagnosis: LongText = ""
