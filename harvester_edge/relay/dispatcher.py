"""The dispatcher's side of the relay: two loops that ask it for jobs and tell it what happens."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

from ailurus.logs import Log, ThrottledLog
from ailurus.loops import Loop
from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState, ReportOutcome
from ailurus.protocol.worker import Ending
from ailurus.wire import authority
from ailurus.wire.authority import Judged
from ailurus.wire.client import Refused, Unreachable
from harvester_edge.relay.state import Id, Job, PendingReport, Pilot, RelayState
from harvester_edge.relay.upstream import RelayUpstream

# Between words to the dispatcher: what gathers goes in one request.
TELL_S = 1.0
# Between tries while there is none.
LONGEST_PAUSE_S = 15.0
# Of a long poll for jobs; whoever begins to wait joins the next one.
POLL_S = 5.0
# Pilots whose acquires go in one request.
AT_ONCE = 200
# Of logs in one word, and of live ones that wait for it.
PIECES, PIECES_BYTES = 1000, 4_000_000
# Of the last pieces of logs that wait for a dispatcher.
ENDS_BYTES = 32_000_000
BULK = 500
# Before a report is sent again that strangers judged, or that was refused.
KEPT_S = 60.0
# Of anything in one word; the rest goes with the next.
MOST = 5000
# Between two looks for silent pilots: the relay itself was stopped.
ASLEEP_S = 60.0
# How long the dispatcher's word that there is more work counts.
MORE_S = 60.0
NOTHING = m.Acquire(request_id="-", room=Room(cores=0))


class Round(Struct, frozen=True):
    """One request for jobs."""

    asks: tuple[m.RelayedAcquire, ...] = ()
    wait_s: float = 0.0
    ahead: bool = False


class Exchange:
    """What passes between the state and the dispatcher; `fetch` and `tell` run until they are
    cancelled."""

    def __init__(self, state: RelayState, upstream: RelayUpstream, log: Log) -> None:
        self._state, self._up, self._log = state, upstream, log
        # Somebody waits for jobs.
        self.wanted = asyncio.Event()
        self._logs: list[tuple[int, m.LogPiece]] = []
        # By queue: when the dispatcher last had more.
        self._more: dict[str, float] = {}
        self._looked = time.monotonic()
        self._trouble = ThrottledLog(log)

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return self._up.up

    def pass_on(self, worker_id: int, piece: m.LogPiece) -> None:
        """A piece of a log: of a live one, while there is room for it and somebody to see it; the
        last one in any case, for it is what is kept."""
        waiting = sum(len(one.text) for _, one in self._logs)
        live = self.up and len(self._logs) < PIECES and waiting < PIECES_BYTES
        if live or (piece.final and waiting < ENDS_BYTES):
            self._logs.append((worker_id, piece))

    def _next_logs(self) -> list[tuple[int, m.LogPiece]]:
        """As many as go in one word."""
        size, number = 0, 0
        for _, piece in self._logs[:PIECES]:
            size += len(piece.text)
            if number and size > PIECES_BYTES:
                break
            number += 1
        logs, self._logs = self._logs[:number], self._logs[number:]
        return logs

    def _keep_ends(self, untold: Sequence[tuple[int, m.LogPiece]] = ()) -> None:
        """Nobody answers: of what waits, the last pieces are kept."""
        self._logs = [one for one in (*untold, *self._logs) if one[1].final]

    async def register(self, ask: m.Register, credential: str) -> int:
        """Register a pilot there; what it is called."""
        got = await self._up.call("register", ask, m.Registered, token=credential)
        self._state.upstream_heartbeat_s = got.heartbeat_s
        return got.worker_id

    async def items(self, worker_id: int, ask: m.ItemsRequest) -> m.ItemsAnswer:
        """A worker's news of items, and more of them. Raises Unreachable or Refused."""
        whole = m.RelayItems(site=self._state.terms.site, worker_id=worker_id, ask=ask)
        return await self._up.call("relay_items", whole, m.ItemsAnswer)

    async def credentials(self, worker_id: int, ask: m.CredentialsRequest) -> m.Credentials:
        """Those of a job that is leased to a worker, sealed for the pilot that asks. Raises
        Unreachable or Refused."""
        whole = m.RelayCredentials(site=self._state.terms.site, worker_id=worker_id, ask=ask)
        return await self._up.call("relay_credentials", whole, m.Credentials)

    async def upload(self, worker_id: int, ask: m.UploadRequest) -> m.UploadPiece:
        """A piece of a file that a job names which is leased to a worker. Raises Unreachable or
        Refused."""
        whole = m.RelayUpload(site=self._state.terms.site, worker_id=worker_id, ask=ask)
        return await self._up.call("relay_upload", whole, m.UploadPiece)

    # asked for jobs ------------------------------------------------------------------------------

    async def fetch(self, loop: Loop) -> None:
        """Lease jobs for pilots that wait, and some ahead while there is more work than pilots."""
        while True:
            loop.turned(None)
            now = self._next()
            if not now.asks or not self._up.up:
                self.wanted.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.wanted.wait(), TELL_S)
                if not self._up.up:
                    # `tell` finds out when it is there again.
                    await asyncio.sleep(TELL_S)
                continue
            ask = m.RelayAcquire(site=self._state.terms.site, asks=now.asks, wait_s=now.wait_s)
            try:
                got = await self._up.call("relay_acquire", ask, m.RelayAcquired, wait_s=now.wait_s)
                await self._arrived(got, now)
            except Unreachable:
                pass

    def _next(self) -> Round:
        """The last acquires of those that have ended, else the acquires of those that wait, else
        some ahead for those that run jobs."""
        able = [
            p
            for p in self._state.pilots.values()
            if p.worker_id and not (p.gone or p.ending or p.draining)
        ]
        ended = [
            p for p in self._state.pilots.values() if p.ending and p.worker_id and not p.settled
        ]
        if last := [self._asking(p, NOTHING) for p in ended if not p.gone][:AT_ONCE]:
            return Round(tuple(last))
        waiting = [(p, p.waiting) for p in able if p.waiting is not None]
        if waiting:
            some = random.sample(waiting, min(AT_ONCE, len(waiting)))
            return Round(tuple(self._asking(pilot, ask) for pilot, ask in some), wait_s=POLL_S)
        asks = []
        for queue, since in list(self._more.items()):
            if time.monotonic() - since > MORE_S:
                continue
            busy = [p for p in able if p.ask.queue == queue and p.holds]
            missing = self._state.terms.prefetch * sum(len(p.holds) for p in busy) - len(
                self._state.ready.get(queue, {})
            )
            busy.sort(key=lambda p: len(p.jobs) - len(p.holds))
            for pilot in busy[: min(missing, AT_ONCE)] if missing > 0 else ():
                room = replace(pilot.ask.total, seconds_left=pilot.room.seconds_left)
                ahead = m.Acquire(request_id="", room=room, ahead=True)
                asks.append(self._asking(pilot, ahead))
        return Round(tuple(asks), ahead=True)

    def _asking(self, pilot: Pilot, ask: m.Acquire) -> m.RelayedAcquire:
        # the same name until it has got something: what was leased and never arrived comes again
        named = replace(ask, request_id=f"relay-{pilot.asked}", wait_s=0.0)
        return m.RelayedAcquire(worker_id=pilot.worker_id, ask=named)

    async def _arrived(self, got: m.RelayAcquired, request: Round) -> None:
        by_id = {pilot.worker_id: pilot for pilot in self._state.pilots.values() if pilot.worker_id}
        news: list[tuple[Pilot, m.Acquired]] = []
        for one in got.workers:
            pilot = by_id.get(one.worker_id)
            if pilot is None:
                continue
            if one.got is None:
                self._dismiss(pilot)
            elif pilot.ending and not one.got.jobs:
                pilot.settled = True
            elif one.got.jobs:
                news.append((pilot, one.got))
            if one.got is not None and one.got.drain:
                pilot.draining = True
                pilot.woken.set()
        if request.ahead and not news:
            self._more.clear()
        if news:
            await self._state.take(news)
        for pilot, answer in news:
            if answer.prefetch:
                self._more[pilot.ask.queue] = time.monotonic()
            # It has hung up meanwhile: let others look.
            if pilot.waiting is None:
                for other in self._state.pilots.values():
                    other.woken.set()
            pilot.woken.set()

    def _dismiss(self, pilot: Pilot) -> None:
        pilot.gone = pilot.draining = True
        pilot.woken.set()

    # told ----------------------------------------------------------------------------------------

    async def tell(self, loop: Loop) -> None:
        """Pass on reports, registrations, heartbeats, goodbyes; find out whether there is a
        dispatcher."""
        pause = TELL_S
        while True:
            loop.turned(pause)
            await asyncio.sleep(pause)
            try:
                await self.send(self._state.due()[:BULK])
                await self._register_late()
                await self._look_for_silent()
                await self._tell()
                pause = TELL_S
            except Unreachable:
                self._keep_ends()
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def ask(self, reports: list[m.Report]) -> tuple[m.ReportVerdict, ...]:
        """What the dispatcher says about reports: nothing of those that it finds a fault in."""
        if not reports:
            return ()
        try:
            ask = m.Reports(reports=tuple(reports))
            return (await self._up.call("report", ask, m.ReportVerdicts)).verdicts
        except Refused as error:
            if not authority.divisible(error):
                raise
            # One of them is at fault, and must not hold up the others.
            if len(reports) > 1:
                half = len(reports) // 2
                return await self.ask(reports[:half]) + await self.ask(reports[half:])
            self._trouble.warning("report_refused", str(error), job_id=reports[0].job_id)
            return ()

    async def send(self, owed: list[PendingReport]) -> dict[Id, m.ReportVerdict]:
        """Send reports that are owed. Those that the dispatcher that gave them has judged are
        forgotten here, and no others."""
        verdicts = await self.ask([one.report for one in owed])
        by_id = {(one.job_id, one.attempt_nr): one for one in verdicts}
        judged: list[PendingReport] = []
        kept: list[PendingReport] = []
        for one in owed:
            if (given := by_id.get(one.id)) is not None:
                if authority.judged(one.seal, given) is not Judged.KEPT:
                    judged.append(one)
                    continue
                self._trouble.warning(
                    "reports_kept", f"`{given.verdict}` from a server that gave none of them"
                )
            kept.append(one)
        for one in kept:
            one.again = time.monotonic() + KEPT_S
        await self._state.settle(judged)
        for one in judged:
            if (given := by_id[one.id]).verdict != ReportOutcome.ACCEPTED:
                self._log.warning(
                    "report_not_counted",
                    job_id=one.id[0],
                    attempt_nr=one.id[1],
                    why=given.verdict,
                    files=[file.url for file in one.report.files],
                )
        return {one.id: by_id[one.id] for one in judged}

    async def _register_late(self) -> None:
        """Pilots that came while there was no dispatcher."""
        for pilot in [
            one for one in self._state.pilots.values() if not one.worker_id and not one.gone
        ]:
            try:
                worker_id = await self.register(pilot.ask, pilot.credential)
            except Refused as error:
                self._log.warning("pilot_refused", host=pilot.ask.host, what=str(error))
                self._dismiss(pilot)
                continue
            await self._state.name(pilot, worker_id)

    async def _look_for_silent(self) -> None:
        """Who is not heard any more is lost; but who was asleep itself has nothing to say about
        it."""
        now = time.monotonic()
        if (gap := now - self._looked) > ASLEEP_S:
            for pilot in self._state.pilots.values():
                pilot.last_seen += gap
        self._looked = now
        late = now - self._state.silence_s
        for pilot in list(self._state.pilots.values()):
            if not pilot.ending and pilot.waiting is None and pilot.last_seen < late:
                self._log.warning("pilot_lost", worker_id=pilot.worker_id, host=pilot.ask.host)
                await self._state.end(pilot, Ending.LOST, "the relay heard nothing more of it")

    async def _tell(self) -> None:
        now = time.monotonic()
        known = [pilot for pilot in self._state.pilots.values() if pilot.worker_id]
        fresh = [
            pilot
            for pilot in known
            if not pilot.gone
            and (not pilot.ending or pilot.jobs)
            and (pilot.fresh or (pilot.jobs and now - pilot.forwarded > self._state.heartbeat_s))
        ][:2000]
        back = [job for job in self._state.jobs.values() if self._goes_back(job)][:MOST]
        lost = [
            job
            for job in self._state.jobs.values()
            if job.holder is not None and _is_lost(job.holder)
        ]
        lost = lost[:MOST]
        dead = [job for job in self._state.jobs.values() if job.owner.gone and job.holder is None]
        done = [*back, *lost, *dead]
        ended = [p for p in self._state.pilots.values() if self._may_go(p, done)][:MOST]
        logs = self._next_logs()
        if not (fresh or done or ended or logs) and self._up.up:
            return
        for job in back:
            job.leaving = True
        ask = m.RelayBeat(
            site=self._state.terms.site,
            beats=tuple(m.RelayedBeat(worker_id=p.worker_id, beat=_beat(p)) for p in fresh),
            releases=tuple(_release(job) for job in back),
            logs=tuple(m.RelayedLog(worker_id=w, log=m.LogPieces(pieces=(p,))) for w, p in logs),
            lost=tuple(_held(job) for job in lost),
            byes=tuple(_bye(p) for p in ended if p.worker_id and not p.gone),
        )
        for pilot in fresh:
            pilot.fresh = False
        try:
            answer = await self._up.call("relay_tell", ask, m.RelayBeatAnswer)
        except BaseException as error:
            for job in back:
                job.leaving = False
            for pilot in fresh:
                pilot.fresh = True
            if isinstance(error, Unreachable):
                self._keep_ends(logs)
            raise
        self._state.upstream_heartbeat_s = answer.heartbeat_s
        for pilot in fresh:
            pilot.forwarded = now
        await self._state.clear(done, [p for p in ended if self._may_go(p, done)])
        self._heed(answer)

    def _goes_back(self, job: Job) -> bool:
        """Whether a job that waits here is to be given back."""
        owner = job.owner
        over = job.returned or owner.draining or bool(owner.ending)
        return over and job.holder is None and bool(owner.worker_id) and not owner.gone

    def _may_go(self, pilot: Pilot, done: list[Job]) -> bool:
        """Whether a pilot that has ended can be forgotten: nobody holds a job of its."""
        settled = pilot.settled or pilot.gone or not pilot.worker_id
        return bool(pilot.ending) and settled and not (pilot.jobs | pilot.holds) - set(done)

    def _heed(self, answer: m.RelayBeatAnswer) -> None:
        by_id = {pilot.worker_id: pilot for pilot in self._state.pilots.values()}
        for one in answer.workers:
            pilot = by_id.get(one.worker_id)
            if pilot is None:
                continue
            if one.told is None:
                self._dismiss(pilot)
                continue
            if one.told.drain and not pilot.draining:
                pilot.draining = True
                pilot.woken.set()
            for command in one.told.commands:
                job = self._state.jobs.get((command.job_id, command.attempt_nr))
                if job is not None and job.holder is None:
                    if command.action is m.Action.KILL:
                        # Given back, which for a cancelled one means: forgotten.
                        job.returned = True
                    continue
                to = pilot if job is None or job.holder is None else job.holder
                to.commands[command.job_id, command.attempt_nr, command.action] = command


