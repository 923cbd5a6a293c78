"""What inputs are is asked of the catalogue once for many jobs, and not for long."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from ailurus.protocol.trees import MOST_FILES
from dispatcher.catalogue.messages import Answer, NotNow, Request, Resolve
from dispatcher.ports import CatalogueUnavailable, Contents, Fault, KnownFile
from dispatcher.service import known_data
from dispatcher.service.known_data import KEPT_S, KnownData
from tests.dispatcher.helpers import bench
from tests.rig.catalogue import InMemory

RAW = Contents(
    kind="dataset", open=True, files=(KnownFile(name="raw:1", size=1, adler32="00000001"),)
)


class Asked(InMemory):
    """Counts what it is asked; until `release` is set it does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.before["raw:all"] = RAW
        self.asked: list[str] = []
        self.release = asyncio.Event()
        self.release.set()

    async def ask(self, request: Request) -> Answer:
        assert isinstance(request, Resolve)
        self.asked.append(request.did)
        await self.release.wait()
        return await super().ask(request)


@pytest.fixture
def at(tmp_path):
    """Opens a service, with a catalogue beside it."""

    @asynccontextmanager
    async def opened():
        async with bench(tmp_path) as one:
            catalogue = Asked()
            yield one, catalogue, KnownData(one.service.state, catalogue.ask)

    return opened


async def test_more_files_than_a_job_has_are_not_carried_over(at):
    async with at() as (_, catalogue, known):
        files = RAW.files * (MOST_FILES + 1)
        catalogue.before["raw:huge"] = Contents(kind="container", open=True, files=files)
        assert await known.of("raw:huge") is None
        assert await known.of("raw:huge") is None
        assert catalogue.asked == ["raw:huge"]


async def test_an_answer_is_kept_for_the_jobs_of_a_minute(at):
    async with at() as (one, catalogue, known):
        assert [await known.of("raw:all") for _ in range(3)] == [RAW] * 3
        assert await known.of("raw:none") is None
        assert await known.of("raw:none") is None
        assert catalogue.asked == ["raw:all", "raw:none"]
        await one.forward(KEPT_S + 1)
        await known.of("raw:all")
        assert catalogue.asked == ["raw:all", "raw:none", "raw:all"]


async def test_what_the_catalogue_cannot_say_now_is_asked_again(at):
    async with at() as (_, catalogue, known):
        catalogue.away = "connection refused"
        with pytest.raises(CatalogueUnavailable, match="connection refused"):
            await known.of("raw:all")
        catalogue.away = ""
        catalogue.refuse["raw:all"] = Fault(key=0, reason="locked", transient=True)
        del catalogue.before["raw:all"]
        with pytest.raises(CatalogueUnavailable, match="locked"):
            await known.of("raw:all")
        catalogue.before["raw:all"] = RAW
        catalogue.refuse.clear()
        assert await known.of("raw:all") == RAW


async def test_what_the_catalogue_refuses_is_not_known(at):
    async with at() as (_, catalogue, known):
        catalogue.refuse["x:y"] = Fault(key=0, reason="no scope x")
        assert await known.of("x:y") is None


async def test_nobody_waits_for_a_busy_catalogue_and_its_answer_is_not_lost(at, monkeypatch):
    async with at() as (_, catalogue, known):
        monkeypatch.setattr(known_data, "WAIT_S", 0.01)
        catalogue.release.clear()
        with pytest.raises(CatalogueUnavailable, match="busy"):
            await known.of("raw:all")
        catalogue.release.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert await known.of("raw:all") == RAW
        assert catalogue.asked == ["raw:all"]


async def test_a_busy_catalogue_is_asked_once_for_each_and_for_few(at, monkeypatch):
    async with at() as (_, catalogue, known):
        monkeypatch.setattr(known_data, "WAIT_S", 0.01)
        monkeypatch.setattr(known_data, "MOST_ASKED", 2)
        catalogue.release.clear()
        for did in ("raw:all", "raw:all", "raw:b", "raw:all", "raw:c", "raw:d"):
            with pytest.raises(CatalogueUnavailable, match="busy"):
                await known.of(did)
        assert catalogue.asked == ["raw:all", "raw:b"]
        catalogue.release.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert await known.of("raw:all") == RAW
        assert await known.of("raw:c") is None
        assert catalogue.asked == ["raw:all", "raw:b", "raw:c"]


async def test_without_a_catalogue_nothing_is_known(at):
    async with at() as (one, *_):
        assert await KnownData(one.service.state, None).of("raw:all") is None


async def test_a_process_that_ends_is_a_catalogue_that_is_away(at):
    async with at() as (one, *_):

        async def dies(_: Request) -> Answer:
            raise CatalogueUnavailable("the process of the catalogue ended")

        async def says(_: Request) -> Answer:
            return NotNow(reason="no route")

        for ask, why in ((dies, "ended"), (says, "no route")):
            with pytest.raises(CatalogueUnavailable, match=why):
                await KnownData(one.service.state, ask).of("raw:all")
