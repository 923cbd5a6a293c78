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


def workers_seen(tx: Tx, since: float) -> list[SeenWorker]:
    """The workers that some dispatcher has seen since."""
    return [SeenWorker(*row) for row in tx.all("worker.news", since=since)]


def processes(tx: Tx) -> list[ProcessRecord]:
    """The dispatchers on this store, in the order in which they came."""
    return [ProcessRecord(*row) for row in tx.all("process.all")]


def find_fact(tx: Tx, kind: str, owner: str, name: str) -> FactRecord | None:
    """What was last said of something."""
    row = tx.one("fact.get", kind=kind, owner=owner, name=name)
    return None if row is None else FactRecord(*row)
