"""Several dispatchers on one store: how each follows the others.

Each holds the whole state in memory, as one alone does, and follows its peers by the events of
their commits. When a worker was last seen is no event: the dispatcher that it speaks to writes it
in bulk, and the leader reads it before it ends a lease.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from ailurus.logs import Log
from ailurus.protocol.resources import Room
from ailurus.protocol.states import FINAL, WITH_WORKER, JobState
from ailurus.protocol.worker import Phase
from dispatcher.accounts.rates import Spending
from dispatcher.events import EdgeChanged, Entry, HostExcluded, StateChanged, WorkerChanged
from dispatcher.memory.black_holes import Exclusion, Verdict
from dispatcher.memory.leases import Lease
from dispatcher.ports import NOTICE_BYTES, Tx
from dispatcher.rules import records, submission, worker_records
from dispatcher.rules.attempts import OpenAttempt
from dispatcher.rules.worker_records import ProcessRecord
from dispatcher.service import notices
from dispatcher.service.notices import (
    CurveRequest,
    LogArrived,
    NodeVerdict,
    Notice,
    OfJobs,
    UserSpending,
)
from dispatcher.service.peers import FLUSH_S, apply
from dispatcher.service.state import State
from dispatcher.store import schema

# How often we say that we live.
BEAT_S = 1.0
# A process that has not moved for so long is gone; its pilots speak to others.
GONE_S = 5.0
# So much sooner a leader stops leading by itself.
BEFORE_S = 1.0
# The most by which the clocks of the dispatchers' hosts differ.
SKEW_S = 5.0
log = Log("peers")
_encode = msgspec.json.Encoder().encode
_room = msgspec.json.Decoder(Room).decode
_verdict = msgspec.json.Decoder(Verdict).decode
_spending = msgspec.json.Decoder(Spending).decode


class Shared:
    """The other dispatchers on a shared store, as far as we know."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.name = secrets.token_hex(8)
        self._leads_until = 0.0
        self._knows = max(step.number for step in schema.migrations())
        self._old_schema = True
        # Number: last beat, and when it moved.
        self._beats: dict[int, tuple[int, float]] = {}
        self._early: list[Entry] | None = []
        self._read_until = 0.0

    # --- who is there ---

    @property
    def leads(self) -> bool:
        """Whether we were the first of the living, so lately that nobody can have taken us for
        gone: who cannot say that it lives, leads no more before another does."""
        return _clock() < self._leads_until

    async def join(self) -> int:
        store = self._state.store
        store.listen(self)
        store.subscribe(self._hear)
        await self._say_alive()
        return 0

    async def beat(self) -> bool:
        took_over = await self._say_alive()
        await self._look_for_jobs()
        await self._send_spending()
        return took_over

    async def _say_alive(self) -> bool:
        """Write that we live, and read which peers do. The first of the living leads. Whether we do
        from now on."""
        began = _clock()

        def change(tx: Tx) -> list[ProcessRecord]:
            tx.run("process.beat", name=self.name, knows=self._knows)
            return worker_records.processes(tx)

        processes = await self._state.store.write(change)
        now = self._state.awake.now
        beats = self._beats
        self._beats = {}
        for one in processes:
            beat, at = beats.get(one.number, (0, 0.0))
            self._beats[one.number] = (one.beat, now if one.beat != beat else at)
        living = [one.name for one in processes if now - self._beats[one.number][1] < GONE_S]
        leads = living[:1] == [self.name]
        took_over = leads and not self.leads
        self._leads_until = began + GONE_S - BEFORE_S if leads else 0.0
        if took_over:
            log.info("leads", process=self.name)
        gone = [one.name for one in processes if one.name not in living]
        if leads and gone:
            await self._state.store.write(lambda tx: _bury(tx, gone))
            log.warning("processes_gone", processes=gone)
        old = any(one.knows < self._knows for one in processes)
        if leads and not gone and self._old_schema and not old:
            self._old_schema = not await self._state.store.finish_schema()
        return took_over

    async def leave(self) -> None:
        self._leads_until = 0.0
        await self._state.store.write(lambda tx: _bury(tx, [self.name]))

    # --- what they did ---

    def follow(self, last_event: int) -> None:
        early, self._early = self._early or [], None
        self([entry for entry in early if entry.seq > last_event])

    def __call__(self, entries: Sequence[Entry]) -> None:
        """Take the events of a commit, ours or another's."""
        if self._early is not None:
            self._early += entries
            return
        for entry in entries:
            try:
                self._follow(entry)
            except Exception as error:  # noqa: BLE001 -- one that is not understood hides no other
                self._state.loops.once_failed("peers", error)

    def _follow(self, entry: Entry) -> None:
        match entry.event:
            case StateChanged() as job if entry.job_id is not None:
                self._job(entry.job_id, job, entry.worker_id, at=entry.at)
            case WorkerChanged() as worker if entry.worker_id is not None:
                self._worker(entry.worker_id, worker.phase)
            case HostExcluded() as host:
                self._host(host)
            case EdgeChanged(site=site):
                self._later(self.learn_site(site))

    def _job(self, job_id: int, job: StateChanged, worker_id: int | None, *, at: float) -> None:
        leases, state = self._state.leases, job.state
        lease = leases.of(job_id)
        attempt_nr = job.attempt_nr or 0
        if state in FINAL or (state is JobState.ACTIVATED and job.old in WITH_WORKER):
            leases.drop(job_id)
        elif state is JobState.SENT and worker_id is not None:
            if lease is None or (lease.worker_id, lease.attempt_nr) != (worker_id, attempt_nr):
                until = self._state.awake.now + self._state.length(worker_id)
                # A version before names no owner.
                owner = job.user or ""
                attempt = OpenAttempt(job_id, attempt_nr, worker_id, state, owner, job.alone)
                self._state.hold(attempt, until, begun=at)
        elif lease is not None and lease.attempt_nr == attempt_nr:
            lease.state = state

    def _worker(self, worker_id: int, phase: Phase) -> None:
        state = self._state
        live = state.live.get(worker_id)
        if phase is Phase.ENDED:
            state.forget_worker(worker_id)
        elif phase is Phase.DRAINING and live is not None:
            live.draining = True
            state.hub.wake(worker_id)
        elif phase is Phase.ACTIVE and live is None:
            self._later(state.load_worker(worker_id))

    def _host(self, excluded: HostExcluded) -> None:
        state, node = self._state, (excluded.site, excluded.host)
        state.hosts.exclude(node, Exclusion(excluded.until, excluded.reason))
        for worker_id, live in list(state.live.items()):
            if (live.site, live.host) == node:
                live.draining = True
                state.hub.wake(worker_id)

    async def learn_site(self, site: str) -> None:
        stored = await self._state.store.read(lambda tx: worker_records.find_site(tx, site))
        if stored is not None:
            self._state.know_site(stored)

    # --- what they heard ---

    async def catch_up(self) -> None:
        state = self._state
        since = self._read_until - SKEW_S
        workers, sites = await state.store.read(
            lambda tx: (worker_records.workers_seen(tx, since), worker_records.sites(tx))
        )
        for site in sites:
            lease = state.sites.get(site.site)
            # Else its row is no newer than what was heard here.
            if lease is None or (site.heard or 0.0) > lease.heard:
                state.know_site(site)
        for seen in workers:
            self._read_until = max(self._read_until, seen.last_heard)
            live = state.live.get(seen.worker_id)
            if live is None:
                self._later(state.load_worker(seen.worker_id))
                continue
            if seen.last_heard > live.last:
                live.last, live.room, live.flushed = seen.last_heard, _room(seen.room), True
                live.until = state.awake.now + state.length(seen.worker_id)
            if seen.draining and not live.draining:
                live.draining = True
                state.hub.wake(seen.worker_id)

    def flush_s(self) -> float:
        """Twice a heartbeat at least: the others wait for it."""
        return min(FLUSH_S, self._state.heartbeat_s / 2)

    def grace_s(self) -> float:
        return 2 * self.flush_s() + 2 * BEAT_S

    def write_heard(self, tx: Tx, attempts: Sequence[Mapping[str, Any]]) -> None:
        tx.many("attempt.heard", attempts)

    async def write_sites(self, sites: Sequence[Mapping[str, Any]]) -> None:
        if sites:
            await self._state.store.write(lambda tx: tx.many("site.heard", sites))

    async def still_held(self, late: Sequence[Lease]) -> set[int]:
        if not late:
            return set()
        ids = _encode([lease.job_id for lease in late]).decode()
        rows = await self._state.store.read(lambda tx: tx.all("attempt.heard_of", ids=ids))
        last_seen = {(job_id, attempt_nr): at for job_id, attempt_nr, at in rows if at is not None}
        held = set()
        for lease in late:
            at = last_seen.get((lease.job_id, lease.attempt_nr), 0.0)
            if at > lease.heard:
                lease.heard = at
                until = self._state.awake.now + self._state.length(lease.worker_id)
                self._state.leases.hold(lease, until)
                held.add(lease.job_id)
        return held

    async def _look_for_jobs(self) -> None:
        """Wake who waits for a job that is there: its notice may have been lost, or another process
        may have held it for a moment and let go."""
        if not self._state.hub.anybody:
            return
        for one in await self._state.store.read(records.counters):
            if one.state == JobState.ACTIVATED:
                self._state.hub.ready(one.queue, one.shape_id, one.n)

    # --- notices ---

    def _hear(self, text: str) -> None:
        """Take a notice of any dispatcher. Raises msgspec.DecodeError for what is none."""
        notice = notices.decode(text)
        match notice:
            case None:
                # A newer version's.
                pass
            case NodeVerdict() | UserSpending() if notice.process == self.name:
                # Counted when it was sent.
                pass
            case NodeVerdict():
                self._state.hosts.count(_verdict(notice.text))
            case UserSpending():
                if self._state.limiter is not None:
                    self._state.limiter.count_elsewhere(notice.process, _spending(notice.text))
            case CurveRequest():
                for job_id in notice.job_ids:
                    lease = self._state.leases.of(job_id)
                    if lease is not None and (lease.curve or lease.staging):
                        self._later(self._show_curve(lease))
            case _:
                apply(notice, self._state)

    async def send(self, notice: OfJobs) -> None:
        for part in notices.parts(notice):
            # At once: that it comes back changes nothing.
            apply(part, self._state)
            await self._publish(part)

    async def _publish(self, notice: Notice) -> None:
        await self._state.store.publish(notices.encode(notice))

    async def send_verdict(self, verdict: Verdict) -> None:
        await self._publish(NodeVerdict(text=_encode(verdict).decode(), process=self.name))

    async def _send_spending(self) -> None:
        """Send what users have spent here since the last time, if it is much."""
        limiter = self._state.limiter
        if limiter is None or (spending := limiter.spending()) is None:
            return
        while len(notice := notices.encode(self._spending(spending)).encode()) > NOTICE_BYTES:
            # Users have long names.
            spending = spending.half()
        await self._state.store.publish(notice.decode())

    def _spending(self, spending: Spending) -> UserSpending:
        return UserSpending(text=_encode(spending).decode(), process=self.name)

    # --- what users look at ---

    async def log_arrived(self, job_id: int) -> None:
        self._state.log_arrived(job_id)
        lease = self._state.leases.of(job_id)
        if lease is not None and lease.log_wanted > self._state.awake.now:
            await self._publish(LogArrived(job_ids=(job_id,)))

    async def tail_came(self, lease: Lease, text: str) -> None:
        lease.tail, lease.tail_wanted = text, ""
        row = {"job_id": lease.job_id, "at": self._state.now(), "text": text}
        await self._state.store.write(lambda tx: tx.run("tail.put", **row))
        await self.send(LogArrived(job_ids=(lease.job_id,)))

    async def tail_of(self, job_id: int, since: float) -> str | None:
        tail = await self._state.store.read(lambda tx: records.find_tail(tx, job_id))
        return tail.text if tail is not None and tail.at >= since else None

    async def want_curves(self, job_ids: Sequence[int]) -> None:
        await self.send(CurveRequest(job_ids=tuple(job_ids)))

    async def _show_curve(self, lease: Lease) -> None:
        curve = _encode(lease.curve).decode()
        usage = None if lease.usage is None else _encode(lease.usage).decode()
        staging = None if lease.staging is None else _encode(lease.staging).decode()
        await self._state.store.write(
            lambda tx: tx.run(
                "attempt.show",
                job_id=lease.job_id,
                attempt_nr=lease.attempt_nr,
                curve=curve,
                usage=usage,
                staging=staging,
            )
        )

    def _later(self, what: Coroutine[Any, Any, object]) -> None:
        """Do it beside. If it fails, the next look at the store makes up for it."""
        self._state.loops.once("peers", what)


def _clock() -> float:
    """Seconds that go on while this process or its host stands still, as they do for the others."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _bury(tx: Tx, names: list[str]) -> None:
    """Forget processes that are gone, and the submissions that they did not finish."""
    for name in names:
        submission.drop_broken(tx, name)
        tx.run("process.drop", name=name)
