"""What the three kinds of callers share: the store, who waits, who holds what, who was heard when."""

from __future__ import annotations

import asyncio
import hmac
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct

from ailurus.logs import Log
from ailurus.loops import Loop
from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.job import Room, Shape
from ailurus.protocol.messages import SlotShape
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending, Phase
from ailurus.wire.retry import LONGEST_BACKOFF_S
from dispatcher import graph, queue, retention, submission, views
from dispatcher.caller import Rejected
from dispatcher.events import Hub, Signal
from dispatcher.groups import Turns
from dispatcher.hosts import Exclusion, Hosts
from dispatcher.leases import AwakeClock, Lease, Leases, OfPanda
from dispatcher.others import Others
from dispatcher.ports import Bulletin, Row, Store, Tx
from dispatcher.rates import Limiter
from dispatcher.search import Searches
from dispatcher.why import Offer

log = Log("dispatcher")
TICK_S = 0.5
PANDA = "PanDA"  # the version of workers that stand for PanDA's pilots
HARVESTERS = "harvester:"
"""How the intents begin under which Harvester's workers are planned."""
PASSED_S = 300.0
"""PanDA's pilots ask again three minutes after the last job at the most: whoever says nothing for longer
and holds none is gone."""
FLUSH_S = 10.0
FLUSHED = 1000  # of a kind in one commit: ten thousand at once would hold up every heartbeat
BEAT_S = 1.0
FAILING_S = 2.0  # the longest pause of the loop that says we live: others count 5 s of silence
STUCK_S = 60.0  # no turn of a loop takes longer while the store does its work
TIDY_S = 60.0
TIDY_PAUSE_S = 0.05  # between two slices: others' requests come first
KEY = 40  # hexadecimal digits of a key; 24 are left of an HMAC for a seal
WISHES = 400  # jobs of one bulletin
BEATS_PER_S = 200  # more workers than this many heartbeats a second serve are told to beat slower
EXCLUDED = "excluded"  # the kind of fact
_encode = msgspec.json.Encoder().encode
_exclusion = msgspec.json.Decoder(Exclusion).decode
_of_panda = msgspec.json.Decoder(OfPanda).decode


class Settings(Struct, frozen=True, kw_only=True):
    """What `dispatcher serve` was told."""

    heartbeat_s: float = 10.0
    beats_per_lease: int = 3
    edge_lease_s: float = 120.0
    shares: Mapping[str, float] = {}  # of users; 1 of all others
    groups: Mapping[str, float] = {}  # the same of groups of users; '' is who is in none of them
    retention_s: float | None = None  # final jobs older than this are moved away, events forgotten
    live_log_bytes: int = 16_000_000  # of one stream of one attempt


class Heard(Struct):
    """What memory knows of a worker; `last` is flushed to the store in bulk."""

    worker_id: int
    site: str
    queue: str
    host: str
    room: Room
    total: Room
    last: float
    until: float  # awake time after which it counts as lost
    draining: bool = False
    flushed: bool = False
    ended: int = 0  # of its jobs, so far
    waits: Signal | None = None  # of its acquire that is held here
    silent: bool = False  # it, or a lease of its, has run out, and it has not said what it has
    strays: tuple[int, ...] = ()  # jobs that it says it runs, and that are another's by now
    passing: bool = False
    """A PanDA pilot without a worker id: while it holds no job nobody speaks for it."""


class SiteLease(Struct):
    """The edge that provisions a site now."""

    instance: str
    epoch: int
    slots: tuple[SlotShape, ...]
    online: bool
    until: float  # awake time
    heard: float = 0.0  # when its edge was last heard, seconds since 1970
    room: int | None = None  # how many more workers it could take, when it last asked
    word: m.SiteWord | None = None  # its last decision


