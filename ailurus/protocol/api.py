"""The native API as data: every route with its scope and its types.

The dispatcher's router, the client, the OpenAPI description, the scope tests and the fuzzer all
walk this table.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol import messages as m
from ailurus.protocol.accounting import UsageQuery
from ailurus.protocol.api_submissions import SUBMISSIONS
from ailurus.protocol.fields import Moment, Whole

# Who reads the table takes its scopes and queries from here.
from ailurus.protocol.job_queries import FileQuery as FileQuery  # noqa: PLC0414
from ailurus.protocol.job_queries import ItemQuery as ItemQuery  # noqa: PLC0414
from ailurus.protocol.job_queries import ItemsQuery as ItemsQuery  # noqa: PLC0414
from ailurus.protocol.job_queries import LogFileQuery as LogFileQuery  # noqa: PLC0414
from ailurus.protocol.job_queries import LogQuery as LogQuery  # noqa: PLC0414
from ailurus.protocol.job_queries import SamplesQuery as SamplesQuery  # noqa: PLC0414
from ailurus.protocol.job_queries import TailQuery as TailQuery  # noqa: PLC0414
from ailurus.protocol.routes import G, P
from ailurus.protocol.routes import NoQuery as NoQuery  # noqa: PLC0414
from ailurus.protocol.routes import Route as Route  # noqa: PLC0414
from ailurus.protocol.scopes import Scope as Scope  # noqa: PLC0414
from ailurus.protocol.task_queries import PointsQuery as PointsQuery  # noqa: PLC0414
from ailurus.protocol.task_queries import TaskItemsQuery as TaskItemsQuery  # noqa: PLC0414
from ailurus.protocol.task_queries import TaskQuery as TaskQuery  # noqa: PLC0414
from ailurus.protocol.task_queries import TasksQuery as TasksQuery  # noqa: PLC0414

PREFIX = "/api/ailurus/v1"


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which jobs are meant: those that match all that is said."""

    # In the language of `ailurus.protocol.query_text`; the fields below say a part of it each.
    query: Annotated[str, Meta(max_length=2000)] = ""
    # Comma-separated states.
    state: Annotated[str, Meta(max_length=200)] = ""
    queue: Annotated[str, Meta(max_length=200)] = ""
    # Exact, or a prefix that ends in *.
    name: Annotated[str, Meta(max_length=200)] = ""
    user: Annotated[str, Meta(max_length=200)] = ""
    code: Annotated[int, Meta(ge=0)] | None = None
    # The `kind` of a `FailureRow`: its jobs.
    kind: Whole | None = None


