"""A relay before a real dispatcher's service and store; between them a way that can be cut, and a
clock that we move."""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from ailurus.envelope import Reader
from ailurus.logs import Log
from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME, Scope
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from ailurus.protocol.worker import Ending
from ailurus.wire.client import Refused, Unreachable
from dispatcher.auth.caller import ANONYMOUS, Caller
from dispatcher.refusal import Rejected
from harvester_edge.relay import state
from harvester_edge.relay.dispatcher import Exchange
from harvester_edge.relay.pilots import Pilots
from harvester_edge.relay.proof import NOTE, planned, sum_of
from harvester_edge.relay.store import RelayStore
from tests.dispatcher.helpers import ALICE, EDGE, bench, job, new_id

RELAY = Caller(subject="relay", scopes=frozenset({Scope.RELAY}), site="here")
OUTAGE_S = 4 * 3600.0
ROOM = Room(cores=1, memory_mb=4000, disk_mb=8000)
_numbers = itertools.count(1)


class Way:
    """What `Upstream` is to a relay: calls the service, as if over a wire."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.up = True
        self.cut = False
        self.loses = lambda name: False  # whether the answer to this call is lost
        self.calls: list[str] = []

    async def call(
        self, name: str, ask: Any, answer: Any, *, wait_s: float = 0.0, token: str | None = None
    ) -> Any:
        self.calls.append(name)
        if self.cut:
            self.up = False
            raise Unreachable("cut")
        route = BY_NAME[name]
        asked = msgspec.json.decode(msgspec.json.encode(ask), type=route.ask)
        caller = _bootstrap(token) if token else ANONYMOUS if name == "report" else RELAY
        try:
            got = await self.service.handlers()[name](asked, caller)
        except Rejected as no:
            raise Refused(m.Problem(title=no.title, status=no.status)) from None
        if self.loses(name):
            self.up = False
            raise Unreachable("the answer was lost")
        self.up = True
        return msgspec.json.decode(msgspec.json.encode(got), type=route.answer)


class Pilot:
    """A pilot as the relay sees it."""

    def __init__(self, world: World, token: str) -> None:
        self.world, self.credential = world, token
        self.ask = m.Register(instance=new_id(), queue="q", site="here", total=ROOM, host=new_id())
        self.token = ""
        self.reader = Reader()
        self.has: dict[tuple[int, int], m.Assignment] = {}

    async def register(self) -> m.Registered:
        got = await self.world.relay.register(self.ask, self.credential)
        self.token = got.token
        return got

    @property
    def known(self) -> state.Pilot:
        return self.world.relay.who(self.token)

    async def acquire(
        self,
        *,
        wait_s: float = 0.0,
        request: str = "",
        count: int = 1,
        items: bool = False,
        uploads: bool = False,
    ) -> list[m.Assignment]:
        ask = m.Acquire(
            request_id=request or new_id(),
            room=ROOM,
            wait_s=wait_s,
            count=count,
            items=items or uploads,
            item_files=uploads,
            uploads=uploads,
        )
        got = list((await self.world.relay.acquire(ask, self.known)).jobs)
        self.has |= {(one.job_id, one.attempt_nr): one for one in got}
        return got

    async def beat(self, state: JobState = JobState.RUNNING) -> m.BeatAnswer:
        updates = tuple(
            m.Update(job_id=one[0], attempt_nr=one[1], state=state, since=time.time())
            for one in self.has
        )
        return await self.world.relay.beat(m.Beat(jobs=updates, room=ROOM), self.known)

    async def exchange(self, one: m.Assignment, count: int = 0, *ended: m.ItemEnd) -> m.ItemsAnswer:
        ask = m.ItemsRequest(
            request_id=new_id(), job_id=one.job_id, attempt_nr=one.attempt_nr, count=count,
            ended=ended,
        )  # fmt: skip
        return await self.world.relay.exchange_items(ask, self.known)

    async def credentials(self, one: m.Assignment) -> m.Credentials:
        ask = m.CredentialsRequest(
            job_id=one.job_id, attempt_nr=one.attempt_nr, sealed_to=self.reader.public
        )
        return await self.world.relay.job_credentials(ask, self.known)

    async def report(self, one: m.Assignment, **facts: Any) -> str:
        report = m.Report(
            job_id=one.job_id, attempt_nr=one.attempt_nr, finished=True, ended=time.time(),
            report_key=facts.pop("key", one.report_key), **facts,
        )  # fmt: skip
        answer = await self.world.relay.report(m.Reports(reports=(report,)))
        self.has.pop((one.job_id, one.attempt_nr), None)
        return answer.verdicts[0].verdict

    async def bye(self, ending: Ending = Ending.DONE) -> None:
        await self.world.relay.bye(m.Bye(ending=ending), self.known)


class World:
    """A dispatcher, the way to it, and a relay that can be killed."""

    def __init__(self, b: Any, directory: Path, prefetch: int) -> None:
        self.b, self.directory, self.prefetch = b, directory, prefetch
        self.way = Way(b.service)
        self.places = directory / "workers"
        self.start()

    def start(self) -> None:
        self.store = RelayStore(self.directory / "relay.sqlite")
        log = Log("relay")
        self.state = state.RelayState(state.Terms(site="here", prefetch=self.prefetch), self.store)
        self.upper = Exchange(self.state, self.way, log)  # type: ignore[arg-type]
        self.relay = Pilots(self.state, self.upper, lambda token: planned(self.places, token), log)

    def kill(self) -> None:
        """kill -9, and the next one on what is on disk."""
        self.store.close()
        self.start()

    async def plan(self, count: int = 1) -> list[Pilot]:
        """Planned workers' pilots, before they register."""
        welcome = await self.b.service.edges.hello(
            m.Hello(site="here", instance="e", slots=()), EDGE
        )
        intent = f"t{next(_numbers)}"
        ask = m.NewIntent(
            site="here", epoch=welcome.epoch, intent=intent, queue="q", count=count,
            deadline=time.time() + 900, outage_s=OUTAGE_S,
        )  # fmt: skip
        await self.b.service.edges.intent(ask, EDGE)
        tokens = [_token(intent, index, welcome.epoch) for index in range(count)]
        for index, token in enumerate(tokens):
            place = self.places / intent / str(index)
            place.mkdir(parents=True)
            (place / NOTE).write_bytes(sum_of(token))
        return [Pilot(self, token) for token in tokens]

    async def pilots(self, count: int = 1) -> list[Pilot]:
        made = await self.plan(count)
        for one in made:
            await one.register()
        return made

    async def submit(self, count: int = 1) -> list[int]:
        return await self.b.submit(
            *(job(f"j{next(_numbers)}", memory_mb=100) for _ in range(count))
        )

    async def turn(self, times: int = 1) -> None:
        """What the relay's two loops do, once."""
        upper = self.upper
        for _ in range(times):
            try:
                await upper.send(self.state.due()[:500])
                await upper._register_late()
                await upper._tell()
                now = upper._next()
                if now.asks and self.way.up:
                    ask = m.RelayAcquire(site="here", asks=now.asks)
                    got = await self.way.call("relay_acquire", ask, m.RelayAcquired)
                    await upper._arrived(got, now)
            except Unreachable:
                pass

    async def fill(
        self, pilot: Pilot, *, items: bool = False, uploads: bool = False
    ) -> list[m.Assignment]:
        """An acquire that waits, while the relay fetches for it."""
        waiting = asyncio.create_task(pilot.acquire(wait_s=5, items=items, uploads=uploads))
        while not waiting.done():
            await asyncio.sleep(0)
            await self.turn()
            await asyncio.sleep(0.01)
        return await waiting

    async def rows(self, ids: list[int]) -> list[m.JobRow]:
        return [(await self.b.service.users.show(None, ALICE, job_id=one)).row for one in ids]


@asynccontextmanager
async def world(path: Path, prefetch: int = 1):
    async with bench(path) as b:
        one = World(b, path, prefetch)
        try:
            yield one
        finally:
            one.store.close()


def play(test: Any, path: Path, prefetch: int = 1) -> None:
    """Run a coroutine function with a world."""

    async def main() -> None:
        async with world(path, prefetch) as one:
            await asyncio.wait_for(test(one), 50)

    asyncio.run(main())


def _token(intent: str, index: int, epoch: int) -> str:
    claims = {"exp": int(time.time()) + 900, "intent": intent, "index": index, "epoch": epoch}
    body = base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=").decode()
    return f"head.{body}.{new_id()}"


def _bootstrap(token: str) -> Caller:
    body = token.split(".")[1]
    claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return Caller(
        subject="bootstrap", scopes=frozenset({Scope.BOOTSTRAP}), intent=claims["intent"],
        index=claims["index"], epoch=claims["epoch"], queue="q", site="here",
    )  # fmt: skip
