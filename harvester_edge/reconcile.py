"""What one observation changes: judges every worker, adopts unknown ones, finds those to cancel.
Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.worker import Ending, Outcome, Phase
from harvester_edge.evidence import Evidence, Times, Worker, is_alive, judge
from harvester_edge.ports import BatchId, Sighting
from harvester_edge.upstream import Demand, Key

IN_BATCH_SYSTEM = (Phase.QUEUED, Phase.HELD, Phase.STARTING, Phase.ACTIVE, Phase.DRAINING)
"""Phases of a worker that an edge has reported to be in the batch system."""
Listing = Mapping[Key, Sighting]


class Observation(NamedTuple):
    """What one look at the batch system and the dispatcher found; nothing of it is written yet."""

    now: float
    listing: Listing | None
    """None: the batch system did not answer."""
    listing_fault: str
    """Why nothing may be submitted, since there has been no listing for long."""
    searches: Mapping[str, Listing]
    """Orders that were searched for by their tag, by intent."""
    demand: Demand
    dispatcher_fault: str
    """Why the dispatcher gave no answer; empty: it did."""
    demanded: bool
    """Whether the dispatcher was called for demand in this look."""
    answers_since: float | None
    """Since when the dispatcher answers without a gap; None: it does not."""
    adopting: bool
    """Whether this edge has just taken the site: what runs there is its own from now on."""
    ended: Mapping[Key, Worker]
    """Workers that had ended by the book, and show a sign of life."""
    condemned: frozenset[Key]
    """Workers that the server wants to be killed."""
    pilots_register: bool

    @property
    def sure(self) -> bool:
        """Whether both answered. The dispatcher was called after the listing, so the site was ours
        then."""
        return self.listing is not None and not self.dispatcher_fault

    @property
    def rows(self) -> dict[Key, m.WorkerRow]:
        """What the dispatcher knows of workers that have registered."""
        return registered_rows(self.demand.answer)


class Rules(NamedTuple):
    """What of a site decides about its workers."""

    tag_prefix: str
    """The beginning of the tags of this site's orders."""
    queues: Mapping[str, str]
    """The queue of each slot."""
    max_queue_age_s: float
    times: Times


class Changes(NamedTuple):
    """What follows from an observation."""

    workers: tuple[Worker, ...]
    """Those that changed, after the change."""
    adopted: tuple[Worker, ...]
    """Those of ours that the book did not know."""
    cancel: tuple[BatchId, ...]
    """Batch jobs to end: overdue in the queue, condemned, without a pilot, or strays."""
    strays: tuple[tuple[Key, BatchId], ...]
    """Those of them that are not ours: submitted, say, by an edge that had lost the site."""

    @property
    def ended(self) -> tuple[Worker, ...]:
        return tuple(one for one in (*self.workers, *self.adopted) if one.phase is Phase.ENDED)


def registered_rows(demand: m.Demand) -> dict[Key, m.WorkerRow]:
    """The rows of workers that have registered, by their name."""
    return {(row.intent, row.index): row for row in demand.workers if row.intent and row.registered}


def shows_life(sighting: Sighting | None, row: m.WorkerRow | None) -> bool:
    """Whether the batch system or the dispatcher knows a worker to be there."""
    if sighting is None or sighting.phase is None:
        return is_alive(row)
    return sighting.phase is not Phase.ENDED


def reconcile(workers: Mapping[Key, Worker], seen: Observation, rules: Rules) -> Changes:
    """`workers`: those that have not ended, by the book."""
    rows, times = seen.rows, rules.times
    changed = [*_judged(workers, seen, rows, times), *_returned(workers, seen, rows, times)]
    adopted = list(_adopted(workers, seen, rules))
    cancel, strays = _to_cancel(_after(workers, changed + adopted), changed + adopted, seen)
    return Changes(tuple(changed), tuple(adopted), cancel, strays)


def _judged(
    workers: Mapping[Key, Worker], seen: Observation, rows: Mapping[Key, m.WorkerRow], times: Times
) -> Iterator[Worker]:
    """Workers that had not ended and that this look has changed."""
    listed = seen.listing is not None
    listing = seen.listing or {}
    for key, worker in workers.items():
        if worker.phase is Phase.PLANNED:
            yield _never_submitted(worker, seen.now)
            continue
        sighting, known = listing.get(key), listed
        in_doubt = worker.phase is Phase.SUBMITTING or worker.absent is not None
        if sighting is None and listed and in_doubt:
            known = worker.intent in seen.searches
            sighting = seen.searches.get(worker.intent, {}).get(key)
        evidence = Evidence(
            now=seen.now,
            listed=known,
            search_failed=listed and not known,
            sighting=sighting,
            answers_since=seen.answers_since,
            row=rows.get(key),
            pilots_register=seen.pilots_register,
        )
        after = judge(worker, evidence, times)
        if after is not worker:
            yield after


