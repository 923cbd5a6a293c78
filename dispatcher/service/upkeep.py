"""The start and the end of the service, and its work in the background: it ends leases that have
run out, writes in bulk when workers were last seen, releases children of ended jobs and moves old
jobs away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from ailurus.loops import Loop
from ailurus.protocol.did import store_mark
from ailurus.protocol.errors import Code
from ailurus.protocol.worker import Ending, Phase
from dispatcher.events import ChildrenDue, Entry
from dispatcher.memory.black_holes import Exclusion
from dispatcher.memory.leases import OF_PANDA, Lease, OfPanda
from dispatcher.ports import Tx
from dispatcher.rules import (
    accounting,
    attempts,
    dependencies,
    feedback,
    item_lists,
    records,
    retention,
    undoing,
    uploads,
    worker_records,
)
from dispatcher.rules.attempts import OpenAttempt, WorkerAttempt
from dispatcher.rules.worker_records import ExcludedNode, SiteRecord, WorkerRecord
from dispatcher.service.peers import Peers
from dispatcher.service.shared import BEAT_S
from dispatcher.service.state import TICK_S, LiveWorker, State, WorkerEnd, end_worker, log
from dispatcher.tasks import retention as task_retention

PASSED_S = 300.0
"""PanDA's pilots ask again three minutes after the last job at the most: whoever says nothing for
longer and holds none is gone."""
# Rows of a kind in one commit: ten thousand at once would hold up every heartbeat.
FLUSHED = 1000
# The longest pause of the loop that says we live: well below `GONE_S` of `shared.py`.
FAILING_S = 2.0
# No turn of a loop takes longer while the store does its work.
STUCK_S = 60.0
TIDY_S = 60.0
# Between two slices: others' requests come first.
TIDY_PAUSE_S = 0.05
_encode = msgspec.json.Encoder().encode
_of_panda = msgspec.json.Decoder(OfPanda).decode


class _Stored(Struct, frozen=True):
    """What memory is made of at a start."""

    attempts: list[OpenAttempt]
    workers: list[WorkerRecord]
    sites: list[SiteRecord]
    last_event: int
    panda_silence_s: dict[int, float]
    relay_silence_s: dict[int, float]
    excluded: list[ExcludedNode]
    of_panda: dict[str, str]
    """What is known of attempts that PanDA clients have, encoded, by `JOB.ATTEMPT`."""


class Upkeep:
    """Starts and closes the service, and does what is due at each step of time."""

    def __init__(self, state: State, peers: Peers) -> None:
        self._state = state
        self._peers = peers
        self._unfold = asyncio.Event()
        # Awake times.
        self._no_expiry_before = self._flushed = self._beaten = 0.0

    async def start(self) -> None:
        """Read what a former process left, and start the loops."""
        self._state.store.listen(self._state.hub)
        self._state.store.listen(self._heed)
        dropped = await self._peers.join()
        self._state.giver = await self._named()
        self._state.mark = store_mark(self._state.giver)
        await self._state.store.write(lambda tx: tx.run("fact.sweep"))
        stored = await self._state.store.read(self._load)
        for node in stored.excluded:
            self._state.hosts.exclude((node.site, node.host), Exclusion(node.until, node.reason))
        self._state.panda_silence_s.update(stored.panda_silence_s)
        self._state.relay_silence_s.update(stored.relay_silence_s)
        for attempt in stored.attempts:
            lease = self._state.hold(attempt, 0.0)
            known = stored.of_panda.get(f"{attempt.job_id}.{attempt.attempt_nr}")
            lease.panda = _of_panda(known) if known else lease.panda
        for worker in stored.workers:
            if worker.phase in (Phase.ACTIVE, Phase.DRAINING):
                self._state.recall(worker)
        self._state.hold_all()
        for one in stored.sites:
            self._state.know_site(one)
        self._state.hub.seq = max(self._state.hub.seq, stored.last_event)
        self._peers.follow(stored.last_event)
        self._unfold.set()
        log.info(
            "queue_opened",
            attempts=len(stored.attempts),
            workers=len(self._state.live),
            broken_submissions=dropped,
        )
        self._state.loops.task("time", self._time, turn_s=STUCK_S, longest_s=FAILING_S)
        self._state.loops.task("descend", self._descend, turn_s=STUCK_S)
        self._state.loops.task("tidy", self._tidy, turn_s=STUCK_S)

    async def close(self) -> None:
        """Release all waiting requests, write when workers were last seen, close the store."""
        await self._state.loops.end()
        self._state.hub.wake_all()
        await self._flush()
        await self._peers.leave()
        await self._state.store.close()

    async def _named(self) -> str:
        """The name of the store: made once, whoever is the first to open it."""

        def change(tx: Tx) -> None:
            tx.run("about.first", name="name", value=secrets.token_hex(8))

        await self._state.store.write(change)
        row = await self._state.store.read(lambda tx: tx.one("about.get", name="name"))
        return str(records.value(row, ""))

    def _load(self, tx: Tx) -> _Stored:
        self._state.shapes.update(records.shapes(tx))
        return _Stored(
            attempts=attempts.open_attempts(tx),
            workers=worker_records.workers_alive(tx),
            sites=worker_records.sites(tx),
            last_event=records.value(tx.one("event.last"), 0),
            panda_silence_s=dict(tx.all("worker.patient")),
            relay_silence_s=dict(tx.all("worker.behind_relay")),
            excluded=worker_records.excluded_nodes(tx, self._state.now()),
            of_panda=dict(tx.all("fact.all", kind=OF_PANDA)),
        )

    async def _time(self, loop: Loop) -> None:
        while True:
            loop.turned(TICK_S)
            await asyncio.sleep(TICK_S)
            try:
                await self.tick(self._state.awake.tick(time.monotonic()))
            except Exception:
                # A full disk: leases wait for it, as everybody does.
                self._no_expiry_before = self._state.awake.now + self._peers.grace_s()
                raise

    async def tick(self, now: float) -> None:
        """Do all that is due at `now`, which awake time becomes: say that we live, follow the other
        dispatchers, write when workers were last seen, end leases that have run out. Raises
        Unavailable."""
        self._state.awake.now = now
        if now - self._beaten >= BEAT_S:
            if await self._peers.beat():
                self._take_over()
            self._beaten = now
        if now - self._flushed >= self._peers.flush_s():
            await self._flush()
            await self._peers.catch_up()
            self._flushed = now
            self._state.forget_lengths()
        if self._peers.leads and now >= self._no_expiry_before:
            await self._expire(now)

    def _take_over(self) -> None:
        """Begin to lead. Every lease has its full length again: its worker may have spoken to a
        peer."""
        self._state.hold_all()
        self._unfold.set()

    async def _expire(self, awake: float) -> None:
        late = self._state.leases.expired(awake)
        lost = [one for one in self._state.live.values() if self._is_lost(one, awake)]
        held = await self._peers.still_held(late)
        late = [lease for lease in late if lease.job_id not in held]
        if not late and not lost:
            return
        # Before the commit wakes those who wait: a stopped pilot's own acquire may still be held
        # here.
        for worker_id in {*(lease.worker_id for lease in late), *(one.worker_id for one in lost)}:
            if (quiet := self._state.live.get(worker_id)) is not None:
                quiet.silent = True

        def change(tx: Tx) -> tuple[list[Lease], list[LiveWorker]]:
            """End what is still late. Whoever has spoken while the change was on its way goes
            on."""
            now = self._state.now()
            leases = [
                one
                for one in late
                if one.until < awake and self._state.leases.of(one.job_id) is one
            ]
            workers = [one for one in lost if self._is_lost(one, awake)]
            for lease in leases:
                silent = self._state.length(lease.worker_id)
                reason = f"lost heartbeat: worker {lease.worker_id} was silent for {silent:.0f} s"
                attempts.expire(
                    tx,
                    WorkerAttempt(lease.job_id, lease.attempt_nr, lease.worker_id),
                    reason=reason,
                    code=Code.LOST_HEARTBEAT,
                    now=now,
                )
            for worker in workers:
                passed = self._passed(worker)
                end = WorkerEnd(
                    ending=Ending.DONE if passed else Ending.LOST,
                    diagnosis="" if passed else "lost heartbeat",
                    site=worker.site,
                    queue=worker.queue,
                    host=worker.host,
                )
                end_worker(tx, worker.worker_id, end, now=now)
            return leases, workers

        # What the store has ended leaves memory, renewed since or not: the next heartbeat then
        # reads there whether it may go on.
        leases, workers = await self._state.store.write(change)
        for lease in leases:
            self._state.leases.drop_attempt(lease.job_id, lease.attempt_nr)
        self._state.losses += 1
        for worker in workers:
            if self._state.live.get(worker.worker_id) is worker:
                self._state.forget_worker(worker.worker_id)

    def _is_lost(self, worker: LiveWorker, awake: float) -> bool:
        """Whether a worker of memory has been silent for too long."""
        known = self._state.live.get(worker.worker_id) is worker
        return known and (worker.until < awake or self._passed(worker))

    def _passed(self, live: LiveWorker) -> bool:
        """Whether a pilot that was only passing by is gone."""
        return (
            live.passing
            and live.last < self._state.now() - PASSED_S
            and not self._state.leases.of_worker(live.worker_id)
        )

    async def _flush(self) -> None:
        news = [live for live in self._state.live.values() if not live.flushed]
        leases = self._state.leases.renewed()
        for live in news:
            live.flushed = True
        workers = [
            {
                "worker_id": live.worker_id,
                "at": live.last,
                "room": _encode(live.room).decode(),
                "occupancy": live.occupancy and _encode(live.occupancy).decode(),
            }
            for live in news
        ]
        # As they are told now: a heartbeat may come before the commit.
        occupied = [(live.worker_id, live.occupancy) for live in news]
        attempts = [
            {"job_id": one.job_id, "attempt_nr": one.attempt_nr, "at": one.heard} for one in leases
        ]
        sites = [
            {"site": name, "instance": lease.instance, "heard": lease.heard}
            for name, lease in self._state.sites.items()
        ]

        def change(tx: Tx, first: int) -> None:
            slice_ = occupied[first : first + FLUSHED]
            accounting.occupied(tx, {k: v for k, v in slice_ if v}, now=self._state.now())
            tx.many("worker.heard", workers[first : first + FLUSHED])
            self._peers.write_heard(tx, attempts[first : first + FLUSHED])

        try:
            for first in range(0, max(len(workers), len(attempts)), FLUSHED):
                await self._state.store.write(lambda tx, first=first: change(tx, first))  # type: ignore[misc]
        except Exception:
            # Told with the next ones: others take for lost what they do not hear of.
            for live in news:
                live.flushed = False
            self._state.leases.unwritten(leases)
            raise
        await self._peers.write_sites(sites)

    def _heed(self, entries: Sequence[Entry]) -> None:
        if any(isinstance(one.event, ChildrenDue) for one in entries):
            self._unfold.set()

    async def _tidy(self, loop: Loop) -> None:
        """Move away what ended long ago, and items that no job has, slice by slice."""
        age = self._state.settings.retention_s
        more = False
        while True:
            pause_s = TIDY_PAUSE_S if more else TIDY_S
            loop.turned(pause_s)
            await asyncio.sleep(pause_s)
            now = self._state.now()

            def change(tx: Tx, now: float = now) -> bool:
                moved = age is not None and retention.tidy(tx, before=now - age)
                tasks = age is not None and task_retention.tidy(tx, before=now - age)
                trimmed = item_lists.trim(tx, now=now), uploads.trim(tx, now=now)
                tx.run("fact.expire", kind=worker_records.SANDBOX, before=now - uploads.UNUSED_S)
                feedback.expire(tx, now=now)
                summed = accounting.tidy(tx, now=now)
                forgot = undoing.tidy(tx, now=now)
                return any(trimmed) or moved or tasks or summed or forgot

            more = self._peers.leads and await self._state.store.write(change)

    async def _descend(self, loop: Loop) -> None:
        """Tell the children of ended jobs, slice by slice, others' requests between the slices."""
        while True:
            loop.turned(None)
            await self._unfold.wait()
            self._unfold.clear()
            try:
                loop.turned()
                while self._peers.leads and await self._state.store.write(
                    lambda tx: dependencies.unfold(tx, now=self._state.now())
                ):
                    loop.turned()
            except Exception:
                self._unfold.set()
                raise
