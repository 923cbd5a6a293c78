"""The relay's state, in memory and on disk: pilots, their jobs, reports that the dispatcher does
not have.

A pilot is answered at once from it, with or without a dispatcher. What a pilot relies on is on disk
first: its registration, the jobs it was given, its reports. Everything else is sent again by its
sender.

A job is leased in the name of one pilot, its *owner*, and may be run by another, its *holder*:
while the dispatcher is away, or when the owner has too many. Its report has a key of its own, and
its lease is renewed with its owner's heartbeats, so both pilots' affairs stay in order; an owner
says goodbye when nobody holds a job of its any more.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from ailurus.protocol import messages as m
from ailurus.protocol.job import shape_of
from ailurus.protocol.resources import Room, Shape
from ailurus.protocol.worker import Ending
from harvester_edge.relay.proof import Planned
from harvester_edge.relay.store import RelayStore

# More pilots than this many heartbeats a second serve are told to beat slower.
BEATS_PER_S = 150
GONE = "this worker has ended"
_encode = msgspec.json.Encoder().encode
_assignment = msgspec.json.Decoder(m.Assignment).decode
_register = msgspec.json.Decoder(m.Register).decode
_report = msgspec.json.Decoder(m.Report).decode

_NEW_PILOT = (
    "insert into pilot (instance, token, credential, register, intent, idx, worker_id, at, asked,"
    " ending, diagnosis) values (?, ?, ?, ?, ?, ?, ?, ?, 0, '', '')"
)
_NEW_JOB = (
    "insert or replace into job (job_id, attempt_nr, owner, holder, request, assignment)"
    " values (?, ?, ?, null, '', ?)"
)
_NEW_REPORT = "insert or ignore into report (job_id, attempt_nr, at, report) values (?, ?, ?, ?)"
_NEW_SEAL = "insert or ignore into seal (job_id, attempt_nr, seal) values (?, ?, ?)"

Id = tuple[int, int]


class Terms(Struct, frozen=True, kw_only=True):
    """What the site says."""

    site: str
    prefetch: int = 1
    """Jobs kept ready here for each that runs."""
    heartbeat_s: float = 10.0
    silence_s: float = 60.0
    """A pilot silent for this long beyond three heartbeats is lost."""


@dataclass(eq=False)
class PendingReport:
    """A report that waits for the verdict of the dispatcher that gave the attempt. `again`: when it
    is sent next (`time.monotonic`)."""

    report: m.Report
    seal: str
    again: float = 0.0

    @property
    def id(self) -> Id:
        return self.report.job_id, self.report.attempt_nr


class Refusal(Exception):
    """A request that is refused, with what the pilot is told."""

    def __init__(self, status: int, title: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(title)
        self.problem = m.Problem(title=title, status=status, field=field, remedy=remedy)


@dataclass(eq=False)
class Pilot:
    """A pilot that has registered here."""

    ask: m.Register
    token: str
    credential: str
    planned: Planned | None
    last_seen: float
    worker_id: int = 0
    asked: int = 0
    reported: int = 0
    ending: str = ""
    diagnosis: str = ""
    room: Room = field(default_factory=lambda: Room(cores=0))
    occupancy: m.Occupancy | None = None
    fresh: bool = True
    """Whether it has something that the dispatcher does not know."""
    forwarded: float = 0.0
    """When its last heartbeat went on."""
    draining: bool = False
    settled: bool = False
    """Whether it has ended, and nothing that was leased to it is on its way."""
    gone: bool = False
    unknown: tuple[m.Update, ...] = ()
    """Attempts that it lists and that are not known here."""
    commands: dict[tuple[int, int, str], m.Command] = field(default_factory=dict)
    waiting: m.Acquire | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    jobs: set[Job] = field(default_factory=set)
    """Leased in its name."""
    holds: set[Job] = field(default_factory=set)
    """Run by it."""

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
    returned: bool = False
    """Given back by a pilot: it goes back to the dispatcher unless another takes it."""
    leaving: bool = False
    """On its way back to the dispatcher."""

    @property
    def id(self) -> Id:
        return self.assignment.job_id, self.assignment.attempt_nr


class RelayState:
    """Pilots, the jobs that are leased to them, the reports that are owed. What a method writes is
    on disk before it is in memory."""

    def __init__(self, terms: Terms, store: RelayStore) -> None:
        self.terms = terms
        self._store = store
        self.pilots: dict[str, Pilot] = {}
        self.by_token: dict[str, Pilot] = {}
        self.jobs: dict[Id, Job] = {}
        # By queue, that nobody holds.
        self.ready: dict[str, dict[Job, None]] = {}
        self.owed: dict[Id, PendingReport] = {}
        # What pilots know us by.
        self.known_as = secrets.token_hex(8)
        # What the dispatcher is called that gave what is here.
        self.giver = ""
        self.upstream_heartbeat_s = terms.heartbeat_s
        self._load()

    def _load(self) -> None:
        now = time.monotonic()
        for token, credential, ask, intent, idx, worker_id, asked, *end in self._store.all(
            "select token, credential, register, intent, idx, worker_id, asked, ending, diagnosis from pilot"
        ):
            planned = Planned(intent, idx) if intent else None
            pilot = Pilot(_register(ask), token, credential, planned, now, worker_id, asked)
            pilot.ending, pilot.diagnosis = end
            self.remember(pilot)
        for owner, holder, request, text in self._store.all(
            "select owner, holder, request, assignment from job"
        ):
            job = self.leased(_assignment(text), self.pilots[owner])
            if holder is not None and holder in self.pilots:
                self.give(job, self.pilots[holder], request)
        for job_id, attempt_nr, text, seal in self._store.all(
            "select job_id, attempt_nr, report, coalesce(seal, '') from report"
            " left join seal using (job_id, attempt_nr)"
        ):
            self.owed[job_id, attempt_nr] = PendingReport(_report(text), seal)
        names = dict(self._store.all("select whose, name from name"))
        self.giver = names.get("giver", "")
        self.known_as = names.get("relay") or self._store.first_name(self.known_as)

    @property
    def empty(self) -> bool:
        """Whether nothing is here that a dispatcher gave or is owed."""
        return not (self.pilots or self.jobs or self.owed)

    async def meet(self, giver: str) -> None:
        """The name of the dispatcher that gives from now on."""
        await self._store.write(
            lambda db: db.execute(
                "insert or replace into name (whose, name) values ('giver', ?)", (giver,)
            )
        )
        self.giver = giver

    def due(self) -> list[PendingReport]:
        """Reports that are to be sent now."""
        now = time.monotonic()
        return [one for one in self.owed.values() if one.again <= now]

    @property
    def heartbeat_s(self) -> float:
        """Told to every pilot."""
        return max(
            self.terms.heartbeat_s, self.upstream_heartbeat_s, len(self.pilots) / BEATS_PER_S
        )

    @property
    def silence_s(self) -> float:
        return 3 * self.heartbeat_s + self.terms.silence_s

    def counts(self) -> dict[str, int]:
        """How many of each thing are here."""
        return {
            "pilots": len(self.pilots),
            "jobs": len(self.jobs),
            "ready": sum(map(len, self.ready.values())),
            "owed": len(self.owed),
        }

    def hear(self, pilot: Pilot) -> None:
        """Note that a pilot spoke. Raises Refusal if its instance was given up."""
        pilot.last_seen = time.monotonic()
        if pilot.gone:
            raise Refusal(410, GONE, remedy="exit")

    def remember(self, pilot: Pilot) -> None:
        self.pilots[pilot.instance] = self.by_token[pilot.token] = pilot

    def leased(self, assignment: m.Assignment, owner: Pilot) -> Job:
        job = Job(assignment, shape_of(assignment.spec), owner, time.time())
        self.jobs[job.id] = job
        owner.jobs.add(job)
        self.ready.setdefault(owner.ask.queue, {})[job] = None
        return job

    def give(self, job: Job, pilot: Pilot, request: str) -> None:
        self.ready[job.owner.ask.queue].pop(job, None)
        job.holder, job.request, job.update, job.returned = pilot, request, None, False
        pilot.holds.add(job)

    def take_back(self, job: Job) -> None:
        if job.holder is not None:
            job.holder.holds.discard(job)
        job.holder, job.request, job.update = None, "", None
        self.ready[job.owner.ask.queue][job] = None

    def forget(self, job: Job) -> None:
        self.jobs.pop(job.id, None)
        self.ready[job.owner.ask.queue].pop(job, None)
        job.owner.jobs.discard(job)
        if job.holder is not None:
            job.holder.holds.discard(job)

    # on disk, then in memory ---------------------------------------------------------------------

    async def enter(self, pilot: Pilot) -> None:
        """A pilot that has come. Raises Refusal if its token has come with another one."""
        planned = pilot.planned or Planned("", -1)
        row = (
            pilot.instance, pilot.token, pilot.credential, _encode(pilot.ask), planned.intent,
            planned.index, pilot.worker_id, time.time(),
        )  # fmt: skip
        try:
            await self._store.write(lambda db: db.execute(_NEW_PILOT, row))
        except sqlite3.IntegrityError:
            raise Refusal(
                409, "another pilot has registered with this token", remedy="exit"
            ) from None
        self.remember(pilot)

    async def name(self, pilot: Pilot, worker_id: int) -> None:
        """What the dispatcher calls a pilot."""
        row = (worker_id, pilot.instance)
        await self._store.write(
            lambda db: db.execute("update pilot set worker_id = ? where instance = ?", row)
        )
        pilot.worker_id, pilot.fresh = worker_id, True

    async def take(self, news: Sequence[tuple[Pilot, m.Acquired]]) -> None:
        """Jobs that were leased to these pilots."""
        rows = [
            (job.job_id, job.attempt_nr, pilot.instance, _encode(job))
            for pilot, answer in news
            for job in answer.jobs
        ]
        names = [(pilot.asked + 1, pilot.instance) for pilot, _ in news]

        def change(db: sqlite3.Connection) -> None:
            db.executemany(_NEW_JOB, rows)
            db.executemany("update pilot set asked = ? where instance = ?", names)

        await self._store.write(change)
        for pilot, answer in news:
            pilot.asked += 1
            for assignment in answer.jobs:
                if (assignment.job_id, assignment.attempt_nr) not in self.jobs:
                    self.leased(assignment, pilot)

    async def hand(self, jobs: Sequence[Job], pilot: Pilot, request: str) -> None:
        """Jobs that this pilot gets; in memory first, so that no other picks them meanwhile."""
        for job in jobs:
            self.give(job, pilot, request)
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
                self.take_back(job)
            raise

    async def give_back(self, jobs: Sequence[Job]) -> None:
        """Jobs that their holders have not begun."""
        await self._store.write(
            lambda db: db.executemany(
                "update job set holder = null, request = '' where job_id = ? and attempt_nr = ?",
                [job.id for job in jobs],
            )
        )
        for job in jobs:
            self.take_back(job)
            job.returned = True

    async def keep(self, reports: Sequence[PendingReport]) -> None:
        """Reports that are owed from now on. One that is owed already stays as it came first."""
        if not reports:
            return
        ids = [one.id for one in reports]
        rows = [(*one.id, time.time(), _encode(one.report)) for one in reports]
        seals = [(*one.id, one.seal) for one in reports]

        def change(db: sqlite3.Connection) -> None:
            db.executemany(_NEW_REPORT, rows)
            db.executemany(_NEW_SEAL, seals)
            db.executemany("delete from job where job_id = ? and attempt_nr = ?", ids)

        await self._store.write(change)
        for one in reports:
            self.owed.setdefault(one.id, one)
            if (job := self.jobs.get(one.id)) is not None:
                self.forget(job)

    async def settle(self, judged: Iterable[PendingReport]) -> None:
        """Forget reports that the dispatcher has judged: these, and no other of the same
        attempts."""
        mine = [one for one in judged if self.owed.get(one.id) is one]
        ids = [one.id for one in mine]

        def change(db: sqlite3.Connection) -> None:
            db.executemany("delete from report where job_id = ? and attempt_nr = ?", ids)
            db.executemany("delete from seal where job_id = ? and attempt_nr = ?", ids)

        if ids:
            await self._store.write(change)
        for one in mine:
            self.owed.pop(one.id, None)

    async def end(self, pilot: Pilot, ending: Ending, diagnosis: str) -> None:
        """How a pilot has ended."""
        row = (str(ending), diagnosis[-4000:], pilot.instance)
        await self._store.write(
            lambda db: db.execute(
                "update pilot set ending = ?, diagnosis = ? where instance = ?", row
            )
        )
        pilot.ending, pilot.diagnosis = row[0], row[1]
        pilot.woken.set()

    async def clear(self, jobs: Sequence[Job], pilots: Sequence[Pilot]) -> None:
        """What nobody needs any more."""
        ids = [job.id for job in jobs]
        names = [(pilot.instance,) for pilot in pilots]

        def change(db: sqlite3.Connection) -> None:
            db.executemany("delete from job where job_id = ? and attempt_nr = ?", ids)
            db.executemany("delete from pilot where instance = ?", names)

        if ids or names:
            await self._store.write(change)
        for job in jobs:
            self.forget(job)
        for pilot in pilots:
            self.pilots.pop(pilot.instance, None)
            self.by_token.pop(pilot.token, None)
