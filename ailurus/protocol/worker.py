"""A worker: one allocation of a batch system, from the wish for it to how it ended."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What is known about a submission to the batch system."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    # Never retried: only a search by tag decides.
    UNCLEAR = "unclear"


class Phase(StrEnum):
    """Where a worker is in its life."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    HELD = "held"
    # The batch system runs it, the pilot has not registered yet.
    STARTING = "starting"
    ACTIVE = "active"
    # Finishes what it has, takes nothing new.
    DRAINING = "draining"
    ENDED = "ended"


class Ending(StrEnum):
    """How a worker ended. A walltime end is normal for a pilot, not a failure."""

    DONE = "done"
    WALLTIME = "walltime"
    IDLE_EXIT = "idle_exit"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    NODE_FAIL = "node_fail"
    OOM = "oom"
    FAILED = "failed"
    NEVER_REGISTERED = "never_registered"
    LOST = "lost"
