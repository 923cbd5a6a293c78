"""Messages between an edge and the dispatcher: lease of a site, demand, intents, states of
workers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ailurus.protocol.fields import Count, Key, Label, LongText, Whole
from ailurus.protocol.messages.base import Answer, LenientRequest
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.worker import Ending, Outcome, Phase


class WorkerRow(Answer, kw_only=True, gc=False):
    """A worker as the dispatcher knows it: by registration, heartbeats and the edge's word."""

    worker_id: int
    site: str
    queue: str
    host: str
    phase: Phase
    ending: Ending | None = None
    registered: float
    last_heard: float
    room: Room
    total: Room
    jobs: tuple[int, ...] = ()
    intent: str = ""
    index: int = 0
    batch_id: str = ""
    version: str = ""
    diagnosis: str = ""


class SlotShape(LenientRequest):
    """What one worker of a slot of a site offers, so that `never` can be told from `not now`."""

    name: Key
    queue: Key
    room: Room


class Hello(LenientRequest):
    """An edge takes or renews the lease of its site. Another live edge's site is refused (409)."""

    site: Key
    instance: Key
    slots: Annotated[tuple[SlotShape, ...], Meta(max_length=1000)]
    online: bool = True


class Welcome(Answer):
    epoch: int  # grows each time another instance takes the site
    lease_s: float
    giver: str = ""  # the name of this dispatcher and its store


class SiteBound(LenientRequest):
    """A limit of a site: how many more workers it leaves room for, and why, in an admin's words."""

    name: Label
    room: int
    why: Annotated[str, Meta(max_length=2000)]


class SiteDecision(LenientRequest):
    """An edge's last decision, in words: shown to operators, and to nothing else."""

    at: float
    sentence: Annotated[str, Meta(max_length=2000)]
    binding: Label
    bounds: Annotated[tuple[SiteBound, ...], Meta(max_length=50)] = ()
    notes: Annotated[tuple[Annotated[str, Meta(max_length=2000)], ...], Meta(max_length=50)] = ()


class DemandRequest(LenientRequest):
    """What waits. `room`: how many more workers the site could take whatever the demand; 0 leaves
    its share to the others that serve the queue."""

    site: Key
    epoch: Whole
    room: Whole | None = None
    word: SiteDecision | None = None  # left out: the same as before


class ShapeDemand(Answer):
    """Jobs of one shape that are ready now, in a queue that the site serves ('' = any queue)."""

    queue: str
    shape: Shape
    jobs: int
    sites: int = 1  # that could run them now, this one included: each provisions its share


class ExcludedHost(Answer):
    """A node that gets no jobs for a while, since it failed one after the other."""

    host: str
    until: float
    reason: str


class Demand(Answer):
    """What the site's pilots could do now, and its workers as the dispatcher knows them."""

    shapes: tuple[ShapeDemand, ...]
    workers: tuple[WorkerRow, ...]
    excluded: tuple[ExcludedHost, ...] = ()
    giver: str = ""  # as in `Welcome`


class NewIntent(LenientRequest):
    """`count` workers are about to be submitted: asks for their bootstrap tokens."""

    site: Key
    epoch: Whole
    intent: Key
    queue: Key
    count: Annotated[int, Meta(ge=1, le=10_000)]
    deadline: float  # after this no worker of the intent may register
    outage_s: Annotated[float, Meta(ge=0, le=604_800)] | None = None
    """They are behind a relay, and may be silent for so long."""


class Bootstraps(Answer):
    tokens: tuple[str, ...]  # by index


class WorkerObservation(LenientRequest):
    """What an edge knows of one worker from its batch system."""

    intent: Key
    index: Count
    phase: Phase
    outcome: Outcome | None = None
    ending: Ending | None = None
    batch_id: Label = ""
    diagnosis: LongText = ""


class WorkerObservations(LenientRequest):
    site: Key
    epoch: Whole
    workers: Annotated[tuple[WorkerObservation, ...], Meta(min_length=1, max_length=10_000)]


class TraceRequest(LenientRequest):
    """Which jobs workers of a site had; or which of its workers had a job."""

    site: Key
    job_id: Whole | None = None
    worker_ids: Annotated[tuple[Whole, ...], Meta(max_length=100)] = ()


class TracedAttempt(Answer):
    """An attempt on a worker of the site."""

    job_id: int
    attempt_nr: int
    worker_id: int
    state: str
    host: str
    leased: float
    ended: float | None = None
    code: int = 0


class Traced(Answer):
    attempts: tuple[TracedAttempt, ...]  # the latest ones
    now: float = 0.0  # the dispatcher's clock


class DrainWorkers(LenientRequest):
    site: Key
    epoch: Whole
    worker_ids: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=10_000)]
