"""What workers ask between their registration and their end: leases, and to give them back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.states import JobState
from dispatcher.auth.caller import Caller
from dispatcher.memory.leases import Lease
from dispatcher.memory.waiting import until
from dispatcher.ports import Ahead, Asks, Tx
from dispatcher.rules import accounting, attempts, payload_logs, queue
from dispatcher.rules.attempts import WorkerAttempt
from dispatcher.rules.group_turns import Carried
from dispatcher.rules.queue import Given, Leased, LeaseRequest, Memory
from dispatcher.service.liveness import Liveness
from dispatcher.service.peers import Peers
from dispatcher.service.seals import Seals
from dispatcher.service.state import LiveWorker, State, WorkerEnd, end_worker

_encode = msgspec.json.Encoder().encode


class Workers:
    """The part of the service that workers see."""

    def __init__(self, state: State, peers: Peers, seals: Seals, liveness: Liveness) -> None:
        self._state = state
        self._peers = peers
        self._seals = seals
        self._liveness = liveness

    async def acquire(self, ask: m.Acquire, caller: Caller) -> m.RawAcquired:
        """Lease jobs that fit together; wait for the first one."""
        worker = await self._liveness.worker_of(caller)
        if not ask.ahead:
            worker.room = ask.room
        worker.carries = _carries(ask)
        if ask.hardware not in (None, worker.hardware):
            await self._describe(worker, ask.hardware)
        worker.draining |= (
            self._state.hosts.excluded((worker.site, worker.host), self._state.now()) is not None
        )
        leased = await (self._awaited if ask.wait_s > 0 else self._at_once)(ask, worker)
        self._liveness.renew(worker)
        # A worker that has ended meanwhile asks no more.
        if not ask.ahead and self._state.live.get(worker.worker_id) is worker:
            unserved = self._state.unserved
            (unserved.discard if leased else unserved.add)(worker.queue, worker.worker_id)
        return m.RawAcquired(
            jobs=tuple(self._assigned(job, worker.worker_id) for job in leased),
            drain=worker.draining,
            prefetch=bool(leased) and not self._state.hub.waiting(worker.queue),
            giver=self._state.giver,
        )

    async def _describe(self, worker: LiveWorker, hardware: Hardware | None) -> None:
        """Note what the nodes of a worker have in common now."""
        worker.hardware = hardware
        values = {"worker_id": worker.worker_id, "hardware": _encode(hardware).decode()}
        await self._state.store.write(lambda tx: tx.run("worker.describe", **values))

    async def _at_once(self, ask: m.Acquire, worker: LiveWorker) -> list[Leased]:
        """What there is for a worker now."""
        while True:
            given = await self._lease(ask, worker)
            # Else what stood in front is out of the way now.
            if given.jobs or not given.unfit:
                return given.jobs

    async def _awaited(self, ask: m.Acquire, worker: LiveWorker) -> list[Leased]:
        """The same, or what comes within the time that it waits."""
        deadline, ended = time.monotonic() + ask.wait_s, worker.ended
        leased: list[Leased] = []
        while not leased:
            waiter = self._state.hub.expect_job(
                worker.queue, ask.room, worker.worker_id, worker.hardware, ahead=ask.ahead
            )
            worker.waits = waiter.woken
            try:
                # Shielded: a client that hangs up now must not leave a lease that nobody notes.
                given = await asyncio.shield(asyncio.create_task(self._lease(ask, worker)))
                leased = given.jobs
                if given.unfit and not leased:
                    # What stood in front is out of the way now.
                    continue
                left = deadline - time.monotonic()
                # When one of its jobs has ended it has more room than it asked for: let it ask
                # anew.
                over = leased or worker.draining or worker.ended != ended or left <= 0
                if over or not await until(waiter.woken, left):
                    break
            finally:
                self._state.hub.forget(waiter)
        return leased

    def _assigned(self, job: Leased, worker_id: int) -> m.RawAssignment:
        report_key, seal = self._seals.of_attempt(
            job.attempt.job_id, job.attempt.attempt_nr, worker_id
        )
        return m.RawAssignment(
            job_id=job.attempt.job_id,
            attempt_nr=job.attempt.attempt_nr,
            report_key=report_key,
            spec=msgspec.Raw(job.spec),
            seal=seal,
            mark=self._state.mark,
        )

    async def _lease(self, ask: m.Acquire, worker: LiveWorker) -> Given:
        # Such a worker gets nothing new; what it was leased and never learnt of comes again.
        full = worker.draining or self._state.leases.alone(worker.worker_id)
        busy = self._state.leases.busy(worker.worker_id)

        def change(tx: Tx) -> Given:
            request = LeaseRequest(
                worker_id=worker.worker_id,
                request_id=ask.request_id,
                queue=worker.queue,
                room=Room(cores=0) if full else ask.room,
                count=ask.count,
                suits=partial(self._suits_ahead, worker) if ask.ahead else worker.suits,
                host=worker.host,
                elsewhere=lambda shape: self._elsewhere(worker, shape),
                busy=busy,
                silent=worker.silent,
                carries=worker.carries,
            )
            return queue.lease(
                tx, request, Memory(self._state.shapes, self._state.turns), now=self._state.now()
            )

        given = await self._state.store.write(
            change, Ahead(ask=Asks(worker.worker_id, ask.request_id, worker.queue, ask.count))
        )
        until_s = self._state.awake.now + self._state.length(worker.worker_id)
        for job in given.jobs:
            got = job.attempt
            lease = self._state.leases.held(worker.worker_id, got.job_id, got.attempt_nr)
            if lease is None:
                self._state.hold(got, until_s, begun=self._state.now())
            else:
                # A repeated request: what is known of the attempt stays known.
                self._state.leases.hold(lease, until_s)
            if not ask.ahead:
                worker.room = worker.room.taking(job.shape)
        return given

    def rehearse(self, tx: Tx) -> None:
        """Run the reads of a lease for one job a queue. Raises what would stop that queue."""
        queue.rehearse(tx, Memory(self._state.shapes, self._state.turns))

    def _suits_ahead(self, worker: LiveWorker, shape: Shape) -> bool:
        """Whether a worker may stage in a job of the shape ahead: nobody could begin it now."""
        if not worker.suits(shape):
            return False
        found = map(self._state.live.get, self._state.unserved.first(worker.queue))
        return not any(
            other is not None
            and other is not worker
            and not other.draining
            and shape.fits(other.room)
            and other.suits(shape)
            for other in found
        )

    def _elsewhere(self, worker: LiveWorker, shape: Shape) -> bool:
        """Whether a worker on another node could run the shape."""
        return any(
            other.queue == worker.queue
            and other.host != worker.host
            and not other.draining
            and shape.fits(other.total)
            and other.suits(shape)
            for other in self._state.live.values()
        )

    async def release(self, ask: m.Release, caller: Caller) -> m.Done:
        """Prefetched jobs given back."""
        worker = await self._liveness.worker_of(caller)
        held = [
            lease
            for job in ask.jobs
            if (lease := self._state.leases.held(worker.worker_id, job.job_id, job.attempt_nr))
        ]
        await self._give_back(held)
        return m.Done()

    async def _give_back(
        self, leases: Sequence[Lease], then: Callable[[Tx], None] | None = None
    ) -> None:
        """Let others have what a worker never began, and do what is `then` to be done with it. What
        it has begun, as the store knows, stays leased: it is tried again when the worker is
        gone."""

        def change(tx: Tx) -> list[Lease]:
            kept = [
                lease
                for lease in leases
                if not attempts.release(
                    tx,
                    WorkerAttempt(lease.job_id, lease.attempt_nr, lease.worker_id),
                    now=self._state.now(),
                )
            ]
            if then is not None:
                then(tx)
            return kept

        # Before the commit wakes somebody who leases it anew.
        for lease in leases:
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
        end = WorkerEnd(
            ending=ask.ending, diagnosis=ask.diagnosis, site=caller.site, queue=caller.queue
        )

        def then(tx: Tx) -> None:
            if ask.occupancy is not None:
                told = msgspec.json.encode(ask.occupancy).decode()
                accounting.occupied(tx, {caller.worker_id: ask.occupancy}, now=self._state.now())
                tx.run("worker.occupied", worker_id=caller.worker_id, occupancy=told)
            end_worker(tx, caller.worker_id, end, now=self._state.now())

        await self._give_back([lease for lease in held if lease.state is JobState.SENT], then)
        self._state.forget_worker(caller.worker_id)
        return m.Done()


def _carries(ask: m.Acquire) -> Carried:
    """The most that a job may carry for a worker that asks so."""
    if not ask.items:
        return Carried.NOTHING
    if not ask.item_files:
        return Carried.ITEMS
    if not ask.uploads:
        return Carried.FILES
    if not ask.results:
        return Carried.UPLOADS
    return Carried.SHARED if ask.shared_items else Carried.RESULT
