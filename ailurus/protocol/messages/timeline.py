"""What ran when on which cores and GPUs of a worker's nodes, as people see it."""

from __future__ import annotations

from msgspec import field

from ailurus.protocol.messages.base import Answer
from ailurus.protocol.messages.edges import WorkerRow
from ailurus.protocol.messages.usage import NodeUsage


class Bar(Answer, kw_only=True, gc=False, omit_defaults=True):
    """A run of a job, or of a payload that a job carries, on one node."""

    # 0: of a job of somebody else.
    job_id: int = 0
    attempt_nr: int = 0
    # The payload's; None: the bar is a job's.
    item: int | None = None
    name: str = ""
    # Of the attempt, or of the payload.
    state: str = ""
    begin: float
    # None: it runs.
    end: float | None = None
    # Lanes of cores, as (first, how many).
    cores: tuple[tuple[int, int], ...] = ()
    # Lanes of GPUs.
    gpus: tuple[int, ...] = ()
    # How many payloads the job carries.
    items: int = 0


class NodeLanes(Answer, kw_only=True):
    """A node: a lane a core, and a lane a GPU."""

    name: str
    # As many as it has, or as were in use at once if nobody told how many it has.
    cores: int
    gpus: tuple[str, ...] = ()
    joined: float | None = None
    left: float | None = None
    # Cores in use, on average over each part of the time shown; parts are of equal length.
    used: tuple[float, ...] = ()
    bars: tuple[Bar, ...] = ()


class Timeline(Answer, kw_only=True):
    """The lanes of a worker, or of the payloads that a job carries, over a time."""

    begin: float
    end: float
    nodes: tuple[NodeLanes, ...]
    # Runs in this time. More than are drawn are shown by `used` alone.
    runs: int
    drawn: bool = True
    # There are so many runs that not all of them were looked at.
    cut: bool = False
    worker: WorkerRow | None = None
    # What the jobs that it runs now have used so far, of each of its nodes; () of a job's lanes.
    used: tuple[NodeUsage, ...] = ()
    # The next three as the pilot counts them, over its whole life; None: an older one.
    since: float | None = None
    busy_core_s: float | None = None
    # By `IdleReason`.
    idle_core_s: dict[str, float] = field(default_factory=dict)
