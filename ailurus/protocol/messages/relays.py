"""Messages between a relay and the dispatcher: what the workers of a site said, in bulk."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ailurus.protocol.fields import Key, Whole
from ailurus.protocol.messages.base import Answer, StrictRequest
from ailurus.protocol.messages.workers import (
    Acquire,
    Acquired,
    AttemptKey,
    Beat,
    BeatAnswer,
    Bye,
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
    """What workers of a site have told their relay. It may all come twice.

    `lost`: attempts whose worker the relay hears no more; they are tried again.
    """

    site: Key
    beats: Annotated[tuple[RelayedBeat, ...], Meta(max_length=10_000)] = ()
    releases: Annotated[tuple[RelayedRelease, ...], Meta(max_length=10_000)] = ()
    logs: Annotated[tuple[RelayedLog, ...], Meta(max_length=1000)] = ()
    lost: Annotated[tuple[AttemptKey, ...], Meta(max_length=10_000)] = ()
    byes: Annotated[tuple[RelayedBye, ...], Meta(max_length=10_000)] = ()


class RelayedBeatAnswer(Answer):
    """What a worker is told. None: it has ended, and is to go."""

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
    """Acquires of many workers. Answered when the first one has got something, at the latest after
    `wait_s`. One that is not in the answer is to be asked again, with the same request id."""

    site: Key
    asks: Annotated[tuple[RelayedAcquire, ...], Meta(min_length=1, max_length=1000)]
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0


class RelayedJobs(Answer):
    """None: the worker has ended."""

    worker_id: int
    got: Acquired | None


class RelayAcquired(Answer):
    workers: tuple[RelayedJobs, ...]
    giver: str = ""


class RawRelayedJobs(Answer):
    worker_id: int
    got: RawAcquired | None


class RawRelayAcquired(Answer):
    """`RelayAcquired` as the dispatcher writes it."""

    workers: tuple[RawRelayedJobs, ...]
    giver: str = ""
