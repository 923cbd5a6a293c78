"""Messages between a worker and the dispatcher: registration, acquire, heartbeat, report and
log."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Raw, Struct, field

from ailurus.protocol.did import Mark
from ailurus.protocol.fields import Adler32, Count, Key, Label, LongText, Md5, Moment, Whole
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages.base import Answer, LenientRequest
from ailurus.protocol.messages.items import MOST_NEWS, ItemEnd
from ailurus.protocol.messages.occupancy import Held, Occupancy
from ailurus.protocol.messages.usage import Usage
from ailurus.protocol.resources import Room
from ailurus.protocol.results import MOST_BYTES
from ailurus.protocol.states import JobState
from ailurus.protocol.url import FileUrl
from ailurus.protocol.worker import Ending


class Register(LenientRequest, kw_only=True):
    """A pilot registers as a worker.

    `instance` is random per process. The same process may repeat the request; another process with
    the same bootstrap token is refused and exits."""

    instance: Key
    queue: Key
    site: Label = ""
    host: Label = ""
    total: Room
    version: Label = ""
    batch_id: Label = ""
    hardware: Hardware | None = None
    """None: an older pilot."""


class Registered(Answer):
    worker_id: int
    # The worker's token, valid for acquire, beat, release, log and bye.
    token: str
    heartbeat_s: float
    lease_s: float
    # The name of this dispatcher and its store. The worker obeys refusals under this name alone.
    giver: str = ""


class Acquire(LenientRequest):
    """Asks for up to `count` jobs that fit in `room` together; waits up to `wait_s` for the first.

    `ahead`: the room is not free yet; the pilot stages the job in meanwhile. `items`: it can run
    jobs that carry items, `item_files`: those, too, whose items have files of their own, `uploads`:
    those, too, that name uploaded files, `shared_items`: those, too, that lease items together with
    others; it gets none else. `hardware`: what all of its nodes have
    in common, of a pilot that had not met them all when it registered.
    """

    request_id: Key
    room: Room
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0
    ahead: bool = False
    items: bool = False
    item_files: bool = False
    results: bool = False
    uploads: bool = False
    shared_items: bool = False
    hardware: Hardware | None = None


class Assignment(Answer):
    """An attempt of a job, leased to a worker.

    The report key authorises its final report. The seal comes back with whatever ends the attempt.
    No request ever carries it, so only the dispatcher that leased the attempt can send it, not
    another server at the same address.
    """

    job_id: int
    attempt_nr: int
    report_key: str
    spec: JobSpec
    # Keep the log also if the job finishes: a PanDA server expects it.
    keep_log: bool = False
    # Empty: the dispatcher is of a version without seals.
    seal: str = ""
    mark: Mark = ""
    """Of the dispatcher's store: names of outputs in Rucio begin so; blank: an older version."""


class Acquired(Answer):
    jobs: tuple[Assignment, ...]
    # Acquire no more jobs, finish and exit.
    drain: bool = False
    # More jobs wait than workers: one job may be staged in ahead.
    prefetch: bool = False
    giver: str = ""


class RawAssignment(Answer):
    """`Assignment` as the dispatcher encodes it: the specification is the bytes that were
    stored."""

    job_id: int
    attempt_nr: int
    report_key: str
    spec: Raw
    seal: str = ""
    mark: str = ""


class RawAcquired(Answer):
    jobs: tuple[RawAssignment, ...]
    drain: bool = False
    prefetch: bool = False
    giver: str = ""


