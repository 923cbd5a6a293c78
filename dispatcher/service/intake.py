"""How users hand jobs in: new ones, and final ones to be tried again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from itertools import chain, islice
from weakref import WeakValueDictionary

from msgspec.structs import replace

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Shape
from ailurus.protocol.submission import check
from ailurus.protocol.uploads import check_uploads, named
from dispatcher.accounts import costs
from dispatcher.auth.caller import Caller
from dispatcher.catalogue import settings as scopes
from dispatcher.freeing import free_in_parts
from dispatcher.ports import Ahead, Tx, Unavailable
from dispatcher.refusal import Rejected
from dispatcher.rules import (
    credentials,
    item_lists,
    preparing,
    retention,
    retries,
    submission,
    submissions,
    why,
)
from dispatcher.rules.group_turns import group_of
from dispatcher.rules.preparing import Prepared
from dispatcher.rules.submission import Request
from dispatcher.service.peers import Peers
from dispatcher.service.state import State
from dispatcher.service.storing import Storing
from dispatcher.switch_interval import short_interval

# Jobs whose turns are reckoned on the event loop.
INLINE = 100
# So few workers are compared with a job on the event loop.
FEW_WORKERS = 100
# Rows of a job: its own, its body, its size, its lane.
ROWS = 4


class Intake:
    """The part of the service that takes jobs in."""

    def __init__(self, state: State, peers: Peers) -> None:
        self._state = state
        self._peers = peers
        self._submitting: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def submit(self, ask: m.Submit, caller: Caller) -> m.Submitted:
        """Accept all jobs of a request, once, however often it is sent."""
        lock = self._submitting.setdefault((caller.subject, ask.request_id), asyncio.Lock())
        many = len(ask.jobs) > INLINE
        # The same request again waits until the first has been stored.
        async with lock:
            with short_interval() if many else nullcontext():
                return await self._submit(ask, caller)

    async def _submit(self, ask: m.Submit, caller: Caller) -> m.Submitted:
        jobs, digest, known = await self._read(ask, caller)
        if known is None:
            await self._has_credentials(ask, caller.subject)
            self._registrable(ask.jobs, caller.subject)
            await self._has_items(ask, caller.subject)
        answer = await self._once(
            Request(
                by=caller.subject,
                request_id=ask.request_id,
                digest=digest,
                owner=caller.subject,
                sees="" if caller.may(api.Scope.ADMIN) else caller.subject,
                group=group_of(caller.groups, self._state.settings.groups),
                name=ask.name,
                labels=ask.labels,
            ),
            jobs,
            known,
        )
        await free_in_parts(jobs)
        return answer

    async def check(
        self, jobs: Sequence[JobSpec], caller: Caller, *, uploads: bool = False
    ) -> None:
        """Raise Rejected for jobs of a task that would be refused if the caller submitted them;
        `uploads`: they may name uploaded files."""
        ask = m.Submit(request_id=uuid.uuid4().hex, jobs=tuple(jobs))
        await asyncio.to_thread(self._prepared, ask, known=False)
        if not uploads and (found := next(named(jobs), None)) is not None:
            raise Rejected(
                422,
                "the jobs of a task name no uploaded files",
                field=f"jobs[{found[0]}].inputs[{found[1]}].url",
                remedy="put the file on storage that the nodes reach, and name its path or URL",
            )
        await self._has_credentials(ask, caller.subject)
        self._registrable(ask.jobs, caller.subject)

    async def _read(
        self, ask: m.Submit, caller: Caller
    ) -> tuple[list[Prepared], str, submission.Known | None]:
        """The jobs as they are stored, what they say, and the first answer to a request that comes
        again. A brief one that is in order is taken for new: storing it tells."""
        if preparing.brief(ask.jobs) and len(self._state.live) <= FEW_WORKERS:
            # It may have been in order when it came first.
            with suppress(Rejected):
                return *self._prepared(ask, known=False), None
        known = await self._known(caller.subject, ask.request_id)
        jobs, digest = await asyncio.to_thread(self._prepared, ask, known=known is not None)
        return jobs, digest, known

    async def _has_credentials(self, ask: m.Submit, owner: str) -> None:
        """Raise Rejected for a job that names a credential which its user does not have; not for a
        request that comes again, when it may have been forgotten."""
        if not any(job.credentials for job in ask.jobs):
            return
        rows = await self._state.store.read(lambda tx: credentials.rows(tx, owner))
        names = {row.name for row in rows}
        for index, job in enumerate(ask.jobs):
            for nr, use in enumerate(job.credentials):
                if use.name in names or await self._known(owner, ask.request_id) is not None:
                    continue
                raise Rejected(
                    422,
                    f"you have no credential {use.name!r} here",
                    field=f"jobs[{index}].credentials[{nr}]",
                    remedy=f"`dispatcher credential keep {use.name} --file FILE` first",
                )

    async def _has_items(self, ask: m.Submit, owner: str) -> None:
        """Raise Rejected for a job that names a list of items which is not there, or whose items do
        not fit in the job."""
        carriers = [(nr, job) for nr, job in enumerate(ask.jobs) if job.payloads is not None]
        if len(carriers) > item_lists.MOST_JOBS:
            raise Rejected(
                422,
                f"{len(carriers)} jobs carry items: a submission may have {item_lists.MOST_JOBS} such",
                field="jobs",
                remedy="submit them in several requests",
            )

        def look(tx: Tx) -> None:
            for nr, job in carriers:
                try:
                    item_lists.fits(tx, owner, job)
                except Rejected as fault:
                    where = f"jobs[{nr}].{fault.field}"
                    raise Rejected(422, fault.title, field=where, remedy=fault.remedy) from None

        if carriers and await self._known(owner, ask.request_id) is None:
            await self._state.store.read(look)

    async def _known(self, by: str, request_id: str) -> submission.Known | None:
        return await self._state.store.read(lambda tx: submission.known(tx, by, request_id))

    async def _once(
        self, request: Request, jobs: Sequence[Prepared], known: submission.Known | None = None
    ) -> m.Submitted:
        """Store a request, or give its first answer again, if it is `known`. Raises Rejected if
        that was another one."""
        if known is None:
            try:
                return await self._store_jobs(jobs, request)
            except submission.Taken:
                known = await self._known(request.by, request.request_id)
        if known is None:
            raise Unavailable("another dispatcher is storing this request")
        if known.digest not in (None, request.digest):
            raise submission.id_reused(request.request_id)
        return known.answer

    def _prepared(self, ask: m.Submit, *, known: bool) -> tuple[list[Prepared], str]:
        """The jobs as they are stored, and what they say; if they are `known`, they were good
        then."""
        if known:
            jobs = preparing.prepare(ask.jobs)
        else:
            jobs = self._checked(ask)
            self._possible(jobs)
        return jobs, preparing.digest_of(jobs, ask.name, ask.labels)

    def _checked(self, ask: m.Submit) -> list[Prepared]:
        try:
            check(ask.jobs)
            check_uploads(ask.jobs)
        except AilurusError as error:
            raise Rejected(422, error.message, field=error.field, remedy=error.remedy) from None
        submission.check_links(ask.jobs)
        return preparing.prepare(ask.jobs)

    def _registrable(self, jobs: Sequence[JobSpec], user: str) -> None:
        """Raise Rejected for a job whose outputs its user may not have in a catalogue."""
        for nr, job in enumerate(jobs):
            scopes.check(self._state.settings.catalogue, job, user, f"jobs[{nr}]")

    def _possible(self, jobs: Sequence[Prepared]) -> None:
        """Raise Rejected for a job that no site can ever run."""
        # Many jobs are few shapes, and many workers are few sizes.
        good: set[tuple[str, Shape]] = set()
        offers: dict[str, list[why.Offer]] = {}
        for index, job in enumerate(jobs):
            kind = (job.spec.queue, job.shape)
            if kind in good:
                continue
            if job.spec.queue not in offers:
                offers[job.spec.queue] = why.sizes(self._state.offers(job.spec.queue))
            misfit = why.impossible(job.spec, job.shape, offers[job.spec.queue])
            good.add(kind)
            if misfit is not None:
                raise Rejected(
                    422,
                    f"no queue can ever run job {job.spec.name!r}: {misfit.fault}",
                    field=f"jobs[{index}].{misfit.field}",
                    remedy="ask for less, or submit it once a site offers more",
                )

    async def _store_jobs(self, jobs: Sequence[Prepared], request: Request) -> m.Submitted:
        """All jobs in one commit if they are few; else in slices that nobody sees before the
        last."""
        if len(jobs) <= INLINE:
            storing, few, links = self._begun(jobs, request)
        else:
            storing, few, links = await asyncio.to_thread(self._begun, jobs, request)
        if len(jobs) <= submission.TOGETHER and len(few) <= submission.LINKS:
            ahead = Ahead(rows=ROWS * len(jobs) + len(few), all=True)
            return await self._state.store.write(partial(storing.at_once, links=few), ahead)
        await self._state.store.write(storing.begin)
        try:
            for at in range(0, len(jobs), submission.TOGETHER):
                await self._state.store.write(partial(storing.add, at=at))
            left = chain(few, links)
            while part := list(islice(left, submission.LINKS)):
                await self._state.store.write(partial(storing.link, links=part))
        except Rejected:
            for first, last in submission.spans(jobs):
                await self._state.store.write(partial(storing.clear, first=first, last=last))
            await self._state.store.write(storing.drop)
            raise
        answer = await self._state.store.write(storing.finish)
        storing.let_go()
        return answer

    def _begun(
        self, jobs: Sequence[Prepared], request: Request
    ) -> tuple[Storing, list[submission.ParentLink], Iterator[submission.ParentLink]]:
        """A request on its way, and what its jobs wait for: what fits a commit, and what is
        left."""
        storing = Storing(self._state, self._peers.name, request, jobs)
        links = storing.links()
        return storing, list(islice(links, submission.LINKS + 1)), links

    async def retry_submission(self, ask: m.RetrySubmission, caller: Caller) -> m.Submitted:
        """What failed in a submission, or all of it, submitted anew: `submissions.again`."""
        key, digest = ask.request_id, submissions.digest_of(ask.submission, whole=ask.whole)
        # What has failed by now, asked again after an answer that got lost, is not what had then.
        if (known := await self._known(caller.subject, key)) is not None:
            if known.digest != digest:
                raise submission.id_reused(key)
            return known.answer

        def look(tx: Tx) -> tuple[m.SubmissionRow, tuple[int, ...]]:
            row = submissions.find(tx, ask.submission, caller.owns)
            return row, submissions.again(tx, row, whole=ask.whole)

        row, ids = await self._state.store.read(look)
        # A job may wait for another's, of which an admin has told it.
        await self.states_of(ids, caller)
        async with self._submitting.setdefault((caller.subject, ""), asyncio.Lock()):
            plan = await self._plan(ids, caller)
            request = self._request_of(plan, caller, key, digest)
            like = replace(request, name=row.name, labels=row.labels, retry_of=row.submission)
            return await self._once(like, plan.jobs)

    async def retry(self, ask: m.Retry, caller: Caller) -> m.Submitted:
        """New jobs with the specifications of final ones, and with their owner. A job whose retry
        is under way is not tried twice: the answer names that one. The rules are in `retries`."""
        await self.states_of(ask.job_ids, caller)
        lock = self._submitting.setdefault((caller.subject, ""), asyncio.Lock())
        # Of two at once the second finds what the first has made.
        async with lock:
            key = ask.request_id
            known = await self._known(caller.subject, key) if key is not None else None
            if key is not None and known is not None:
                return await self._retried(ask, key, known)
            plan = await self._plan(ask.job_ids, caller)
            made: dict[int, int] = {}
            number = None
            if plan.jobs:
                digest = retries.digest_of(ask.job_ids)
                answer = await self._once(
                    self._request_of(plan, caller, key or f"retry-{uuid.uuid4().hex}", digest),
                    plan.jobs,
                )
                made = dict(zip(plan.renewed, answer.job_ids, strict=True))
                number = answer.submission
            latest = [made.get(one, one) for one in plan.latest]
            return m.Submitted(job_ids=tuple(latest), repeated=not made, submission=number)

    async def _plan(self, job_ids: Sequence[int], caller: Caller) -> retries.Plan:
        """What is to be done so that jobs are tried again. Raises Rejected."""
        plan = await self._state.store.read(lambda tx: retries.plan(tx, job_ids, self._state.turns))
        if plan.jobs:
            if self._state.limiter is not None:
                links = sum(len(one.spec.depends_on) for one in plan.jobs)
                self._state.limiter.spend(caller.subject, costs.LINK_S * links)
            await asyncio.to_thread(self._possible, plan.jobs)
            self._registrable([one.spec for one in plan.jobs], plan.owner)
        return plan

    def _request_of(self, plan: retries.Plan, caller: Caller, key: str, digest: str) -> Request:
        """The request by which jobs are tried again."""
        mine = caller.subject == plan.owner
        return Request(
            by=caller.subject,
            request_id=key,
            digest=digest,
            owner=plan.owner,
            sees=plan.owner,
            group=group_of(caller.groups, self._state.settings.groups) if mine else plan.group,
            retries=plan.renewed,
        )

    async def _retried(self, ask: m.Retry, key: str, known: submission.Known) -> m.Submitted:
        """The answer to a retry that comes again: of each job the try that was made then."""
        if known.digest != retries.digest_of(ask.job_ids):
            raise submission.id_reused(key)
        then = set(known.answer.job_ids)
        ids = await self._state.store.read(lambda tx: retries.Tries(tx).made(ask.job_ids, then))
        return m.Submitted(job_ids=tuple(ids), repeated=True)

    async def states_of(self, job_ids: tuple[int, ...], caller: Caller) -> m.JobStates:
        """The states of the caller's jobs. Raises Rejected with the first that is not."""
        found = await self._state.store.read(lambda tx: retention.states_of(tx, job_ids))
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
