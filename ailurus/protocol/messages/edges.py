"""Messages between an edge and the dispatcher: lease of a site, demand, intents, states of
workers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ailurus.protocol.fields import Count, Key, Label, LongText, Moment, Whole
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.messages.base import Answer, LenientRequest
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.worker import Ending, Outcome, Phase


class WorkerRow(Answer, kw_only=True, gc=False):
    """A worker as the dispatcher knows it: by registration, heartbeats and the edge's
    observations."""

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
    hardware: Hardware | None = None


class SlotShape(LenientRequest):
    """What a worker of a site's slot offers: by it the dispatcher distinguishes `never` from `not
    now`."""

    name: Key
    queue: Key
    room: Room
    hardware: Hardware | None = None
    """What kind of machine it has; None: that is not known."""


class Hello(LenientRequest):
    """An edge takes or renews the lease of its site. Another live edge's site is refused (409)."""

    site: Key
    instance: Key
    slots: Annotated[tuple[SlotShape, ...], Meta(max_length=1000)]
    online: bool = True


class Welcome(Answer):
    # Increases each time another instance takes over the site.
    epoch: int
    lease_s: float
    # The name of this dispatcher and its store.
    giver: str = ""


class SiteBound(LenientRequest):
    """A limit of a site: how many more workers it allows, and why, as an admin reads it."""

    name: Label
    room: int
    why: Annotated[str, Meta(max_length=2000)]


class SiteDecision(LenientRequest):
    """An edge's last decision as text, shown to operators and used for nothing else."""

    at: Moment
    sentence: Annotated[str, Meta(max_length=2000)]
    binding: Label
    bounds: Annotated[tuple[SiteBound, ...], Meta(max_length=50)] = ()
    notes: Annotated[tuple[Annotated[str, Meta(max_length=2000)], ...], Meta(max_length=50)] = ()


class DemandRequest(LenientRequest):
    """Asks for the jobs that wait. `room`: how many more workers the site could start whatever the
    demand; with 0 its share goes to the other sites that serve the queue."""

    site: Key
    epoch: Whole
    room: Whole | None = None
    # None: unchanged.
    word: SiteDecision | None = None


class ShapeDemand(Answer):
    """Jobs of one shape that are ready now, in a queue that the site serves ('' = any queue)."""

    queue: str
    shape: Shape
    jobs: int
    # Sites that could run them now, this one included. Each provisions its share.
    sites: int = 1


class ExcludedHost(Answer):
    """A node that gets no jobs for a while, since it failed several in a row."""

    host: str
    until: float
    reason: str


class Demand(Answer):
    """The jobs that the site's pilots could run now, and its workers as the dispatcher knows
    them."""

    shapes: tuple[ShapeDemand, ...]
    workers: tuple[WorkerRow, ...]
    excluded: tuple[ExcludedHost, ...] = ()
    # As in `Welcome`.
    giver: str = ""


class NewIntent(LenientRequest):
    """Announces that `count` workers will be submitted, and asks for their bootstrap tokens."""

    site: Key
    epoch: Whole
    intent: Key
    queue: Key
    count: Annotated[int, Meta(ge=1, le=10_000)]
    # The time after which no worker of the intent may register.
    deadline: float
    outage_s: Annotated[float, Meta(ge=0, le=604_800)] | None = None
    """How long they may send no heartbeat, since they are behind a relay."""


class Bootstraps(Answer):
    # In the order of the workers' indices.
    tokens: tuple[str, ...]


class WorkerObservation(LenientRequest):
    """The state of one worker in the edge's batch system."""

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
    """Asks which jobs some workers of a site had, or which of its workers had a job."""

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
    # The latest of them.
    attempts: tuple[TracedAttempt, ...]
    # The dispatcher's clock.
    now: float = 0.0


class DrainWorkers(LenientRequest):
    site: Key
    epoch: Whole
    worker_ids: Annotated[tuple[Whole, ...], Meta(min_length=1, max_length=10_000)]
