"""One look at the world: a listing of the batch system, the dispatcher's demand and heartbeats.

The listing comes first: a pilot that had ended by then has registered before, so the dispatcher's answer
knows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.units import duration_s
from ailurus.protocol.worker import Ending, Outcome, Phase
from ailurus.wire.client import WireError
from harvester_edge import empties
from harvester_edge.decide import Decision, Health, Snapshot, one_more
from harvester_edge.edge import Edge, prefix
from harvester_edge.evidence import Evidence, Worker, heard, judge
from harvester_edge.ports import BatchError, BatchId, Sighting, Tag
from harvester_edge.snapshot import snapshot
from harvester_edge.upstream import Demand

Key = tuple[str, int]
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
BLIND_AFTER = 3  # polls without a listing before submissions stop
FAILED_START = {
    Ending.NEVER_REGISTERED: True,
    Ending.FAILED: True,
    Ending.NODE_FAIL: True,
    Ending.OOM: True,
    Ending.WALLTIME: True,
    Ending.LOST: True,  # where nobody keeps a history, a pilot that dies at once ends so
    Ending.CANCELLED: True,  # by somebody, or by a batch system that never had it
    Ending.PREEMPTED: False,  # another had the better claim
    Ending.DONE: False,  # of these two only those that have registered
    Ending.IDLE_EXIT: False,
}
"""Whether an end is a failed start, of a worker that has never registered."""
PLACED = (Phase.QUEUED, Phase.HELD, Phase.STARTING, Phase.ACTIVE, Phase.DRAINING)
"""Of a worker that an edge has told the dispatcher to be in the batch system."""


class Seen(NamedTuple):
    """What one look found: what decides, and what must be ended or told."""

    snapshot: Snapshot
    cancel: tuple[BatchId, ...]  # overdue in the queue, running without a pilot, or a stray
    rows: dict[Key, m.WorkerRow]  # the dispatcher's word about workers that registered
    ended: tuple[Worker, ...]


def observe(edge: Edge, unheard: str = "", unfit: str = "") -> Seen:
    """Look once, write what changed to the book, count. `unheard`, `unfit`: why the dispatcher said nothing,
    and why nothing can be started from the edge's directories."""
    now = edge.clock()
    sightings, unseen = _listing(edge, now)
    (demand, sentences), unheard = _demand(edge, unheard)
    edge.avoid = tuple(one.host for one in demand.excluded if _NODE.fullmatch(one.host))
    rows = {(row.intent, row.index): row for row in demand.workers if row.intent and row.registered}
    before = dict(edge.workers)
    answers = edge.book.answers_since(None if unheard else now)
    # Asked after the listing, the dispatcher's word says that the site was ours when it was made.
    sure = sightings is not None and not unheard
    adopting = sure and edge.adopting()
    changed = list(_judged(edge, sightings, rows, now, answers))
    changed += _adopted(edge, sightings or {}, demand, now, adopting=adopting)
    if changed or adopting:
        with edge.book.change():
            if adopting:
                edge.adopted()
            edge.book.keep(changed)
            _charge(edge, before, changed)
            _count_starts(edge, before, changed, answers or now)
        for worker in changed:
            edge.remember(worker)
            _log(edge, worker, before.get(worker.key))
    ended = tuple(worker for worker in changed if worker.phase is Phase.ENDED)
    empties.count(edge, demand, ended)
    return Seen(
        snapshot=snapshot(
            edge, demand, sentences, now, unheard=unheard, unseen=unseen, unfit=unfit
        ),
        cancel=tuple(_overdue(edge, sightings or {}, now, strays=sure)),
        rows=rows,
        ended=ended,
    )


def _listing(edge: Edge, now: float) -> tuple[dict[Key, Sighting] | None, str]:
    """The listing, or None; and why nothing may be submitted if it has been missing for long."""
    try:
        found = edge.batch.listing()
    except BatchError as error:
        if not edge.blind:
            edge.log.warning("listing_failed", reason=str(error))
        edge.blind = str(error)
        old = now - edge.listed > BLIND_AFTER * edge.poll_s
        return None, f"the batch system does not answer: {error}" if old else ""
    edge.listed, edge.blind = now, ""
    return _by_worker(edge, found), ""


