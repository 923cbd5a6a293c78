"""Writes what an observation changed: workers, node-hours and failed starts to the book, then to
memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from ailurus.protocol.worker import Ending, Phase
from harvester_edge import empties, lease
from harvester_edge.decide import Health, one_more
from harvester_edge.edge import Edge
from harvester_edge.evidence import Worker
from harvester_edge.reconcile import Changes, Observation
from harvester_edge.upstream import Key

FAILED_START = {
    Ending.NEVER_REGISTERED: True,
    Ending.FAILED: True,
    Ending.NODE_FAIL: True,
    Ending.OOM: True,
    Ending.WALLTIME: True,
    # Where nobody keeps a history, a pilot that dies at once ends so.
    Ending.LOST: True,
    # By somebody, or by a batch system that never had it.
    Ending.CANCELLED: True,
    # Another user had the better claim.
    Ending.PREEMPTED: False,
    # Of these two only workers that have registered.
    Ending.DONE: False,
    Ending.IDLE_EXIT: False,
}
"""Whether an end is a failed start, of a worker that has never registered."""


def record(edge: Edge, seen: Observation, changes: Changes) -> None:
    """Write the changes in one transaction. Raises BookUnwritable: then no worker has changed."""
    _record_dispatcher(edge, seen)
    adopted = [_named(edge, worker) for worker in changes.adopted]
    changed = [*changes.workers, *adopted]
    before = {worker.key: edge.workers.get(worker.key) for worker in changed}
    for worker in adopted:
        edge.log.warning("worker_adopted", intent=worker.intent, index=worker.index)
    if changed or seen.adopting:
        with edge.book.change():
            if seen.adopting:
                edge.adopted()
            edge.book.keep(changed)
            _charge(edge, before, changed)
            _count_starts(edge, before, changed, seen)
        for worker in changed:
            edge.remember(worker)
            _log(edge, worker, before[worker.key])
    for key, batch_id in changes.strays:
        edge.log.warning("stray_cancelled", batch_id=batch_id, intent=key[0])
    empties.count(edge, seen.demand.answer, changes.ended)


def _record_dispatcher(edge: Edge, seen: Observation) -> None:
    """What the dispatcher's answer, or its silence, means for the lease and for what is
    published."""
    edge.book.set_answers_since(seen.answers_since)
    if not seen.demanded:
        return
    if seen.dispatcher_fault:
        # Begin anew with a hello: it may be back without what it knew.
        edge.lease.renew_at = 0.0
        edge.decisions.published = None
    else:
        lease.remember_dispatcher(edge, seen.demand.answer.giver)
        edge.decisions.published = edge.decisions.last


def _named(edge: Edge, worker: Worker) -> Worker:
    """An adopted worker with its name at the server, where it needs one before it registers."""
    if worker.worker_id:
        return worker
    return replace(worker, worker_id=edge.upstream.adopted_worker_id())


def _count_starts(
    edge: Edge, before: Mapping[Key, Worker | None], changed: Iterable[Worker], seen: Observation
) -> None:
    """Count failed starts in a row, by slot. A worker that registers closes the breaker; one that
    could not, since the dispatcher was away in its time, says nothing."""
    answers_since = seen.now if seen.answers_since is None else seen.answers_since
    failed: dict[str, int] = {}
    for worker in changed:
        old = before[worker.key]
        if worker.planned < answers_since and worker.registered is None:
            continue
        if _failed_to_start(seen, old, worker, edge.clock()):
            failed[worker.slot] = failed.get(worker.slot, 0) + 1
            health = edge.book.health(worker.slot)
            reason = worker.diagnosis[-500:]
            reason = reason or f"{worker.ending}, before its pilot registered"
            count = one_more(health, failed[worker.slot])
            since = edge.clock()
            edge.book.set_health(worker.slot, Health(failures=count, since=since, reason=reason))
        elif worker.registered is not None and (old is None or old.registered is None):
            edge.book.set_health(worker.slot, Health())


def _failed_to_start(seen: Observation, old: Worker | None, worker: Worker, now: float) -> bool:
    """Whether a worker's end is a failed start. One that the edge's own death kept from being
    submitted, that waited in the queue until its deadline, or that the server wanted dead, is
    none."""
    if worker.ending is None or worker.registered is not None or not FAILED_START[worker.ending]:
        return False
    if old is None:
        return True
    if old.ending is not None:
        return False
    expired = old.started is None and 0 < worker.deadline < now
    condemned = worker.key in seen.condemned
    unasked = old.phase is Phase.PLANNED or (old.phase is Phase.SUBMITTING and old.outcome is None)
    return not (expired or condemned or unasked)


def _charge(edge: Edge, before: Mapping[Key, Worker | None], changed: Iterable[Worker]) -> None:
    """Book the node-hours of ended workers. One that comes back and ends again is charged again:
    the account may say too much, never too little."""
    for worker in changed:
        if worker.ended is None or worker.started is None or before[worker.key] is None:
            continue
        nodes = edge.site.nodes_each(worker.slot)
        hours = (worker.ended - worker.started) / 3600 * nodes
        edge.book.spend(worker.ended, hours)


def _log(edge: Edge, worker: Worker, old: Worker | None) -> None:
    if old is None or old.phase is not worker.phase:
        facts = {"ending": str(worker.ending), "reason": worker.diagnosis} if worker.ending else {}
        edge.log.info(
            "worker_changed", phase=str(worker.phase), intent=worker.intent, index=worker.index,
            batch_id=worker.batch_id, worker_id=worker.worker_id, **facts,
        )  # fmt: skip
