"""Messages between a relay and the dispatcher: what the workers of a site said, in bulk."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ailurus.protocol.job import Whole
from ailurus.protocol.messages.base import Answer, Ask, Key
from ailurus.protocol.messages.workers import (
    Acquire,
    Acquired,
    AcquiredSent,
    Beat,
    Beaten,
    Bye,
    HeldJob,
    LogPieces,
    Release,
)


class RelayedBeat(Ask):
    worker_id: Whole
    beat: Beat


class RelayedRelease(Ask):
    worker_id: Whole
    release: Release


class RelayedLog(Ask):
    worker_id: Whole
    log: LogPieces


class RelayedBye(Ask):
    worker_id: Whole
    bye: Bye


class RelayTell(Ask):
    """What workers of a site have told their relay. It may all come twice.

    `lost`: attempts whose worker the relay hears no more; they are tried again.
    """

    site: Key
    beats: Annotated[tuple[RelayedBeat, ...], Meta(max_length=10_000)] = ()
    releases: Annotated[tuple[RelayedRelease, ...], Meta(max_length=10_000)] = ()
    logs: Annotated[tuple[RelayedLog, ...], Meta(max_length=1000)] = ()
    lost: Annotated[tuple[HeldJob, ...], Meta(max_length=10_000)] = ()
    byes: Annotated[tuple[RelayedBye, ...], Meta(max_length=10_000)] = ()


class RelayedWord(Answer):
    """What a worker is told. None: it has ended, and is to go."""

    worker_id: int
    told: Beaten | None


class RelayTold(Answer):
    workers: tuple[RelayedWord, ...]
    heartbeat_s: float
    giver: str = ""


class RelayedAcquire(Ask):
    worker_id: Whole
    ask: Acquire


class RelayAcquire(Ask):
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


class RelayedJobsSent(Answer):
    worker_id: int
    got: AcquiredSent | None


class RelayAcquiredSent(Answer):
    """`RelayAcquired` as the dispatcher writes it."""

    workers: tuple[RelayedJobsSent, ...]
    giver: str = ""