def _by_worker(edge: Edge, found: Iterable[Sighting]) -> dict[Key, Sighting]:
    """One sighting a worker. Of several (somebody has submitted its script again) one that lives, and
    of those the one we know: the others' pilots are refused."""
    best: dict[Key, Sighting] = {}
    for one in found:
        if one.phase is None:
            edge.log.warning("state_not_known", batch_id=one.batch_id, reason=one.detail)
        key = (one.tag, one.index)
        other = best.setdefault(key, one)
        if other is not one:
            worker = edge.workers.get(key)
            best[key] = max(other, one, key=lambda it: _weight(worker, it))
    return best


def _weight(worker: Worker | None, one: Sighting) -> tuple[bool, bool]:
    return one.phase is not Phase.ENDED, worker is not None and worker.batch_id == one.batch_id


def _demand(edge: Edge, unheard: str) -> tuple[Demand, str]:
    nothing = Demand(m.Demand(shapes=(), workers=()))
    if unheard:
        return nothing, unheard
    last = edge.decision
    ask = m.DemandRequest(
        site=edge.site.site,
        epoch=edge.epoch,
        room=last.spare if last else None,
        word=_word(last, edge.clock()) if last and last is not edge.told else None,
    )
    try:
        answer = edge.upstream.demand(ask)
        why = edge.stranger(answer.answer.giver)
    except WireError as error:
        answer, why = nothing, str(error)
    if why:
        edge.lease_until = 0.0  # say hello again
        edge.told = None
        return nothing, why
    edge.told = last
    return answer, ""


def _word(decision: Decision, at: float) -> m.SiteDecision:
    """A decision as operators read it at the dispatcher."""
    return m.SiteDecision(
        at=at,
        sentence=decision.sentence[:2000],
        binding=decision.binding.name,
        bounds=tuple(
            m.SiteBound(name=one.name, room=one.room, why=one.why[:2000]) for one in decision.bounds
        ),
        notes=tuple(note[:2000] for note in (*decision.inputs, *decision.notes)[:50]),
    )


def _judged(
    edge: Edge,
    sightings: dict[Key, Sighting] | None,
    rows: dict[Key, m.WorkerRow],
    now: float,
    answers: float | None,
) -> Iterator[Worker]:
    """The workers that this look has changed."""
    listed = sightings is not None
    sightings = sightings or {}
    sought = _sought(edge, sightings, rows, now) if listed else {}
    times = edge.times
    for key, worker in list(edge.workers.items()):
        if worker.phase is Phase.PLANNED:  # a crash: the batch system was not asked
            yield _never_asked(worker, now)
            continue
        sighting, known = sightings.get(key), listed
        if sighting is None and listed and (_in_doubt(worker) or worker.absent is not None):
            known, sighting = worker.intent in sought, sought.get(worker.intent, {}).get(key)
        evidence = Evidence(
            now=now,
            listed=known,
            search_failed=listed and not known,
            sighting=sighting,
            answers_since=answers,
            row=rows.get(key),
            pilots_register=edge.upstream.pilots_register,
        )
        after = judge(worker, evidence, times)
        if after is not worker:
            yield after
    for key, worker in _returned(edge, sightings, rows):
        evidence = Evidence(
            now=now,
            listed=listed,
            sighting=sightings.get(key),
            answers_since=answers,
            row=rows.get(key),
            pilots_register=edge.upstream.pilots_register,
        )
        after = judge(worker, evidence, times)
        if after is not worker:
            yield after


def _in_doubt(worker: Worker) -> bool:
    return worker.phase is Phase.SUBMITTING


def _never_asked(worker: Worker, now: float) -> Worker:
    return replace(
        worker,
        phase=Phase.ENDED,
        outcome=Outcome.REJECTED,
        ending=Ending.CANCELLED,
        ended=now,
        diagnosis="the edge stopped before it asked the batch system",
    )


