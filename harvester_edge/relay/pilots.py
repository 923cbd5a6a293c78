"""The pilots' side of the relay. A pilot is answered at once from what is here, with or without a
dispatcher."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

from msgspec.structs import replace

from ailurus.logs import Log
from ailurus.protocol import machine
from ailurus.protocol import messages as m
from ailurus.protocol.states import ReportOutcome
from ailurus.protocol.uploads import has_uploads
from ailurus.wire.client import Refused, Unreachable
from harvester_edge.relay.dispatcher import Exchange, verdict
from harvester_edge.relay.proof import Planned
from harvester_edge.relay.state import GONE, Id, Job, PendingReport, Pilot, Refusal, RelayState

Ask = TypeVar("Ask", m.ItemsRequest, m.CredentialsRequest, m.UploadRequest)
Answer = TypeVar("Answer")
# Jobs of others that are looked at for an idle pilot.
STEALABLE = 200


class _Key(NamedTuple):
    """What authorises the report of an attempt, and what its verdict is known by."""

    report_key: str
    seal: str


class Pilots:
    """One method a route of the pilots' API."""

    def __init__(
        self,
        state: RelayState,
        dispatcher: Exchange,
        proof: Callable[[str], Planned | None],
        log: Log,
    ) -> None:
        self._state, self._dispatcher = state, dispatcher
        self._proof, self._log = proof, log
        self._registering: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def name(self) -> str:
        """What pilots know this relay by."""
        return self._state.known_as

    def who(self, token: str) -> Pilot:
        """The pilot that shows this token. Raises Refusal for an unknown token."""
        if (pilot := self._state.by_token.get(token)) is None:
            raise Refusal(401, "no valid token", remedy="register again")
        return pilot

    async def register(self, ask: m.Register, credential: str) -> m.Registered:
        """Know a pilot, once or again. Raises Refusal if it has ended or shows another token."""
        lock = self._registering.setdefault(ask.instance, asyncio.Lock())
        async with lock:
            pilot = self._state.pilots.get(ask.instance) or await self._new(ask, credential)
        if not hmac.compare_digest(pilot.credential.encode(), credential.encode()):
            raise Refusal(403, "another token has registered this instance", field="instance")
        if pilot.gone or pilot.ending:
            raise Refusal(410, GONE, remedy="exit")
        pilot.last_seen = time.monotonic()
        return m.Registered(
            worker_id=pilot.worker_id,
            token=pilot.token,
            heartbeat_s=self._state.heartbeat_s,
            lease_s=self._state.silence_s,
            giver=self.name,
        )

    async def _new(self, ask: m.Register, credential: str) -> Pilot:
        if ask.site != self._state.terms.site:
            raise Refusal(403, f"this is the relay of site {self._state.terms.site}", field="site")
        planned = self._proof(credential)
        worker_id = 0
        try:
            worker_id = (
                await self._dispatcher.register(ask, credential) if self._dispatcher.up else 0
            )
        except Refused as error:
            raise Refusal(
                error.status, error.message, field=error.field, remedy=error.remedy
            ) from None
        except Unreachable:
            pass
        if not worker_id and planned is None:
            raise Refusal(503, "the dispatcher is away, and only it can check this token")
        pilot = Pilot(ask, secrets.token_urlsafe(32), credential, planned, time.monotonic())
        pilot.worker_id = worker_id
        await self._state.enter(pilot)
        self._log.info("pilot_registered", worker_id=worker_id, host=ask.host)
        return pilot

    async def acquire(self, ask: m.Acquire, pilot: Pilot) -> m.Acquired:
        self._state.hear(pilot)
        again = [job for job in pilot.holds if job.request == ask.request_id]
        if again:
            return self._acquired(again, pilot)
        deadline, reported = time.monotonic() + ask.wait_s, pilot.reported
        try:
            while not (pilot.draining or pilot.ending):
                pilot.woken.clear()
                if picked := self._pick(ask, pilot):
                    await self._state.hand(picked, pilot, ask.request_id)
                    return self._acquired(picked, pilot)
                left = deadline - time.monotonic()
                # It has more room by now: it asks anew.
                if left <= 0 or pilot.reported != reported:
                    break
                pilot.waiting = ask
                self._dispatcher.wanted.set()
                with suppress(TimeoutError):
                    await asyncio.wait_for(pilot.woken.wait(), left)
        finally:
            pilot.waiting = None
            pilot.last_seen = time.monotonic()
        return m.Acquired(jobs=(), drain=pilot.draining, giver=self.name)

    def _acquired(self, jobs: Iterable[Job], pilot: Pilot) -> m.Acquired:
        return m.Acquired(
            jobs=tuple(job.assignment for job in jobs),
            drain=pilot.draining,
            prefetch=bool(self._state.ready.get(pilot.ask.queue)),
            giver=self.name,
        )

    def _pick(self, ask: m.Acquire, pilot: Pilot) -> list[Job]:
        """Jobs that wait here and fit together: the pilot's own, then others'."""
        ready = self._state.ready.get(pilot.ask.queue, {})
        own = [job for job in pilot.jobs if job.holder is None]
        others = (job for _, job in zip(range(STEALABLE), ready, strict=False))
        picked: list[Job] = []
        room = ask.room
        for job in dict.fromkeys([*own, *others]):
            if len(picked) == ask.count:
                break
            spec = job.assignment.spec
            # Credentials and uploaded files cannot be had while the dispatcher is away.
            # Whether the payloads of another's job have files is not known here.
            able = (ask.item_files or job.owner is pilot or spec.payloads is None) and (
                self._dispatcher.up or not (spec.credentials or has_uploads(spec))
            )
            able = able and (ask.uploads or not has_uploads(spec))
            able = able and (ask.results or not spec.result)
            shared = spec.payloads is not None and spec.payloads.shared
            able = able and (ask.shared_items or not shared)
            able = able and machine.met(job.shape.machine, ask.hardware or pilot.ask.hardware)
            if able and not job.leaving and job.shape.fits(room):
                picked.append(job)
                room = room.taking(job.shape)
        return picked

    async def beat(self, ask: m.Beat, pilot: Pilot) -> m.BeatAnswer:
        self._state.hear(pilot)
        pilot.room, pilot.fresh = ask.room, True
        pilot.occupancy = ask.occupancy or pilot.occupancy
        if ask.draining:
            pilot.draining = True
            pilot.woken.set()
        strangers = []
        for update in ask.jobs:
            job = self._state.jobs.get((update.job_id, update.attempt_nr))
            if job is None or job.holder is not pilot:
                strangers.append(update)
                continue
            if update.tail is None and job.update is not None:
                update = replace(update, tail=job.update.tail)  # noqa: PLW2901 - not yet passed on
            job.update, job.owner.fresh = update, True
        pilot.unknown = tuple(strangers)
        commands = tuple(pilot.commands.values())
        pilot.commands.clear()
        return m.BeatAnswer(
            heartbeat_s=self._state.heartbeat_s, commands=commands, drain=pilot.draining
        )

    async def report(self, ask: m.Reports) -> m.ReportVerdicts:
        """Kept, then passed on; the dispatcher's verdict if it is there to give one. Anybody may
        call this: a report counts for an attempt that is here only with that attempt's key. Raises
        Refusal for attempts that came by another way while the dispatcher is away."""
        keep: list[PendingReport] = []
        strange: list[m.Report] = []
        given: list[m.ReportVerdict] = []
        for report in ask.reports:
            here = self._here(report)
            if here is None:
                strange.append(report)
            elif _same(here.report_key, report.report_key):
                keep.append(PendingReport(report, here.seal))
            else:
                given.append(verdict(report, ReportOutcome.BAD_KEY))
        if strange and not self._dispatcher.up:
            raise Refusal(
                503, "the dispatcher is away, and these attempts did not come by this relay"
            )
        await self._keep(keep)
        try:
            given += await self._dispatcher.ask(strange)
        except Unreachable:
            raise Refusal(503, "the dispatcher is away") from None
        except Refused as error:
            raise Refusal(error.status, error.message) from None
        return m.ReportVerdicts(verdicts=(*given, *await self._judged(keep)))

    def _here(self, report: m.Report) -> _Key | None:
        """The key and the seal of an attempt that is here, running or reported."""
        one = (report.job_id, report.attempt_nr)
        if (job := self._state.jobs.get(one)) is not None:
            return _Key(job.assignment.report_key, job.assignment.seal)
        if (owed := self._state.owed.get(one)) is not None:
            return _Key(owed.report.report_key, owed.seal)
        return None

    async def _keep(self, keep: list[PendingReport]) -> None:
        holders = [job.holder for one in keep if (job := self._state.jobs.get(one.id)) is not None]
        await self._state.keep(keep)
        for holder in holders:
            if holder is not None:
                holder.reported += 1
                holder.woken.set()

    async def _judged(self, keep: list[PendingReport]) -> list[m.ReportVerdict]:
        """The dispatcher's verdicts; what it does not judge now we have taken in its name."""
        owed = [mine for one in keep if (mine := self._state.owed.get(one.id)) is not None]
        judged: dict[Id, m.ReportVerdict] = {}
        if self._dispatcher.up:
            with suppress(Unreachable, Refused):
                judged = await self._dispatcher.send(owed)
        return [
            judged.get(one.id) or verdict(one.report, ReportOutcome.ACCEPTED, one.seal)
            for one in keep
        ]

    async def release(self, ask: m.Release, pilot: Pilot) -> m.Done:
        self._state.hear(pilot)
        jobs = [
            job
            for one in ask.jobs
            if (job := self._state.jobs.get((one.job_id, one.attempt_nr))) is not None
            and job.holder is pilot
        ]
        await self._state.give_back(jobs)
        return m.Done()

    async def exchange_items(self, ask: m.ItemsRequest, pilot: Pilot) -> m.ItemsAnswer:
        """Passed on. Raises Refusal, after which the pilot keeps its news."""

        def final(status: int) -> int | None:
            # That the dispatcher has given a worker up is told with a heartbeat's answer alone.
            return None if status == 410 else status

        answer = await self._passed_on(pilot, ask, self._dispatcher.items, final)
        return replace(answer, giver=self.name)

    async def job_credentials(self, ask: m.CredentialsRequest, pilot: Pilot) -> m.Credentials:
        """Passed on as the dispatcher sealed them for the pilot, and kept nowhere here. Raises
        Refusal."""

        def final(status: int) -> int | None:
            # A fault in the request, or a dispatcher too old for it: that an attempt is lost is
            # told with a heartbeat.
            return 422 if status in (404, 422) else None

        answer = await self._passed_on(pilot, ask, self._dispatcher.credentials, final)
        return m.Credentials(sealed=answer.sealed, giver=self.name)

    async def job_upload(self, ask: m.UploadRequest, pilot: Pilot) -> m.UploadPiece:
        """Passed on, and kept nowhere here. Raises Refusal."""

        def final(status: int) -> int | None:
            return 422 if status in (404, 422) else None

        answer = await self._passed_on(pilot, ask, self._dispatcher.upload, final)
        return replace(answer, giver=self.name)

    async def _passed_on(
        self,
        pilot: Pilot,
        ask: Ask,
        to: Callable[[int, Ask], Awaitable[Answer]],
        final: Callable[[int], int | None],
    ) -> Answer:
        """What the dispatcher answers to a question about a job that this pilot has, asked for the
        worker that the job was leased to. `final`: as which status a refusal is passed on; None: as
        one that may pass. Raises Refusal: of the dispatcher, while it is away, and for a job that
        the pilot has not."""
        self._state.hear(pilot)
        job = self._state.jobs.get((ask.job_id, ask.attempt_nr))
        if job is None or job.holder is not pilot:
            raise Refusal(404, f"job {ask.job_id} is not this pilot's", field="job_id")
        try:
            return await to(job.owner.worker_id, ask)
        except Unreachable:
            raise Refusal(503, "the dispatcher is away") from None
        except Refused as error:
            status = final(error.status) or 503
            raise Refusal(status, error.message, field=error.field, remedy=error.remedy) from None

    async def log_pieces(self, ask: m.LogPieces, pilot: Pilot) -> m.Done:
        """Live logs go on with the next word, or not at all."""
        self._state.hear(pilot)
        for piece in ask.pieces:
            job = self._state.jobs.get((piece.job_id, piece.attempt_nr))
            if job is not None and job.holder not in (pilot, None):
                # The dispatcher asks only whether it comes from the job's owner.
                continue
            self._dispatcher.pass_on((pilot if job is None else job.owner).worker_id, piece)
        return m.Done()

    async def bye(self, ask: m.Bye, pilot: Pilot) -> m.Done:
        pilot.occupancy = ask.occupancy or pilot.occupancy
        await self._state.end(pilot, ask.ending, ask.diagnosis)
        return m.Done()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
