"""Rows of the store with names and types: workers, sites, and what is known of them."""

from __future__ import annotations

from msgspec import Struct

from dispatcher.ports import Tx


class WorkerRecord(Struct, frozen=True):
    """A worker: `worker.row`, `worker.alive`, `worker.page`, `worker.just_ended`."""

    worker_id: int
    site: str
    queue: str
    host: str
    phase: str
    ending: str | None
    registered: float | None
    last_heard: float | None
    room: str | None
    """What it had left when it was last seen, encoded."""
    total: str | None
    intent: str
    idx: int
    """Which of the workers of its intent it is."""
    batch_id: str
    version: str
    diagnosis: str
    draining: int
    hardware: str | None
    """What kind of machine it has, encoded."""
    occupancy: str | None
    """Its nodes and what became of their core-seconds, encoded."""
    ended: float | None


class SiteRecord(Struct, frozen=True):
    """Who provisions a site: `site.all`, and `site.get` without its name."""

    site: str
    instance: str
    """The edge."""
    epoch: int
    slots: str
    """What it can provision, encoded."""
    online: int
    heard: float | None


class ExcludedNode(Struct, frozen=True):
    """A node that gets no jobs: `node.excluded`."""

    site: str
    host: str
    until: float
    reason: str


class FactRecord(Struct, frozen=True):
    """What was last said of something, and when: `fact.get`."""

    at: float
    data: str


class PlannedWorker(Struct, frozen=True):
    """A worker that an edge planned: `worker.planned`."""

    worker_id: int
    queue: str
    instance: str
    """The pilot that has registered as it; blank: none has."""
    phase: str
    ending: str | None
    deadline: float | None
    """Until when a pilot may register as it."""
    registered: float | None


class KnownWorker(PlannedWorker, frozen=True):
    """A worker by the name of its pilot or of its Harvester: `worker.of_instance`,
    `worker.of_harvester`."""

    total: str | None
    """What it has, encoded."""
    host: str
    batch_id: str


class RunRecord(Struct, frozen=True):
    """An attempt of a worker, with what its job asks for: `attempt.of_worker`."""

    job_id: int
    attempt_nr: int
    state: str
    leased: float
    running: float | None
    holding: float | None
    ended: float | None
    timing: str | None
    """Seconds of its phases, encoded."""
    held: str | None
    """What it held, encoded; None: its pilot did not tell."""
    owner: str
    """Of its job; blank: that has been moved away."""
    name: str
    items: int
    cores: int


class WorkerState(Struct, frozen=True):
    """What decides on a worker's next phase: `worker.state`."""

    phase: str
    ending: str | None
    site: str
    intent: str
    registered: float | None
    batch_id: str
    diagnosis: str


class WorkerHome(Struct, frozen=True):
    """Where a registered worker is: `worker.home`."""

    site: str
    queue: str
    outage_s: float | None
    """How long its relay may be cut off; None: it has none."""


class PandaPlace(Struct, frozen=True):
    """For which queue a worker works: `worker.place`."""

    queue: str
    lease_s: float | None
    """How long its leases last; None: it is no PanDA client."""


class CommandRecord(Struct, frozen=True):
    """A command for a Harvester: `command.new`."""

    command_id: int
    command: str
    params: str
    ack: int
    made: float


class SeenWorker(Struct, frozen=True):
    """A worker that has been seen lately: `worker.news`."""

    worker_id: int
    last_heard: float
    room: str
    draining: int


class ProcessRecord(Struct, frozen=True):
    """A dispatcher on this store: `process.all`."""

    number: int
    name: str
    beat: int
    """Changes while it lives."""
    knows: int
    """The last step of the schema that it knows."""


def find_worker(tx: Tx, worker_id: int) -> WorkerRecord | None:
    """A worker."""
    row = tx.one("worker.row", worker_id=worker_id)
    return None if row is None else WorkerRecord(*row)


def workers_alive(tx: Tx) -> list[WorkerRecord]:
    """The workers that have not ended."""
    return [WorkerRecord(*row) for row in tx.all("worker.alive")]


