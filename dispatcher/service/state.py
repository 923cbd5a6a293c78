"""What all parts of the service share: the store, the time, and what memory holds beside the
store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from ailurus.protocol import machine
from ailurus.protocol import messages as m
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.messages import SlotShape
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.worker import Ending, Phase
from ailurus.wire.retry import LONGEST_BACKOFF_S
from dispatcher.accounts.rates import Limiter
from dispatcher.catalogue.settings import CatalogueSettings
from dispatcher.events import WorkerChanged
from dispatcher.memory.black_holes import Hosts
from dispatcher.memory.leases import AwakeClock, Lease, Leases
from dispatcher.memory.unserved import Unserved
from dispatcher.memory.waiting import Hub, Signal
from dispatcher.ports import Store, Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import views, worker_records
from dispatcher.rules.attempts import OpenAttempt
from dispatcher.rules.group_turns import Carried, Turns
from dispatcher.rules.views import StoredJob
from dispatcher.rules.why import Offer
from dispatcher.rules.worker_records import SiteRecord, WorkerRecord

log = Log("dispatcher")
TICK_S = 0.5
# The version of workers that stand for PanDA's pilots.
PANDA = "PanDA"
HARVESTERS = "harvester:"
"""How the intents begin under which Harvester's workers are planned."""
# More workers than this many heartbeats a second serve are told to beat slower.
BEATS_PER_S = 200


class Settings(Struct, frozen=True, kw_only=True):
    """The options of `dispatcher serve` that concern the queue."""

    heartbeat_s: float = 10.0
    beats_per_lease: int = 3
    edge_lease_s: float = 120.0
    # Of users; 1 of all others.
    shares: Mapping[str, float] = {}
    # The same of groups of users; '' is who is in none of them.
    groups: Mapping[str, float] = {}
    # Final jobs older than this are moved away, events forgotten.
    retention_s: float | None = None
    # Of one stream of one attempt.
    live_log_bytes: int = 16_000_000
    catalogue: CatalogueSettings | None = None


class LiveWorker(Struct):
    """A worker that lives, as far as memory knows it. When it was last seen is written in bulk."""

    worker_id: int
    site: str
    queue: str
    host: str
    room: Room
    total: Room
    last: float
    # Awake time after which it counts as lost.
    until: float
    draining: bool = False
    flushed: bool = False
    # How many of its jobs have ended since it registered here.
    ended: int = 0
    # Wakes its acquire that waits here.
    waits: Signal | None = None
    # It or a lease of it has run out, and it has not reported since which jobs it has.
    silent: bool = False
    # Jobs that it reports to run and that are leased to another worker by now.
    strays: tuple[int, ...] = ()
    passing: bool = False
    """A PanDA pilot without a worker id: while it holds no job nobody speaks for it."""
    # As it told in its last heartbeat here; written with when it was last seen.
    occupancy: m.Occupancy | None = None
    hardware: Hardware | None = None
    """None: its pilot did not tell."""
    carries: Carried = Carried.UPLOADS
    """The most that a job may carry for it: all, as long as it has not asked."""

    def suits(self, shape: Shape) -> bool:
        """Whether it is the machine for a job of this shape."""
        return not shape.machine or machine.met(shape.machine, self.hardware)


class SiteLease(Struct):
    """The edge that provisions a site now."""

    instance: str
    epoch: int
    slots: tuple[SlotShape, ...]
    online: bool
    # Awake time at which the lease ends.
    until: float
    # When its edge was last heard, seconds since 1970.
    heard: float = 0.0
    # How many more workers it could take, when it last asked.
    room: int | None = None
    # Its last decision.
    decision: m.SiteDecision | None = None


