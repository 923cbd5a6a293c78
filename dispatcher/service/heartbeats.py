"""Workers' heartbeats: leases are renewed, and workers told what to do with their jobs."""

from __future__ import annotations

from enum import Enum, auto

from ailurus.protocol import messages as m
from ailurus.protocol.states import FINAL, OPEN_ATTEMPT, AttemptState
from dispatcher.auth.caller import Caller
from dispatcher.memory.leases import Lease
from dispatcher.ports import Ahead, Tx
from dispatcher.rules import attempts, records
from dispatcher.rules.attempts import WorkerAttempt
from dispatcher.service.liveness import Liveness
from dispatcher.service.peers import Peers
from dispatcher.service.seals import Seals
from dispatcher.service.state import LiveWorker, State, log


class _Claim(Enum):
    """What the store says of an attempt that a worker lists."""

    OWN = auto()
    """It is this worker's."""
    LOST = auto()
    """It was given up when this worker was taken for lost; its report may still win."""
    OVER = auto()
    """It was this worker's, and can win no more."""
    UNKNOWN = auto()
    """It is not this worker's."""


class Heartbeats:
    """Answers heartbeats."""

    def __init__(self, state: State, peers: Peers, seals: Seals, liveness: Liveness) -> None:
        self._state = state
        self._peers = peers
        self._seals = seals
        self._liveness = liveness

    async def beat(self, ask: m.Beat, caller: Caller) -> m.BeatAnswer:
        """Renew the leases of all attempts listed, and say what to do with them."""
        worker = await self._liveness.worker_of(caller)
        worker.room, worker.flushed = ask.room, False
        worker.occupancy = ask.occupancy or worker.occupancy
        if ask.draining and not worker.draining:
            worker.draining = True
            self._state.hub.wake(worker.worker_id)
        until_s = self._liveness.renew(worker)
        news: list[tuple[Lease, m.Update]] = []
        strangers: list[m.Update] = []
        commands: list[m.Command] = []
        for update in ask.jobs:
            lease = self._state.leases.held(worker.worker_id, update.job_id, update.attempt_nr)
            if lease is None:
                strangers.append(update)
                continue
            self._state.leases.renew(lease, until_s, worker.last)
            if update.usage is not None:
                lease.sample(self._state.now(), update.usage)
            lease.staging = update.staging
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
        if strangers or worker.strays:
            commands += await self._strangers(worker, strangers)
        # What it lost and has no more may be handed to it again, too.
        if worker.silent:
            worker.silent = False
            self._state.hub.wake(worker.worker_id)
        return m.BeatAnswer(
            heartbeat_s=self._state.heartbeat_s, commands=tuple(commands), drain=worker.draining
        )

    def _mark(self, tx: Tx, news: list[tuple[Lease, m.Update]]) -> list[Lease]:
        """Those for which something was written."""
        return [
            lease
            for lease, update in news
            if attempts.mark(tx, _attempt(update, lease.worker_id), now=self._state.now())
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

    async def _strangers(self, worker: LiveWorker, updates: list[m.Update]) -> list[m.Command]:
        """Attempts that a worker says it has, and memory does not know as its own. What the store
        knows as its own it holds again, also when it was given up for lost and nobody else has
        begun it. One that was begun anew elsewhere goes on, for its report may still win; the
        others are told to stop, under their seals if the store knows them."""

        def known(tx: Tx) -> list[_Claim]:
            return [_claim(tx, worker.worker_id, update) for update in updates]

        claims = await self._state.store.read(known) if updates else []
        found = list(zip(updates, claims, strict=True))
        held = [update for update, claim in found if claim is _Claim.OWN]
        if lost := [update for update, claim in found if claim is _Claim.LOST]:
            held += await self._resume(worker, lost)
        await self._hold(worker, held)
        worker.strays = tuple(one.job_id for one in lost if one not in held)
        return [
            m.Command(
                job_id=update.job_id,
                attempt_nr=update.attempt_nr,
                action=m.Action.KILL,
                seal=""
                if claim is _Claim.UNKNOWN
                else self._seals.seal(update.job_id, update.attempt_nr, worker.worker_id),
            )
            for update, claim in found
            if claim in (_Claim.OVER, _Claim.UNKNOWN)
        ]

    async def _resume(self, worker: LiveWorker, lost: list[m.Update]) -> list[m.Update]:
        """Those of the lost attempts that go on as the current ones."""

        def change(tx: Tx) -> list[m.Update]:
            return [
                update
                for update in lost
                if attempts.resume(tx, _attempt(update, worker.worker_id), now=self._state.now())
            ]

        back = await self._state.store.write(change)
        if back:
            jobs = [update.job_id for update in back]
            log.info("attempts_taken_up_again", worker_id=worker.worker_id, jobs=jobs)
        return back

    async def _hold(self, worker: LiveWorker, updates: list[m.Update]) -> None:
        """Hold attempts in memory that the store knows as this worker's."""
        if not updates:
            return
        found = await self._state.store.read(
            lambda tx: [attempts.find_open(tx, update.job_id) for update in updates]
        )
        until_s = self._state.awake.now + self._state.length(worker.worker_id)
        for update, attempt in zip(updates, found, strict=True):
            current = attempt and (attempt.worker_id, attempt.attempt_nr)
            if attempt is None or current != (worker.worker_id, update.attempt_nr):
                continue
            # Not between a commit and its note in memory.
            if self._state.leases.of(attempt.job_id) is None:
                lease = self._state.hold(attempt, until_s)
                self._state.leases.renew(lease, until_s, worker.last)


def _claim(tx: Tx, worker_id: int, update: m.Update) -> _Claim:
    job = records.find_job(tx, update.job_id)
    attempt = records.find_attempt(tx, update.job_id, update.attempt_nr)
    if attempt is None or attempt.worker_id != worker_id:
        return _Claim.UNKNOWN
    if job is None or job.state in FINAL:
        return _Claim.OVER
    if attempt.state in OPEN_ATTEMPT:
        return _Claim.OWN
    return _Claim.LOST if attempt.state is AttemptState.LOST else _Claim.OVER


def _attempt(update: m.Update, worker_id: int) -> WorkerAttempt:
    """What a worker says of an attempt."""
    return WorkerAttempt(
        update.job_id, update.attempt_nr, worker_id, update.state, update.since, update.held
    )
