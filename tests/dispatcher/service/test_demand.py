"""Demand as sites are told it: each job by those that could run it, and by those alone."""

from __future__ import annotations

import asyncio

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.resources import Room
from dispatcher.auth.caller import Caller
from tests.dispatcher.helpers import EDGE, job, run


class Site:
    """A site with one slot for queue q."""

    def __init__(self, bench, name, cores, queue="q"):
        self.bench, self.name = bench, name
        self.caller = Caller(subject=name, scopes=frozenset({Scope.EDGE}), site=name)
        room = Room(cores=cores, memory_mb=64_000, disk_mb=100_000)
        self.slots = (m.SlotShape(name="std", queue=queue, room=room),)

    async def hello(self, *, online=True):
        ask = m.Hello(site=self.name, instance=self.name, slots=self.slots, online=online)
        self.epoch = (await self.bench.service.edges.hello(ask, self.caller)).epoch

    async def demand(self, room=None):
        """Jobs by cores, and how many sites share them."""
        ask = m.DemandRequest(site=self.name, epoch=self.epoch, room=room)
        answer = await self.bench.service.edges.demand(ask, self.caller)
        return {one.shape.cores: (one.jobs, one.sites) for one in answer.shapes}


def test_jobs_are_shared_by_the_sites_that_could_run_them(place):
    async def test(b):
        await b.submit(job("small"), job("big", cores=8), job("big2", cores=8))
        large, small = Site(b, "large", 16), Site(b, "small", 4)
        elsewhere = Site(b, "elsewhere", 16, queue="other")
        for site in (large, small, elsewhere):
            await site.hello()
        assert await large.demand() == {1: (1, 2), 8: (2, 1)}
        assert await small.demand() == {1: (1, 2), 8: (2, 2)}

    run(test, place)


def test_a_site_that_is_full_paused_or_silent_leaves_its_share(place):
    async def test(b):
        await b.submit(job("a"))
        one, two = Site(b, "one", 4), Site(b, "two", 4)
        await one.hello()
        await two.hello()
        assert await one.demand() == {1: (1, 2)}
        await two.demand(room=0)
        assert await one.demand() == {1: (1, 1)}
        await two.demand(room=3)
        assert await one.demand() == {1: (1, 2)}
        await two.hello(online=False)
        assert await one.demand() == {1: (1, 1)}
        await two.hello()
        await b.forward(121)
        await one.hello()
        assert await one.demand() == {1: (1, 1)}

    run(test, place)


def test_others_get_their_turn_while_many_tokens_are_made(tmp_path):
    """Ten thousand signatures stopped everybody for more than a second."""

    async def test(b):
        hello = m.Hello(site="here", instance="e", slots=())
        epoch = (await b.service.edges.hello(hello, EDGE)).epoch
        made = 0

        def mint(*_, **__) -> str:
            nonlocal made
            made += 1
            return "token"

        b.service.mint = mint
        ask = m.NewIntent(site="here", epoch=epoch, intent="i", queue="q", count=1000, deadline=9e9)
        asked, most, before = asyncio.ensure_future(b.service.edges.intent(ask, EDGE)), 0, 0
        while not asked.done():
            await asyncio.sleep(0)
            most, before = max(most, made - before), made
        assert len((await asked).tokens) == 1000
        assert most <= 50

    run(test, tmp_path)