class State:
    """The store, and what is in memory beside it, which can be rebuilt from the store at a
    start."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Callable[[], float],
        limiter: Limiter | None = None,
    ) -> None:
        self.store = store
        # Held for each slice of a search, whatever it is for: so a reader is always free.
        self.searching = asyncio.Semaphore(1)
        self.loops = store.loops
        self.settings = settings
        self.limiter = limiter
        self.now = clock
        self.awake = AwakeClock(TICK_S)
        self.shapes: dict[int, Shape] = {}
        self.hub = Hub(self.shapes)
        self.leases = Leases()
        self.live: dict[int, LiveWorker] = {}
        self.unserved = Unserved()
        self.losses = 0
        """How often workers were taken for lost: what was read of one before is not true any
        more."""
        self.panda_silence_s: dict[int, float] = {}
        """Seconds that PanDA's clients may be silent, by worker."""
        self.relay_silence_s: dict[int, float] = {}
        """Seconds that workers behind relays may be silent: an outage of the relay's network."""
        self.sites: dict[str, SiteLease] = {}
        self.hosts = Hosts()
        self.turns = Turns(settings.groups)
        self.giver = ""
        """The name of the store, whichever dispatcher serves it."""
        self.mark = ""
        """The same, short, in the names of outputs in Rucio."""
        self._arrivals: dict[int, set[Signal]] = {}

    @property
    def heartbeat_s(self) -> float:
        """Told to every worker: short while there are few, at most half an hour."""
        return min(1800.0, max(self.settings.heartbeat_s, len(self.live) / BEATS_PER_S))

    @property
    def lease_s(self) -> float:
        return self.heartbeat_s * self.settings.beats_per_lease

    @property
    def registers(self) -> bool:
        """Whether outputs are registered in a catalogue of data."""
        return self.settings.catalogue is not None

    def length(self, worker_id: int) -> float:
        """How long a worker may be silent: PanDA's clients report each half hour."""
        return (
            self.panda_silence_s.get(worker_id)
            or self.relay_silence_s.get(worker_id)
            or self.lease_s
        )

    def remember(
        self, worker_id: int, site: str, queue: str, host: str, total: Room, last: float
    ) -> LiveWorker:
        """Hold a worker in memory from here on."""
        until = self.awake.now + self.length(worker_id)
        live = LiveWorker(worker_id, site, queue, host, total, total, last, until)
        self.live[worker_id] = live
        return live

    def recall(self, stored: WorkerRecord) -> LiveWorker:
        """Hold a worker of the store in memory."""
        kept = views.worker(stored)
        live = self.remember(
            kept.worker_id, kept.site, kept.queue, kept.host, kept.total, kept.last_heard
        )
        live.draining = bool(stored.draining)
        live.passing = (kept.version, kept.intent) == (PANDA, "")
        live.hardware = kept.hardware
        return live

    async def load_worker(self, worker_id: int) -> LiveWorker | None:
        """Hold a worker in memory as the store knows it. None: it has ended, or was never there."""
        while True:
            losses = self.losses
            stored, lengths = await self.store.read(
                lambda tx: (
                    worker_records.find_worker(tx, worker_id),
                    tx.one("worker.lengths", worker_id=worker_id),
                )
            )
            # Else it may have been lost since it was read.
            if losses == self.losses:
                break
        if stored is None or lengths is None or stored.phase == Phase.ENDED:
            return None
        for table, length in zip(
            (self.panda_silence_s, self.relay_silence_s), lengths, strict=True
        ):
            if length is not None:
                table[worker_id] = length
        return self.live.get(worker_id) or self.recall(stored)

    def forget_worker(self, worker_id: int) -> None:
        """Drop a worker that has ended from memory. How long it may be silent is kept while it
        holds leases; `forget_lengths` drops that later."""
        if (worker := self.live.pop(worker_id, None)) is not None:
            self.unserved.discard(worker.queue, worker_id)
        if not self.leases.busy(worker_id):
            self._forget_length(worker_id)

    def forget_lengths(self) -> None:
        """Drop the lengths of leases of workers that are no longer known and hold no leases."""
        for worker_id in (
            self.panda_silence_s.keys() | self.relay_silence_s.keys()
        ) - self.live.keys():
            if not self.leases.busy(worker_id):
                self._forget_length(worker_id)

    def _forget_length(self, worker_id: int) -> None:
        self.panda_silence_s.pop(worker_id, None)
        self.relay_silence_s.pop(worker_id, None)

    def know_site(self, stored: SiteRecord) -> SiteLease:
        """Who provisions a site, as the store says. What is new to us runs from now on."""
        lease, last_heard = self.sites.get(stored.site), stored.heard or 0.0
        if lease is not None and stored.epoch < lease.epoch:
            # The row was read before another edge took the site.
            return lease
        until = self.awake.now + self.settings.edge_lease_s
        if lease is not None and (lease.instance, lease.epoch) == (stored.instance, stored.epoch):
            until = until if last_heard > lease.heard else lease.until
            # A row that was read late must not make the next one look newer than it is.
            last_heard = max(last_heard, lease.heard)
        slots = msgspec.json.decode(stored.slots, type=tuple[SlotShape, ...])
        room, decision = (lease.room, lease.decision) if lease is not None else (None, None)
        lease = SiteLease(
            stored.instance,
            stored.epoch,
            slots,
            bool(stored.online),
            until,
            last_heard,
            room,
            decision,
        )
        self.sites[stored.site] = lease
        return lease

    def hold(self, attempt: OpenAttempt, until: float, begun: float = 0.0) -> Lease:
        """Hold an attempt in memory from here on: all leases are made here. `until` is awake time;
        `begun` is when it was leased, if that was since this dispatcher started."""
        lease = Lease(
            attempt.job_id,
            attempt.attempt_nr,
            attempt.worker_id,
            attempt.state,
            until,
            owner=attempt.owner,
            begun=begun,
            alone=attempt.alone,
        )
        self.leases.add(lease)
        return lease

    def hold_all(self) -> None:
        """Give every lease its full length from now on. Whoever found nobody to talk to waits for a
        while before it tries again: none is shorter than that."""
        for lease in self.leases.all():
            self.leases.hold(lease, self._full(lease.worker_id))
        for live in self.live.values():
            live.until = self._full(live.worker_id)

    def _full(self, worker_id: int) -> float:
        return self.awake.now + max(self.length(worker_id), 2 * LONGEST_BACKOFF_S)

    def offers(self, queue: str) -> list[Offer]:
        """Everything that could ever hold a job of `queue` ('': of any): slots of sites, live
        workers. Any thread may ask: others come and go meanwhile."""
        slots = [
            Offer(name=f"{site}/{slot.name}", total=slot.room, site=site, hardware=slot.hardware)
            for site, lease in list(self.sites.items())
            for slot in lease.slots
            if lease.online and queue in ("", slot.queue)
        ]
        return slots + [
            Offer(
                name=f"worker {live.worker_id}",
                total=live.total,
                free=live.room,
                foreign=live.worker_id in self.panda_silence_s,
                hardware=live.hardware,
                carries=live.carries,
            )
            for live in list(self.live.values())
            if queue in ("", live.queue) and not live.draining
        ]

    async def job_of(self, job_id: int, owns: Callable[[str], bool]) -> StoredJob:
        """A job that the caller may see. Other users' jobs do not exist for it: raises Rejected."""
        job = await self.store.read(lambda tx: views.find_job(tx, job_id))
        if job is None or not owns(job.row.user):
            raise Rejected(
                404, f"there is no job {job_id}", field="job_id", remedy="see `dispatcher jobs`"
            )
        return job

    @contextmanager
    def log_arrival(self, job_id: int) -> Iterator[Signal]:
        """Done when the pilot of a job sends something to look at. What comes between this and a
        wait for it is not missed: look inside."""
        signal: Signal = asyncio.get_running_loop().create_future()
        waiting = self._arrivals.setdefault(job_id, set())
        waiting.add(signal)
        try:
            yield signal
        finally:
            signal.cancel()
            waiting.discard(signal)
            if not waiting and self._arrivals.get(job_id) is waiting:
                del self._arrivals[job_id]

    def log_arrived(self, job_id: int) -> None:
        """Wake those who look at a job."""
        for signal in self._arrivals.pop(job_id, ()):
            if not signal.done():
                signal.set_result(None)

    def worker_row(self, stored: WorkerRecord) -> m.WorkerRow:
        """A worker as users see it, with what memory knows more recently."""
        live = self.live.get(stored.worker_id)
        if live is None:
            return views.worker(stored)
        held = self.leases.of_worker(stored.worker_id)
        jobs = (*(lease.job_id for lease in held), *live.strays)
        return views.worker(stored, heard=live.last, room=live.room, jobs=jobs)


def foreign(version: str, intent: str) -> bool:
    """Whether a worker stands for a PanDA pilot: no edge of ours has it, and none may count on
    it."""
    return version == PANDA or intent.startswith(HARVESTERS)


class WorkerEnd(Struct, frozen=True, kw_only=True):
    """How a worker ended, and where it was as far as the caller knows."""

    ending: Ending
    diagnosis: str = ""
    batch_id: str = ""
    site: str = ""
    queue: str = ""
    host: str = ""


def end_worker(tx: Tx, worker_id: int, end: WorkerEnd, *, now: float) -> None:
    """Write down that a worker has ended. Where it was goes into the event alone."""
    tx.run(
        "worker.phase",
        worker_id=worker_id,
        phase=Phase.ENDED,
        ending=end.ending,
        ended=now,
        batch_id=end.batch_id,
        diagnosis=end.diagnosis,
    )
    event = WorkerChanged(
        phase=Phase.ENDED, ending=end.ending, site=end.site, queue=end.queue, host=end.host
    )
    tx.tell(event, at=now, worker_id=worker_id)