def _is_lost(pilot: Pilot) -> bool:
    """Whether what a pilot holds will not be reported by it."""
    return bool(pilot.ending)


def _beat(pilot: Pilot) -> m.Beat:
    """Its heartbeat: all that is leased in its name, whoever has it."""
    return m.Beat(
        jobs=(*_updates(pilot), *pilot.unknown),
        room=pilot.room,
        draining=pilot.draining,
        occupancy=pilot.occupancy,
    )


def _updates(pilot: Pilot) -> Iterator[m.Update]:
    for job in pilot.jobs:
        if job.update is None:
            yield m.Update(
                job_id=job.id[0], attempt_nr=job.id[1], state=JobState.SENT, since=job.since
            )
        else:
            yield job.update
            job.update = replace(job.update, tail=None)


def _release(job: Job) -> m.RelayedRelease:
    return m.RelayedRelease(worker_id=job.owner.worker_id, release=m.Release(jobs=(_held(job),)))


def _bye(pilot: Pilot) -> m.RelayedBye:
    ending = Ending(pilot.ending)
    bye = m.Bye(ending=ending, diagnosis=pilot.diagnosis, occupancy=pilot.occupancy)
    return m.RelayedBye(worker_id=pilot.worker_id, bye=bye)


def _held(job: Job) -> m.AttemptKey:
    return m.AttemptKey(job_id=job.id[0], attempt_nr=job.id[1])


def verdict(report: m.Report, outcome: ReportOutcome, seal: str = "") -> m.ReportVerdict:
    """What is said about a report."""
    return m.ReportVerdict(
        job_id=report.job_id, attempt_nr=report.attempt_nr, verdict=outcome, seal=seal
    )