class JobsQuery(Filter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which jobs to list, newest first."""

    before: Whole | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class EventsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events after `after`, oldest first; waits up to `wait_s` for the first one."""

    after: Whole = 0
    job_id: Whole | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0


class FailuresQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which kinds of failures to list: those of which one came after `since`."""

    since: Moment = 0.0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    site: Annotated[str, Meta(max_length=200)] = ""
    fault: Annotated[str, Meta(max_length=20)] = ""


class WorkersQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which workers to list; those that ended only if asked for."""

    site: Annotated[str, Meta(max_length=200)] = ""
    ended: bool = False
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class TimelineQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ran when: from one time to another, by default all of it."""

    begin: Moment | None = None
    end: Moment | None = None
    # Into how many parts the time is cut, over each of which use is an average.
    parts: Annotated[int, Meta(ge=1, le=500)] = 120


class WorkerTimelineQuery(TimelineQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same of one worker."""

    worker_id: Whole


class StreamQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which live topics a page subscribes to: overview, jobs, workers, job:ID, log:ID."""

    topics: Annotated[str, Meta(max_length=500)] = "overview"
    last_event_id: Whole | None = None


class Samples(m.Answer):
    samples: tuple[m.Sample, ...]


class Tail(m.Answer):
    text: str


class QueueRows(m.Answer):
    queues: tuple[m.QueueRow, ...]


class WorkerRows(m.Answer):
    workers: tuple[m.WorkerRow, ...]
    # How many workers there are; `workers` are the newest of them.
    total: int = 0


class SignIn(m.StrictRequest):
    """Exchange a token for a browser session's cookie: EventSource cannot send headers."""

    token: Annotated[str, Meta(min_length=1, max_length=8192)]


ROUTES: tuple[Route, ...] = (
    Route(
        "overview", G, "/overview", Scope.READ, NoQuery, m.Overview, "The whole system in numbers"
    ),
    Route("me", G, "/me", Scope.READ, NoQuery, m.Me, "Who one is, and what one may do"),
    Route("submit", P, "/jobs", Scope.CREATE, m.Submit, m.Submitted, "Submit jobs"),
    Route("jobs", G, "/jobs", Scope.READ, JobsQuery, m.JobPage, "List jobs, newest first"),
    Route("count", G, "/jobs/count", Scope.READ, Filter, m.Counted, "How many jobs match"),
    Route("show", G, "/jobs/{job_id}", Scope.READ, NoQuery, m.JobDetail, "All about one job"),
    Route("why", G, "/jobs/{job_id}/why", Scope.READ, NoQuery, m.Why, "Why a job is where it is"),
    Route("log", G, "/jobs/{job_id}/log", Scope.READ, LogQuery, m.LogChunk, "A job's output, live"),
    Route(
        "log_file",
        G,
        "/jobs/{job_id}/log/file",
        Scope.READ,
        LogFileQuery,
        m.Contents,
        "All that is kept of a job's output",
    ),
    Route("file", G, "/jobs/{job_id}/file", Scope.READ, FileQuery, m.Contents, "An uploaded input"),
    Route("items", G, "/jobs/{job_id}/items", Scope.READ, ItemsQuery, m.ItemPage, "Items of a job"),
    Route(
        "item", G, "/jobs/{job_id}/item", Scope.READ, ItemQuery, m.ItemDetail, "All about one item"
    ),
    Route(
        "job_timeline",
        G,
        "/jobs/{job_id}/timeline",
        Scope.READ,
        TimelineQuery,
        m.Timeline,
        "What ran when of the items of a job",
    ),
    Route("add_items", P, "/items", Scope.CREATE, m.AddItems, m.ItemsAdded, "Upload items"),
    Route(
        "add_upload", P, "/uploads", Scope.CREATE, m.AddUpload, m.UploadAdded, "Upload a small file"
    ),
    Route(
        "samples", G, "/jobs/{job_id}/samples", Scope.READ, SamplesQuery, Samples, "Resource curves"
    ),
    Route("tail", G, "/jobs/{job_id}/tail", Scope.READ, TailQuery, Tail, "The end of a job's file"),
    Route(
        "wait", P, "/jobs/wait", Scope.READ, m.WaitJobs, m.JobStates, "Wait until jobs are final"
    ),
    Route("cancel", P, "/jobs/cancel", Scope.CANCEL, m.Cancel, m.Cancelled, "Cancel jobs"),
    Route("retry", P, "/jobs/retry", Scope.CREATE, m.Retry, m.Submitted, "Submit final jobs anew"),
    Route(
        "cancel_many",
        P,
        "/jobs/cancel-many",
        Scope.CANCEL,
        m.CancelMany,
        m.Acted,
        "Cancel all that match",
    ),
    Route(
        "retry_many",
        P,
        "/jobs/retry-many",
        Scope.CREATE,
        m.RetryMany,
        m.Acted,
        "Submit all that match anew",
    ),
    Route(
        "change_many",
        P,
        "/jobs/change-many",
        Scope.MODIFY,
        m.ChangeMany,
        m.Acted,
        "Hold, release, move or reorder all that match",
    ),
    Route(
        "undo",
        P,
        "/jobs/undo",
        Scope.CREATE,
        m.Undo,
        m.Acted,
        "Submit anew what a cancellation stopped that waited",
    ),
    Route(
        "reregister",
        P,
        "/jobs/register",
        Scope.CREATE,
        m.Reregister,
        m.Reregistered,
        "Have refused outputs registered again",
    ),
    *SUBMISSIONS,
    Route("submit_task", P, "/tasks", Scope.CREATE, m.SubmitTask, m.TaskSubmitted, "Submit a task"),
    Route("tasks", G, "/tasks", Scope.READ, TasksQuery, m.TaskPage, "List tasks, newest first"),
    Route("task", G, "/task", Scope.READ, TaskQuery, m.TaskDetail, "All about one task"),
    Route(
        "task_items",
        G,
        "/task/items",
        Scope.READ,
        TaskItemsQuery,
        m.TaskItemPage,
        "Items of a step of a task, with their jobs",
    ),
    Route(
        "steer_task",
        P,
        "/tasks/steer",
        Scope.CREATE,
        m.SteerTask,
        m.TaskRow,
        "Pause, resume, retry or finish a task",
    ),
    Route(
        "cancel_task", P, "/tasks/cancel", Scope.CANCEL, m.CancelTask, m.TaskRow, "Cancel a task"
    ),
    Route("points", G, "/task/points", Scope.READ, PointsQuery, m.Points, "Points of a search"),
    Route(
        "add_points",
        P,
        "/tasks/points",
        Scope.CREATE,
        m.AddPoints,
        m.PointsAdded,
        "Add points to a search",
    ),
    Route("queues", G, "/queues", Scope.READ, NoQuery, QueueRows, "Queues and what waits in them"),
    Route("failures", G, "/failures", Scope.READ, FailuresQuery, m.Failures, "Failures by kind"),
    Route("usage", G, "/usage", Scope.READ, UsageQuery, m.UsageSums, "What jobs took, summed up"),
    Route("workers", G, "/workers", Scope.READ, WorkersQuery, WorkerRows, "Workers and heartbeats"),
    Route(
        "worker_timeline",
        G,
        "/workers/timeline",
        Scope.READ,
        WorkerTimelineQuery,
        m.Timeline,
        "What ran when on the nodes of a worker",
    ),
    Route("give_feedback", P, "/feedback", Scope.READ, m.GiveFeedback, m.Done, "Say how it went"),
    Route(
        "feedback", G, "/feedback", Scope.ADMIN, m.FeedbackQuery, m.FeedbackPage, "What users said"
    ),
    Route("events", G, "/events", Scope.READ, EventsQuery, m.Events, "What happened"),
    Route("stream", G, "/stream", Scope.READ, StreamQuery, None, "Server-sent events for pages"),
    Route("token", P, "/tokens", Scope.ADMIN, m.NewToken, m.Token, "Make a token"),
    Route(
        "revoke", P, "/tokens/revoke", Scope.ADMIN, m.Revoke, m.Done, "Refuse tokens from now on"
    ),
    Route(
        "credentials", G, "/credentials", Scope.READ, NoQuery, m.CredentialRows, "One's credentials"
    ),
    Route(
        "keep_credential",
        P,
        "/credentials",
        Scope.CREATE,
        m.NewCredential,
        m.CredentialRow,
        "Keep a credential for one's jobs",
    ),
    Route(
        "forget_credentials",
        P,
        "/credentials/forget",
        Scope.CREATE,
        m.ForgetCredentials,
        m.Done,
        "Forget credentials",
    ),
    Route("sign_in", P, "/session", None, SignIn, m.Done, "Start a browser session"),
    Route("sign_out", P, "/session/end", None, m.StrictRequest, m.Done, "End a browser session"),
    Route(
        "register", P, "/worker/register", Scope.PILOT, m.Register, m.Registered, "A pilot begins"
    ),
    Route("acquire", P, "/worker/acquire", Scope.WORKER, m.Acquire, m.Acquired, "Lease jobs"),
    Route("beat", P, "/worker/beat", Scope.WORKER, m.Beat, m.BeatAnswer, "Heartbeat of a worker"),
    Route(
        "report",
        P,
        "/worker/report",
        None,
        m.Reports,
        m.ReportVerdicts,
        "Final reports, by report key",
    ),
    Route(
        "release",
        P,
        "/worker/release",
        Scope.WORKER,
        m.Release,
        m.Done,
        "Give back prefetched jobs",
    ),
    Route(
        "log_pieces", P, "/worker/log", Scope.WORKER, m.LogPieces, m.Done, "Live log of payloads"
    ),
    Route(
        "exchange_items",
        P,
        "/worker/items",
        Scope.WORKER,
        m.ItemsRequest,
        m.ItemsAnswer,
        "News of a job's items, and more of them",
    ),
    Route(
        "relay_tell",
        P,
        "/relay/tell",
        Scope.RELAY,
        m.RelayBeat,
        m.RelayBeatAnswer,
        "What a site's workers told their relay",
    ),
    Route(
        "relay_acquire",
        P,
        "/relay/acquire",
        Scope.RELAY,
        m.RelayAcquire,
        m.RelayAcquired,
        "Lease jobs to workers behind a relay",
    ),
    Route(
        "relay_items",
        P,
        "/relay/items",
        Scope.RELAY,
        m.RelayItems,
        m.ItemsAnswer,
        "News of items of a worker behind a relay, and more of them",
    ),
    Route(
        "relay_credentials",
        P,
        "/relay/credentials",
        Scope.RELAY,
        m.RelayCredentials,
        m.Credentials,
        "Credentials of a job leased to a worker behind a relay, sealed for its pilot",
    ),
    Route(
        "job_credentials",
        P,
        "/worker/credentials",
        Scope.WORKER,
        m.CredentialsRequest,
        m.Credentials,
        "Credentials of a leased job",
    ),
    Route(
        "relay_upload",
        P,
        "/relay/upload",
        Scope.RELAY,
        m.RelayUpload,
        m.UploadPiece,
        "A file of a relayed job",
    ),
    Route(
        "job_upload",
        P,
        "/worker/upload",
        Scope.WORKER,
        m.UploadRequest,
        m.UploadPiece,
        "A file of a leased job",
    ),
    Route("bye", P, "/worker/bye", Scope.WORKER, m.Bye, m.Done, "A pilot ends"),
    Route(
        "hello", P, "/edge/hello", Scope.EDGE, m.Hello, m.Welcome, "Take or renew a site's lease"
    ),
    Route(
        "demand",
        P,
        "/edge/demand",
        Scope.EDGE,
        m.DemandRequest,
        m.Demand,
        "Jobs that wait, by shape",
    ),
    Route("intent", P, "/edge/intent", Scope.EDGE, m.NewIntent, m.Bootstraps, "Bootstrap tokens"),
    Route(
        "workers_news", P, "/edge/workers", Scope.EDGE, m.WorkerObservations, m.Done, "Batch states"
    ),
    Route(
        "edge_trace",
        P,
        "/edge/trace",
        Scope.EDGE,
        m.TraceRequest,
        m.Traced,
        "Jobs of a site's workers",
    ),
    Route("drain", P, "/edge/drain", Scope.EDGE, m.DrainWorkers, m.Done, "Let workers drain"),
)
BY_NAME = {route.name: route for route in ROUTES}
