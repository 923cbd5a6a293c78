"""What travels over the native API: one type a message. Times are seconds since 1970 (UTC)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, dataclass_transform

from msgspec import Meta, Raw, Struct, field

from ailurus.protocol.job import Adler32, Count, JobSpec, Md5, Room, Shape, Whole
from ailurus.protocol.states import JobState
from ailurus.protocol.url import FileUrl
from ailurus.protocol.worker import Ending, Outcome, Phase

Key = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+(?!\n)$",
        description="letters, digits and signs of ASCII, without spaces",
    ),
]
Text = Annotated[str, Meta(max_length=8000)]
Label = Annotated[str, Meta(max_length=500)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Ask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something a user sends: an unknown field is an error, not a typo unnoticed."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class OpenAsk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something a pilot or an edge sends: what a newer one says beside is not understood, and no error."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Answer(Struct, frozen=True, kw_only=True):
    """Something the dispatcher says: a client ignores what it does not know yet."""


class Problem(Answer):
    """An error (RFC 9457 application/problem+json), with the field and what would help."""

    title: str
    status: int
    detail: str = ""
    field: str = ""
    remedy: str = ""
    type: str = "about:blank"
    # The dispatcher's name, as in `Registered.giver`; empty: it does not know whom it refuses.
    giver: str = ""


# --- users -----------------------------------------------------------------------------------------


class Submit(Ask):
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
    timing: dict[str, float] = {}
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


class WaitJobs(Ask):
    """Ask for states; answered when all jobs are final, or after `timeout_s`."""

    job_ids: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=100_000)]
    timeout_s: Annotated[float, Meta(ge=0, le=60)] = 30.0


class JobStates(Answer):
    states: dict[int, JobState]


class Retry(Ask):
    """Try final jobs again. `request_id` is made by the caller: repeated, it returns the first answer;
    a client of a version before sends none."""

    job_ids: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=100_000)]
    request_id: Key | None = None


class Cancel(Ask):
    """Cancel jobs. `soft`: a running payload may end by itself, and its report still counts."""

    job_ids: Annotated[tuple[int, ...], Meta(min_length=1, max_length=100_000)]
    soft: bool = False


class Cancelled(Answer):
    cancelled: tuple[int, ...]
    already_done: tuple[int, ...]


class LogChunk(Answer):
    """A piece of a live or kept log. `offset` counts bytes; `end` is where the next chunk starts."""

    offset: int
    end: int
    text: str
    final: bool = False  # this is all: the attempt has ended, or none will ever begin
    skipped: int = 0  # bytes before `offset`, from what was asked for on, that are not kept
    size: int = 0  # of the whole stream, as far as is known
    kept: int = 0  # bytes of it that the dispatcher has
    attempt_nr: int = 0  # whose; 0: none has begun


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


class WorkerRow(Answer, kw_only=True, gc=False):
    """A worker as the dispatcher knows it: by registration, heartbeats and the edge's word."""

    worker_id: int
    site: str
    queue: str
    host: str
    phase: Phase
    ending: Ending | None = None
    registered: float
    last_heard: float
    room: Room
    total: Room
    jobs: tuple[int, ...] = ()
    intent: str = ""
    index: int = 0
    batch_id: str = ""
    version: str = ""
    diagnosis: str = ""


class Event(Answer):
    """Something that happened, in the order it was committed."""

    seq: int
    at: float
    kind: str  # submitted, state, worker, edge, ...
    job_id: int | None = None
    worker_id: int | None = None
    data: dict[str, Any] = {}


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
    word: SiteWord | None = None
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
    """Failed jobs that look alike: the same code, and diagnoses that differ in numbers and paths alone."""

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


class NewToken(Ask):
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


class Revoke(Ask):
    """Tokens that are to be refused from now on: one by its id, the claim `jti`, or all that a subject
    has had so far. What is made later is good."""

    subject: Annotated[str, Meta(max_length=300)] = ""
    token_id: Annotated[str, Meta(max_length=200)] = ""


# --- pilots ----------------------------------------------------------------------------------------


class Register(OpenAsk, kw_only=True):
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


class Acquire(OpenAsk):
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


class AssignmentSent(Answer):
    """`Assignment` as the dispatcher writes it: the specification is the bytes it was stored as."""

    job_id: int
    attempt_nr: int
    report_key: str
    spec: Raw
    seal: str = ""


class AcquiredSent(Answer):
    jobs: tuple[AssignmentSent, ...]
    drain: bool = False
    prefetch: bool = False
    giver: str = ""


