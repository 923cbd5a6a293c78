"""Submissions as the store has them."""

from __future__ import annotations

from msgspec import Struct

from dispatcher.ports import Tx


class SubmissionRecord(Struct, frozen=True):
    """A submission: `submission.page`."""

    first: int
    jobs: int
    made: float
    name: str
    labels: str
    by: str
    owner: str
    retry_of: int | None
    waiting: int | None
    """None, as what follows: it has no tally."""
    running: int | None
    finished: int | None
    failed: int | None
    cancelled: int | None


class RequestRecord(Struct, frozen=True):
    """A submission: `request.find`."""

    first: int
    """The id of its first job."""
    jobs: int
    complete: int
    process: str
    """Which dispatcher stores it."""
    digest: str | None
    """Of what it says; None: a version stored it that kept none."""


class BrokenRequest(Struct, frozen=True):
    """A submission that is not complete: `request.broken`."""

    owner: str
    request_id: str
    first: int
    jobs: int


def page(tx: Tx, owner: str, least: int, before: int, most: int) -> list[SubmissionRecord]:
    """The newest submissions between two numbers; `owner` blank: everybody's."""
    found = tx.all("submission.page", owner=owner, least=least, before=before, most=most)
    return [SubmissionRecord(*row) for row in found]


def span_of_all(tx: Tx) -> tuple[int, int]:
    """The least and the greatest number of a submission; (0, -1) if there is none."""
    least, last = tx.one("submission.range") or (None, None)
    return (0, -1) if least is None else (least, last)


def of_job(tx: Tx, job_id: int) -> SubmissionRecord | None:
    """The submission that a job is of, if there is one."""
    found = tx.one("submission.of_job", job_id=job_id)
    one = None if found is None else SubmissionRecord(*found)
    return None if one is None or job_id >= one.first + one.jobs else one


def find_request(tx: Tx, owner: str, request_id: str) -> RequestRecord | None:
    """A submission, complete or not."""
    row = tx.one("request.find", owner=owner, request_id=request_id)
    return None if row is None else RequestRecord(*row)


def broken_requests(tx: Tx, process: str) -> list[BrokenRequest]:
    """The submissions that a dispatcher began and did not complete; blank: any dispatcher."""
    return [BrokenRequest(*row) for row in tx.all("request.broken", process=process)]
