"""What the processes on one store know of each other. Only where the store is shared.

Each holds the whole state in memory, as one alone does, and follows the others by the events of their
commits. When a worker was last heard is no event: who hears it flushes it to the store in bulk, and
the leader, before it takes something for lost, looks whether another has heard of it since.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.messages import SlotShape
from ailurus.protocol.resources import Room
from ailurus.protocol.states import FINAL, WITH_WORKER, JobState
from ailurus.protocol.worker import Phase
from dispatcher.accounts.rates import Spending
from dispatcher.memory.black_holes import Exclusion, Verdict
from dispatcher.memory.leases import Lease, OfPanda
from dispatcher.ports import Bulletin, Tx
from dispatcher.rules import records, submission, worker_records
from dispatcher.rules.worker_records import ProcessRecord
from dispatcher.store import schema

if TYPE_CHECKING:
    from dispatcher.service.base import Core, Heard

GONE_S = 5.0  # a process that has not moved for so long is gone; its pilots speak to others
BEFORE_S = 1.0  # so much sooner it stops to lead by itself
SKEW_S = 5.0  # between the clocks of the dispatchers' hosts
log = Log("others")
_encode = msgspec.json.Encoder().encode
_room = msgspec.json.Decoder(Room).decode
_of_panda = msgspec.json.Decoder(OfPanda).decode
_verdict = msgspec.json.Decoder(Verdict).decode
_spending = msgspec.json.Decoder(Spending).decode
_slots = msgspec.json.Decoder(tuple[SlotShape, ...]).decode


class Others:
    """The other dispatchers on our store, as far as we know."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.name = secrets.token_hex(8)
        self._leads_until = 0.0
        self._knows = max(step.number for step in schema.migrations())
        self._old_schema = True
        self._beats: dict[int, tuple[int, float]] = {}  # number: last beat, and when it moved
        self._early: list[m.Event] | None = []
        self._read_until = 0.0

    # --- who is there --------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether we were the first of the living, so lately that nobody can have taken us for gone: who
        cannot say that it lives, leads no more before another does."""
        return _clock() < self._leads_until

    async def beat(self) -> None:
        """Say that we live, and see who else does. The first of the living leads."""
        began = _clock()

        def change(tx: Tx) -> list[ProcessRecord]:
            tx.run("process.beat", name=self.name, knows=self._knows)
            return worker_records.processes(tx)

        processes = await self._core.store.write(change)
        now = self._core.awake.now
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
            self._core.take_over()
            log.info("leads", process=self.name)
        gone = [one.name for one in processes if one.name not in living]
        if leads and gone:
            await self._core.store.write(lambda tx: _bury(tx, gone))
            log.warning("processes_gone", processes=gone)
        old = any(one.knows < self._knows for one in processes)
        if leads and not gone and self._old_schema and not old:
            self._old_schema = not await self._core.store.finish_schema()

    async def leave(self) -> None:
        """Let another lead at once."""
        self._leads_until = 0.0
        await self._core.store.write(lambda tx: _bury(tx, [self.name]))

    # --- what they did -------------------------------------------------------------------------------

    def loaded(self, last: int) -> None:
        """Memory is as of that event: from here on it follows."""
        early, self._early = self._early or [], None
        self([event for event in early if event.seq > last])

    def __call__(self, events: Sequence[m.Event]) -> None:
        """Take the events of a commit, ours or another's."""
        if self._early is not None:
            self._early += events
            return
        for event in events:
            try:
                self._follow(event)
            except Exception as error:  # noqa: BLE001 -- one that is not understood hides no other
                self._core.loops.slipped("others", error)

    def _follow(self, event: m.Event) -> None:
        if event.kind == "state" and event.job_id is not None:
            self._job(event, event.job_id)
        elif event.kind == "worker" and event.worker_id is not None:
            self._worker(event, event.worker_id)
        elif event.kind == "host":
            self._host(event)
        elif event.kind == "edge":
            self._later(self._site(event.data["site"]))

    def _job(self, event: m.Event, job_id: int) -> None:
        leases, state = self._core.leases, JobState(event.data["state"])
        lease = leases.of(job_id)
        attempt_nr = event.data.get("attempt_nr", 0)
        if state in FINAL or (state is JobState.ACTIVATED and event.data["old"] in WITH_WORKER):
            leases.drop(job_id)
        elif state is JobState.SENT and event.worker_id is not None:
            if lease is None or (lease.worker_id, lease.attempt_nr) != (
                event.worker_id,
                attempt_nr,
            ):
                until = self._core.awake.now + self._core.length(event.worker_id)
                leases.add(Lease(job_id, attempt_nr, event.worker_id, state, until, begun=event.at))
        elif lease is not None and lease.attempt_nr == attempt_nr:
            lease.state = state

    def _worker(self, event: m.Event, worker_id: int) -> None:
        core, phase = self._core, event.data.get("phase")
        heard = core.heard.get(worker_id)
        if phase == Phase.ENDED:
            core.forget_worker(worker_id)
        elif phase == Phase.DRAINING and heard is not None:
            heard.draining = True
            core.hub.wake(worker_id)
        elif phase == Phase.ACTIVE and heard is None:
            self._later(self.adopt(worker_id))

    def _host(self, event: m.Event) -> None:
        core, node = self._core, (event.data["site"], event.data["host"])
        core.hosts.exclude(node, Exclusion(event.data["until"], event.data["reason"]))
        for worker_id, heard in list(core.heard.items()):
            if (heard.site, heard.host) == node:
                heard.draining = True
                core.hub.wake(worker_id)

    async def adopt(self, worker_id: int) -> Heard | None:
        """Hold a worker in memory as the store knows it. None: it has ended, or was never there."""
        core = self._core
        while True:
            losses = core.losses
            stored, lengths = await core.store.read(
                lambda tx: (
                    worker_records.find_worker(tx, worker_id),
                    tx.one("worker.lengths", worker_id=worker_id),
                )
            )
            if losses == core.losses:  # else it may have been lost since it was read
                break
        if stored is None or lengths is None or stored.phase == Phase.ENDED:
            return None
        for table, length in zip((core.patience, core.outage), lengths, strict=True):
            if length is not None:
                table[worker_id] = length
        return core.heard.get(worker_id) or core.recall(stored)

    async def _site(self, site: str) -> None:
        stored = await self._core.store.read(lambda tx: worker_records.find_site(tx, site))
        if stored is not None:
            self._core.know_site(stored)

    # --- what they heard -----------------------------------------------------------------------------

    async def news(self) -> None:
        """What others have heard of workers since the last look, in bulk."""
        core = self._core
        since = self._read_until - SKEW_S
        for seen in await core.store.read(lambda tx: worker_records.workers_seen(tx, since)):
            self._read_until = max(self._read_until, seen.last_heard)
            heard = core.heard.get(seen.worker_id)
            if heard is None:
                self._later(self.adopt(seen.worker_id))
                continue
            if seen.last_heard > heard.last:
                heard.last, heard.room, heard.flushed = seen.last_heard, _room(seen.room), True
                heard.until = core.awake.now + core.length(seen.worker_id)
            if seen.draining and not heard.draining:
                heard.draining = True
                core.hub.wake(seen.worker_id)

    async def still_held(self, late: list[Lease]) -> set[int]:
        """Those of the late leases' jobs for which a worker has spoken to another process since."""
        ids = _encode([lease.job_id for lease in late]).decode()
        rows = await self._core.store.read(lambda tx: tx.all("attempt.heard_of", ids=ids))
        heard = {(job_id, attempt_nr): at for job_id, attempt_nr, at in rows if at is not None}
        held = set()
        for lease in late:
            at = heard.get((lease.job_id, lease.attempt_nr), 0.0)
            if at > lease.heard:
                lease.heard = at
                until = self._core.awake.now + self._core.length(lease.worker_id)
                self._core.leases.hold(lease, until)
                held.add(lease.job_id)
        return held

    async def look_for_jobs(self) -> None:
        """Wake who waits for a job that is there: its notice may have been lost, or another process may
        have held it for a moment and let go."""
        if not self._core.hub.anybody:
            return
        for one in await self._core.store.read(records.counters):
            if one.state == JobState.ACTIVATED:
                self._core.hub.ready(one.queue, one.shape_id, one.n)

    # --- what they wish ------------------------------------------------------------------------------

    def hear(self, bulletin: Bulletin) -> None:
        """A wish or a piece of news that no store keeps."""
        core = self._core
        if bulletin.process == self.name:
            return
        if bulletin.kind == "verdict":
            core.hosts.heard(_verdict(bulletin.text))
        elif bulletin.kind == "rates" and core.limiter is not None:
            core.limiter.hear(bulletin.process, _spending(bulletin.text))
        for job_id in bulletin.job_ids:
            lease = core.leases.of(job_id)
            if bulletin.kind == "arrived":
                core.log_arrived(job_id)
            elif lease is None:
                continue
            elif bulletin.kind == "soft_kill":
                lease.soft_kill = True
            elif bulletin.kind == "look":
                lease.log_wanted = core.awake.now + bulletin.seconds
            elif bulletin.kind == "tail":
                lease.tail_wanted, lease.tail = bulletin.text, None
            elif bulletin.kind == "panda":
                lease.panda = _of_panda(bulletin.text)
            elif bulletin.kind == "curve" and lease.curve:
                self._later(self._show_curve(lease))

    async def tell(self, kind: str, what: Verdict | Spending) -> None:
        """Something that the others are to count as well. It may get lost."""
        text = _encode(what).decode()
        await self._core.store.spread(Bulletin(kind=kind, text=text, process=self.name))

    async def tell_rates(self) -> None:
        """What users have asked of us since the last time, if it is much."""
        if self._core.limiter is not None and (spending := self._core.limiter.spending()):
            await self.tell("rates", spending)

    async def _show_curve(self, lease: Lease) -> None:
        curve, usage = _encode(lease.curve).decode(), _encode(lease.usage).decode()
        await self._core.store.write(
            lambda tx: tx.run(
                "attempt.show",
                job_id=lease.job_id,
                attempt_nr=lease.attempt_nr,
                curve=curve,
                usage=usage,
            )
        )

    def _later(self, what: Coroutine[Any, Any, object]) -> None:
        """Do it beside. If it fails, the next look at the store makes up for it."""
        self._core.loops.once("others", what)


def _clock() -> float:
    """Seconds that go on while this process or its host stands still, as they do for the others."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _bury(tx: Tx, names: list[str]) -> None:
    """Forget processes that are gone, and the submissions that they did not finish."""
    for name in names:
        submission.drop_broken(tx, name)
        tx.run("process.drop", name=name)