class Update(OpenAsk):
    """An attempt that this worker holds, and how it goes. Being listed renews its lease."""

    job_id: Whole
    attempt_nr: Whole
    state: JobState  # sent, starting, running or holding
    since: float  # when that state began
    usage: Usage | None = None
    tail: Text | None = None  # answer to a `tail` command


class Beat(OpenAsk, kw_only=True):
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


class Beaten(Answer):
    """The answer to a heartbeat: when to come again, and what to do."""

    heartbeat_s: float
    commands: tuple[Command, ...] = ()
    drain: bool = False


class DoneFile(OpenAsk):
    """An output in storage, measured by the pilot while it wrote it."""

    name: Label
    url: FileUrl
    size: Whole
    adler32: Adler32
    md5: Md5 | None = None


class Report(OpenAsk):
    """The final word about an attempt. Sent until it is answered, by whoever has it on disk."""

    job_id: Whole
    attempt_nr: Whole
    report_key: Key
    finished: bool
    code: Count = 0  # PanDA pilotErrorCode
    diagnosis: Text = ""
    remedy: Text = ""
    transient: bool = False
    exit_code: Annotated[int, Meta(ge=-1000, le=1000)] | None = None
    files: Annotated[tuple[DoneFile, ...], Meta(max_length=10_000)] = ()
    usage: Usage | None = None
    timing: Annotated[
        dict[Label, float], Meta(max_length=1000)
    ] = {}  # seconds by phase: stage_in, wait, run, stage_out
    ended: float = 0.0
    host: Label = ""
    runtime: Label = ""
    stderr_tail: Text = ""


class Reports(OpenAsk):
    """Final reports of any workers: each is authorised by its own key, no token is needed."""

    reports: Annotated[tuple[Report, ...], Meta(min_length=1, max_length=1000)]


class Verdict(Answer):
    """Whether a report counted: `accepted`, `alreadydone`, `badattemptnr`, `badkey`. With the attempt's
    seal it is the last word: the report need not be sent again, and if it was not accepted its files are
    to be deleted. Without it nobody who knows the attempt has spoken."""

    job_id: int
    attempt_nr: int
    verdict: str
    seal: str = ""


class Verdicts(Answer):
    verdicts: tuple[Verdict, ...]


class HeldJob(OpenAsk):
    job_id: Whole
    attempt_nr: Whole


class Release(OpenAsk):
    """Prefetched jobs that will not be started here, given back."""

    jobs: Annotated[tuple[HeldJob, ...], Meta(min_length=1, max_length=1000)]


class LogPiece(OpenAsk):
    """A piece of a payload's output. The same piece may come twice: `offset` places it."""

    job_id: Whole
    attempt_nr: Whole
    stream: Annotated[str, Meta(pattern=r"^(stdout|stderr)(?!\n)$")]
    offset: Whole
    text: Annotated[str, Meta(max_length=1_000_000)]
    final: bool = False


class LogPieces(OpenAsk):
    pieces: Annotated[tuple[LogPiece, ...], Meta(min_length=1, max_length=1000)]


class Bye(OpenAsk):
    """The worker ends, and why."""

    ending: Ending
    diagnosis: Text = ""


class Done(Answer):
    ok: bool = True


# --- relays ----------------------------------------------------------------------------------------


class RelayedBeat(Ask):
    worker_id: Whole
    beat: Beat


class RelayedRelease(Ask):
    worker_id: Whole
    release: Release


class RelayedLog(Ask):
    worker_id: Whole
    log: LogPieces


class RelayedBye(Ask):
    worker_id: Whole
    bye: Bye


class RelayTell(Ask):
    """What workers of a site have told their relay. It may all come twice.

    `lost`: attempts whose worker the relay hears no more; they are tried again.
    """

    site: Key
    beats: Annotated[tuple[RelayedBeat, ...], Meta(max_length=10_000)] = ()
    releases: Annotated[tuple[RelayedRelease, ...], Meta(max_length=10_000)] = ()
    logs: Annotated[tuple[RelayedLog, ...], Meta(max_length=1000)] = ()
    lost: Annotated[tuple[HeldJob, ...], Meta(max_length=10_000)] = ()
    byes: Annotated[tuple[RelayedBye, ...], Meta(max_length=10_000)] = ()


class RelayedWord(Answer):
    """What a worker is told. None: it has ended, and is to go."""

    worker_id: int
    told: Beaten | None


class RelayTold(Answer):
    workers: tuple[RelayedWord, ...]
    heartbeat_s: float
    giver: str = ""


class RelayedAcquire(Ask):
    worker_id: Whole
    ask: Acquire