class Staging(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the files of an attempt have come, before its payload starts or after its end."""

    files: Whole = 0
    done: Whole = 0
    moved_bytes: Whole = 0
    # None: the size of some file is not known yet.
    total_bytes: Whole | None = None
    # Since it began.
    seconds: Annotated[float, Meta(ge=0)] = 0.0


class Update(LenientRequest):
    """The state of an attempt that this worker has leased. Being listed renews the lease."""

    job_id: Whole
    attempt_nr: Whole
    # One of sent, starting, running, holding.
    state: JobState
    # When that state began.
    since: Moment
    usage: Usage | None = None
    # The answer to a `tail` command.
    tail: LongText | None = None
    # While files are moved.
    staging: Staging | None = None
    # Since it has its slots.
    held: Held | None = None


class Beat(LenientRequest, kw_only=True):
    """A worker's heartbeat: it renews the leases of all jobs that it lists."""

    jobs: Annotated[tuple[Update, ...], Meta(max_length=10_000)] = ()
    room: Room
    draining: bool = False
    occupancy: Occupancy | None = None
    """None: an older pilot."""


class Action(StrEnum):
    """What a worker is to do with an attempt."""

    # PanDA tobekilled.
    KILL = "kill"
    # Let the payload end by itself: TERM, then wait.
    SOFT_KILL = "soft_kill"
    # Answer with the end of a file in the job's directory.
    TAIL = "tail"
    # A user watches: send the live log.
    LOG = "log"


class Command(Answer):
    job_id: int
    attempt_nr: int
    action: Action
    argument: str = ""
    # The attempt's. A pilot ends an attempt that came with a seal only if it is shown here.
    seal: str = ""


class BeatAnswer(Answer):
    """The answer to a heartbeat: when to send the next one, and what to do."""

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
    # Which item of the job left it, if one did.
    item: Whole | None = None


class Report(LenientRequest):
    """The final report of an attempt, sent until it is answered: by its pilot, the next one or the
    edge."""

    job_id: Whole
    attempt_nr: Whole
    report_key: Key
    finished: bool
    # PanDA pilotErrorCode.
    code: Count = 0
    diagnosis: LongText = ""
    remedy: LongText = ""
    transient: bool = False
    exit_code: Annotated[int, Meta(ge=-1000, le=1000)] | None = None
    files: Annotated[tuple[DoneFile, ...], Meta(max_length=10_000)] = ()
    usage: Usage | None = None
    # Seconds by phase: stage_in, wait, run, stage_out.
    timing: Annotated[dict[Label, float], Meta(max_length=1000)] = field(default_factory=dict)
    ended: Moment = 0.0
    host: Label = ""
    runtime: Label = ""
    stderr_tail: LongText = ""
    held: Held | None = None
    # The job's result document, JSON text.
    result: Annotated[str, Meta(max_length=MOST_BYTES)] = ""
    # Ends of items that no answer has acknowledged.
    items: Annotated[tuple[ItemEnd, ...], Meta(max_length=MOST_NEWS)] = ()


class Reports(LenientRequest):
    """Final reports of any workers. Each is authorised by its own key; no token is needed."""

    reports: Annotated[tuple[Report, ...], Meta(min_length=1, max_length=1000)]


class ReportVerdict(Answer):
    """Whether a report was accepted: a `ReportOutcome`, or one that only a newer dispatcher knows.

    With the attempt's seal it is final: the report need not be sent again, and if it was not
    accepted its files are to be deleted. Without the seal it is not from the dispatcher of this
    attempt.
    """

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
    """Gives back prefetched jobs that this worker will not start."""

    jobs: Annotated[tuple[AttemptKey, ...], Meta(min_length=1, max_length=1000)]


class LogPiece(LenientRequest):
    """A piece of a payload's output. The same piece may come twice: `offset` places it."""

    job_id: Whole
    attempt_nr: Whole
    stream: Annotated[str, Meta(pattern=r"^(stdout|stderr)(?!\n)$")]
    offset: Whole
    text: Annotated[str, Meta(max_length=1_000_000)]
    final: bool = False
    # Of an item of the job, in this attempt of it.
    item: Whole | None = None
    item_attempt: Whole = 0


class LogPieces(LenientRequest):
    pieces: Annotated[tuple[LogPiece, ...], Meta(min_length=1, max_length=1000)]


class CredentialKind(StrEnum):
    """What a credential is, and so how programs find it."""

    TOKEN = "token"  # noqa: S105 - a word, no secret
    PROXY = "proxy"
    KEYS = "keys"
    """An access key of S3 and its secret, in a file as AWS's."""


class CredentialsRequest(LenientRequest):
    """A worker asks for the credentials of an attempt that is leased to it.

    `sealed_to`: the key of `ailurus.envelope` for which they are sealed on their way through a
    relay.
    """

    job_id: Whole
    attempt_nr: Whole
    sealed_to: Annotated[str, Meta(max_length=1024)] = ""

    @property
    def bound(self) -> str:
        """What they are sealed with, so that they open for no other attempt."""
        return f"credentials {self.job_id} {self.attempt_nr}"


class Credential(Answer):
    name: str
    kind: CredentialKind
    secret: str
    expires: float | None = None
    payload: bool = False


class Credentials(Answer):
    """Those that the job names, as they are now: the user may have renewed them.

    `sealed`: in place of them, their JSON for the reader whom the request named. `giver`: the
    dispatcher's name, for a relay.
    """

    credentials: tuple[Credential, ...] = ()
    sealed: str = ""
    giver: str = ""


class Bye(LenientRequest):
    """The worker exits, and why."""

    ending: Ending
    diagnosis: LongText = ""
    occupancy: Occupancy | None = None
