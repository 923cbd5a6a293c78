"""What workers ask: register, lease, renew, report."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Sequence

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.errors import NODES, TAKEN_AWAY
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.states import FINAL, WITH_WORKER, JobState, Refusal
from ailurus.protocol.worker import Ending, Phase
from dispatcher.auth.caller import Caller
from dispatcher.memory.black_holes import Node, Verdict
from dispatcher.memory.leases import Lease
from dispatcher.memory.waiting import until
from dispatcher.ports import Ahead, Asks, Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import attempts, payload_logs, queue, records, retention, worker_records
from dispatcher.rules.attempts import Claim
from dispatcher.rules.queue import Given, Leased, LeaseRequest, Memory
from dispatcher.rules.worker_records import PlannedWorker
from dispatcher.service.peers import Peers
from dispatcher.service.seals import Seals
from dispatcher.service.state import LiveWorker, State, end_worker, log

_encode = msgspec.json.Encoder().encode
TOKEN_S = 7 * 86_400.0  # a worker token ends with its worker, at the latest a week later
LATE = 10  # reports of one request that are looked for among jobs that were moved away
UNSEEN = (Phase.PLANNED, Phase.SUBMITTING)  # no edge has told that its batch system has it
GONE = "this worker has been given up or was never planned"


class Workers:
    """The part of the service that workers see."""

    def __init__(self, state: State, peers: Peers, seals: Seals, mint: Callable[..., str]) -> None:
        """`mint(subject, scopes, lifetime_s, **claims)` makes tokens."""
        self._state = state
        self._peers = peers
        self._seals = seals
        self._mint = mint

    async def register(self, ask: m.Register, caller: Caller) -> m.Registered:
        """Begin a worker: the planned one of a bootstrap token, or a new one for a pilot token."""
        planned = caller.may(Scope.BOOTSTRAP)
        site = caller.site if planned else ask.site
        instance = ask.instance if planned else instance_of(caller, ask.instance)

        def change(tx: Tx) -> tuple[int, bool, bool]:
            facts = {
                "host": ask.host,
                "instance": instance,
                "batch_id": ask.batch_id,
                "version": ask.version,
                "now": self._state.now(),
                "total": _encode(ask.total).decode(),
            }
            known = (
                self._claim(tx, caller, ask.instance)
                if planned
                else worker_records.find_by_instance(tx, instance)
            )
            lost = known is not None and known.phase == Phase.ENDED
            if known is None:
                added = tx.one("worker.add", site=site, queue=ask.queue, **facts)
                worker_id = records.value(added, 0)
            elif lost and not planned and known.ending != Ending.LOST:
                raise Rejected(410, GONE, remedy="exit")
            else:
                worker_id = known.worker_id
                tx.run("worker.register", worker_id=worker_id, **facts)
            stored = worker_records.find_worker(tx, worker_id)
            tx.tell(
                "worker",
                at=self._state.now(),
                worker_id=worker_id,
                phase=str(Phase.ACTIVE),
                host=ask.host,
            )
            return worker_id, stored is not None and bool(stored.draining), lost

        queue_name = caller.queue if planned else ask.queue
        worker_id, draining, lost = await self._state.store.write(change)
        if planned:
            await self._behind_relay(worker_id)
        before = self._state.live.get(worker_id)
        heard = self._state.remember(
            worker_id, site, queue_name, ask.host, ask.total, self._state.now()
        )
        heard.draining = draining
        # what it lost it may have still: it says so with its first heartbeat
        heard.silent = lost or (before is not None and before.silent)
        token = self._mint(
            f"worker:{worker_id}",
            (Scope.WORKER,),
            TOKEN_S,
            worker_id=worker_id,
            site=site,
            queue=queue_name,
            of=caller.line,
        )
        return m.Registered(
            worker_id=worker_id,
            token=token,
            heartbeat_s=self._state.heartbeat_s,
            lease_s=self._state.length(worker_id),
            giver=self._state.giver,
        )

    async def _behind_relay(self, worker_id: int) -> None:
        home = await self._state.store.read(lambda tx: worker_records.find_home(tx, worker_id))
        if home is not None and home.outage_s is not None:
            self._state.outage[worker_id] = home.outage_s

    def _claim(self, tx: Tx, caller: Caller, instance: str) -> PlannedWorker:
        """The planned worker of a bootstrap token, if this process may be it. Raises Rejected."""
        worker = worker_records.find_planned(tx, caller.intent, caller.index, caller.site)
        if worker is None:
            remedy = "exit; the edge plans another one if there is work"
            raise Rejected(410, GONE, remedy=remedy, known=False)
        registered = worker.registered is not None
        if registered and worker.instance != instance:
            raise Rejected(
                409,
                "another pilot has registered with this token",
                remedy="exit: this one is a stray",
            )
        late = worker.deadline is not None and self._state.now() > worker.deadline
        if late and not registered:
            raise Rejected(410, "the deadline of this worker has passed", remedy="exit")
        if worker.phase == Phase.ENDED and registered and worker.ending != Ending.LOST:
            raise Rejected(410, GONE, remedy="exit")
        site = self._state.sites.get(caller.site)
        if site is not None and caller.epoch < site.epoch and worker.phase in UNSEEN:
            raise Rejected(
                410,
                f"another edge has taken site {caller.site} and has not seen this worker",
                remedy="exit: it was submitted after its edge had lost the site",
            )
        return worker

    async def acquire(self, ask: m.Acquire, caller: Caller) -> m.RawAcquired:
        """Lease jobs that fit together; wait for the first one."""
        heard = await self._heard(caller)
        if not ask.ahead:
            heard.room = ask.room
        heard.draining |= (
            self._state.hosts.excluded((heard.site, heard.host), self._state.now()) is not None
        )
        leased = await (self._awaited if ask.wait_s > 0 else self._at_once)(ask, heard)
        self._renew(heard)
        return m.RawAcquired(
            jobs=tuple(self._assigned(job, heard.worker_id) for job in leased),
            drain=heard.draining,
            prefetch=bool(leased) and not self._state.hub.waiting(heard.queue),
            giver=self._state.giver,
        )

    async def _at_once(self, ask: m.Acquire, heard: LiveWorker) -> list[Leased]:
        """What there is for a worker now."""
        while True:
            given = await self._lease(ask, heard)
            if given.jobs or not given.unfit:  # else what stood in front is out of the way now
                return given.jobs

    async def _awaited(self, ask: m.Acquire, heard: LiveWorker) -> list[Leased]:
        """The same, or what comes within the time that it waits."""
        deadline, ended = time.monotonic() + ask.wait_s, heard.ended
        leased: list[Leased] = []
        while not leased:
            waiter = self._state.hub.expect_job(heard.queue, ask.room, heard.worker_id)
            heard.waits = waiter.woken
            try:
                # Shielded: a client that hangs up now must not leave a lease that nobody notes.
                given = await asyncio.shield(asyncio.create_task(self._lease(ask, heard)))
                leased = given.jobs
                if given.unfit and not leased:
                    continue  # what stood in front is out of the way now
                left = deadline - time.monotonic()
                # When one of its jobs has ended it has more room than it asked for: let it ask anew.
                over = leased or heard.draining or heard.ended != ended or left <= 0
                if over or not await until(waiter.woken, left):
                    break
            finally:
                self._state.hub.forget(waiter)
        return leased

    def _assigned(self, job: Leased, worker_id: int) -> m.RawAssignment:
        report_key, seal = self._seals.of_attempt(job.job_id, job.attempt_nr, worker_id)
        return m.RawAssignment(
            job_id=job.job_id,
            attempt_nr=job.attempt_nr,
            report_key=report_key,
            spec=msgspec.Raw(job.spec),
            seal=seal,
        )

    async def _lease(self, ask: m.Acquire, heard: LiveWorker) -> Given:
        # Such a worker gets nothing new; what it was leased and never heard of comes again.
        full = heard.draining or self._state.leases.alone(heard.worker_id)
        busy = self._state.leases.busy(heard.worker_id)

        def change(tx: Tx) -> Given:
            request = LeaseRequest(
                worker_id=heard.worker_id,
                request_id=ask.request_id,
                queue=heard.queue,
                room=Room(cores=0) if full else ask.room,
                count=ask.count,
                host=heard.host,
                elsewhere=lambda shape: self._elsewhere(heard, shape),
                busy=busy,
                silent=heard.silent,
            )
            return queue.lease(
                tx, request, Memory(self._state.shapes, self._state.turns), now=self._state.now()
            )

        given = await self._state.store.write(
            change, Ahead(ask=Asks(heard.worker_id, ask.request_id, heard.queue, ask.count))
        )
        until_s = self._state.awake.now + self._state.length(heard.worker_id)
        for job in given.jobs:
            self._state.leases.add(
                Lease(
                    job.job_id,
                    job.attempt_nr,
                    heard.worker_id,
                    JobState.SENT,
                    until_s,
                    owner=job.owner,
                    begun=self._state.now(),
                    alone=job.alone,
                )
            )
            if not ask.ahead:
                heard.room = heard.room.less(job.shape)
        return given

    def dry(self, tx: Tx) -> None:
        """Try to hand out the next job without doing it. Raises what would stop a queue."""
        queue.dry(tx, Memory(self._state.shapes, self._state.turns))

    def _elsewhere(self, heard: LiveWorker, shape: Shape) -> bool:
        """Whether a worker on another node could run the shape."""
        return any(
            other.queue == heard.queue
            and other.host != heard.host
            and not other.draining
            and shape.fits(other.total)
            for other in self._state.live.values()
        )

    async def beat(self, ask: m.Beat, caller: Caller) -> m.BeatAnswer:
        """Renew the leases of all attempts listed, and say what to do with them."""
        heard = await self._heard(caller)
        heard.room, heard.flushed = ask.room, False
        if ask.draining and not heard.draining:
            heard.draining = True
            self._state.hub.wake(heard.worker_id)
        until_s = self._renew(heard)
        news: list[tuple[Lease, m.Update]] = []
        strangers: list[m.Update] = []
        commands: list[m.Command] = []
        for update in ask.jobs:
            lease = self._state.leases.held(heard.worker_id, update.job_id, update.attempt_nr)
            if lease is None:
                strangers.append(update)
                continue
            self._state.leases.renew(lease, until_s, heard.last)
            if update.usage is not None:
                lease.sample(self._state.now(), update.usage)
            if update.tail is not None:
                await self._peers.tail_came(lease, update.tail)
            if update.state is not lease.state:
                news.append((lease, update))
            commands += self._commands(lease)
        if news:
            written = await self._state.store.write(
                lambda tx: self._mark(tx, news), Ahead([lease.job_id for lease, _ in news])
            )
            for lease, update in news:
                lease.state = update.state
            for lease in written:
                self._state.leases.written(lease)
        if strangers or heard.strays:
            commands += await self._strangers(heard, strangers)
        if heard.silent:  # what it lost and has no more may be handed to it again, too
            heard.silent = False
            self._state.hub.wake(heard.worker_id)
        return m.BeatAnswer(
            heartbeat_s=self._state.heartbeat_s, commands=tuple(commands), drain=heard.draining
        )

    def _mark(self, tx: Tx, news: list[tuple[Lease, m.Update]]) -> list[Lease]:
        """Those for which something was written."""
        return [
            lease
            for lease, update in news
            if attempts.mark(tx, _claim(update, lease.worker_id), now=self._state.now())
        ]

    def _commands(self, lease: Lease) -> list[m.Command]:
        wanted = []
        if lease.soft_kill:
            wanted.append((m.Action.SOFT_KILL, ""))
        if lease.tail_wanted:
            wanted.append((m.Action.TAIL, lease.tail_wanted))
        if lease.log_wanted > self._state.awake.now:
            wanted.append((m.Action.LOG, f"{lease.log_wanted - self._state.awake.now:.0f}"))
        return [
            m.Command(
                job_id=lease.job_id,
                attempt_nr=lease.attempt_nr,
                action=action,
                argument=argument,
                seal=self._seals.seal(lease.job_id, lease.attempt_nr, lease.worker_id),
            )
            for action, argument in wanted
        ]

    async def _strangers(self, heard: LiveWorker, updates: list[m.Update]) -> list[m.Command]:
        """Attempts that a worker says it has, and memory does not know as its own. What the store knows as
        its own it holds again, also when it was given up for lost and nobody else has begun it. One that
        was begun anew elsewhere goes on, for its report may still win; the others are told to stop, under
        their seals if the store knows them."""

        def known(tx: Tx) -> list[str | None]:
            return [self._attempt_of(tx, heard.worker_id, update) for update in updates]

        found = list(
            zip(updates, await self._state.store.read(known) if updates else (), strict=True)
        )
        held = [update for update, state in found if state in WITH_WORKER]
        if lost := [update for update, state in found if state == "lost"]:
            held += await self._resume(heard, lost)
        for update in held:
            if (
                self._state.leases.of(update.job_id) is None
            ):  # not between a commit and its note in memory
                self._hold(heard, update)
        heard.strays = tuple(one.job_id for one in lost if one not in held)
        return [
            m.Command(
                job_id=update.job_id,
                attempt_nr=update.attempt_nr,
                action=m.Action.KILL,
                seal=""
                if state is None
                else self._seals.seal(update.job_id, update.attempt_nr, heard.worker_id),
            )
            for update, state in found
            if not state
        ]

    def _attempt_of(self, tx: Tx, worker_id: int, update: m.Update) -> str | None:
        """The state of an attempt of this worker which may still win; blank for one that may not, None for
        one that is not this worker's."""
        job = records.find_job(tx, update.job_id)
        attempt = records.find_attempt(tx, update.job_id, update.attempt_nr)
        if attempt is None or attempt.worker_id != worker_id:
            return None
        if job is None or job.state in FINAL:
            return ""
        may_win = attempt.state == "lost" or attempt.state in WITH_WORKER
        return attempt.state if may_win else ""

    async def _resume(self, heard: LiveWorker, lost: list[m.Update]) -> list[m.Update]:
        """Those of the lost attempts that go on as the current ones."""

        def change(tx: Tx) -> list[m.Update]:
            return [
                update
                for update in lost
                if attempts.resume(tx, _claim(update, heard.worker_id), now=self._state.now())
            ]

        back = await self._state.store.write(change)
        if back:
            jobs = [update.job_id for update in back]
            log.info("attempts_taken_up_again", worker_id=heard.worker_id, jobs=jobs)
        return back

    def _hold(self, heard: LiveWorker, update: m.Update) -> None:
        until_s = self._state.awake.now + self._state.length(heard.worker_id)
        lease = Lease(update.job_id, update.attempt_nr, heard.worker_id, update.state, until_s)
        self._state.leases.add(lease)
        self._state.leases.renew(lease, until_s, heard.last)

    async def report(self, ask: m.Reports, caller: Caller) -> m.ReportVerdicts:
        """Final reports, each authorised by its own key."""

        def change(tx: Tx) -> list[m.ReportVerdict]:
            return [self._conclude(tx, report) for report in ask.reports]

        held = {report.job_id: self._state.leases.of(report.job_id) for report in ask.reports}
        files = sum(len(report.files) for report in ask.reports)
        ahead = Ahead([report.job_id for report in ask.reports], attempts=True, rows=files)
        verdicts = await self._state.store.write(change, ahead)
        for report, verdict in zip(ask.reports, verdicts, strict=True):
            if verdict.verdict == "accepted":
                lease = held[report.job_id]
                if lease is not None and not (
                    report.finished or lease.attempt_nr == report.attempt_nr
                ):
                    continue  # it counted before, and has come again: another attempt goes on
                self._state.leases.drop(report.job_id)
                self._state.log_arrived(report.job_id)
                if (
                    lease is not None
                    and (worker := self._state.live.get(lease.worker_id)) is not None
                ):
                    worker.ended += 1
                    if worker.waits is not None and not worker.waits.done():
                        worker.waits.set_result(None)
                if lease is not None and lease.attempt_nr == report.attempt_nr:
                    await self._note(lease, report)
        strange = [nr for nr, verdict in enumerate(verdicts) if not verdict.seal][:LATE]
        if strange:
            late = await self._state.store.read(
                lambda tx: [self._judged_long_ago(tx, ask.reports[nr]) for nr in strange]
            )
            for nr, judged in zip(strange, late, strict=True):
                verdicts[nr] = verdicts[nr] if judged is None else judged
        return m.ReportVerdicts(verdicts=tuple(verdicts))

    def _judged_long_ago(self, tx: Tx, report: m.Report) -> m.ReportVerdict | None:
        """The verdict about an attempt of a job that was moved away since: its sender would keep it else."""
        detail = retention.kept(tx, report.job_id)
        for one in detail.attempts if detail is not None else ():
            key, seal = self._seals.of_attempt(report.job_id, one.attempt_nr, one.worker_id)
            if one.attempt_nr == report.attempt_nr and hmac.compare_digest(
                key.encode(), report.report_key.encode()
            ):
                counted = one.state in attempts.REPORTED
                return m.ReportVerdict(
                    job_id=report.job_id,
                    attempt_nr=report.attempt_nr,
                    verdict="accepted" if counted else Refusal.ALREADY_DONE.value,
                    seal=seal,
                )
        return None

    async def _note(self, lease: Lease, report: m.Report) -> None:
        """What a report says about the node; a node that fails job after job is excluded."""
        heard = self._state.live.get(lease.worker_id)
        if heard is None or not lease.begun or report.code in TAKEN_AWAY:
            return
        node, now = (heard.site, heard.host), self._state.now()
        verdict = Verdict(
            node,
            lease.owner,
            report.job_id,
            good=report.finished,
            lasted_s=now - lease.begun,
            at=now,
            diagnosis=report.diagnosis[:300],
            lacks=report.code in NODES,
        )
        suspect = self._state.hosts.heard(verdict)
        if self._state.hosts.telling(verdict):
            await self._peers.send_verdict(verdict)
        if not suspect:
            return
        others = [
            other
            for other in self._state.live.values()
            if other.site == heard.site and other.host != heard.host
        ]
        runs = any(
            held.owner == lease.owner and held.begun and now - held.begun > 2 * verdict.lasted_s + 5
            for other in others
            for held in self._state.leases.of_worker(other.worker_id)
        )
        nodes = len({other.host for other in others}) + 1
        if self._state.hosts.judge(node, runs_elsewhere=runs, heard_of=nodes, now=now):
            await self._exclude(node)

    async def _exclude(self, node: Node) -> None:
        """Report an excluded node, and let its workers finish what they have and go."""
        site, host = node
        found = self._state.hosts.excluded(node, self._state.now())
        workers = [one for one in self._state.live.values() if (one.site, one.host) == node]

        def change(tx: Tx) -> None:
            for one in workers:
                tx.run("worker.drain", worker_id=one.worker_id, site=site)
            if found is not None:
                until, reason, now = found.until, found.reason, self._state.now()
                tx.run("node.exclude", site=site, host=host, until=until, reason=reason)
                tx.tell("host", at=now, site=site, host=host, until=until, reason=reason)

        await self._state.store.write(change)
        log.warning("host_excluded", site=site, host=host, reason=found and found.reason)
        for one in workers:
            one.draining = True
            self._state.hub.wake(one.worker_id)

    def _conclude(self, tx: Tx, report: m.Report) -> m.ReportVerdict:
        """A verdict; under the attempt's seal if the attempt is known and the key is its own."""
        attempt = records.find_attempt(tx, report.job_id, report.attempt_nr)
        worker_id = attempt.worker_id if attempt is not None else 0
        key, seal = self._seals.of_attempt(report.job_id, report.attempt_nr, worker_id)
        if attempt is None or not hmac.compare_digest(key.encode(), report.report_key.encode()):
            return m.ReportVerdict(
                job_id=report.job_id, attempt_nr=report.attempt_nr, verdict="badkey"
            )
        lease = self._state.leases.held(worker_id, report.job_id, report.attempt_nr)
        curve = _encode(lease.curve).decode() if lease is not None and lease.curve else None
        refusal = attempts.conclude(tx, report, curve=curve, now=self._state.now())
        return m.ReportVerdict(
            job_id=report.job_id,
            attempt_nr=report.attempt_nr,
            verdict=refusal.value if isinstance(refusal, Refusal) else "accepted",
            seal=seal,
        )

    async def release(self, ask: m.Release, caller: Caller) -> m.Done:
        """Prefetched jobs given back."""
        heard = await self._heard(caller)
        held = [
            lease
            for job in ask.jobs
            if (lease := self._state.leases.held(heard.worker_id, job.job_id, job.attempt_nr))
        ]
        await self._give_back(held)
        return m.Done()

    async def _give_back(
        self, leases: Sequence[Lease], then: Callable[[Tx], None] | None = None
    ) -> None:
        """Let others have what a worker never began, and do what is `then` to be done with it. What it has
        begun, as the store knows, stays leased: it is tried again when the worker is gone."""

        def change(tx: Tx) -> list[Lease]:
            kept = [
                lease
                for lease in leases
                if not attempts.release(
                    tx,
                    Claim(lease.job_id, lease.attempt_nr, lease.worker_id),
                    now=self._state.now(),
                )
            ]
            if then is not None:
                then(tx)
            return kept

        for lease in leases:  # before the commit wakes somebody who leases it anew
            self._state.leases.drop(lease.job_id)
        kept = leases
        try:
            kept = await self._state.store.write(change)
        finally:
            for lease in kept:
                if self._state.leases.of(lease.job_id) is None:
                    self._state.leases.add(lease)

    async def log_pieces(self, ask: m.LogPieces, caller: Caller) -> m.Done:
        """Pieces of payloads' output. A log longer than the limit is cut, not refused."""
        most = self._state.settings.live_log_bytes
        await self._state.store.write(lambda tx: payload_logs.keep(tx, ask, caller.worker_id, most))
        for job_id in {piece.job_id for piece in ask.pieces}:
            await self._peers.log_arrived(job_id)
        return m.Done()

    async def bye(self, ask: m.Bye, caller: Caller) -> m.Done:
        """The worker has ended. What it was given and never began goes to others at once."""
        held = self._state.leases.of_worker(caller.worker_id)
        where = {"site": caller.site, "queue": caller.queue}
        await self._give_back(
            [lease for lease in held if lease.state is JobState.SENT],
            lambda tx: end_worker(
                tx, caller.worker_id, ask.ending, ask.diagnosis, now=self._state.now(), **where
            ),
        )
        self._state.forget_worker(caller.worker_id)
        return m.Done()

    def _renew(self, heard: LiveWorker) -> float:
        """Note that a worker was heard. Until when it and its leases hold, in awake time."""
        until = self._state.awake.now + self._state.length(heard.worker_id)
        heard.last, heard.until, heard.flushed = self._state.now(), until, False
        return until

    async def _heard(self, caller: Caller) -> LiveWorker:
        """The worker of a token. One that was given up for lost and speaks again is taken back."""
        heard = self._state.live.get(caller.worker_id)
        if heard is not None:
            return heard
        return await self._state.load_worker(caller.worker_id) or await self._back(caller)

    async def _back(self, caller: Caller) -> LiveWorker:
        """A worker that was taken for lost and speaks again, as the store knows it. That is said."""

        def change(tx: Tx) -> float:
            # The first of the two statements keeps the row to this change.
            state = worker_records.find_state(tx, caller.worker_id)
            worker = worker_records.find_worker(tx, caller.worker_id)
            ended = state is not None and state.phase == Phase.ENDED and state.ending != Ending.LOST
            if worker is None or ended:
                known = worker is not None
                raise Rejected(410, "this worker has ended", remedy="exit", known=known)
            silent_s = round(max(0.0, self._state.now() - (worker.last_heard or 0.0)), 1)
            tx.run(
                "worker.phase",
                worker_id=caller.worker_id,
                phase=Phase.ACTIVE,
                ending=None,
                ended=None,
                batch_id="",
                diagnosis=f"it was silent for {silent_s:.0f} s, taken for lost, and came back",
            )
            tx.tell(
                "worker",
                at=self._state.now(),
                worker_id=caller.worker_id,
                phase=str(Phase.ACTIVE),
                back=True,
                silent_s=silent_s,
            )
            return silent_s

        silent_s = await self._state.store.write(change)
        log.warning("worker_back", worker_id=caller.worker_id, silent_s=silent_s)
        if (heard := await self._state.load_worker(caller.worker_id)) is None:
            raise Rejected(410, "this worker has ended", remedy="exit")
        heard.silent = True
        return heard


def _claim(update: m.Update, worker_id: int) -> Claim:
    """What a worker says of an attempt."""
    return Claim(update.job_id, update.attempt_nr, worker_id, update.state, update.since)


def instance_of(caller: Caller, instance: str) -> str:
    """The name under which the store knows a pilot started by hand: with whose token it came, for
    nobody is to be taken for another's pilot who knows its name, nor for a PanDA client."""
    return f"\n{caller.subject}\n{instance}"
