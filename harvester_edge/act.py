"""Doing what was decided, under the intent log.

A worker is committed as `planned`, then as `submitting`, before the batch system is asked; whatever kills
the edge, the next one finds out by the tag what became of it. An unclear outcome is never tried again.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from ailurus.failpoint import failpoint
from ailurus.paths import expanded
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s
from ailurus.protocol.worker import Ending, Outcome, Phase
from ailurus.wire.client import WireError
from harvester_edge import owned, pilot_file
from harvester_edge.client import trust
from harvester_edge.connect import access
from harvester_edge.decide import Decision, Health
from harvester_edge.edge import Edge, pilot_program, site_file, write_site_file
from harvester_edge.evidence import Worker
from harvester_edge.files import write_whole
from harvester_edge.observe import Seen, idle_first
from harvester_edge.ports import Accepted, BatchError, Order, Rejected, Tag, Unclear
from harvester_edge.relay import keys
from harvester_edge.relay.proof import NOTE, sum_of
from harvester_edge.render import Launch, script
from harvester_edge.site import Site


def act(edge: Edge, decision: Decision, seen: Seen) -> dict[str, str]:
    """Submit, drain, cancel. Returns the slots of which nothing could be submitted, and why."""
    failed: dict[str, str] = {}
    for slot, wanted in decision.submit.items():
        nodes = edge.site.slots[slot].nodes
        most = max(1, edge.site.backend.limits.max_array // nodes) * nodes
        for part in range(0, wanted, most):
            if why := submit(edge, slot, min(most, wanted - part)):
                if not part:
                    failed[slot] = why
                break  # what has just been refused or has timed out is not asked again at once
    if decision.drain and (ids := idle_first(edge, seen.rows)[: decision.drain]):
        ask = m.DrainWorkers(site=edge.site.site, epoch=edge.epoch, worker_ids=ids)
        try:
            edge.upstream.drain(ask)
            edge.log.info("workers_drained", worker_ids=ids)
        except WireError as error:
            edge.log.warning("drain_failed", reason=str(error))
    if seen.cancel:
        try:
            edge.batch.cancel(seen.cancel)
            edge.log.info("workers_cancelled", batch_ids=seen.cancel)
        except BatchError as error:
            edge.log.warning("cancel_failed", reason=str(error))
    for worker in seen.ended:
        _drop_token(edge, worker)
    return failed


def submit(edge: Edge, slot: str, count: int) -> str:
    """Start `count` workers of a slot; why the batch system has not taken them, if it has not."""
    try:
        pilot_file.hand_out(edge.site)
        launch(edge.site, "", slot)
    except (AilurusError, OSError) as error:  # before anything is planned, for it will last
        edge.log.warning("no_pilot_to_start", reason=str(error))
        return str(error)
    tag = edge.new_tag(edge.site.slots[slot].nodes)
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
        site=edge.site.site, epoch=edge.epoch, intent=tag, queue=queue, count=count,
        deadline=deadline + edge.times.start_grace_s, outage_s=edge.site.outage_s,
    )  # fmt: skip
    try:
        tokens = edge.upstream.plan(ask)
        if len(tokens) != count:
            raise AilurusError(f"{len(tokens)} credentials were given for {count} workers")
        failpoint("edge.tokens")
        order = make_order(edge, tag, slot, tokens)
        if edge.clock() > now + edge.lease_s:  # we slept: the site may be another's
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
    if isinstance(outcome, Accepted):
        return ""
    refused = "refused" if isinstance(outcome, Rejected) else "the answer is unclear"
    return f"{refused}: {outcome.reason}"


def make_order(edge: Edge, tag: Tag, slot: str, tokens: tuple[str, ...]) -> Order:
    """The order, with a directory for each worker and its bootstrap token in it."""
    place = edge.places / tag
    for index, token in enumerate(tokens):
        owned.make(place / str(index))
        if edge.site.network != "direct":
            write_whole(place / str(index) / NOTE, sum_of(token), mode=0o600)
        write_whole(place / str(index) / "bootstrap", token.encode(), mode=0o600)
    write_site_file(edge.site)
    pilot_file.note(edge.site, place)
    shape = edge.site.slots[slot]
    room = shape.room()
    return Order(
        script=script(launch(edge.site, tag, slot), edge.batch.index),
        directory=place,
        count=len(tokens),
        nodes=shape.nodes,
        cores=room.cores,
        memory_mb=room.memory_mb,
        disk_mb=room.disk_mb,
        gpus=room.gpus,
        walltime_s=shape.walltime_s,
        wait_s=int(duration_s(edge.site.policy.max_queue_age)),
        exclude_nodes=edge.avoid if edge.site.policy.exclude_nodes else (),
        extra=dict(shape.extra),
    )


def _door(site: Site) -> str:
    """Whom pilots ask."""
    if site.network == "spool":
        return f"spool://{site.relay_spool}"
    if site.network == "relay" and site.relay is not None and site.relay.url is not None:
        return site.relay.url
    return site.dispatcher.pilot_url or site.dispatcher.url


def _relay_pin(site: Site) -> tuple[str, ...]:
    return ("--pin", keys.pin(site.relay_state)) if site.network == "relay" else ()


def trust_options(site: Site) -> tuple[str, ...]:
    """How a pilot is told whom to believe to be the dispatcher."""
    said = trust(site)
    return (*(("--ca", said.ca) if said.ca else ()), *(("--pin", said.pin) if said.pin else ()))


def launch(site: Site, tag: str, slot: str) -> Launch:
    """How a pilot of that slot is started."""
    shape = site.slots[slot]
    return Launch(
        program=pilot_program(site),
        url=_door(site),
        queue=shape.queue,
        slot=slot,
        site_file=site_file(site),
        work=expanded(site.paths.work),
        directory=site.shared / "workers" / tag,
        lifetime_s=shape.walltime_s,
        idle_exit_s=int(duration_s(site.scaling.idle_exit)),
        trust=trust_options(site) if site.network == "direct" else _relay_pin(site),
        access=access(site),
    )


def tell(edge: Edge) -> None:
    """Tell the dispatcher what changed. Repeated until it has answered: news may come twice."""
    while workers := edge.book.untold():
        news = tuple(
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
        ask = m.WorkerObservations(site=edge.site.site, epoch=edge.epoch, workers=news)
        try:
            edge.upstream.report(ask)
        except WireError as error:
            edge.log.warning("news_not_told", reason=str(error))
            return
        failpoint("edge.told")
        with edge.book.change():
            edge.book.told(workers)


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
    if isinstance(outcome, Rejected):
        health = edge.book.health(slot)
        failed = Health(failures=health.failures + 1, since=edge.clock(), reason=outcome.reason)
        edge.book.set_health(slot, failed)


def _drop_token(edge: Edge, worker: Worker) -> None:
    (edge.places / worker.intent / str(worker.index) / "bootstrap").unlink(missing_ok=True)


def tidy(edge: Edge) -> Iterable[str]:
    """Forget workers that ended long ago, with their logs."""
    import shutil

    with edge.book.change():
        gone = edge.book.forget(edge.clock() - duration_s(edge.site.policy.keep))
    for intent in gone:
        shutil.rmtree(edge.places / intent, ignore_errors=True)
    intents = {worker.intent for worker in edge.workers.values()}
    pilot_file.tidy(edge.site, {edge.places / intent for intent in intents})
    return gone
