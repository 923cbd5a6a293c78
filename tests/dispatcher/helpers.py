"""A real service on a real store, its time moved by hand."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from pathlib import Path

import jwt

from ailurus.protocol import messages as m
from ailurus.protocol.api import EventsQuery, ItemsQuery, JobsQuery, Scope
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import JobSpec
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from dispatcher.auth.caller import ANONYMOUS, Caller
from dispatcher.rules.submission import Request
from dispatcher.service import Service
from dispatcher.service.state import Settings
from dispatcher.store import open_store

ALICE = Caller(subject="alice", scopes=frozenset({Scope.READ, Scope.CREATE, Scope.CANCEL}))
BOB = Caller(subject="bob", scopes=ALICE.scopes)
EDGE = Caller(subject="edge", scopes=frozenset({Scope.EDGE}), site="here")
BIG = Room(cores=16, memory_mb=64_000, disk_mb=100_000)
_numbers = itertools.count()


def new_id() -> str:
    return f"r{next(_numbers)}"


def job(name: str = "job", **fields: object) -> JobSpec:
    return JobSpec(**{"name": name, "command": "true", "queue": "q", **fields})


def token(expires: float | None = None, sub: str = "alice") -> str:
    """A bearer token for some storage, which nobody here verifies."""
    claims = {"sub": sub} | ({} if expires is None else {"exp": expires})
    return jwt.encode(claims, "of a storage far away from here, 256 bits", "HS256")


def request(name: str, by: str = "alice") -> Request:
    """A request as the rules know it."""
    return Request(by=by, request_id=name, digest="", owner=by, sees="", group="")


class Worker:
    """A worker of the service, as its pilot would act."""

    def __init__(self, service: Service, registered: m.Registered, queue: str) -> None:
        self.service = service
        self.id = registered.worker_id
        self.caller = Caller(
            subject=f"worker:{self.id}",
            scopes=frozenset({Scope.WORKER}),
            worker_id=self.id,
            queue=queue,
        )

    async def acquire(
        self,
        count: int = 1,
        room: Room = BIG,
        wait_s: float = 0.0,
        request: str = "",
        **knows: bool,
    ):
        """Jobs that fit. `knows`: what the pilot can do, all unless it says otherwise."""
        ask = m.Acquire(
            request_id=request or new_id(),
            room=room,
            count=count,
            wait_s=wait_s,
            **{"items": True, "item_files": True, "uploads": True, "results": True}
            | {"shared_items": True}
            | knows,
        )
        return list((await self.service.workers.acquire(ask, self.caller)).jobs)

    async def beat(
        self, *jobs: m.RawAssignment, state: JobState = JobState.RUNNING
    ) -> m.BeatAnswer:
        updates = tuple(
            m.Update(job_id=j.job_id, attempt_nr=j.attempt_nr, state=state, since=0.0) for j in jobs
        )
        return await self.service.heartbeats.beat(m.Beat(jobs=updates, room=BIG), self.caller)

    async def exchange(
        self, one: m.RawAssignment, count: int = 0, request: str = "", **news: object
    ) -> m.RawItemsAnswer:
        """Tell news of the items of a job, and lease more of them."""
        ask = m.ItemsRequest(
            request_id=request or new_id(),
            job_id=one.job_id,
            attempt_nr=one.attempt_nr,
            count=count,
            **news,
        )
        return await self.service.items.exchange_items(ask, self.caller)

    async def report(self, one: m.RawAssignment, *, finished: bool = True, **facts: object) -> str:
        report = m.Report(
            job_id=one.job_id,
            attempt_nr=one.attempt_nr,
            report_key=facts.pop("key", one.report_key),
            finished=finished,
            **facts,
        )
        answer = await self.service.conclusions.report(m.Reports(reports=(report,)), ANONYMOUS)
        return answer.verdicts[0].verdict


class Bench:
    """A service, and the time it believes in."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def submit(self, *jobs: JobSpec, caller: Caller = ALICE, request: str = "") -> list[int]:
        ask = m.Submit(request_id=request or new_id(), jobs=jobs or (job(),))
        return list((await self.service.intake.submit(ask, caller)).job_ids)

    async def upload(self, count: int, caller: Caller = ALICE, **fields: object) -> Payloads:
        """A list of as many items."""
        name = new_id()
        for first in range(0, count, 1000):
            slice_ = tuple(ItemSpec(**fields) for _ in range(first, min(count, first + 1000)))
            ask = m.AddItems(list=name, first=first, items=slice_)
            await self.service.items.add_items(ask, caller)
        return Payloads(list=name, count=count)

    async def carrying(self, count: int, **fields: object) -> int:
        """A job that carries so many items."""
        (job_id,) = await self.submit(job(payloads=await self.upload(count), **fields))
        return job_id

    async def counts(self, job_id: int) -> m.ItemCounts:
        return (await self.service.users.show(None, ALICE, job_id=job_id)).items

    async def items(self, job_id: int, **query: object) -> m.ItemPage:
        return await self.service.items.items(ItemsQuery(**query), ALICE, job_id=job_id)

    async def worker(
        self, queue: str = "q", total: Room = BIG, host: str = "", site: str = "", **facts: object
    ) -> Worker:
        ask = m.Register(instance=new_id(), queue=queue, total=total, host=host, site=site, **facts)
        caller = Caller(subject="ops", scopes=frozenset({Scope.PILOT}))
        return Worker(self.service, await self.service.registration.register(ask, caller), queue)

    async def state(self, job_id: int) -> JobState:
        return (await self.service.users.show(None, ALICE, job_id=job_id)).row.state

    async def listed(self) -> m.JobPage:
        return await self.service.users.jobs(JobsQuery(limit=1000), ALICE)

    async def told(self) -> list[m.Event]:
        admin = Caller(subject="boss", scopes=frozenset({Scope.ADMIN}))
        return list((await self.service.users.events(EventsQuery(limit=1000), admin)).events)

    async def forward(self, seconds: float) -> None:
        """Let awake time pass, as the service's own clock would."""
        await self.service.tick(self.service.state.awake.now + seconds)


@asynccontextmanager
async def bench(place: str | Path, **settings: object):
    """A service on the store at the URL `place`, or in that folder; closed at the end."""
    url = place if isinstance(place, str) else f"sqlite:///{place / 'queue.db'}"
    service = await Service.open(
        open_store(url),
        secret=b"s" * 32,
        mint=lambda subject, scopes, lifetime_s, **claims: f"token-of-{subject}",
        settings=Settings(**settings),
    )
    try:
        yield Bench(service)
    finally:
        await service.close()


def run(test, place: str | Path, **settings: object) -> None:
    """Run a coroutine function with a bench."""

    async def main() -> None:
        async with bench(place, **settings) as one:
            await asyncio.wait_for(test(one), 30)

    asyncio.run(main())
