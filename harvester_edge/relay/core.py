"""What the relay knows and does: pilots on one side, the dispatcher on the other.

A pilot is answered at once from what is here, with or without a dispatcher. What it must be able to rely
on is on disk first: its registration, the jobs it was given, its reports. Everything else is told again
by whoever said it.

A job is leased in the name of one pilot, its *owner*, and may be run by another, its *holder*: while the
dispatcher is away, or when the owner has too many. Its report has a key of its own, and its lease is
renewed with its owner's heartbeats, so both pilots' affairs stay in order; an owner says goodbye when
nobody holds a job of its any more.
"""

from __future__ import annotations

import asyncio
import hmac
import random
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import Room, Shape, shape_of, without
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending
from ailurus.wire.client import Refused, Unreachable
from harvester_edge.relay.proof import Planned
from harvester_edge.relay.store import Store
from harvester_edge.relay.upstream import Upstream

TELL_S = 1.0  # between words to the dispatcher: what gathers goes in one request
LONGEST_PAUSE_S = 15.0  # between tries while there is none
POLL_S = 5.0  # of a long poll for jobs; whoever begins to wait joins the next one
AT_ONCE = 200  # pilots whose acquires go in one request
STEALABLE = 200  # jobs of others that are looked at for an idle pilot
BEATS_PER_S = 150  # more pilots than this many heartbeats a second serve are told to beat slower
PIECES, PIECES_BYTES = 1000, 4_000_000  # of live logs that wait for the next word; log.tgz has all
BULK = 500
MOST = 5000  # of anything in one word; the rest goes with the next
ASLEEP_S = 60.0  # between two looks for silent pilots: the relay itself was stopped
MORE_S = 60.0  # how long the dispatcher's word that there is more work counts
_encode = msgspec.json.Encoder().encode
_assignment = msgspec.json.Decoder(m.Assignment).decode
_register = msgspec.json.Decoder(m.Register).decode
_report = msgspec.json.Decoder(m.Report).decode

Id = tuple[int, int]


class Terms(Struct, frozen=True, kw_only=True):
    """What the site says."""

    site: str
    prefetch: int = 1
    """Jobs kept ready here for each that runs."""
    heartbeat_s: float = 10.0
    silence_s: float = 60.0
    """A pilot silent for this long beyond three heartbeats is lost."""


class Round(Struct, frozen=True):
    """One request for jobs."""

    asks: tuple[m.RelayedAcquire, ...] = ()
    wait_s: float = 0.0
    ahead: bool = False


