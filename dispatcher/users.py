"""What users ask: submit, look, wait, cancel."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from itertools import chain, islice

import msgspec

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec, Shape
from ailurus.protocol.states import FINAL, WITH_WORKER, JobState
from ailurus.protocol.submission import check
from dispatcher import costs, logs, queue, retention, retries, shares, submission, views, why
from dispatcher.caller import Caller, Rejected
from dispatcher.events import until
from dispatcher.groups import group_of
from dispatcher.ports import Row, Tx, Unavailable
from dispatcher.reasons import Reasons
from dispatcher.submission import Prepared, Request

_decode_spec = msgspec.json.Decoder(JobSpec).decode
LOOK_S = 30.0  # how long one look at a live log keeps it coming


class Users(Reasons):
    """The part of the service that users see."""

    async def submit(self, ask: m.Submit, caller: Caller) -> m.Submitted:
        """Accept all jobs of a request, once, however often it is sent."""
        lock = self._submitting.setdefault((caller.subject, ask.request_id), asyncio.Lock())
        async with lock:  # the same request again waits until the first has been stored
            known = await self._known(caller.subject, ask.request_id)
            jobs, digest = await asyncio.to_thread(self._prepared, ask, known is not None)
            return await self._once(
                Request(
                    by=caller.subject,
                    request_id=ask.request_id,
                    digest=digest,
                    owner=caller.subject,
                    sees="" if caller.may(api.Scope.ADMIN) else caller.subject,
                    group=group_of(caller.groups, self.settings.groups),
                ),
                jobs,
                known,
            )

    async def _known(self, by: str, request_id: str) -> submission.Known | None:
        return await self.store.read(lambda tx: submission.known(tx, by, request_id))

    async def _once(
        self, request: Request, jobs: Sequence[Prepared], known: submission.Known | None = None
    ) -> m.Submitted:
        """Store a request, or give its first answer again, if it is `known`. Raises Rejected if that was
        another one."""
        if known is None:
            try:
                return await self._store_jobs(jobs, request)
            except submission.Taken:
                known = await self._known(request.by, request.request_id)
        if known is None:
            raise Unavailable("another dispatcher is storing this request")
        if known.digest not in (None, request.digest):
            raise submission.another(request.request_id)
        return known.answer

    def _prepared(self, ask: m.Submit, known: bool) -> tuple[list[Prepared], str]:
        """The jobs as they are stored, and what they say; if they are `known`, they were good then."""
        if known:
            jobs = submission.prepare(ask.jobs)
        else:
            jobs = self._checked(ask)
            self._possible(jobs)
        return jobs, submission.digest_of(jobs)

    def _checked(self, ask: m.Submit) -> list[Prepared]:
        try:
            check(ask.jobs)
        except AilurusError as error:
            raise Rejected(422, error.message, field=error.field, remedy=error.remedy) from None
        submission.check_links(ask.jobs)
        return submission.prepare(ask.jobs)

    def _possible(self, jobs: Sequence[Prepared]) -> None:
        """Raise Rejected for a job that no site can ever run."""
        good: set[tuple[str, Shape]] = set()  # many jobs are few shapes
        offers: dict[str, list[why.Offer]] = {}  # and many workers are few sizes
        for index, job in enumerate(jobs):
            kind = (job.spec.queue, job.shape)
            if kind in good:
                continue
            if job.spec.queue not in offers:
                offers[job.spec.queue] = why.sizes(self.offers(job.spec.queue))
            fault = why.impossible(job.spec, job.shape, offers[job.spec.queue])
            good.add(kind)
            if fault is not None:
                raise Rejected(
                    422,
                    f"no queue can ever run job {job.spec.name!r}: {fault[1]}",
                    field=f"jobs[{index}].{fault[0]}",
                    remedy="ask for less, or submit it once a site offers more",
                )

    async def _store_jobs(self, jobs: Sequence[Prepared], request: Request) -> m.Submitted:
        """All jobs in one commit if they are few; else in slices that nobody sees before the last."""
        now = self.now()
        jobs = list(jobs)
        places = {job.spec.name: nr for nr, job in enumerate(jobs)}
        links = submission.links(jobs, places)
        few = list(islice(links, submission.LINKS + 1))
        first = 0
        owner, group = request.owner, request.group
        ends, takes = shares.turns(
            ((job.spec.queue, job.shape.cores) for job in jobs),
            self.settings.shares.get(owner, 1.0),
        )
        begins: dict[str, float] = {}

        def begin(tx: Tx) -> None:
            nonlocal first, begins
            first = submission.begin(tx, request, len(jobs), process=self.process, now=now)
            begins = shares.begin(tx, owner, takes, group, self.turns)

        def add(tx: Tx, at: int) -> None:
            part = jobs[at : at + submission.TOGETHER]
            submission.still_ours(tx, request, first)
            submission.add(
                tx,
                part,
                at=at,
                first=first,
                owner=owner,
                shapes=self.shapes,
                ranks=[
                    begins[job.spec.queue] + end for job, end in zip(part, ends[at:], strict=False)
                ],
                now=now,
                group=group,
                turns=self.turns,
            )

        def link(tx: Tx, part: Sequence[submission.Link]) -> None:
            submission.still_ours(tx, request, first)
            submission.link(tx, part, jobs, first=first, sees=request.sees)

        def finish(tx: Tx) -> m.Submitted:
            submission.still_ours(tx, request, first)
            return submission.open_up(tx, request, first, len(jobs), now=now)

        def at_once(tx: Tx) -> m.Submitted:
            begin(tx)
            add(tx, 0)
            if few:
                link(tx, few)
            return finish(tx)

        if len(jobs) <= submission.TOGETHER and len(few) <= submission.LINKS:
            return await self.store.write(at_once)
        await self.store.write(begin)
        try:
            for at in range(0, len(jobs), submission.TOGETHER):
                await self.store.write(lambda tx, at=at: add(tx, at))  # type: ignore[misc]
            left = chain(few, links)
            while part := list(islice(left, submission.LINKS)):
                await self.store.write(lambda tx, part=part: link(tx, part))  # type: ignore[misc]
        except Rejected:
            for at, last in submission.spans(jobs):
                await self.store.write(
                    lambda tx, at=at, last=last: submission.clear(tx, first + at, first + last)  # type: ignore[misc]
                )
            await self.store.write(
                lambda tx: submission.drop(tx, request.by, request.request_id, first, len(jobs))
            )
            raise
        return await self.store.write(finish)

    async def jobs(self, ask: api.JobsQuery, caller: Caller) -> m.JobPage:
        """Jobs, newest first."""
        owner = ask.user if caller.may(api.Scope.ADMIN) else caller.subject
        if ask.user and ask.user != owner:
            return m.JobPage(jobs=())
        wanted = list(dict.fromkeys(_state(word) for word in ask.state.split(",") if word))
        values = {
            "before": ask.before or 2**62,
            "owner": owner,
            "queue": ask.queue,
            "code": ask.code,
            "name": "" if ask.name == "*" else ask.name,  # every name begins with nothing
            "prefix": ask.name[:-1] if ask.name.endswith("*") else "",
            "kind": ask.kind,
            "most": ask.limit,
        }
        rows, after = await self.searches.page(caller.subject, wanted, values)
        return m.JobPage(jobs=tuple(views.job(row) for row in rows), next=after)

    async def show(self, ask: api.NoQuery, caller: Caller, job_id: int) -> m.JobDetail:
        """All about one job, as people may see it."""
        return views.for_people(await self._detail(caller, job_id))

    async def _detail(self, caller: Caller, job_id: int) -> m.JobDetail:
        row = await self._row(job_id, caller)
        if isinstance(row, m.JobDetail):
            return row
        detail = await self.store.read(lambda tx: retention.detail(tx, row))
        lease = self.leases.of(job_id)
        if lease is None or lease.usage is None or not detail.attempts:
            if lease is not None and not self.store.alone:
                await self.wish("curve", job_id)  # for the next look: another process has heard it
            return detail
        live = msgspec.structs.replace(detail.attempts[-1], usage=lease.usage)
        return msgspec.structs.replace(detail, attempts=(*detail.attempts[:-1], live))

    async def _row(self, job_id: int, caller: Caller) -> Row | m.JobDetail:
        """The row of a job, or all about it if it was moved away. Raises Rejected for others' jobs."""
        old = await self.store.read(lambda tx: retention.kept(tx, job_id))
        if old is not None and caller.owns(old.row.user):
            return old
        return await self.job_of(job_id, caller.owns)

    async def why(self, ask: api.NoQuery, caller: Caller, job_id: int) -> m.Why:
        """Why a job is where it is."""
        row = await self._row(job_id, caller)
        job = row.row if isinstance(row, m.JobDetail) else views.job(row)
        return await self.reason(job)

    async def wait(self, ask: m.WaitJobs, caller: Caller) -> m.JobStates:
        """States, once all jobs are final or the time is over."""
        deadline = time.monotonic() + ask.timeout_s
        watched = ask.job_ids[-1:]  # one that is open is enough: as long as it is, so is the answer
        while True:
            signal = self.hub.expect_end(watched)
            try:
                answer = await self._states(ask.job_ids, caller)
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
            del answer, open_  # nothing is held while it waits
            await until(signal, left)
            await asyncio.sleep(0.05 if many else 0)  # many ends, one look

    async def _states(self, job_ids: tuple[int, ...], caller: Caller) -> m.JobStates:
        found = await self.store.read(lambda tx: retention.states_of(tx, job_ids))
        states = {one: state for one, (state, owner) in found.items() if caller.owns(owner)}
        for nr, job_id in enumerate(job_ids):
            if job_id not in states:
                raise Rejected(
                    404,
                    f"there is no job {job_id}",
                    field=f"job_ids[{nr}]",
                    remedy="see `dispatcher jobs`",
                )
        return m.JobStates(states=states)

    async def cancel(self, ask: m.Cancel, caller: Caller) -> m.Cancelled:
        """Cancel jobs; softly: those that run may end by themselves."""
        states = (await self._states(ask.job_ids, caller)).states
        hard = [job_id for job_id in ask.job_ids if states[job_id] not in FINAL]
        if ask.soft:
            hard = [job_id for job_id in hard if states[job_id] not in WITH_WORKER]
            await self.wish("soft_kill", *ask.job_ids)
        cancelled: list[int] = []
        for at in range(0, len(hard), submission.TOGETHER):
            part = hard[at : at + submission.TOGETHER]
            cancelled += await self.store.write(
                lambda tx, part=part: [  # type: ignore[misc]
                    job_id
                    for job_id in part
                    if queue.cancel(tx, job_id=job_id, by=caller.subject, now=self.now())
                ]
            )
        for job_id in cancelled:
            self.leases.drop(job_id)
            self.log_arrived(job_id)  # who follows its output learns that no more will come
        done = [job_id for job_id in ask.job_ids if states[job_id] in FINAL]
        return m.Cancelled(cancelled=tuple(cancelled), already_done=tuple(done))

    async def retry(self, ask: m.Retry, caller: Caller) -> m.Submitted:
        """New jobs with the specifications of final ones, and with their owner. A job whose retry is
        under way is not tried twice: the answer names that one. The rules are in `retries`."""
        await self._states(ask.job_ids, caller)
        lock = self._submitting.setdefault((caller.subject, ""), asyncio.Lock())
        async with lock:  # of two at once the second finds what the first has made
            key = ask.request_id
            known = await self._known(caller.subject, key) if key is not None else None
            if key is not None and known is not None:
                return await self._retried(ask, key, known)
            plan = await self.store.read(lambda tx: retries.plan(tx, ask.job_ids, self.turns))
            if plan.jobs:
                if self.limiter is not None:
                    links = sum(len(one.spec.depends_on) for one in plan.jobs)
                    self.limiter.spend(caller.subject, costs.LINK_S * links)
                await asyncio.to_thread(self._possible, plan.jobs)
                mine = caller.subject == plan.owner
                request = Request(
                    by=caller.subject,
                    request_id=key or f"retry-{uuid.uuid4().hex}",
                    digest=retries.digest_of(ask.job_ids),
                    owner=plan.owner,
                    sees=plan.owner,
                    group=group_of(caller.groups, self.settings.groups) if mine else plan.group,
                    retries=plan.renewed,
                )
                answer = await self._once(request, plan.jobs)
                made = dict(zip(plan.renewed, answer.job_ids, strict=True))
            else:
                made = {}
            latest = [made.get(one, one) for one in plan.latest]
            return m.Submitted(job_ids=tuple(latest), repeated=not made)

    async def _retried(self, ask: m.Retry, key: str, known: submission.Known) -> m.Submitted:
        """The answer to a retry that comes again: of each job the try that was made then."""
        if known.digest != retries.digest_of(ask.job_ids):
            raise submission.another(key)
        then = set(known.answer.job_ids)
        ids = await self.store.read(lambda tx: retries.Tries(tx).made(ask.job_ids, then))
        return m.Submitted(job_ids=tuple(ids), repeated=True)

    async def log(self, ask: api.LogQuery, caller: Caller, job_id: int) -> m.LogChunk:
        """A piece of a job's output; asking for a running one's makes its pilot send it."""
        if isinstance(await self._row(job_id, caller), m.JobDetail):
            raise Rejected(
                410,
                f"the output of job {job_id} is gone: it ended longer ago than this dispatcher keeps it",
                field="job_id",
                remedy="`dispatcher show` still has its last lines of stderr",
            )
        deadline = time.monotonic() + ask.wait_s
        while True:
            arrival = self.log_arrival(job_id)
            chunk = await self._log_chunk(ask, job_id)
            left = deadline - time.monotonic()
            if chunk.text or chunk.final or left <= 0:
                arrival.cancel()
                return chunk
            await until(arrival, left)

    async def _log_chunk(self, ask: api.LogQuery, job_id: int) -> m.LogChunk:
        await self.wish("look", job_id, seconds=LOOK_S)

        def gather(tx: Tx) -> m.LogChunk:
            attempts = tx.all("attempt.of_job", job_id=job_id)
            wanted = [row for row in attempts if ask.attempt_nr in (None, row[0])]
            if not wanted and ask.attempt_nr is not None:
                raise _no_attempt(job_id, ask.attempt_nr, len(attempts))
            if not wanted:
                job = tx.one("job.standing", job_id=job_id)
                ended = job is None or job[0] in FINAL  # before it began: nothing will come
                return m.LogChunk(offset=0, end=0, text="", final=ended)
            return logs.chunk(tx, ask, job_id, wanted[-1])

        return await self.store.read(gather)

    async def samples(self, ask: api.SamplesQuery, caller: Caller, job_id: int) -> api.Samples:
        """The resource curves of an attempt, from memory while it runs."""
        await self._row(job_id, caller)
        lease = self.leases.of(job_id)
        mine = lease is not None and (lease.curve or self.store.alone)
        if lease is not None and mine and ask.attempt_nr in (None, lease.attempt_nr):
            curve: tuple[m.Sample, ...] = tuple(lease.curve)
        else:
            row = await self.store.read(
                lambda tx: tx.one("attempt.curve", job_id=job_id, attempt_nr=ask.attempt_nr)
            )
            curve = views.curve(row) if row else ()
        return api.Samples(samples=tuple(sample for sample in curve if sample.at > ask.after))

    async def tail(self, ask: api.TailQuery, caller: Caller, job_id: int) -> api.Tail:
        """The end of a file in a running job's directory; its pilot answers at its next heartbeat."""
        await self._row(job_id, caller)
        lease = self.leases.of(job_id)
        if lease is None:
            raise Rejected(
                409,
                f"job {job_id} is not running",
                remedy="see `dispatcher logs` for what it wrote",
            )
        if lease.worker_id in self.patience and ask.file != "stdout":
            raise Rejected(
                409,
                f"job {job_id} runs on a PanDA pilot, which shows the end of stdout and no other file",
                field="file",
                remedy="ask for `stdout`, or look at its log once it has ended",
            )
        began = self.now()
        await self.wish("tail", job_id, text=ask.file)
        deadline = time.monotonic() + ask.wait_s
        while (text := await self._tail_of(job_id, began)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Rejected(
                    409,
                    f"the pilot of job {job_id} has not answered yet",
                    remedy="ask again with a longer wait_s",
                )
            await until(self.log_arrival(job_id), left)
        return api.Tail(text=text)

    async def _tail_of(self, job_id: int, since: float) -> str | None:
        lease = self.leases.of(job_id)
        if lease is None or lease.tail is not None or self.store.alone:
            return lease.tail if lease is not None else None
        row = await self.store.read(
            lambda tx: tx.one("fact.get", kind="tail", owner="", name=str(job_id))
        )
        return str(row[1]) if row is not None and row[0] >= since else None

    async def events(self, ask: api.EventsQuery, caller: Caller) -> m.Events:
        """What happened after a point, to the caller's jobs; to everybody's for an admin."""
        if ask.job_id is not None:
            await self._row(ask.job_id, caller)
        elif not caller.may(api.Scope.ADMIN):
            raise Rejected(
                403, "all events are for admins", field="job_id", remedy="name one of your jobs"
            )
        deadline = time.monotonic() + ask.wait_s
        name = "event.after" if ask.job_id is None else "event.of_job"
        while True:
            signal = self.hub.expect_event()
            rows = await self.store.read(
                lambda tx: tx.all(name, after=ask.after, job_id=ask.job_id, most=ask.limit)
            )
            left = deadline - time.monotonic()
            if rows or left <= 0:
                signal.cancel()
                return m.Events(
                    events=tuple(views.event(row) for row in rows),
                    last=rows[-1][0] if rows else ask.after,
                )
            await until(signal, left)


def _no_attempt(job_id: int, attempt_nr: int, count: int) -> Rejected:
    has = f"it has 1 to {count}" if count else "none of it has begun"
    return Rejected(
        404, f"job {job_id} has no attempt {attempt_nr}", field="attempt_nr", remedy=has
    )


def _state(word: str) -> JobState:
    try:
        return JobState(word)
    except ValueError:
        raise Rejected(
            422, f"{word!r} is no state", field="state", remedy=", ".join(JobState)
        ) from None
