"""Requests of users about their jobs: to look, wait and cancel. Submissions are in `intake.py`."""

from __future__ import annotations

import asyncio
import time
from weakref import WeakValueDictionary

import msgspec

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.states import FINAL, WITH_WORKER
from dispatcher.auth.caller import Caller
from dispatcher.memory.waiting import until
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import (
    attempts,
    item_records,
    item_views,
    payload_logs,
    records,
    retention,
    searches,
    submission,
    views,
)
from dispatcher.rules.views import StoredJob
from dispatcher.service.intake import Intake
from dispatcher.service.notices import Look, SoftKill, TailRequest
from dispatcher.service.peers import Peers
from dispatcher.service.reasons import Reasons
from dispatcher.service.search import Searches
from dispatcher.service.state import State

# How long one look at a live log keeps it coming.
LOOK_S = 30.0


class Users:
    """The part of the service that users see."""

    def __init__(self, state: State, peers: Peers, intake: Intake, reasons: Reasons) -> None:
        self._state = state
        self._peers = peers
        self._intake = intake
        self._reasons = reasons
        self._searches = Searches(state.store, state.searching)
        self._tailing: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def me(self, ask: api.NoQuery, caller: Caller) -> m.Me:
        """Who the caller is, and what its token allows."""
        return m.Me(subject=caller.subject, scopes=tuple(sorted(caller.scopes)))

    async def jobs(self, ask: api.JobsQuery, caller: Caller) -> m.JobPage:
        """Jobs, newest first."""
        before = ask.before or searches.BEYOND
        return await self._searches.page(
            caller.subject, self._wanted(ask, caller), before, ask.limit
        )

    async def count(self, ask: api.Filter, caller: Caller) -> m.Counted:
        """How many jobs match."""
        return await self._searches.count(caller.subject, self._wanted(ask, caller))

    def _wanted(self, ask: api.Filter, caller: Caller) -> searches.Wanted:
        sees = "" if caller.may(api.Scope.ADMIN) else caller.subject
        return searches.wanted(ask, sees, self._state.now())

    async def show(self, ask: api.NoQuery, caller: Caller, job_id: int) -> m.JobDetail:
        """All about one job, as people may see it."""
        return views.for_people(await self._detail(caller, job_id))

    async def _detail(self, caller: Caller, job_id: int) -> m.JobDetail:
        found = await self._found(job_id, caller)
        if isinstance(found, m.JobDetail):
            return found
        detail = await self._state.store.read(lambda tx: retention.detail(tx, found))
        lease = self._state.leases.of(job_id)
        if lease is not None and lease.usage is None and lease.staging is None:
            # For the next look.
            await self._peers.want_curves([job_id])
        if lease is None or not detail.attempts or not (lease.usage or lease.staging):
            return detail
        live = msgspec.structs.replace(
            detail.attempts[-1], usage=lease.usage, staging=lease.staging
        )
        return msgspec.structs.replace(detail, attempts=(*detail.attempts[:-1], live))

    async def _found(self, job_id: int, caller: Caller) -> StoredJob | m.JobDetail:
        """A job, or all about it if it was moved away. Raises Rejected for other users' jobs."""
        old = await self._state.store.read(lambda tx: retention.kept(tx, job_id))
        if old is not None and caller.owns(old.row.user):
            return old
        return await self._state.job_of(job_id, caller.owns)

    async def why(self, ask: api.NoQuery, caller: Caller, job_id: int) -> m.Why:
        """Why a job is where it is."""
        return await self._reasons.reason((await self._found(job_id, caller)).row)

    async def wait(self, ask: m.WaitJobs, caller: Caller) -> m.JobStates:
        """States, once all jobs are final or the time is over."""
        deadline = time.monotonic() + ask.timeout_s
        # One that is open is enough: as long as it is, so is the answer.
        watched = ask.job_ids[-1:]
        while True:
            signal = self._state.hub.expect_end(watched)
            try:
                answer = await self._intake.states_of(ask.job_ids, caller)
            except BaseException:
                signal.cancel()
                raise
            open_ = [job_id for job_id, state in answer.states.items() if state not in FINAL]
            left = deadline - time.monotonic()
            if not open_ or left <= 0:
                signal.cancel()
                return answer
            if watched[0] not in open_:
                signal.cancel()
                watched = (open_[-1],)
                continue
            many = len(open_) > 100
            # Nothing is held while it waits.
            del answer, open_
            await until(signal, left)
            # Many ends, one look.
            await asyncio.sleep(0.05 if many else 0)

    async def cancel(self, ask: m.Cancel, caller: Caller) -> m.Cancelled:
        """Cancel jobs; softly: those that run may end by themselves. Raises Rejected for a job that
        is still being submitted."""
        states = (await self._intake.states_of(ask.job_ids, caller)).states
        submission.check_complete(ask.job_ids, states)
        hard = [job_id for job_id in ask.job_ids if states[job_id] not in FINAL]
        if ask.soft:
            hard = [job_id for job_id in hard if states[job_id] not in WITH_WORKER]
            await self._peers.send(SoftKill(job_ids=ask.job_ids))
        cancelled: list[int] = []
        for at in range(0, len(hard), submission.TOGETHER):
            part = hard[at : at + submission.TOGETHER]
            cancelled += await self._state.store.write(
                lambda tx, part=part: [  # type: ignore[misc]
                    job_id
                    for job_id in part
                    if attempts.cancel(tx, job_id=job_id, by=caller.subject, now=self._state.now())
                ]
            )
        for job_id in cancelled:
            self._state.leases.drop(job_id)
            # Who follows its output learns that no more will come.
            self._state.log_arrived(job_id)
        done = [job_id for job_id in ask.job_ids if states[job_id] in FINAL]
        return m.Cancelled(cancelled=tuple(cancelled), already_done=tuple(done))

    async def log(self, ask: api.LogQuery, caller: Caller, job_id: int) -> m.LogChunk:
        """A piece of a job's output; asking for a running one's makes its pilot send it. Raises
        Rejected if the output is no longer kept."""
        if isinstance(await self._found(job_id, caller), m.JobDetail):
            raise Rejected(
                410,
                f"the output of job {job_id} is gone: it ended longer ago than this dispatcher keeps it",
                field="job_id",
                remedy="`dispatcher show` still has its last lines of stderr",
            )
        deadline = time.monotonic() + ask.wait_s
        while True:
            with self._state.log_arrival(job_id) as arrival:
                chunk = await self._log_chunk(ask, job_id)
                left = deadline - time.monotonic()
                if chunk.text or chunk.final or left <= 0:
                    return chunk
                await until(arrival, left)

    async def _log_chunk(self, ask: api.LogQuery, job_id: int) -> m.LogChunk:
        await self._peers.send(Look(job_ids=(job_id,), seconds=LOOK_S))

        def gather(tx: Tx) -> m.LogChunk:
            if ask.item is not None:
                return _log_of_item(tx, ask, job_id, ask.item)
            made = views.attempts(tx, job_id)
            wanted = [one for one in made if ask.attempt_nr in (None, one.attempt_nr)]
            if not wanted and ask.attempt_nr is not None:
                raise _no_attempt(job_id, ask.attempt_nr, len(made))
            if not wanted:
                job = records.find_job(tx, job_id)
                # Before it began: nothing will come.
                ended = job is None or job.state in FINAL
                return m.LogChunk(offset=0, end=0, text="", final=ended)
            return payload_logs.chunk(tx, ask, job_id, wanted[-1])

        return await self._state.store.read(gather)

    async def samples(self, ask: api.SamplesQuery, caller: Caller, job_id: int) -> api.Samples:
        """The resource curves of an attempt, from memory while it runs."""
        await self._found(job_id, caller)
        lease = self._state.leases.of(job_id)
        if lease is not None and lease.curve and ask.attempt_nr in (None, lease.attempt_nr):
            curve: tuple[m.Sample, ...] = tuple(lease.curve)
        else:
            curve = await self._state.store.read(
                lambda tx: views.find_curve(tx, job_id, ask.attempt_nr)
            )
        return api.Samples(samples=tuple(sample for sample in curve if sample.at > ask.after))

    async def tail(self, ask: api.TailQuery, caller: Caller, job_id: int) -> api.Tail:
        """The end of a file in a running job's directory; its pilot answers at its next heartbeat.
        Raises Rejected if the job does not run, or its pilot cannot show that file or does not
        answer."""
        await self._found(job_id, caller)
        lease = self._state.leases.of(job_id)
        if lease is None:
            raise Rejected(
                409,
                f"job {job_id} is not running",
                remedy="see `dispatcher logs` for what it wrote",
            )
        if lease.worker_id in self._state.panda_silence_s and ask.file != "stdout":
            raise Rejected(
                409,
                f"job {job_id} runs on a PanDA pilot, which shows the end of stdout and no other file",
                field="file",
                remedy="ask for `stdout`, or look at its log once it has ended",
            )
        deadline = time.monotonic() + ask.wait_s
        # An answer does not say of which file it is.
        turn = self._tailing.setdefault(job_id, asyncio.Lock())
        try:
            await asyncio.wait_for(turn.acquire(), ask.wait_s if turn.locked() else None)
        except TimeoutError:
            raise _no_answer(job_id) from None
        try:
            began = self._state.now()
            await self._peers.send(TailRequest(job_ids=(job_id,), text=ask.file))
            while True:
                with self._state.log_arrival(job_id) as arrival:
                    if (text := await self._tail_of(job_id, began)) is not None:
                        return api.Tail(text=text)
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise _no_answer(job_id)
                    await until(arrival, left)
        finally:
            turn.release()

    async def _tail_of(self, job_id: int, since: float) -> str | None:
        lease = self._state.leases.of(job_id)
        if lease is None or lease.tail is not None:
            return lease.tail if lease is not None else None
        return await self._peers.tail_of(job_id, since)

    async def events(self, ask: api.EventsQuery, caller: Caller) -> m.Events:
        """What happened after a point, to the caller's jobs; to everybody's for an admin. Raises
        Rejected if others ask for everybody's."""
        if ask.job_id is not None:
            await self._found(ask.job_id, caller)
        elif not caller.may(api.Scope.ADMIN):
            raise Rejected(
                403, "all events are for admins", field="job_id", remedy="name one of your jobs"
            )
        deadline = time.monotonic() + ask.wait_s
        while True:
            signal = self._state.hub.expect_event()
            events = await self._state.store.read(
                lambda tx: views.events(tx, ask.after, ask.job_id, ask.limit)
            )
            left = deadline - time.monotonic()
            if events or left <= 0:
                signal.cancel()
                last = events[-1].seq if events else ask.after
                return m.Events(events=tuple(events), last=last)
            await until(signal, left)


def _log_of_item(tx: Tx, ask: api.LogQuery, job_id: int, index: int) -> m.LogChunk:
    """A piece of an item's output. Raises Rejected if there is no such item."""
    job, cluster = records.find_job(tx, job_id), item_records.find_cluster(tx, job_id)
    found = item_views.find(tx, job, cluster, index) if job and cluster else None
    if cluster is None or found is None:
        raise Rejected(
            404, f"job {job_id} has no item {index}", field="item", remedy="dispatcher show --items"
        )
    return payload_logs.chunk_of_item(tx, ask, cluster.cluster_id, found)


def _no_answer(job_id: int) -> Rejected:
    return Rejected(
        409,
        f"the pilot of job {job_id} has not answered yet",
        remedy="ask again with a longer wait_s",
    )


def _no_attempt(job_id: int, attempt_nr: int, count: int) -> Rejected:
    has = f"it has 1 to {count}" if count else "none of it has begun"
    return Rejected(
        404, f"job {job_id} has no attempt {attempt_nr}", field="attempt_nr", remedy=has
    )
