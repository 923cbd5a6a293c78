"""Messages between a relay and the dispatcher: requests of a site's workers in bulk."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ailurus.protocol.fields import Key, Whole
from ailurus.protocol.messages.base import Answer, StrictRequest
from ailurus.protocol.messages.items import ItemsRequest
from ailurus.protocol.messages.workers import (
    Acquire,
    Acquired,
    AttemptKey,
    Beat,
    BeatAnswer,
    Bye,
    CredentialsRequest,
    LogPieces,
    RawAcquired,
    Release,
)


class RelayedBeat(StrictRequest):
    worker_id: Whole
    beat: Beat


class RelayedRelease(StrictRequest):
    worker_id: Whole
    release: Release


class RelayedLog(StrictRequest):
    worker_id: Whole
    log: LogPieces


class RelayedBye(StrictRequest):
    worker_id: Whole
    bye: Bye


class RelayBeat(StrictRequest):
    """Heartbeats and other requests that a relay collected from the workers of its site. All of it
    may be sent twice.

    `lost`: attempts whose worker the relay has lost; they are tried again.
    """

    site: Key
    beats: Annotated[tuple[RelayedBeat, ...], Meta(max_length=10_000)] = ()
    releases: Annotated[tuple[RelayedRelease, ...], Meta(max_length=10_000)] = ()
    logs: Annotated[tuple[RelayedLog, ...], Meta(max_length=1000)] = ()
    lost: Annotated[tuple[AttemptKey, ...], Meta(max_length=10_000)] = ()
    byes: Annotated[tuple[RelayedBye, ...], Meta(max_length=10_000)] = ()


class RelayedBeatAnswer(Answer):
    """The answer to a worker's heartbeat. None: the dispatcher has ended the worker, which
    exits."""

    worker_id: int
    told: BeatAnswer | None


class RelayBeatAnswer(Answer):
    workers: tuple[RelayedBeatAnswer, ...]
    heartbeat_s: float
    giver: str = ""


class RelayedAcquire(StrictRequest):
    worker_id: Whole
    ask: Acquire


class RelayAcquire(StrictRequest):
    """Acquires of many workers, answered when the first of them gets a job, at the latest after
    `wait_s`. The relay repeats an acquire that the answer leaves out, with the same request id."""

    site: Key
    asks: Annotated[tuple[RelayedAcquire, ...], Meta(min_length=1, max_length=1000)]
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0


class RelayedJobs(Answer):
    """The jobs for a worker. None: the dispatcher has ended the worker."""

    worker_id: int
    got: Acquired | None


class RelayAcquired(Answer):
    workers: tuple[RelayedJobs, ...]
    giver: str = ""


class RawRelayedJobs(Answer):
    worker_id: int
    got: RawAcquired | None


class RawRelayAcquired(Answer):
    """`RelayAcquired` as the dispatcher encodes it."""

    workers: tuple[RawRelayedJobs, ...]
    giver: str = ""


class RelayItems(StrictRequest):
    """News of the items of a job that a worker behind a relay has, and its request for more: passed
    on at once, or not at all."""

    site: Key
    worker_id: Whole
    ask: ItemsRequest


class RelayCredentials(StrictRequest):
    """A worker behind a relay asks for the credentials of an attempt that is leased to it, sealed
    for the pilot that has it."""

    site: Key
    worker_id: Whole
    ask: CredentialsRequest