def _sought(
    edge: Edge, sightings: dict[Key, Sighting], rows: dict[Key, m.WorkerRow], now: float
) -> dict[str, dict[Key, Sighting]]:
    """A search by tag for each order in doubt, and for each with a worker that is gone."""
    found: dict[str, dict[Key, Sighting]] = {}
    edge.unsearched = ""
    for key, worker in edge.workers.items():
        if key in sightings or heard(rows.get(key)) or worker.intent in found:
            continue
        if worker.absent is None and not (
            _in_doubt(worker) and now - worker.planned >= edge.settle_s
        ):
            continue
        try:
            order = edge.book.of_intent(worker.intent)
            ids = [BatchId(one.batch_id) for one in order if one.batch_id and one.ended is None]
            answer = edge.batch.find(Tag(worker.intent), ids, now - worker.planned)
        except BatchError as error:
            edge.unsearched = str(error)
            edge.log.warning("search_failed", intent=worker.intent, reason=str(error))
            break  # the others would wait as long for nothing
        found[worker.intent] = _by_worker(edge, answer)
    return found


def _returned(
    edge: Edge, sightings: dict[Key, Sighting], rows: dict[Key, m.WorkerRow]
) -> Iterator[tuple[Key, Worker]]:
    """Workers that had been given up and show a sign of life."""
    for key in (sightings.keys() | rows.keys()) - edge.workers.keys():
        worker = edge.book.get(*key) if _lives(sightings.get(key), rows.get(key)) else None
        if worker is None:
            continue
        if worker.ending in (Ending.LOST, Ending.CANCELLED) or (
            worker.ending is Ending.NEVER_REGISTERED and key in rows and key in sightings
        ):
            yield key, worker


def _lives(sighting: Sighting | None, row: m.WorkerRow | None) -> bool:
    if sighting is None or sighting.phase is None:
        return heard(row)
    return sighting.phase is not Phase.ENDED


def _adopted(
    edge: Edge,
    sightings: dict[Key, Sighting],
    demand: m.Demand,
    now: float,
    *,
    adopting: bool,
) -> Iterator[Worker]:
    """Workers of ours that the book does not know. Those that the batch system has when this edge takes
    the site are its own from then on, whatever it calls their state; those that turn up later are strays
    (`_overdue`), unless the dispatcher vouches for them: their pilot has registered, or the edge before
    had told that they were submitted, and a listing then lacked them."""
    rows = {(row.intent, row.index): row for row in demand.workers if row.intent}
    ours = prefix(edge.site.site)
    for key in (sightings.keys() | rows.keys()) - edge.workers.keys():
        sighting, row = sightings.get(key), rows.get(key)
        registered = row if row is not None and row.registered else None
        there = sighting is not None and sighting.phase is not Phase.ENDED
        placed = there and row is not None and row.phase in PLACED
        if (
            not key[0].startswith(ours)
            or not (there or _lives(sighting, registered))
            or not (adopting or placed or heard(registered))
            or edge.book.get(*key) is not None
        ):
            continue
        edge.log.warning("worker_adopted", intent=key[0], index=key[1])
        queue = row.queue if row else ""
        names = [name for name, slot in edge.site.slots.items() if slot.queue == queue]
        worker = Worker(
            intent=key[0], index=key[1], slot=names[0] if names else "", queue=queue, planned=now,
            deadline=now + duration_s(edge.site.policy.max_queue_age), phase=Phase.QUEUED,
        )  # fmt: skip
        worker = replace(worker, worker_id=edge.upstream.adopted_worker_id())
        evidence = Evidence(
            now=now,
            listed=True,
            sighting=sighting,
            row=registered,
            pilots_register=edge.upstream.pilots_register,
        )
        yield judge(worker, evidence, edge.times)


