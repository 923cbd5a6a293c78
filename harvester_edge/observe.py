"""Looks at the batch system and the dispatcher, and at what else decides. Changes nothing but
`BatchState`.

The listing comes first: a pilot that had ended by then has registered before, so the dispatcher's
answer knows it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ailurus.protocol import messages as m
from ailurus.protocol.worker import Phase
from ailurus.wire.client import WireError
from harvester_edge import empties, lease, machines
from harvester_edge.decide import Decision
from harvester_edge.edge import Edge, SteadyClock
from harvester_edge.evidence import Worker, is_alive
from harvester_edge.ports import BatchError, BatchId, Sighting, Tag
from harvester_edge.reconcile import Listing, Observation, registered_rows, shows_life
from harvester_edge.snapshot import Circumstances, period_begin
from harvester_edge.upstream import Demand, Key

BLIND_AFTER = 3
"""Polls without a listing before submissions stop."""
NO_DEMAND = Demand(m.Demand(shapes=(), workers=()))


def observe(edge: Edge, dispatcher_fault: str = "") -> Observation:
    """Look once. `dispatcher_fault`: why the dispatcher is not to be called; empty: it is."""
    now = edge.clock()
    listing, listing_fault = _listing(edge, now)
    demanded = not dispatcher_fault
    demand = NO_DEMAND
    if demanded:
        demand, dispatcher_fault = _demand(edge)
    rows = registered_rows(demand.answer)
    answers_since = None if dispatcher_fault else edge.book.answers_since() or now
    sure = listing is not None and not dispatcher_fault
    return Observation(
        now=now,
        listing=listing,
        listing_fault=listing_fault,
        searches={} if listing is None else _searches(edge, listing, rows, now),
        demand=demand,
        dispatcher_fault=dispatcher_fault,
        demanded=demanded,
        answers_since=answers_since,
        adopting=sure and edge.adopting(),
        ended=dict(_ended(edge, listing or {}, rows)),
        condemned=edge.upstream.condemned(),
        pilots_register=edge.upstream.pilots_register,
    )


def _listing(edge: Edge, now: float) -> tuple[Listing | None, str]:
    """The listing, or None; and why nothing may be submitted if it has been missing for long."""
    state = edge.batch_state
    try:
        found = edge.batch.listing()
    except BatchError as error:
        if not state.listing_failure:
            edge.log.warning("listing_failed", reason=str(error))
        state.listing_failure = str(error)
        old = now - state.listed_at > BLIND_AFTER * edge.poll_s
        return None, f"the batch system does not answer: {error}" if old else ""
    state.listed_at, state.listing_failure = now, ""
    return _by_worker(edge, found), ""


def _by_worker(edge: Edge, found: Iterable[Sighting]) -> dict[Key, Sighting]:
    """One sighting a worker. Of several (somebody has submitted its script again) one that lives,
    and of those the one we know: the others' pilots are refused."""
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


def _demand(edge: Edge) -> tuple[Demand, str]:
    """The dispatcher's answer, and why it is none. Sends the last decision if it is new."""
    last = edge.decisions.last
    unpublished = edge.decisions.unpublished()
    ask = m.DemandRequest(
        site=edge.site.site,
        epoch=edge.lease.epoch,
        room=last.spare if last else None,
        word=_site_decision(unpublished, edge.clock()) if unpublished else None,
    )
    try:
        demand = edge.upstream.demand(ask)
    except WireError as error:
        return NO_DEMAND, str(error)
    if why := lease.foreign(edge, demand.answer.giver):
        return NO_DEMAND, why
    return demand, ""


def _site_decision(decision: Decision, at: float) -> m.SiteDecision:
    """A decision as operators read it at the dispatcher."""
    return m.SiteDecision(
        at=at,
        sentence=decision.sentence[:2000],
        binding=decision.binding.name,
        bounds=tuple(
            m.SiteBound(name=one.name, room=one.allowed, why=one.why[:2000])
            for one in decision.bounds
        ),
        notes=tuple(note[:2000] for note in (*decision.inputs, *decision.notes)[:50]),
    )


def _searches(
    edge: Edge, listing: Listing, rows: Mapping[Key, m.WorkerRow], now: float
) -> dict[str, Listing]:
    """A search by tag for each order in doubt, and for each with a worker that is gone."""
    found: dict[str, Listing] = {}
    edge.batch_state.search_failure = ""
    for key, worker in edge.workers.items():
        if key in listing or is_alive(rows.get(key)) or worker.intent in found:
            continue
        age_s = now - worker.planned
        unsettled = worker.phase is Phase.SUBMITTING and age_s >= edge.settle_s
        if worker.absent is None and not unsettled:
            continue
        try:
            order = edge.book.of_intent(worker.intent)
            ids = [BatchId(one.batch_id) for one in order if one.batch_id and one.ended is None]
            answer = edge.batch.find(Tag(worker.intent), ids, age_s)
        except BatchError as error:
            edge.batch_state.search_failure = str(error)
            edge.log.warning("search_failed", intent=worker.intent, reason=str(error))
            # Each of the others would take as long and fail alike.
            break
        found[worker.intent] = _by_worker(edge, answer)
    return found


def _ended(
    edge: Edge, listing: Listing, rows: Mapping[Key, m.WorkerRow]
) -> Iterator[tuple[Key, Worker]]:
    """Workers that have ended by the book, of those that the batch system or the dispatcher shows
    to be there."""
    for key in (listing.keys() | rows.keys()) - edge.workers.keys():
        sighting = listing.get(key)
        there = sighting is not None and sighting.phase is not Phase.ENDED
        if there or shows_life(sighting, rows.get(key)):
            worker = edge.book.get(*key)
            if worker is not None:
                yield key, worker


def circumstances(edge: Edge, now: float, files_fault: str) -> Circumstances:
    """What decides beside the observation: who paused the site, failed starts, node-hours spent."""
    budget = edge.site.scaling.budget
    clock = edge.clock
    return Circumstances(
        now=now,
        starts={name: edge.book.health(name) for name in edge.site.slots},
        empty={name: edge.book.health(empties.key(name)) for name in edge.site.slots},
        spent_node_hours=edge.book.spent(period_begin(budget.period, now)) if budget else 0.0,
        paused=_paused(edge),
        draining=edge.site.policy.status == "drain" or (edge.state / "drain").exists(),
        files_fault=files_fault,
        listing_failure=edge.batch_state.listing_failure,
        search_failure=edge.batch_state.search_failure,
        clock_off_min=clock.off_min() if isinstance(clock, SteadyClock) else 0,
        grace_s=edge.rules.times.grace_s,
        machines={
            name: machines.known(edge.book, edge.site, name, now) for name in edge.site.slots
        },
        wrong_machines=tuple(machines.wrong(edge.book, edge.site, now)),
    )


def _paused(edge: Edge) -> str:
    """Who or what paused the site; empty: nobody."""
    if edge.site.policy.status != "online":
        return f"policy.status is {edge.site.policy.status}"
    for name in ("pause", "drain"):
        file = edge.state / name
        try:
            reason = _reason_in(file)
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = str(error)
        return f"{file} exists" + (f": {reason}" if reason else "")
    return ""


def _reason_in(file: Path) -> str:
    """The text of a pause file. An admin may have put anything there: no cycle waits for a FIFO."""
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, 600).decode("utf-8", "replace")[:200].strip()
    finally:
        os.close(fd)