def workers(tx: Tx, site: str, *, ended: bool, most: int) -> list[WorkerRecord]:
    """The newest workers of a site, or of all sites if it is blank; with `ended` those that have
    ended, too."""
    return [WorkerRecord(*row) for row in tx.all("worker.page", site=site, ended=ended, most=most)]


def workers_just_ended(tx: Tx, site: str, since: float) -> list[WorkerRecord]:
    """The workers of a site that have ended since."""
    return [WorkerRecord(*row) for row in tx.all("worker.just_ended", site=site, since=since)]


def find_site(tx: Tx, site: str) -> SiteRecord | None:
    """A site that an edge has provisioned."""
    row = tx.one("site.get", site=site)
    return None if row is None else SiteRecord(site, *row)


def sites(tx: Tx) -> list[SiteRecord]:
    """All sites that edges have provisioned."""
    return [SiteRecord(*row) for row in tx.all("site.all")]


def find_planned(tx: Tx, intent: str, index: int, site: str) -> PlannedWorker | None:
    """A worker that the edge of a site planned."""
    row = tx.one("worker.planned", intent=intent, idx=index, site=site)
    return None if row is None else PlannedWorker(*row)


def runs(tx: Tx, worker_id: int, after: tuple[float, int], most: int) -> list[RunRecord]:
    """The attempts of a worker in the order of their leases. `after`: the lease and the job of the
    last one before."""
    leased, job_id = after
    values = {"worker_id": worker_id, "leased": leased, "job_id": job_id, "most": most}
    return [RunRecord(*row) for row in tx.all("attempt.of_worker", **values)]


def workers_seen(tx: Tx, since: float) -> list[SeenWorker]:
    """The workers that some dispatcher has seen since."""
    return [SeenWorker(*row) for row in tx.all("worker.news", since=since)]


def processes(tx: Tx) -> list[ProcessRecord]:
    """The dispatchers on this store, in the order in which they came."""
    return [ProcessRecord(*row) for row in tx.all("process.all")]


def excluded_nodes(tx: Tx, now: float) -> list[ExcludedNode]:
    """The nodes that get no jobs now."""
    return [ExcludedNode(*row) for row in tx.all("node.excluded", now=now)]


SANDBOX = "sandbox"
"""The kind of fact that names a file which a user's panda-client has uploaded."""


def find_fact(tx: Tx, kind: str, owner: str, name: str) -> FactRecord | None:
    """What was last said of something."""
    row = tx.one("fact.get", kind=kind, owner=owner, name=name)
    return None if row is None else FactRecord(*row)


def find_by_instance(tx: Tx, instance: str) -> KnownWorker | None:
    """A worker that nobody planned, by the name that its pilot gave itself."""
    row = tx.one("worker.of_instance", instance=instance)
    return None if row is None else KnownWorker(*row)


def find_of_harvester(tx: Tx, intent: str, index: int) -> KnownWorker | None:
    """A worker of a Harvester, by its number there."""
    row = tx.one("worker.of_harvester", intent=intent, idx=index)
    return None if row is None else KnownWorker(*row)


def find_state(tx: Tx, worker_id: int) -> WorkerState | None:
    """What decides on a worker's next phase."""
    row = tx.one("worker.state", worker_id=worker_id)
    return None if row is None else WorkerState(*row)


def find_home(tx: Tx, worker_id: int) -> WorkerHome | None:
    """Where a worker is that has registered."""
    row = tx.one("worker.home", worker_id=worker_id)
    return None if row is None else WorkerHome(*row)


def find_place(tx: Tx, worker_id: int) -> PandaPlace | None:
    """For which queue a worker works."""
    row = tx.one("worker.place", worker_id=worker_id)
    return None if row is None else PandaPlace(*row)


def new_commands(tx: Tx, harvester_id: str, most: int) -> list[CommandRecord]:
    """The oldest commands that a Harvester has not fetched."""
    found = tx.all("command.new", harvester=harvester_id, most=most)
    return [CommandRecord(*row) for row in found]
