"""Carries out a decision, under the intent log.

A worker is committed as `planned`, then as `submitting`, before the batch system is called;
whatever kills the edge, the next one finds out by the tag what became of it. An unclear outcome is
never tried again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable

from msgspec.structs import replace

from ailurus.failpoint import failpoint
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s
from ailurus.protocol.worker import Ending, Outcome, Phase
from ailurus.wire.client import WireError
from harvester_edge import credential, owned, pilot_file
from harvester_edge.decide import Decision, Health
from harvester_edge.edge import Edge
from harvester_edge.evidence import Worker
from harvester_edge.files import write_whole
from harvester_edge.launch import launch, order_of
from harvester_edge.ports import Accepted, BatchError, Order, Rejected, Tag, Unclear
from harvester_edge.reconcile import Changes, Observation, idle_first
from harvester_edge.relay.proof import NOTE, sum_of
from harvester_edge.render import Launch
from harvester_edge.shared_files import write_site_file

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


def act(edge: Edge, decision: Decision, seen: Observation, changes: Changes) -> dict[str, str]:
    """Submit, drain, cancel. Returns the slots of which nothing could be submitted, and why."""
    failed: dict[str, str] = {}
    for slot, wanted in decision.submit.items():
        together = edge.site.slots[slot].together
        most = max(1, edge.site.backend.limits.max_array // together) * together
        for part in range(0, wanted, most):
            if why := submit(edge, slot, min(most, wanted - part), _excluded(edge, seen)):
                if not part:
                    failed[slot] = why
                # A batch system that has just refused or timed out is not called again at once.
                break
    if decision.drain and (ids := idle_first(edge.workers, seen.rows)[: decision.drain]):
        ask = m.DrainWorkers(site=edge.site.site, epoch=edge.lease.epoch, worker_ids=ids)
        try:
            edge.upstream.drain(ask)
            edge.log.info("workers_drained", worker_ids=ids)
        except WireError as error:
            edge.log.warning("drain_failed", reason=str(error))
    if changes.cancel:
        try:
            edge.batch.cancel(changes.cancel)
            edge.log.info("workers_cancelled", batch_ids=changes.cancel)
        except BatchError as error:
            edge.log.warning("cancel_failed", reason=str(error))
    for worker in changes.ended:
        _drop_token(edge, worker)
    return failed


def _excluded(edge: Edge, seen: Observation) -> tuple[str, ...]:
    """Nodes on which no worker should start, as the dispatcher gives them no jobs."""
    if not edge.site.policy.exclude_nodes:
        return ()
    hosts = (one.host for one in seen.demand.answer.excluded)
    return tuple(host for host in hosts if _HOST.fullmatch(host))


def submit(edge: Edge, slot: str, count: int, exclude: tuple[str, ...] = ()) -> str:
    """Start `count` workers of a slot; why the batch system has not taken them, empty if it has.

    Raises BookUnwritable: then nothing was submitted after the last commit.
    """
    tag = edge.new_tag(edge.site.slots[slot].together)
    try:
        pilot_file.hand_out(edge.site)
        how = launch(edge.site, slot, tag)
    except (AilurusError, OSError) as error:
        # Before anything is planned: the fault will last.
        edge.log.warning("no_pilot_to_start", reason=str(error))
        return str(error)
    now = edge.clock()
    deadline = now + duration_s(edge.site.policy.max_queue_age)
    queue = edge.site.slots[slot].queue
    workers = [
        Worker(intent=tag, index=n, slot=slot, queue=queue, planned=now, deadline=deadline)
        for n in range(count)
    ]
    edge.keep(*workers)
    failpoint("edge.planned")
    ask = m.NewIntent(
        site=edge.site.site, epoch=edge.lease.epoch, intent=tag, queue=queue, count=count,
        deadline=deadline + edge.rules.times.start_grace_s, outage_s=edge.site.outage_s,
    )  # fmt: skip
    try:
        tokens = edge.upstream.plan(ask)
        if len(tokens) != count:
            raise AilurusError(f"{len(tokens)} credentials were given for {count} workers")
        failpoint("edge.tokens")
        order = make_order(edge, how, tokens, exclude)
        # The machine may have slept: then the site may be another edge's.
        if edge.clock() > now + edge.lease.length_s:
            raise AilurusError("too long since the dispatcher said that the site is ours")
    except (AilurusError, OSError) as error:
        edge.keep(*(_not_started(worker, edge.clock(), str(error)) for worker in workers))
        edge.log.warning("submission_given_up", intent=tag, reason=str(error))
        return f"given up before the batch system was asked: {error}"
    workers = [
        replace(worker, phase=Phase.SUBMITTING, worker_id=edge.upstream.worker_id(token))
        for worker, token in zip(workers, tokens, strict=True)
    ]
    edge.keep(*workers)
    failpoint("edge.submitting")
    outcome = edge.batch.submit(order, tag)
    failpoint("edge.submitted")
    edge.keep(*(_after(worker, outcome, edge.clock()) for worker in workers))
    failpoint("edge.recorded")
    _log(edge, tag, slot, count, outcome)
    if isinstance(outcome, Rejected):
        _count_refusal(edge, slot, outcome.reason)
    if isinstance(outcome, Accepted):
        return ""
    refused = "refused" if isinstance(outcome, Rejected) else "the answer is unclear"
    return f"{refused}: {outcome.reason}"


def make_order(
    edge: Edge, how: Launch, credentials: tuple[str, ...], exclude: tuple[str, ...]
) -> Order:
    """The order, with a directory for each worker and its credential in it. Raises OSError."""
    for index, secret in enumerate(credentials):
        directory = how.directory / str(index)
        owned.make(directory)
        if edge.site.network != "direct":
            write_whole(directory / NOTE, sum_of(secret), mode=0o600)
        write_whole(directory / "bootstrap", secret.encode(), mode=0o600)
    write_site_file(edge.site)
    pilot_file.note(edge.site, how.directory)
    return order_of(edge.site, how, len(credentials), edge.batch, exclude)


def report(edge: Edge) -> None:
    """Report changed workers. Repeated until the dispatcher has answered: a report may come
    twice."""
    while workers := edge.book.unreported():
        observations = tuple(
            m.WorkerObservation(
                intent=worker.intent,
                index=worker.index,
                phase=worker.phase,
                outcome=worker.outcome,
                ending=worker.ending,
                batch_id=worker.batch_id,
                diagnosis=worker.diagnosis[-4000:],
            )
            for worker in workers
        )
        ask = m.WorkerObservations(
            site=edge.site.site, epoch=edge.lease.epoch, workers=observations
        )
        try:
            edge.upstream.report(ask)
        except WireError as error:
            edge.log.warning("workers_not_reported", reason=str(error))
            return
        failpoint("edge.reported")
        with edge.book.change():
            edge.book.reported(workers)


def _after(worker: Worker, outcome: Accepted | Rejected | Unclear, now: float) -> Worker:
    """A worker after the batch system's answer."""
    if isinstance(outcome, Rejected):
        return _not_started(worker, now, outcome.reason)
    if isinstance(outcome, Unclear):
        return replace(worker, outcome=Outcome.UNCLEAR, diagnosis=outcome.reason)
    batch_id = outcome.ids.get(worker.index)
    if batch_id is None:
        return replace(worker, outcome=Outcome.UNCLEAR, diagnosis="no id came back for it")
    return replace(worker, phase=Phase.QUEUED, outcome=Outcome.ACCEPTED, batch_id=str(batch_id))


