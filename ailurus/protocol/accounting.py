"""What an attempt counts as when its use is summed up, and by what sums can be asked for. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.faults import Fault, fault_of
from ailurus.protocol.fields import Moment
from ailurus.protocol.states import AttemptState


class UsageOutcome(StrEnum):
    """What came of an attempt; all but the first is waste."""

    FINISHED = "finished"
    PAYLOAD = Fault.PAYLOAD.value
    """It failed, by the fault of its payload; the next ones likewise."""
    INPUT = Fault.INPUT.value
    SITE = Fault.SITE.value
    NODE = Fault.NODE.value
    US = Fault.US.value
    UNKNOWN = Fault.UNKNOWN.value
    LOST = "lost"
    """Its worker went silent, or was taken away."""
    CANCELLED = "cancelled"
    TWICE = "twice"
    """Another attempt of its job counted."""


FAILED = frozenset(UsageOutcome(fault.value) for fault in Fault)
"""What attempts count as that failed."""
_ENDS = {
    AttemptState.FINISHED: UsageOutcome.FINISHED,
    AttemptState.LOST: UsageOutcome.LOST,
    AttemptState.CANCELLED: UsageOutcome.CANCELLED,
    AttemptState.OVERTAKEN: UsageOutcome.TWICE,
    AttemptState.ALREADY_DONE: UsageOutcome.TWICE,
    AttemptState.BAD_ATTEMPT: UsageOutcome.TWICE,
}


def outcome_of(state: AttemptState, code: int) -> UsageOutcome | None:
    """What an attempt counts as that has ended so; None: it never began, or has not ended."""
    if state is AttemptState.FAILED:
        return UsageOutcome(fault_of(code).value)
    return _ENDS.get(state)


class UsageQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which attempts to sum up: those that ended in a span of time, and match all that is said."""

    # Comma-separated: user, site, queue, label:NAME; blank: one sum of all.
    by: Annotated[str, Meta(max_length=200)] = ""
    # Rounded down to the hour, day or month that is kept; 0: a week ago.
    since: Moment = 0.0
    # 0: now.
    until: Moment = 0.0
    user: Annotated[str, Meta(max_length=200)] = ""
    site: Annotated[str, Meta(max_length=200)] = ""
    queue: Annotated[str, Meta(max_length=200)] = ""
    # NAME=VALUE.
    label: Annotated[str, Meta(max_length=500)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
