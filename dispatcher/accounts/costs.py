"""The price list: what the requests of users cost, in seconds of the dispatcher's time.

An account is kept in requests, and a request stands for `REQUEST_S`: what costs more is charged
beside it, so that a user at the rate allowed keeps the dispatcher busy for a quarter of its time,
whatever is asked. What is asked of the store is measured (`meter`); the rest is declared here, and
a test multiplies it by what one message may hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

REQUEST_S = 0.005
# A byte of a body (received, decoded, stored) or of an answer (encoded, sent).
BYTE_S = 20e-9
# A job that is submitted.
JOB_S = 25e-6
# An item that is uploaded.
ITEM_S = 4e-6
# An input or output of one, which is looked at.
FILE_S = 2e-6
# A point that is added to a search of 10,000: measured, 9 µs.
POINT_S = 10e-6
# A dependency of one job on another.
LINK_S = 10e-6
# A job that is retried.
RETRIED_S = 100e-6
CANCELLED_S = 50e-6
# A job that is waited for: its state is read, which is measured.
WATCHED_S = 1e-6

OF: Mapping[str, Callable[[Any], float]] = {
    "submit": lambda ask: (
        JOB_S * len(ask.jobs) + LINK_S * sum(len(job.depends_on) for job in ask.jobs)
    ),
    "add_items": lambda ask: (
        ITEM_S * len(ask.items)
        + FILE_S * sum(len(item.inputs) + len(item.outputs) for item in ask.items)
    ),
    "add_points": lambda ask: POINT_S * len(ask.points),
    "retry": lambda ask: RETRIED_S * len(ask.job_ids),
    "reregister": lambda ask: RETRIED_S * len(ask.job_ids),
    "cancel": lambda ask: CANCELLED_S * len(ask.job_ids),
    # By a query they are done in slices, each behind the heartbeats that have come.
    "cancel_many": lambda ask: CANCELLED_S * len(ask.job_ids),
    "retry_many": lambda ask: RETRIED_S * len(ask.job_ids),
    "change_many": lambda ask: CANCELLED_S * len(ask.job_ids),
    "wait": lambda ask: WATCHED_S * len(ask.job_ids),
}
"""By route, what a message costs beside the request, its bytes and the time of reading."""


def of_message(route: str, ask: Any) -> float:
    """What one message costs by what it holds."""
    cost = OF.get(route)
    return 0.0 if cost is None else cost(ask)


def of_body(declared: bytes | None, limit: int) -> float:
    """What a body costs before it is read: by the length that its head says, else the longest."""
    if declared is None:
        return BYTE_S * limit
    return BYTE_S * min(limit, int(declared)) if declared.isdigit() and len(declared) < 19 else 0.0


def of_answer(length: int) -> float:
    """What the bytes of an answer cost beyond those that the request stands for."""
    return max(0.0, BYTE_S * length - REQUEST_S)