def _not_started(worker: Worker, now: float, reason: str) -> Worker:
    return replace(
        worker,
        phase=Phase.ENDED,
        outcome=Outcome.REJECTED,
        ending=Ending.CANCELLED,
        ended=now,
        diagnosis=reason,
    )


def _log(
    edge: Edge, tag: Tag, slot: str, count: int, outcome: Accepted | Rejected | Unclear
) -> None:
    facts = {"intent": tag, "slot": slot, "count": count}
    if isinstance(outcome, Accepted):
        edge.log.info("workers_submitted", **facts)
        return
    event = "submission_rejected" if isinstance(outcome, Rejected) else "submission_unclear"
    edge.log.warning(event, reason=outcome.reason, **facts)


def _count_refusal(edge: Edge, slot: str, reason: str) -> None:
    """Count a refused order as a failed start of its slot."""
    failures = edge.book.health(slot).failures + 1
    edge.book.set_health(slot, Health(failures=failures, since=edge.clock(), reason=reason))


def _drop_token(edge: Edge, worker: Worker) -> None:
    (edge.worker_directories / worker.intent / str(worker.index) / "bootstrap").unlink(
        missing_ok=True
    )


def tidy(edge: Edge) -> Iterable[str]:
    """Forget workers that ended long ago, with their logs. Returns their intents."""
    with edge.book.change():
        gone = edge.book.forget(edge.clock() - duration_s(edge.site.policy.keep))
    for intent in gone:
        shutil.rmtree(edge.worker_directories / intent, ignore_errors=True)
    intents = {worker.intent for worker in edge.workers.values()}
    if not intents:
        credential.tidy(edge.site)
    pilot_file.tidy(edge.site, {edge.worker_directories / intent for intent in intents})
    return gone