def _never_submitted(worker: Worker, now: float) -> Worker:
    """The edge crashed before it called the batch system."""
    return replace(
        worker,
        phase=Phase.ENDED,
        outcome=Outcome.REJECTED,
        ending=Ending.CANCELLED,
        ended=now,
        diagnosis="the edge stopped before it asked the batch system",
    )


def _returned(
    workers: Mapping[Key, Worker], seen: Observation, rows: Mapping[Key, m.WorkerRow], times: Times
) -> Iterator[Worker]:
    """Workers that had been given up and show a sign of life."""
    listing = seen.listing or {}
    for key, worker in seen.ended.items():
        sighting, row = listing.get(key), rows.get(key)
        if key in workers or not shows_life(sighting, row):
            continue
        given_up = worker.ending in (Ending.LOST, Ending.CANCELLED)
        late = worker.ending is Ending.NEVER_REGISTERED and row is not None and sighting is not None
        if not (given_up or late):
            continue
        evidence = Evidence(
            now=seen.now,
            listed=seen.listing is not None,
            sighting=sighting,
            answers_since=seen.answers_since,
            row=row,
            pilots_register=seen.pilots_register,
        )
        after = judge(worker, evidence, times)
        if after is not worker:
            yield after


def _adopted(workers: Mapping[Key, Worker], seen: Observation, rules: Rules) -> Iterator[Worker]:
    """Workers of ours that the book does not know.

    Those that the batch system has when this edge takes the site are its own from then on, whatever
    their state is called. Those that turn up later are strays, unless the dispatcher vouches for
    them: their pilot has registered, or the edge before had reported that they were submitted, and
    a listing then lacked them.
    """
    listing = seen.listing or {}
    rows = {(row.intent, row.index): row for row in seen.demand.answer.workers if row.intent}
    for key in (listing.keys() | rows.keys()) - workers.keys():
        sighting, row = listing.get(key), rows.get(key)
        registered = row if row is not None and row.registered else None
        there = sighting is not None and sighting.phase is not Phase.ENDED
        submitted = there and row is not None and row.phase in IN_BATCH_SYSTEM
        if (
            not key[0].startswith(rules.tag_prefix)
            or not (there or shows_life(sighting, registered))
            or not (seen.adopting or submitted or is_alive(registered))
            or key in seen.ended
        ):
            continue
        queue = row.queue if row else ""
        names = [slot for slot, of in rules.queues.items() if of == queue]
        worker = Worker(
            intent=key[0],
            index=key[1],
            slot=names[0] if names else "",
            queue=queue,
            planned=seen.now,
            deadline=seen.now + rules.max_queue_age_s,
            phase=Phase.QUEUED,
        )
        evidence = Evidence(
            now=seen.now,
            listed=True,
            sighting=sighting,
            row=registered,
            pilots_register=seen.pilots_register,
        )
        yield judge(worker, evidence, rules.times)


def _after(workers: Mapping[Key, Worker], changed: list[Worker]) -> Mapping[Key, Worker]:
    """The workers that have not ended, after the change."""
    if not changed:
        return workers
    after = dict(workers)
    for worker in changed:
        if worker.ended is None:
            after[worker.key] = worker
        else:
            after.pop(worker.key, None)
    return after


def _to_cancel(
    workers: Mapping[Key, Worker], changed: list[Worker], seen: Observation
) -> tuple[tuple[BatchId, ...], tuple[tuple[Key, BatchId], ...]]:
    """Batch jobs to end, and which of them are strays. A job with a good worker in it stays."""
    bad: set[BatchId] = set()
    good: set[BatchId] = set()
    strays: list[tuple[Key, BatchId]] = []
    ended = {worker.key: worker for worker in changed if worker.ended is not None}
    for key, sighting in (seen.listing or {}).items():
        if sighting.phase is Phase.ENDED:
            continue
        worker = workers.get(key)
        if worker is not None:
            overdue = bool(worker.deadline) and seen.now > worker.deadline and worker.waits
            if not overdue and key not in seen.condemned:
                good.add(sighting.batch_id)
            elif sighting.phase is not None:
                bad.add(sighting.batch_id)
        elif sighting.phase is not None:
            known = ended.get(key) or seen.ended.get(key)
            if known is None and seen.sure:
                strays.append((key, sighting.batch_id))
                bad.add(sighting.batch_id)
            elif known is not None and known.ending is Ending.NEVER_REGISTERED:
                bad.add(sighting.batch_id)
    return tuple(sorted(bad - good)), tuple(strays)


def idle_first(workers: Mapping[Key, Worker], rows: Mapping[Key, m.WorkerRow]) -> tuple[int, ...]:
    """Worker ids that may be drained, in that order."""
    ready = [row for key, row in rows.items() if row.phase is Phase.ACTIVE and key in workers]
    ready.sort(key=lambda row: (len(row.jobs), _used(row), -row.registered))
    return tuple(row.worker_id for row in ready)


def _used(row: m.WorkerRow) -> int:
    """Cores in use, on all its nodes."""
    return row.total.together.cores - row.room.together.cores