class Core:
    """State in memory beside the store. All of it can be rebuilt from the store at a start."""

    def __init__(
        self,
        store: Store,
        secret: bytes,
        mint: Callable[..., str],
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        self.store = store
        self.loops = store.loops
        self.settings = settings
        self.mint = mint
        self.now = clock
        self.awake = AwakeClock(TICK_S)
        self.shapes: dict[int, Shape] = {}
        self.hub = Hub(self.shapes)
        self.leases = Leases()
        self.heard: dict[int, Heard] = {}
        self.patience: dict[int, float] = {}  # workers whose leases have a length of their own
        self.outage: dict[int, float] = {}  # the same of workers behind relays
        self.sites: dict[str, SiteLease] = {}
        self.hosts = Hosts()
        self.turns = Turns(settings.groups)
        self.searches = Searches(store)
        self.limiter: Limiter | None = None  # of the door, where there is one
        self.giver = ""  # what this store is called, whichever dispatcher serves it
        self._secret = secret
        self._submitting: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._arrivals: dict[int, set[Signal]] = {}
        self._unfold = asyncio.Event()
        self._no_expiry_before = 0.0  # awake time
        self._flushed = self._beaten = 0.0  # awake times
        self.others = Others(self)

    async def start(self) -> None:
        """Read what a former process left, and begin what time does."""
        self.store.listen(self.hub)
        self.store.listen(self._heed)
        self.store.hear(self.others.hear)
        dropped = 0
        if self.store.alone:
            dropped = await self.store.write(lambda tx: submission.drop_broken(tx, ""))
        else:
            self.store.listen(self.others)
            await self.others.beat()
        self.giver = await self._named()
        await self.store.write(lambda tx: tx.run("fact.sweep"))
        attempts, workers, sites, last, patient, relayed, nodes = await self.store.read(self._load)
        for site, host, told in nodes:
            self.hosts.exclude((site, host), _exclusion(told))
        self.patience.update(dict(patient))
        self.outage.update(dict(relayed))
        for job_id, attempt_nr, worker_id, state, told in attempts:
            lease = Lease(job_id, attempt_nr, worker_id, JobState(state), 0.0)
            lease.panda = _of_panda(told) if told else lease.panda
            self.leases.add(lease)
        for row in workers:
            if row[4] in (Phase.ACTIVE, Phase.DRAINING):
                self.recall(row)
        self.hold_all()
        for site in sites:
            self.know_site(site[0], site[1:])
        self.hub.seq = max(self.hub.seq, last)
        self.others.loaded(last)
        self._unfold.set()
        log.info(
            "queue_opened",
            attempts=len(attempts),
            workers=len(self.heard),
            broken_submissions=dropped,
        )
        self.loops.task("time", self._time, turn_s=STUCK_S, longest_s=FAILING_S)
        self.loops.task("descend", self._descend, turn_s=STUCK_S)
        if self.settings.retention_s is not None:
            self.loops.task("tidy", self._tidy, turn_s=STUCK_S)

    async def close(self) -> None:
        """Let everybody go, write what was heard, close the store."""
        await self.loops.end()
        self.hub.wake_all()
        await self._flush()
        if not self.store.alone:
            await self.others.leave()
        await self.store.close()

    # --- shared by callers ---------------------------------------------------------------------------

    @property
    def heartbeat_s(self) -> float:
        """Told to every worker: short while there are few, at most half an hour."""
        return min(1800.0, max(self.settings.heartbeat_s, len(self.heard) / BEATS_PER_S))

    @property
    def lease_s(self) -> float:
        return self.heartbeat_s * self.settings.beats_per_lease

    def length(self, worker_id: int) -> float:
        """How long a worker may be silent: PanDA's clients report each half hour."""
        return self.patience.get(worker_id) or self.outage.get(worker_id) or self.lease_s

    def words(self, job_id: int, attempt_nr: int, worker_id: int) -> tuple[str, str]:
        """The report key of one attempt, which authorises its final report, and its seal, which comes with
        the attempt and again with what ends it: that it is we who say so, and that our store knows the
        attempt. Derived, so that no store holds them: two parts of one HMAC, of which the one, that every
        report holds, says nothing about the other."""
        made = self._derived(f"{job_id}.{attempt_nr}.{worker_id}")
        return made[:KEY], made[KEY:]

    def seal(self, job_id: int, attempt_nr: int, worker_id: int) -> str:
        """The seal alone."""
        return self.words(job_id, attempt_nr, worker_id)[1]

    async def _named(self) -> str:
        """The name of the store: made once, whoever is the first to open it."""
        one = {"kind": "store", "owner": "", "name": "name"}

        def change(tx: Tx) -> None:
            tx.run("fact.first", **one, at=self.now(), data=secrets.token_hex(8))

        await self.store.write(change)
        row = await self.store.read(lambda tx: tx.one("fact.get", **one))
        assert row is not None  # noqa: S101 - it was written above
        return str(row[1])

    def key(self, purpose: str) -> str:
        """A key for one purpose, derived from the dispatcher's secret."""
        return self._derived(purpose)[:KEY]

    def _derived(self, purpose: str) -> str:
        return hmac.digest(self._secret, purpose.encode(), "sha256").hex()

    def remember(
        self, worker_id: int, site: str, queue: str, host: str, total: Room, last: float
    ) -> Heard:
        """Hold a worker in memory from here on."""
        until = self.awake.now + self.length(worker_id)
        heard = Heard(worker_id, site, queue, host, total, total, last, until)
        self.heard[worker_id] = heard
        return heard

    def recall(self, row: Row) -> Heard:
        """Hold a worker of the store in memory."""
        kept = views.worker(row)
        heard = self.remember(
            kept.worker_id, kept.site, kept.queue, kept.host, kept.total, kept.last_heard
        )
        heard.draining = bool(row[15])
        heard.passing = (kept.version, kept.intent) == (PANDA, "")
        return heard

    def know_site(self, site: str, row: Sequence[Any]) -> SiteLease:
        """Who provisions a site, as the store says. What is new to us runs from now on."""
        instance, epoch, slots, online, heard = row
        lease = self.sites.get(site)
        if lease is not None and epoch < lease.epoch:
            return lease  # the row was read before another edge took the site
        until = self.awake.now + self.settings.edge_lease_s
        if lease is not None and (lease.instance, lease.epoch) == (instance, epoch):
            until = until if (heard or 0.0) > lease.heard else lease.until
        kept = msgspec.json.decode(slots, type=tuple[SlotShape, ...])
        room, word = (lease.room, lease.word) if lease is not None else (None, None)
        lease = SiteLease(instance, epoch, kept, bool(online), until, heard or 0.0, room, word)
        self.sites[site] = lease
        return lease

    @property
    def leads(self) -> bool:
        """Whether it is ours to take for lost, to tell children, to tidy up."""
        return self.store.alone or self.others.leads

    def take_over(self) -> None:
        """Begin to lead: whatever others may have heard, every lease has its full length again."""
        self.hold_all()
        self._unfold.set()

    def hold_all(self) -> None:
        """Give every lease its full length from now on. Whoever found nobody to talk to waits for a while
        before it tries again: none is shorter than that."""
        for lease in self.leases.all():
            self.leases.hold(lease, self._full(lease.worker_id))
        for heard in self.heard.values():
            heard.until = self._full(heard.worker_id)

    def _full(self, worker_id: int) -> float:
        return self.awake.now + max(self.length(worker_id), 2 * LONGEST_BACKOFF_S)

    def offers(self, queue: str) -> list[Offer]:
        """Everything that could ever hold a job of `queue` ('': of any): slots of sites, live workers.
        Any thread may ask: others come and go meanwhile."""
        slots = [
            Offer(name=f"{site}/{slot.name}", total=slot.room, site=site)
            for site, lease in list(self.sites.items())
            for slot in lease.slots
            if lease.online and queue in ("", slot.queue)
        ]
        return slots + [
            Offer(
                name=f"worker {heard.worker_id}",
                total=heard.total,
                free=heard.room,
                foreign=heard.worker_id in self.patience,
            )
            for heard in list(self.heard.values())
            if queue in ("", heard.queue) and not heard.draining
        ]

    async def job_of(self, job_id: int, owns: Callable[[str], bool]) -> Row:
        """The row of a job that the caller may see. Others' jobs do not exist for it."""
        row = await self.store.read(lambda tx: tx.one("job.row", job_id=job_id))
        if row is None or not owns(row[3]):
            raise Rejected(
                404, f"there is no job {job_id}", field="job_id", remedy="see `dispatcher jobs`"
            )
        return row

    def log_arrival(self, job_id: int) -> Signal:
        """Done when the pilot of a job sends something to look at."""
        signal: Signal = asyncio.get_running_loop().create_future()
        waiting = self._arrivals.setdefault(job_id, set())
        waiting.add(signal)
        signal.add_done_callback(waiting.discard)
        return signal

    def log_arrived(self, job_id: int) -> None:
        """Wake those who look at a job."""
        for signal in self._arrivals.pop(job_id, set()).copy():
            if not signal.done():
                signal.set_result(None)

    async def arrived(self, job_id: int) -> None:
        """The same at all processes, while somebody looks."""
        self.log_arrived(job_id)
        lease = self.leases.of(job_id)
        if not self.store.alone and lease is not None and lease.log_wanted > self.awake.now:
            await self.store.spread(Bulletin(kind="arrived", job_ids=(job_id,)))

    async def tail_came(self, lease: Lease, text: str) -> None:
        """A pilot has sent the end of a file that somebody asked for."""
        lease.tail, lease.tail_wanted = text, ""
        fact = {"kind": "tail", "owner": "", "name": str(lease.job_id), "at": self.now()}
        if not self.store.alone:
            await self.store.write(lambda tx: tx.run("fact.put", **fact, data=text))
            await self.store.spread(Bulletin(kind="arrived", job_ids=(lease.job_id,)))
        self.log_arrived(lease.job_id)

    @property
    def process(self) -> str:
        """Our name among the processes on a shared store."""
        return "" if self.store.alone else self.others.name

    async def wish(self, kind: str, *job_ids: int, text: str = "", seconds: float = 0.0) -> None:
        """Something about running jobs that whoever talks to their pilots is to pass on."""
        for at in range(0, len(job_ids), WISHES):
            part = job_ids[at : at + WISHES]
            bulletin = Bulletin(kind=kind, job_ids=part, text=text, seconds=seconds)
            self.others.hear(bulletin)
            if not self.store.alone:
                await self.store.spread(bulletin)

    def worker_row(self, row: Row) -> m.WorkerRow:
        """A worker's row with what memory knows more recently."""
        heard = self.heard.get(row[0])
        if heard is None:
            return views.worker(row)
        jobs = (*(lease.job_id for lease in self.leases.of_worker(row[0])), *heard.strays)
        return views.worker(row, heard=heard.last, room=heard.room, jobs=jobs)

    # --- what time does ------------------------------------------------------------------------------

    def _load(
        self, tx: Tx
    ) -> tuple[list[Row], list[Row], list[Row], int, list[Row], list[Row], list[Row]]:
        self.shapes.update(queue.all_shapes(tx))
        last = tx.one("event.last")
        return (
            tx.all("attempt.open"),
            tx.all("worker.alive"),
            tx.all("site.all"),
            last[0] if last else 0,
            tx.all("worker.patient"),
            tx.all("worker.behind_relay"),
            tx.all("fact.since", kind=EXCLUDED, since=self.now()),
        )

    @property
    def _flush_s(self) -> float:
        """How often is flushed what was heard: where others wait for it, twice a heartbeat."""
        return FLUSH_S if self.store.alone else min(FLUSH_S, self.heartbeat_s / 2)

    async def _time(self, loop: Loop) -> None:
        while True:
            loop.turned(TICK_S)
            await asyncio.sleep(TICK_S)
            try:
                await self._tick(self.awake.tick(time.monotonic()))
            except Exception:  # a full disk: leases wait for it, as everybody does
                if not self.store.alone:  # and for what others could not tell meanwhile
                    self._no_expiry_before = self.awake.now + 2 * self._flush_s + 2 * BEAT_S
                raise

    async def _tick(self, now: float) -> None:
        if not self.store.alone and now - self._beaten >= BEAT_S:
            await self.others.beat()
            self._beaten = now
            await self.others.look_for_jobs()
            await self.others.tell_rates()
        if now - self._flushed >= self._flush_s:
            await self._flush()
            if not self.store.alone:
                await self.others.news()
            self._flushed = now
        if self.leads and now >= self._no_expiry_before:
            await self._expire(now)

    async def _expire(self, awake: float) -> None:
        late = self.leases.expired(awake)
        lost = [h for h in self.heard.values() if h.until < awake or self._passed(h)]
        if late and not self.store.alone:
            held = await self.others.still_held(late)
            late = [lease for lease in late if lease.job_id not in held]
        if not late and not lost:
            return
        # Before the commit wakes those who wait: a stopped pilot's own acquire may still be held here.
        for worker_id in {*(lease.worker_id for lease in late), *(one.worker_id for one in lost)}:
            if (quiet := self.heard.get(worker_id)) is not None:
                quiet.silent = True

        def change(tx: Tx) -> None:
            now = self.now()
            for lease in late:
                silent = self.length(lease.worker_id)
                reason = f"lost heartbeat: worker {lease.worker_id} was silent for {silent:.0f} s"
                queue.expire(
                    tx,
                    job_id=lease.job_id,
                    attempt_nr=lease.attempt_nr,
                    worker_id=lease.worker_id,
                    reason=reason,
                    code=Code.LOST_HEARTBEAT,
                    now=now,
                )
            for heard in lost:
                where = {"site": heard.site, "queue": heard.queue, "host": heard.host}
                passed = self._passed(heard)
                ending = Ending.DONE if passed else Ending.LOST
                why = "" if passed else "lost heartbeat"
                end_worker(tx, heard.worker_id, ending, why, now=now, **where)

        await self.store.write(change)
        for lease in late:
            if lease.until < awake:  # not renewed while the change was on its way
                self.leases.drop(lease.job_id)
        for heard in lost:
            self.heard.pop(heard.worker_id, None)
            self.patience.pop(heard.worker_id, None)
            self.outage.pop(heard.worker_id, None)

    def _passed(self, heard: Heard) -> bool:
        """Whether a pilot that was only passing by is gone."""
        return (
            heard.passing
            and heard.last < self.now() - PASSED_S
            and not self.leases.of_worker(heard.worker_id)
        )

    async def _flush(self) -> None:
        news = [heard for heard in self.heard.values() if not heard.flushed]
        leases = self.leases.renewed()
        for heard in news:
            heard.flushed = True
        workers = [
            {"worker_id": h.worker_id, "at": h.last, "room": _encode(h.room).decode()} for h in news
        ]
        attempts = [
            {"job_id": one.job_id, "attempt_nr": one.attempt_nr, "at": one.heard} for one in leases
        ]
        sites = [
            {"site": name, "instance": lease.instance, "heard": lease.heard}
            for name, lease in self.sites.items()
        ]

        def change(tx: Tx, first: int) -> None:
            tx.many("worker.heard", workers[first : first + FLUSHED])
            if not self.store.alone:
                tx.many("attempt.heard", attempts[first : first + FLUSHED])
                tx.many("site.heard", () if first else sites)

        try:
            for first in range(0, max(len(workers), len(attempts)), FLUSHED):
                await self.store.write(lambda tx, first=first: change(tx, first))  # type: ignore[misc]
        except Exception:  # told with the next ones: others take for lost what they do not hear of
            for heard in news:
                heard.flushed = False
            self.leases.unwritten(leases)
            raise

    def _heed(self, events: Sequence[m.Event]) -> None:
        if any(event.kind == "unfolding" for event in events):
            self._unfold.set()

    async def _tidy(self, loop: Loop) -> None:
        """Move away what ended long ago, slice by slice."""
        age = self.settings.retention_s or math.inf
        more = False
        while True:
            pause_s = TIDY_PAUSE_S if more else TIDY_S
            loop.turned(pause_s)
            await asyncio.sleep(pause_s)
            before = self.now() - age
            more = self.leads and await self.store.write(
                lambda tx, before=before: retention.tidy(tx, before=before)  # type: ignore[misc]
            )

    async def _descend(self, loop: Loop) -> None:
        """Tell the children of ended jobs, slice by slice, others' requests between the slices."""
        while True:
            loop.turned(None)
            await self._unfold.wait()
            self._unfold.clear()
            try:
                loop.turned()
                while self.leads and await self.store.write(
                    lambda tx: graph.unfold(tx, now=self.now())
                ):
                    loop.turned()
            except Exception:
                self._unfold.set()
                raise


def foreign(version: str, intent: str) -> bool:
    """Whether a worker stands for a PanDA pilot: no edge of ours has it, and none may count on it."""
    return version == PANDA or intent.startswith(HARVESTERS)


def end_worker(
    tx: Tx,
    worker_id: int,
    ending: Ending,
    diagnosis: str,
    *,
    now: float,
    batch_id: str = "",
    site: str = "",
    queue: str = "",
    host: str = "",
) -> None:
    """Write down that a worker has ended, and how. Where it was goes into the event alone."""
    tx.run(
        "worker.phase",
        worker_id=worker_id,
        phase=Phase.ENDED,
        ending=ending,
        ended=now,
        batch_id=batch_id,
        diagnosis=diagnosis,
    )
    tx.tell(
        "worker",
        at=now,
        worker_id=worker_id,
        phase=str(Phase.ENDED),
        ending=str(ending),
        site=site,
        queue=queue,
        host=host,
    )
