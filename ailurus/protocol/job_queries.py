"""What is asked about one job: the queries of routes below `/jobs/{job_id}`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.fields import Whole

Stream = Annotated[str, Meta(pattern=r"^(stdout|stderr)(?!\n)$")]


class LogQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A log from `offset` on; waits up to `wait_s` for more. A negative offset counts from the
    end."""

    stream: Stream = "stdout"
    # None: the latest.
    attempt_nr: Whole | None = None
    offset: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] = 0
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0
    # Of one item of the job: `attempt_nr` is the item's.
    item: Whole | None = None


class ItemsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items of a job in their order, after one; in one state if it is given."""

    state: Annotated[str, Meta(max_length=20)] = ""
    after: Annotated[int, Meta(ge=-1, le=2**62)] = -1
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ItemQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One item of a job."""

    index: Annotated[int, Meta(ge=0, le=2**62)]


class SamplesQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job's resource curves after a time."""

    attempt_nr: Whole | None = None
    after: float = 0.0


class TailQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The end of a file in a running job's directory; the answer to its pilot's next heartbeat asks
    for it."""

    file: Annotated[str, Meta(min_length=1, max_length=200)]
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 30.0


class LogFileQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is kept of a log, as a file."""

    stream: Stream = "stdout"
    # None: the latest.
    attempt_nr: Whole | None = None
    # Of one item of the job: `attempt_nr` is the item's.
    item: Whole | None = None


class FileQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input of a job that its user uploaded, by its name in the job's directory."""

    name: Annotated[str, Meta(min_length=1, max_length=400)]