class RelayAcquire(Ask):
    """Acquires of many workers. Answered when the first one has got something, at the latest after
    `wait_s`. One that is not in the answer is to be asked again, with the same request id."""

    site: Key
    asks: Annotated[tuple[RelayedAcquire, ...], Meta(min_length=1, max_length=1000)]
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0


class RelayedJobs(Answer):
    """None: the worker has ended."""

    worker_id: int
    got: Acquired | None


class RelayAcquired(Answer):
    workers: tuple[RelayedJobs, ...]
    giver: str = ""


class RelayedJobsSent(Answer):
    worker_id: int
    got: AcquiredSent | None


class RelayAcquiredSent(Answer):
    """`RelayAcquired` as the dispatcher writes it."""

    workers: tuple[RelayedJobsSent, ...]
    giver: str = ""


# --- edges -----------------------------------------------------------------------------------------


class SlotShape(OpenAsk):
    """What one worker of a slot of a site offers, so that `never` can be told from `not now`."""

    name: Key
    queue: Key
    room: Room


class Hello(OpenAsk):
    """An edge takes or renews the lease of its site. Another live edge's site is refused (409)."""

    site: Key
    instance: Key
    slots: Annotated[tuple[SlotShape, ...], Meta(max_length=1000)]
    online: bool = True


class Welcome(Answer):
    epoch: int  # grows each time another instance takes the site
    lease_s: float
    giver: str = ""  # the name of this dispatcher and its store


class SiteBound(OpenAsk):
    """A limit of a site: how many more workers it leaves room for, and why, in an admin's words."""

    name: Label
    room: int
    why: Annotated[str, Meta(max_length=2000)]


class SiteWord(OpenAsk):
    """An edge's last decision, in words: shown to operators, and to nothing else."""

    at: float
    sentence: Annotated[str, Meta(max_length=2000)]
    binding: Label
    bounds: Annotated[tuple[SiteBound, ...], Meta(max_length=50)] = ()
    notes: Annotated[tuple[Annotated[str, Meta(max_length=2000)], ...], Meta(max_length=50)] = ()


class AskDemand(OpenAsk):
    """What waits. `room`: how many more workers the site could take whatever the demand; 0 leaves its
    share to the others that serve the queue."""

    site: Key
    epoch: Whole
    room: Whole | None = None
    word: SiteWord | None = None  # left out: the same as before


class ShapeDemand(Answer):
    """Jobs of one shape that are ready now, in a queue that the site serves ('' = any queue)."""

    queue: str
    shape: Shape
    jobs: int
    sites: int = 1  # that could run them now, this one included: each provisions its share


class ExcludedHost(Answer):
    """A node that gets no jobs for a while, since it failed one after the other."""

    host: str
    until: float
    reason: str


class Demand(Answer):
    """What the site's pilots could do now, and its workers as the dispatcher knows them."""

    shapes: tuple[ShapeDemand, ...]
    workers: tuple[WorkerRow, ...]
    excluded: tuple[ExcludedHost, ...] = ()
    giver: str = ""  # as in `Welcome`


class NewIntent(OpenAsk):
    """`count` workers are about to be submitted: asks for their bootstrap tokens."""

    site: Key
    epoch: Whole
    intent: Key
    queue: Key
    count: Annotated[int, Meta(ge=1, le=10_000)]
    deadline: float  # after this no worker of the intent may register
    outage_s: Annotated[float, Meta(ge=0, le=604_800)] | None = None
    """They are behind a relay, and may be silent for so long."""


class Bootstraps(Answer):
    tokens: tuple[str, ...]  # by index


class WorkerNews(OpenAsk):
    """What an edge knows of one worker from its batch system."""

    intent: Key
    index: Count
    phase: Phase
    outcome: Outcome | None = None
    ending: Ending | None = None
    batch_id: Label = ""
    diagnosis: Text = ""


class WorkersNews(OpenAsk):
    site: Key
    epoch: Whole
    workers: Annotated[tuple[WorkerNews, ...], Meta(min_length=1, max_length=10_000)]


class AskTrace(OpenAsk):
    """Which jobs workers of a site had; or which of its workers had a job."""

    site: Key
    job_id: Whole | None = None
    worker_ids: Annotated[tuple[Whole, ...], Meta(max_length=100)] = ()


class TracedAttempt(Answer):
    """An attempt on a worker of the site."""

    job_id: int
    attempt_nr: int
    worker_id: int
    state: str
    host: str
    leased: float
    ended: float | None = None
    code: int = 0


class Traced(Answer):
    attempts: tuple[TracedAttempt, ...]  # the latest ones
    now: float = 0.0  # the dispatcher's clock


class DrainWorkers(OpenAsk):
    site: Key
    epoch: Whole
    worker_ids: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=10_000)]
