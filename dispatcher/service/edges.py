"""Requests of edges: the lease of a site, demand, tokens for the workers that they submit next."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.errors import Code
from ailurus.protocol.resources import Shape
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending, Phase
from dispatcher.auth.caller import Caller
from dispatcher.events import EdgeChanged, WorkerChanged
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import attempts, lanes, queue, records, views, worker_records
from dispatcher.rules.attempts import WorkerAttempt
from dispatcher.rules.worker_records import WorkerRecord
from dispatcher.service.peers import Peers
from dispatcher.service.state import HARVESTERS, SiteLease, State, WorkerEnd, end_worker, foreign

_encode = msgspec.json.Encoder().encode
# Tokens signed in one go: others get their turn between two.
MINTED = 50
# How long an ended worker is still reported to its edge.
RECENT_S = 900.0


class Edges:
    """The part of the service that edges see."""

    def __init__(self, state: State, peers: Peers, mint: Callable[..., str]) -> None:
        """`mint(subject, scopes, lifetime_s, **claims)` makes tokens."""
        self._state = state
        self._peers = peers
        self._mint = mint

    async def hello(self, ask: m.Hello, caller: Caller) -> m.Welcome:
        """Take or renew the lease of a site: one edge at a time provisions it. Raises Rejected
        while another edge has it."""
        _at_home(ask.site, caller)
        # Its edge may have spoken to another dispatcher.
        await self._peers.learn_site(ask.site)
        old = self._state.sites.get(ask.site)
        if old is not None and old.instance != ask.instance and old.until > self._state.awake.now:
            raise Rejected(
                409,
                f"another edge ({old.instance}) provisions site {ask.site}",
                field="instance",
                remedy=f"stop that one, or wait {old.until - self._state.awake.now:.0f} s after it has stopped",
            )
        changed = old is None or (old.instance, old.slots, old.online) != (
            ask.instance,
            ask.slots,
            ask.online,
        )
        epoch = 1 if old is None else old.epoch + (old.instance != ask.instance)
        until = self._state.awake.now + self._state.settings.edge_lease_s
        room, decision = (old.room, old.decision) if old else (None, None)
        if changed:
            await self._state.store.write(lambda tx: self._keep_site(tx, ask, old, epoch))
        self._state.sites[ask.site] = SiteLease(
            ask.instance, epoch, ask.slots, ask.online, until, self._state.now(), room, decision
        )
        return m.Welcome(
            epoch=epoch, lease_s=self._state.settings.edge_lease_s, giver=self._state.giver
        )

    def _keep_site(self, tx: Tx, ask: m.Hello, old: SiteLease | None, epoch: int) -> None:
        stored = worker_records.find_site(tx, ask.site)
        if stored is not None and (old is None or stored.epoch != old.epoch):
            raise Rejected(
                409,
                f"another edge ({stored.instance}) has just taken site {ask.site}",
                field="instance",
                remedy="stop that one",
            )
        tx.run(
            "site.put",
            site=ask.site,
            instance=ask.instance,
            epoch=epoch,
            slots=_encode(ask.slots).decode(),
            online=int(ask.online),
            heard=self._state.now(),
        )
        event = EdgeChanged(site=ask.site, instance=ask.instance, epoch=epoch, online=ask.online)
        tx.tell(event, at=self._state.now())

    async def demand(self, ask: m.DemandRequest, caller: Caller) -> m.Demand:
        """Ready jobs by shape in the site's queues, and the site's workers."""
        site = self._lease_of(ask.site, ask.epoch, caller)
        site.room = ask.room
        site.decision = ask.word or site.decision
        served = {slot.queue for slot in site.slots} | {""}

        def gather(tx: Tx) -> tuple[Counter[tuple[str, Shape]], list[WorkerRecord]]:
            ready = [
                one
                for one in records.counters(tx)
                if one.queue in served and one.state == JobState.ACTIVATED
            ]
            if any(one.shape_id not in self._state.shapes for one in ready):
                self._state.shapes.update(records.shapes(tx))
            # By queue and shape, whatever the group.
            of_shape: Counter[tuple[str, Shape]] = Counter()
            for one in ready:
                name, number = one.queue, one.shape_id
                # Of a mixed lane the first: what is behind them is reported when they are gone.
                if self._state.turns.mixed(tx, number):
                    first = lanes.ready(tx, name, number, 1, queue.ANYTHING, lambda _: True)
                    of_shape.update((name, shape) for *_, shape in first)
                    continue
                of_shape[name, self._state.shapes[number]] += one.n
            alive = [
                worker
                for worker in worker_records.workers(tx, ask.site, ended=False, most=100_000)
                if not foreign(worker.version, worker.intent)
            ]
            since = self._state.now() - RECENT_S
            return of_shape, alive + worker_records.workers_just_ended(tx, ask.site, since)

        ready, workers = await self._state.store.read(gather)
        others = [
            lease
            for name, lease in self._state.sites.items()
            if name != ask.site
            and lease.online
            and lease.room != 0
            and lease.until > self._state.awake.now
        ]
        return m.Demand(
            shapes=tuple(
                m.ShapeDemand(
                    queue=name,
                    shape=shape,
                    jobs=n,
                    sites=1 + sum(_could_run(lease, name, shape) for lease in others),
                )
                for (name, shape), n in ready.items()
            ),
            excluded=tuple(
                m.ExcludedHost(host=host, until=one.until, reason=one.reason)
                for host, one in self._state.hosts.of_site(ask.site, self._state.now()).items()
            ),
            giver=self._state.giver,
            workers=tuple(self._state.worker_row(worker) for worker in workers),
        )

    async def intent(self, ask: m.NewIntent, caller: Caller) -> m.Bootstraps:
        """Plan workers and give each its bootstrap token; the same intent again gets the same
        workers."""
        self._lease_of(ask.site, ask.epoch, caller)

        def plan(tx: Tx) -> None:
            rows = tx.all("worker.of_intent", intent=ask.intent)
            if ask.intent.startswith(HARVESTERS) or any(site != ask.site for *_, site in rows):
                raise Rejected(
                    409,
                    "this intent is not of this site",
                    field="intent",
                    remedy="name it anew: an intent is a random name",
                )
            there = {index for _, index, _ in rows}
            for index in range(ask.count):
                if index not in there:
                    tx.one(
                        "worker.plan",
                        site=ask.site,
                        queue=ask.queue,
                        intent=ask.intent,
                        idx=index,
                        deadline=ask.deadline,
                    )

            if ask.outage_s is not None:
                tx.run("worker.set_outage", intent=ask.intent, site=ask.site, outage_s=ask.outage_s)

        await self._state.store.write(plan)
        lifetime = max(60.0, ask.deadline - self._state.now())
        tokens = []
        for index in range(ask.count):
            tokens.append(
                self._mint(
                    f"bootstrap:{ask.intent}.{index}",
                    (Scope.BOOTSTRAP,),
                    lifetime,
                    intent=ask.intent,
                    index=index,
                    epoch=ask.epoch,
                    queue=ask.queue,
                    site=ask.site,
                    of=caller.lineage,
                )
            )
            if index % MINTED == 0:
                await asyncio.sleep(0)
        return m.Bootstraps(tokens=tuple(tokens))

    async def workers_news(self, ask: m.WorkerObservations, caller: Caller) -> m.Done:
        """What the batch system says of workers. What they say themselves weighs more while they
        live."""
        self._lease_of(ask.site, ask.epoch, caller)
        ended = await self._state.store.write(
            lambda tx: [self._take(tx, news, ask.site) for news in ask.workers]
        )
        for worker_id in filter(None, ended):
            for lease in self._state.leases.of_worker(worker_id):
                self._state.leases.drop(lease.job_id)
            self._state.forget_worker(worker_id)
        return m.Done()

    def _take(self, tx: Tx, news: m.WorkerObservation, site: str) -> int | None:
        """Apply one piece of news. The worker, if it has ended by it."""
        worker = worker_records.find_planned(tx, news.intent, news.index, site)
        if worker is None:
            return None
        worker_id, phase, ending = worker.worker_id, worker.phase, worker.ending
        now = self._state.now()
        if news.phase is Phase.ENDED and news.ending is not None:
            if ending is not None and ending != "lost":
                return None
            end = WorkerEnd(
                ending=news.ending,
                diagnosis=news.diagnosis,
                batch_id=news.batch_id,
                site=site,
                queue=worker.queue,
            )
            end_worker(tx, worker_id, end, now=now)
            for (job_id,) in tx.all("attempt.held_by", worker_id=worker_id):
                job = records.find_job(tx, job_id)
                reason = f"worker {worker_id} of site {site} ended: {news.ending}"
                if job is not None and job.worker_id == worker_id:
                    attempts.expire(
                        tx,
                        WorkerAttempt(job_id, job.attempt_nr, worker_id),
                        reason=reason,
                        code=Code.PREEMPTED
                        if news.ending is Ending.PREEMPTED
                        else Code.LOST_HEARTBEAT,
                        now=now,
                        ending=news.ending,
                    )
            return worker_id
        kept = phase if worker.registered is not None or phase == Phase.ENDED else news.phase
        tx.run(
            "worker.phase",
            worker_id=worker_id,
            phase=kept,
            ending=ending,
            ended=now if kept == Phase.ENDED else None,
            batch_id=news.batch_id,
            diagnosis=news.diagnosis,
        )
        if kept != phase:
            tx.tell(WorkerChanged(phase=Phase(kept)), at=now, worker_id=worker_id)
        return None

    async def drain(self, ask: m.DrainWorkers, caller: Caller) -> m.Done:
        """Let workers finish what they have and take nothing more."""
        self._lease_of(ask.site, ask.epoch, caller)

        def change(tx: Tx) -> None:
            for worker_id in ask.worker_ids:
                if tx.one("worker.drain", worker_id=worker_id, site=ask.site) is None:
                    # Another site's, or it has ended.
                    continue
                drains = WorkerChanged(phase=Phase.DRAINING)
                tx.tell(drains, at=self._state.now(), worker_id=worker_id)

        await self._state.store.write(change)
        for worker_id in ask.worker_ids:
            live = self._state.live.get(worker_id)
            if live is not None and live.site == ask.site:
                live.draining = True
                self._state.hub.wake(worker_id)
        return m.Done()

    async def edge_trace(self, ask: m.TraceRequest, caller: Caller) -> m.Traced:
        """What an edge may know of jobs: which of its own workers had which, and how that ended."""
        _at_home(ask.site, caller)

        def gather(tx: Tx) -> list[m.TracedAttempt]:
            if ask.job_id is not None:
                return views.traced_job(tx, ask.site, ask.job_id)
            return [
                attempt
                for worker_id in ask.worker_ids
                for attempt in views.traced_worker(tx, ask.site, worker_id)
            ]

        return m.Traced(attempts=tuple(await self._state.store.read(gather)), now=self._state.now())

    def _lease_of(self, site: str, epoch: int, caller: Caller) -> SiteLease:
        _at_home(site, caller)
        lease = self._state.sites.get(site)
        if lease is None or lease.epoch != epoch:
            raise Rejected(
                409,
                f"epoch {epoch} of site {site} is over",
                field="epoch",
                remedy="say hello again",
            )
        lease.until = self._state.awake.now + self._state.settings.edge_lease_s
        lease.heard = self._state.now()
        return lease


def _could_run(site: SiteLease, queue: str, shape: Shape) -> bool:
    return any(queue in ("", slot.queue) and shape.fits(slot.room) for slot in site.slots)


def _at_home(site: str, caller: Caller) -> None:
    if caller.site != site and not caller.may(Scope.ADMIN):
        raise Rejected(
            403,
            f"this token is not of site {site}",
            field="site",
            remedy="use that site's edge token",
        )