def _count_starts(
    edge: Edge, before: dict[Key, Worker], changed: list[Worker], answers: float
) -> None:
    """Failed starts in a row, by slot. One that registers closes the breaker; one that could not,
    since the dispatcher was away in its time, says nothing."""
    failed: dict[str, int] = {}
    for worker in changed:
        old = before.get(worker.key)
        if worker.planned < answers and worker.registered is None:
            continue
        if _failed_to_start(edge, old, worker):
            failed[worker.slot] = failed.get(worker.slot, 0) + 1
            health = edge.book.health(worker.slot)
            reason = worker.diagnosis[-500:]
            reason = reason or f"{worker.ending}, before its pilot registered"
            count = one_more(health, failed[worker.slot])
            since = edge.clock()
            edge.book.set_health(worker.slot, Health(failures=count, since=since, reason=reason))
        elif worker.registered is not None and (old is None or old.registered is None):
            edge.book.set_health(worker.slot, Health())


def _failed_to_start(edge: Edge, old: Worker | None, worker: Worker) -> bool:
    """Whether a worker's end is a failed start. One that the edge's own death kept from being submitted, that
    waited in the queue until its deadline, or that the server wanted dead, is none."""
    if worker.ending is None or worker.registered is not None or not FAILED_START[worker.ending]:
        return False
    if old is None or old.ending is not None:
        return old is None
    expired = old.started is None and 0 < worker.deadline < edge.clock()
    condemned = worker.key in edge.upstream.condemned()
    ours = old.phase is Phase.PLANNED or (old.phase is Phase.SUBMITTING and old.outcome is None)
    return not (expired or condemned or ours)


def _charge(edge: Edge, before: dict[Key, Worker], changed: list[Worker]) -> None:
    """Book what ended workers have used. One that comes back and ends again is charged again: the
    account may say too much, never too little."""
    for worker in changed:
        old = before.get(worker.key)
        if worker.ended is not None and worker.started is not None and old is not None:
            hours = (worker.ended - worker.started) / 3600
            edge.book.spend(worker.ended, hours)


def _overdue(
    edge: Edge, sightings: dict[Key, Sighting], now: float, *, strays: bool
) -> Iterator[BatchId]:
    """Allocations that waited for too long, run without a pilot that ever registered, or are not ours:
    submitted, say, by an edge that had lost the site. One with a good worker stays."""

    def late(worker: Worker) -> bool:
        return bool(worker.deadline) and now > worker.deadline and worker.waits

    condemned = edge.upstream.condemned()
    bad: set[BatchId] = set()
    for key, sighting in sightings.items():
        if sighting.phase is Phase.ENDED or sighting.phase is None:
            continue
        worker = edge.workers.get(key)
        if worker is not None:
            if late(worker) or key in condemned:
                bad.add(sighting.batch_id)
            continue
        ended = edge.book.get(*key)
        if ended is None and strays:
            edge.log.warning("stray_cancelled", batch_id=sighting.batch_id, intent=key[0])
            bad.add(sighting.batch_id)
        elif ended is not None and ended.ending is Ending.NEVER_REGISTERED:
            bad.add(sighting.batch_id)
    if bad:
        bad -= {
            sighting.batch_id
            for key, sighting in sightings.items()
            if sighting.phase is not Phase.ENDED
            and (worker := edge.workers.get(key)) is not None
            and not (late(worker) or key in condemned)
        }
    return iter(sorted(bad))


def idle_first(edge: Edge, rows: dict[Key, m.WorkerRow]) -> tuple[int, ...]:
    """Worker ids that may be drained."""
    ready = [row for key, row in rows.items() if row.phase is Phase.ACTIVE and key in edge.workers]
    ready.sort(key=lambda row: (len(row.jobs), row.total.cores - row.room.cores, -row.registered))
    return tuple(row.worker_id for row in ready)


def _log(edge: Edge, worker: Worker, old: Worker | None) -> None:
    if old is None or old.phase is not worker.phase:
        facts = {"ending": str(worker.ending), "reason": worker.diagnosis} if worker.ending else {}
        edge.log.info(
            "worker_changed", phase=str(worker.phase), intent=worker.intent, index=worker.index,
            batch_id=worker.batch_id, worker_id=worker.worker_id, **facts,
        )  # fmt: skip
