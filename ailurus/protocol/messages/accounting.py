"""What attempts took and pilots were for, summed up."""

from __future__ import annotations

from msgspec import field

from ailurus.protocol.messages.base import Answer


class UsageRow(Answer):
    """What attempts took that ended in a time. `core_s` counts the cores that they had asked for,
    `cpu_s` what they used of them; memory is in MB × seconds, asked for and at the peak."""

    # By what was asked for: `user`, `site`, `queue`, `label`.
    key: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    finished: int = 0
    wall_s: float = 0.0
    core_s: float = 0.0
    cpu_s: float = 0.0
    memory_mb_s: float = 0.0
    peak_mb_s: float = 0.0
    gpu_s: float = 0.0
    gpu_busy_s: float = 0.0
    wasted_core_s: dict[str, float] = field(default_factory=dict)
    """Of attempts that were for nothing, by `UsageOutcome`."""
    pilot_core_s: dict[str, float] = field(default_factory=dict)
    """What pilots there told of their core-seconds: `busy`, or why they were idle. Not by user or
    label."""


class UsedThen(Answer):
    """What was asked for by attempts that ended in an hour, a day or a month."""

    at: float
    span: str
    core_s: dict[str, float]
    """By `UsageOutcome`."""


class UsageSums(Answer):
    """What attempts took, those first that took the most core-seconds."""

    since: float
    """Where the first hour, day or month begins that is in it."""
    until: float
    rows: tuple[UsageRow, ...]
    more: int
    """How many rows there are beyond these."""
    total: UsageRow
    over_time: tuple[UsedThen, ...] = ()
