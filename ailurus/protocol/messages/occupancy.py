"""What of a worker's nodes was held by jobs, and why the rest was idle, as its pilot counts it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct, field

from ailurus.protocol.fields import Count, Label, Moment
from ailurus.protocol.messages.usage import MOST_NODES

Seconds = Annotated[float, Meta(ge=0, le=1e15)]


class IdleReason(StrEnum):
    """Why a core was idle."""

    # Kept for a job whose inputs come.
    STAGING_IN = "staging_in"
    # No other job came while outputs went.
    STAGING_OUT = "staging_out"
    # Jobs wait that do not fit, one of which may keep nodes for itself.
    WIDE = "wide"
    # The pilot takes no more jobs.
    DRAINING = "draining"
    # Of a node that is gone.
    LOST = "lost"
    # Held by a job of many payloads, of which too few ran.
    PAYLOADS = "payloads"
    NOTHING = "nothing"


class HeldSlot(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job holds of a node."""

    # Blank: the only node of its worker.
    node: Label = ""
    cores: Count = 0
    # By the names that the pilot has for them: UUIDs, or indices.
    gpus: Annotated[tuple[Label, ...], Meta(max_length=1000)] = ()
    # Of a node that came while the job ran, or was lost; 0: as of the job.
    began: Moment = 0.0
    ended: Moment = 0.0


class Held(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job holds or held, and from when to when, by its pilot's clock."""

    slots: Annotated[tuple[HeldSlot, ...], Meta(max_length=MOST_NODES)] = ()
    began: Moment = 0.0
    # 0: it holds it still.
    ended: Moment = 0.0


class NodeSize(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node of a worker: what its jobs may have of it."""

    name: Label = ""
    cores: Count = 0
    gpus: Count = 0
    joined: Moment = 0.0
    # When it was lost; 0: it is there.
    left: Moment = 0.0


class Occupancy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's nodes and its core-seconds since it began: those of all nodes are those held by
    jobs and those that were idle, each for one reason."""

    # The newest, where there were more.
    nodes: Annotated[tuple[NodeSize, ...], Meta(max_length=MOST_NODES)] = ()
    since: Moment = 0.0
    until: Moment = 0.0
    busy_core_s: Seconds = 0.0
    # By `IdleReason`, or a reason that only a newer pilot knows.
    idle_core_s: Annotated[dict[Label, Seconds], Meta(max_length=20)] = field(default_factory=dict)