class No(Exception):
    """A request that is refused, with what the pilot is told."""

    def __init__(self, status: int, title: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(title)
        self.problem = m.Problem(title=title, status=status, field=field, remedy=remedy)


NOTHING = m.Acquire(request_id="-", room=Room(cores=0))
GONE = "this worker has ended"


@dataclass(eq=False)
class Pilot:
    """A pilot that has registered here."""

    ask: m.Register
    token: str
    credential: str
    planned: Planned | None
    heard: float
    worker_id: int = 0
    asked: int = 0
    ending: str = ""
    diagnosis: str = ""
    room: Room = field(default_factory=lambda: Room(cores=0))
    fresh: bool = True  # has something to tell
    told: float = 0.0  # when its last heartbeat went on
    draining: bool = False
    settled: bool = False  # has ended, and nothing that was leased to it is on its way
    gone: bool = False
    strangers: tuple[m.Update, ...] = ()  # attempts it lists that are not known here
    commands: dict[tuple[int, int, str], m.Command] = field(default_factory=dict)
    waiting: m.Acquire | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    jobs: set[Job] = field(default_factory=set)  # leased in its name
    holds: set[Job] = field(default_factory=set)

    @property
    def instance(self) -> str:
        return self.ask.instance


@dataclass(eq=False)
class Job:
    """An attempt that is leased, and not reported yet."""

    assignment: m.Assignment
    shape: Shape
    owner: Pilot
    since: float
    holder: Pilot | None = None
    request: str = ""
    update: m.Update | None = None
    returned: bool = False  # given back by a pilot: goes back to the dispatcher unless one takes it
    leaving: bool = False  # is on its way back

    @property
    def id(self) -> Id:
        return self.assignment.job_id, self.assignment.attempt_nr


class Relay:
    """One method a route of the pilots' API, and two loops that talk to the dispatcher."""

    def __init__(
        self,
        terms: Terms,
        store: Store,
        upstream: Upstream,
        proof: Callable[[str], Planned | None],
        log: Log,
    ) -> None:
        self._terms, self._store, self._up = terms, store, upstream
        self._proof, self._log = proof, log
        self._pilots: dict[str, Pilot] = {}
        self._by_token: dict[str, Pilot] = {}
        self._jobs: dict[Id, Job] = {}
        self._ready: dict[str, dict[Job, None]] = {}  # by queue, that nobody holds
        self._owed: dict[Id, m.Report] = {}
        self._logs: list[tuple[int, m.LogPiece]] = []
        self._more: dict[str, float] = {}  # by queue: when the dispatcher last had more
        self._wanted = asyncio.Event()
        self._registering: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._told_heartbeat_s = terms.heartbeat_s
        self._looked = time.monotonic()
        self._load()

    def _load(self) -> None:
        now = time.monotonic()
        for _, token, credential, ask, intent, idx, worker_id, _, asked, *end in self._store.all(
            "select * from pilot"
        ):
            planned = Planned(intent, idx) if intent else None
            pilot = Pilot(_register(ask), token, credential, planned, now, worker_id, asked)
            pilot.ending, pilot.diagnosis = end
            self._remember(pilot)
        for _, _, owner, holder, request, text in self._store.all("select * from job"):
            job = self._leased(_assignment(text), self._pilots[owner])
            if holder is not None and holder in self._pilots:
                self._give(job, self._pilots[holder], request)
        for job_id, attempt_nr, _, text in self._store.all("select * from report"):
            self._owed[job_id, attempt_nr] = _report(text)

    # pilots ask ----------------------------------------------------------------------------------

    def who(self, token: str) -> Pilot:
        """The pilot that shows this token."""
        if (pilot := self._by_token.get(token)) is None:
            raise No(401, "no valid token", remedy="register again")
        return pilot

    async def register(self, ask: m.Register, credential: str) -> m.Registered:
        lock = self._registering.setdefault(ask.instance, asyncio.Lock())
        async with lock:
            pilot = self._pilots.get(ask.instance) or await self._new(ask, credential)
        if not hmac.compare_digest(pilot.credential.encode(), credential.encode()):
            raise No(403, "another token has registered this instance", field="instance")
        if pilot.gone or pilot.ending:
            raise No(410, GONE, remedy="exit")
        pilot.heard = time.monotonic()
        return m.Registered(
            worker_id=pilot.worker_id,
            token=pilot.token,
            heartbeat_s=self.heartbeat_s,
            lease_s=self._silence_s,
        )

    async def _new(self, ask: m.Register, credential: str) -> Pilot:
        if ask.site != self._terms.site:
            raise No(403, f"this is the relay of site {self._terms.site}", field="site")
        planned = self._proof(credential)
        worker_id = 0
        try:
            worker_id = await self._register(ask, credential) if self._up.up else 0
        except Refused as error:
            raise No(error.status, error.message, field=error.field, remedy=error.remedy) from None
        except Unreachable:
            pass
        if not worker_id and planned is None:
            raise No(503, "the dispatcher is away, and only it can check this token")
        pilot = Pilot(ask, secrets.token_urlsafe(32), credential, planned, time.monotonic())
        pilot.worker_id = worker_id
        row = (
            ask.instance, pilot.token, credential, _encode(ask), planned.intent if planned else "",
            planned.index if planned else -1, worker_id, time.time(),
        )  # fmt: skip
        try:
            await self._store.write(
                lambda db: db.execute("insert into pilot values (?,?,?,?,?,?,?,?,0,'','')", row)
            )
        except sqlite3.IntegrityError:
            raise No(409, "another pilot has registered with this token", remedy="exit") from None
        self._remember(pilot)
        self._log.info("pilot_registered", worker_id=worker_id, host=ask.host)
        return pilot

    async def _register(self, ask: m.Register, credential: str) -> int:
        got = await self._up.call("register", ask, m.Registered, token=credential)
        self._told_heartbeat_s = got.heartbeat_s
        return got.worker_id

    async def acquire(self, ask: m.Acquire, pilot: Pilot) -> m.Acquired:
        self._hear(pilot)
        again = [job for job in pilot.holds if job.request == ask.request_id]
        if again:
            return self._acquired(again, pilot)
        deadline = time.monotonic() + ask.wait_s
        try:
            while not (pilot.draining or pilot.ending):
                pilot.woken.clear()
                if picked := self._pick(ask, pilot):
                    await self._hand(picked, pilot, ask.request_id)
                    return self._acquired(picked, pilot)
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                pilot.waiting = ask
                self._wanted.set()
                with suppress(TimeoutError):
                    await asyncio.wait_for(pilot.woken.wait(), left)
        finally:
            pilot.waiting = None
            pilot.heard = time.monotonic()
        return m.Acquired(jobs=(), drain=pilot.draining)

    def _acquired(self, jobs: Iterable[Job], pilot: Pilot) -> m.Acquired:
        return m.Acquired(
            jobs=tuple(job.assignment for job in jobs),
            drain=pilot.draining,
            prefetch=bool(self._ready.get(pilot.ask.queue)),
        )

    def _pick(self, ask: m.Acquire, pilot: Pilot) -> list[Job]:
        """Jobs that wait here and fit together: the pilot's own, then others'."""
        ready = self._ready.get(pilot.ask.queue, {})
        own = [job for job in pilot.jobs if job.holder is None]
        others = (job for _, job in zip(range(STEALABLE), ready, strict=False))
        picked: list[Job] = []
        room = ask.room
        for job in dict.fromkeys([*own, *others]):
            if len(picked) == ask.count:
                break
            if not job.leaving and job.shape.fits(room):
                picked.append(job)
                room = without(room, job.shape)
        return picked

    async def _hand(self, jobs: list[Job], pilot: Pilot, request: str) -> None:
        for job in jobs:
            self._give(job, pilot, request)
        rows = [(pilot.instance, request, *job.id) for job in jobs]
        try:
            await self._store.write(
                lambda db: db.executemany(
                    "update job set holder = ?, request = ? where job_id = ? and attempt_nr = ?",
                    rows,
                )
            )
        except sqlite3.Error:
            for job in jobs:
                self._take_back(job)
            raise

    async def beat(self, ask: m.Beat, pilot: Pilot) -> m.Beaten:
        self._hear(pilot)
        pilot.room, pilot.fresh = ask.room, True
        pilot.draining |= ask.draining
        strangers = []
        for update in ask.jobs:
            job = self._jobs.get((update.job_id, update.attempt_nr))
            if job is None or job.holder is not pilot:
                strangers.append(update)
                continue
            if update.tail is None and job.update is not None:
                update = replace(update, tail=job.update.tail)  # noqa: PLW2901 - not yet passed on
            job.update, job.owner.fresh = update, True
        pilot.strangers = tuple(strangers)
        commands = tuple(pilot.commands.values())
        pilot.commands.clear()
        return m.Beaten(heartbeat_s=self.heartbeat_s, commands=commands, drain=pilot.draining)

    async def report(self, ask: m.Reports) -> m.Verdicts:
        """Kept, then passed on; the dispatcher's verdict if it is there to give one."""
        keep, strange, forged = [], [], []
        for report in ask.reports:
            job = self._jobs.get((report.job_id, report.attempt_nr))
            if job is None and (report.job_id, report.attempt_nr) not in self._owed:
                strange.append(report)
            elif job is not None and not _same(job.assignment.report_key, report.report_key):
                forged.append(report)
            else:
                keep.append(report)
        if strange and not self._up.up:
            raise No(503, "the dispatcher is away, and these attempts did not come by this relay")
        await self._keep(keep)
        said = [_verdict(report, "badkey") for report in forged]
        try:
            said += await self._send(strange)
        except Unreachable:
            raise No(503, "the dispatcher is away") from None
        except Refused as error:
            raise No(error.status, error.message) from None
        try:
            said += await self._send(keep) if self._up.up else _accepted(keep)
        except (Unreachable, Refused):
            said += _accepted(keep)
        return m.Verdicts(verdicts=tuple(said))

    async def _keep(self, reports: list[m.Report]) -> None:
        if not reports:
            return
        rows = [(one.job_id, one.attempt_nr, time.time(), _encode(one)) for one in reports]

        def change(db: sqlite3.Connection) -> None:
            db.executemany("insert or ignore into report values (?,?,?,?)", rows)
            db.executemany(
                "delete from job where job_id = ? and attempt_nr = ?", [row[:2] for row in rows]
            )

        await self._store.write(change)
        for report in reports:
            one = (report.job_id, report.attempt_nr)
            self._owed.setdefault(one, report)
            if (job := self._jobs.get(one)) is not None:
                self._forget(job)

    async def release(self, ask: m.Release, pilot: Pilot) -> m.Done:
        self._hear(pilot)
        jobs = [
            job
            for one in ask.jobs
            if (job := self._jobs.get((one.job_id, one.attempt_nr))) is not None
            and job.holder is pilot
        ]
        await self._store.write(
            lambda db: db.executemany(
                "update job set holder = null, request = '' where job_id = ? and attempt_nr = ?",
                [job.id for job in jobs],
            )
        )
        for job in jobs:
            self._take_back(job)
            job.returned = True
        return m.Done()

    async def log_pieces(self, ask: m.LogPieces, pilot: Pilot) -> m.Done:
        """Live logs go on with the next word, or not at all."""
        self._hear(pilot)
        for piece in ask.pieces:
            job = self._jobs.get((piece.job_id, piece.attempt_nr))
            owner = pilot if job is None else job.owner
            waiting = sum(len(one.text) for _, one in self._logs)
            if self._up.up and len(self._logs) < PIECES and waiting < PIECES_BYTES:
                self._logs.append((owner.worker_id, piece))
        return m.Done()

    async def bye(self, ask: m.Bye, pilot: Pilot) -> m.Done:
        await self._end(pilot, ask.ending, ask.diagnosis)
        return m.Done()

    async def _end(self, pilot: Pilot, ending: Ending, diagnosis: str) -> None:
        row = (str(ending), diagnosis[-4000:], pilot.instance)
        await self._store.write(
            lambda db: db.execute(
                "update pilot set ending = ?, diagnosis = ? where instance = ?", row
            )
        )
        pilot.ending, pilot.diagnosis = row[0], row[1]

    # memory --------------------------------------------------------------------------------------

    @property
    def heartbeat_s(self) -> float:
        """Told to every pilot."""
        return max(self._terms.heartbeat_s, self._told_heartbeat_s, len(self._pilots) / BEATS_PER_S)

    @property
    def _silence_s(self) -> float:
        return 3 * self.heartbeat_s + self._terms.silence_s

    def counts(self) -> dict[str, int]:
        """How many of each thing are here."""
        return {
            "pilots": len(self._pilots),
            "jobs": len(self._jobs),
            "ready": sum(map(len, self._ready.values())),
            "owed": len(self._owed),
        }

    def _hear(self, pilot: Pilot) -> None:
        pilot.heard = time.monotonic()
        if pilot.gone:
            raise No(410, GONE, remedy="exit")

    def _remember(self, pilot: Pilot) -> None:
        self._pilots[pilot.instance] = self._by_token[pilot.token] = pilot

    def _leased(self, assignment: m.Assignment, owner: Pilot) -> Job:
        job = Job(assignment, shape_of(assignment.spec), owner, time.time())
        self._jobs[job.id] = job
        owner.jobs.add(job)
        self._ready.setdefault(owner.ask.queue, {})[job] = None
        return job

    def _give(self, job: Job, pilot: Pilot, request: str) -> None:
        self._ready[job.owner.ask.queue].pop(job, None)
        job.holder, job.request, job.update, job.returned = pilot, request, None, False
        pilot.holds.add(job)

    def _take_back(self, job: Job) -> None:
        if job.holder is not None:
            job.holder.holds.discard(job)
        job.holder, job.request, job.update = None, "", None
        self._ready[job.owner.ask.queue][job] = None

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        self._ready[job.owner.ask.queue].pop(job, None)
        job.owner.jobs.discard(job)
        if job.holder is not None:
            job.holder.holds.discard(job)

    # the dispatcher is asked for jobs ------------------------------------------------------------

    async def fetch(self) -> None:
        """Lease jobs for pilots that wait, and some ahead while there is more work than pilots."""
        while True:
            now = self._next()
            if not now.asks or not self._up.up:
                self._wanted.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), TELL_S)
                if not self._up.up:
                    await asyncio.sleep(TELL_S)  # `tell` finds out when it is there again
                continue
            ask = m.RelayAcquire(site=self._terms.site, asks=now.asks, wait_s=now.wait_s)
            try:
                got = await self._up.call("relay_acquire", ask, m.RelayAcquired, wait_s=now.wait_s)
                await self._arrived(got, now)
            except Unreachable:
                pass
            except (AilurusError, sqlite3.Error) as error:
                self._log.error("acquire_failed", what=str(error))
                await asyncio.sleep(LONGEST_PAUSE_S)

    def _next(self) -> Round:
        """The last acquires of those that have ended, else the acquires of those that wait, else some
        ahead for those that run jobs."""
        able = [
            p
            for p in self._pilots.values()
            if p.worker_id and not (p.gone or p.ending or p.draining)
        ]
        ended = [p for p in self._pilots.values() if p.ending and p.worker_id and not p.settled]
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
            missing = self._terms.prefetch * sum(len(p.holds) for p in busy) - len(
                self._ready.get(queue, {})
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

    async def _arrived(self, got: m.RelayAcquired, asked: Round) -> None:
        by_id = {pilot.worker_id: pilot for pilot in self._pilots.values() if pilot.worker_id}
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
        if asked.ahead and not news:
            self._more.clear()
        rows = [
            (job.job_id, job.attempt_nr, pilot.instance, _encode(job))
            for pilot, answer in news
            for job in answer.jobs
        ]
        names = [(pilot.asked + 1, pilot.instance) for pilot, _ in news]

        def change(db: sqlite3.Connection) -> None:
            db.executemany("insert or replace into job values (?,?,?,null,'',?)", rows)
            db.executemany("update pilot set asked = ? where instance = ?", names)

        if news:
            await self._store.write(change)
        for pilot, answer in news:
            pilot.asked += 1
            for assignment in answer.jobs:
                if (assignment.job_id, assignment.attempt_nr) not in self._jobs:
                    self._leased(assignment, pilot)
            if answer.prefetch:
                self._more[pilot.ask.queue] = time.monotonic()
            if pilot.waiting is None:  # it has hung up meanwhile: let others look
                for other in self._pilots.values():
                    other.woken.set()
            pilot.woken.set()

    def _dismiss(self, pilot: Pilot) -> None:
        pilot.gone = pilot.draining = True
        pilot.woken.set()

    # the dispatcher is told ----------------------------------------------------------------------

    async def tell(self) -> None:
        """Pass on reports, registrations, heartbeats, goodbyes; find out whether there is a dispatcher."""
        pause = TELL_S
        while True:
            await asyncio.sleep(pause)
            try:
                await self._send(list(self._owed.values())[:BULK])
                await self._register_late()
                await self._look_for_silent()
                await self._tell()
                pause = TELL_S
            except Unreachable:
                self._logs.clear()
                pause = min(2 * pause, LONGEST_PAUSE_S)
            except (AilurusError, sqlite3.Error) as error:
                self._log.error("telling_failed", what=str(error))
                pause = LONGEST_PAUSE_S

    async def _send(self, reports: list[m.Report]) -> list[m.Verdict]:
        """The dispatcher's verdicts; reports with one are forgotten here."""
        if not reports:
            return []
        try:
            ask = m.Reports(reports=tuple(reports))
            verdicts = list((await self._up.call("report", ask, m.Verdicts)).verdicts)
        except Refused as error:
            if error.status in (401, 403, 404):
                raise
            if len(reports) > 1:  # one of them is at fault, and must not hold up the others
                half = len(reports) // 2
                return await self._send(reports[:half]) + await self._send(reports[half:])
            self._log.error("report_refused", job_id=reports[0].job_id, what=str(error))
            verdicts = [_verdict(reports[0], "refused")]
        ids = [(one.job_id, one.attempt_nr) for one in verdicts]
        await self._store.write(
            lambda db: db.executemany("delete from report where job_id = ? and attempt_nr = ?", ids)
        )
        for one, verdict in zip(ids, verdicts, strict=True):
            report = self._owed.pop(one, None)
            if report is not None and verdict.verdict != "accepted":
                self._log.warning(
                    "report_not_counted", job_id=one[0], attempt_nr=one[1], why=verdict.verdict,
                    files=[file.url for file in report.files],
                )  # fmt: skip
        return verdicts

    async def _register_late(self) -> None:
        """Pilots that came while there was no dispatcher."""
        for pilot in [one for one in self._pilots.values() if not one.worker_id and not one.gone]:
            try:
                worker_id = await self._register(pilot.ask, pilot.credential)
            except Refused as error:
                self._log.warning("pilot_refused", host=pilot.ask.host, what=str(error))
                self._dismiss(pilot)
                continue
            row = (worker_id, pilot.instance)
            await self._store.write(
                lambda db, row=row: db.execute(  # type: ignore[misc]
                    "update pilot set worker_id = ? where instance = ?", row
                )
            )
            pilot.worker_id, pilot.fresh = worker_id, True

    async def _look_for_silent(self) -> None:
        """Who is not heard any more is lost; but who was asleep itself has nothing to say about it."""
        now = time.monotonic()
        if (gap := now - self._looked) > ASLEEP_S:
            for pilot in self._pilots.values():
                pilot.heard += gap
        self._looked = now
        late = now - self._silence_s
        for pilot in list(self._pilots.values()):
            if not pilot.ending and pilot.waiting is None and pilot.heard < late:
                self._log.warning("pilot_lost", worker_id=pilot.worker_id, host=pilot.ask.host)
                await self._end(pilot, Ending.LOST, "the relay heard nothing more of it")

    async def _tell(self) -> None:
        now = time.monotonic()
        known = [pilot for pilot in self._pilots.values() if pilot.worker_id]
        fresh = [
            pilot
            for pilot in known
            if not pilot.gone
            and (not pilot.ending or pilot.jobs)
            and (pilot.fresh or (pilot.jobs and now - pilot.told > self.heartbeat_s))
        ][:2000]
        back = [job for job in self._jobs.values() if self._goes_back(job)][:MOST]
        lost = [
            job for job in self._jobs.values() if job.holder is not None and _is_lost(job.holder)
        ]
        lost = lost[:MOST]
        dead = [job for job in self._jobs.values() if job.owner.gone and job.holder is None]
        done = [*back, *lost, *dead]
        ended = [p for p in self._pilots.values() if self._may_go(p, done)][:MOST]
        logs, self._logs = self._logs, []
        if not (fresh or done or ended or logs) and self._up.up:
            return
        for job in back:
            job.leaving = True
        ask = m.RelayTell(
            site=self._terms.site,
            beats=tuple(m.RelayedBeat(worker_id=p.worker_id, beat=_beat(p)) for p in fresh),
            releases=tuple(
                m.RelayedRelease(worker_id=job.owner.worker_id, release=m.Release(jobs=(_held(job),)))
                for job in back
            ),
            logs=tuple(m.RelayedLog(worker_id=w, log=m.LogPieces(pieces=(p,))) for w, p in logs),
            lost=tuple(_held(job) for job in lost),
            byes=tuple(
                m.RelayedBye(
                    worker_id=p.worker_id,
                    bye=m.Bye(ending=Ending(p.ending), diagnosis=p.diagnosis),
                )
                for p in ended
                if p.worker_id and not p.gone
            ),
        )  # fmt: skip
        for pilot in fresh:
            pilot.fresh = False
        try:
            told = await self._up.call("relay_tell", ask, m.RelayTold)
        except BaseException:
            for job in back:
                job.leaving = False
            for pilot in fresh:
                pilot.fresh = True
            raise
        self._told_heartbeat_s = told.heartbeat_s
        for pilot in fresh:
            pilot.told = now
        await self._clear(done, [p for p in ended if self._may_go(p, done)])
        self._heed(told)

    def _goes_back(self, job: Job) -> bool:
        """Whether a job that waits here is to be given back."""
        owner = job.owner
        over = job.returned or owner.draining or bool(owner.ending)
        return over and job.holder is None and bool(owner.worker_id) and not owner.gone

    def _may_go(self, pilot: Pilot, done: list[Job]) -> bool:
        """Whether a pilot that has ended can be forgotten: nobody holds a job of its."""
        settled = pilot.settled or pilot.gone or not pilot.worker_id
        return bool(pilot.ending) and settled and not (pilot.jobs | pilot.holds) - set(done)

    async def _clear(self, jobs: list[Job], pilots: list[Pilot]) -> None:
        ids = [job.id for job in jobs]
        names = [(pilot.instance,) for pilot in pilots]

        def change(db: sqlite3.Connection) -> None:
            db.executemany("delete from job where job_id = ? and attempt_nr = ?", ids)
            db.executemany("delete from pilot where instance = ?", names)

        if ids or names:
            await self._store.write(change)
        for job in jobs:
            self._forget(job)
        for pilot in pilots:
            self._pilots.pop(pilot.instance, None)
            self._by_token.pop(pilot.token, None)

    def _heed(self, told: m.RelayTold) -> None:
        by_id = {pilot.worker_id: pilot for pilot in self._pilots.values()}
        for word in told.workers:
            pilot = by_id.get(word.worker_id)
            if pilot is None:
                continue
            if word.told is None:
                self._dismiss(pilot)
                continue
            if word.told.drain and not pilot.draining:
                pilot.draining = True
                pilot.woken.set()
            for command in word.told.commands:
                job = self._jobs.get((command.job_id, command.attempt_nr))
                if job is not None and job.holder is None:
                    if command.action is m.Action.KILL:
                        job.returned = (
                            True  # given back, which for a cancelled one means: forgotten
                        )
                    continue
                to = pilot if job is None or job.holder is None else job.holder
                to.commands[command.job_id, command.attempt_nr, command.action] = command


def _is_lost(pilot: Pilot) -> bool:
    """Whether what a pilot holds will not be reported by it."""
    return bool(pilot.ending)


def _beat(pilot: Pilot) -> m.Beat:
    """Its heartbeat: all that is leased in its name, whoever has it."""
    return m.Beat(
        jobs=(*_updates(pilot), *pilot.strangers), room=pilot.room, draining=pilot.draining
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


def _held(job: Job) -> m.HeldJob:
    return m.HeldJob(job_id=job.id[0], attempt_nr=job.id[1])


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _verdict(report: m.Report, word: str) -> m.Verdict:
    return m.Verdict(job_id=report.job_id, attempt_nr=report.attempt_nr, verdict=word)


def _accepted(reports: list[m.Report]) -> list[m.Verdict]:
    return [_verdict(report, "accepted") for report in reports]
