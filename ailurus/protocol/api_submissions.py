"""The routes of submissions: a part of the table in `api.py`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol import messages as m
from ailurus.protocol.fields import Whole
from ailurus.protocol.routes import G, P, Route
from ailurus.protocol.scopes import Scope


class SubmissionsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which submissions to list, newest first."""

    user: Annotated[str, Meta(max_length=200)] = ""
    # Exact, or a prefix that ends in *.
    name: Annotated[str, Meta(max_length=200)] = ""
    # `key`, or `key=value`.
    label: Annotated[str, Meta(max_length=300)] = ""
    # Only those of which a job has not ended.
    open: bool = False
    before: Whole | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class SubmissionQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One submission, by its number or that of one of its jobs; waits up to `wait_s` for its
    end."""

    submission: Whole
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0


SUBMISSIONS: tuple[Route, ...] = (
    Route(
        "submissions",
        G,
        "/submissions",
        Scope.READ,
        SubmissionsQuery,
        m.SubmissionPage,
        "List submissions, newest first",
    ),
    Route(
        "submission",
        G,
        "/submission",
        Scope.READ,
        SubmissionQuery,
        m.SubmissionDetail,
        "All about one submission",
    ),
    Route(
        "retry_submission",
        P,
        "/submissions/retry",
        Scope.CREATE,
        m.RetrySubmission,
        m.Submitted,
        "Try again what failed in a submission, or all of it",
    ),
)
