"""What a mover in its own process tells when a real storage fails, and what it leaves: nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ailurus.protocol.errors import Code
from pilot.ports import Moved, NotMoved, ToGet, ToPut
from pilot.process.children import Launch, mover_command, mover_environment
from pilot.process.mover_pool import MoverPool, Watch
from plugins.data.moving import system_module
from tests.pilot.helpers import guarded
from tests.rig.services import Service

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(40)]
LIBRARIES = {"gfal2": "gfal2", "xrootd": "XRootD.client"}
FILE_S = 5.0
LARGE_BYTES = 1 << 28


class Site:
    """A real storage, and the pilot's pool of one mover for it."""

    def __init__(self, name: str, service: Service, spawner: Any, directory: Path) -> None:
        self.service, self.directory, self.name = service, directory, name
        self.scheme = "root" if name == "xrootd" else "davs"
        self._launch = Launch(
            spawner=spawner,
            directory=directory / "movers",
            command=mover_command(),
            environment=mover_environment(os.environ),
        )
        self.pools: list[MoverPool] = []
        self.pool = self.made()
        self.got = directory / "got"

    def made(self, **options: str) -> MoverPool:
        facts = self.service.facts
        trust = {"ca": facts["ca_file"], "ca_dir": facts["ca_dir"], "stall": 30}
        self.pools.append(MoverPool(self.name, {**trust, **options}, self._launch))
        return self.pools[-1]

    def with_token(self, scope: str, lifetime_s: int = 600) -> MoverPool:
        path = self.directory / "bearer"
        path.write_text(self.service.ask("token", scope, lifetime_s), encoding="utf-8")
        path.chmod(0o600)
        return self.made(token_file=str(path))

    def url(self, name: str) -> str:
        return f"{self.service.facts[self.scheme]}/{name}"

    def token_url(self, name: str) -> str:
        return f"{self.service.facts['token'][self.scheme]}/{name}"

    def get(
        self,
        url: str,
        pool: MoverPool | None = None,
        progress: Callable[[int, int], None] = lambda key, moved_bytes: None,
    ) -> Moved | NotMoved:
        file = ToGet(key=1, url=url, path=str(self.got))
        return (pool or self.pool).get([file], watch(progress))[1]

    def put(self, url: str, size: int, pool: MoverPool | None = None) -> Moved | NotMoved:
        path = self.directory / "sent"
        with path.open("wb") as file:
            file.truncate(size)
        with path.open("rb") as source:
            file = ToPut(key=1, url=url, path=str(path), size=size)
            return (pool or self.pool).put([file], {1: source.fileno()}, watch())[1]

    def stored(self, name: str, size: int) -> str:
        path = Path(self.service.facts["store"], name)
        with path.open("wb") as file:
            file.truncate(size)
        path.chmod(0o644)
        return self.url(name)


def watch(progress: Callable[[int, int], None] = lambda key, moved_bytes: None) -> Watch:
    return Watch(
        check=lambda: None,
        wakeup=threading.Event(),
        time_s=lambda size: FILE_S,
        progress=progress,
    )


@pytest.fixture(params=["gfal2", "xrootd"])
def site(request, xrootd, tmp_path) -> Iterator[Site]:
    try:
        system_module(LIBRARIES[request.param])
    except ImportError:
        pytest.skip(f"no {LIBRARIES[request.param]} for this Python: scripts/setup --xrootd")
    with guarded() as spawner:
        made = Site(request.param, xrootd, spawner, tmp_path)
        yield made
        for pool in made.pools:
            pool.close()


def failed(end: Moved | NotMoved) -> tuple[Code, bool]:
    assert isinstance(end, NotMoved), end
    return Code(end.code), end.transient


def test_a_missing_file_is_told(site):
    end = site.get(site.url("nope"))
    assert failed(end) == (Code.NO_SUCH_FILE, False)
    assert not site.got.exists()


def test_a_storage_that_is_away_is_told_with_a_remedy(site):
    url = site.stored("away", 1000)
    site.service.ask("down")
    try:
        end = site.get(url)
    finally:
        site.service.ask("up")
    assert failed(end) == (Code.SERVICE_UNAVAILABLE, True)
    assert end.remedy
    assert not site.got.exists()


def test_a_silent_storage_costs_a_file_its_time_and_no_more(site):
    url = site.stored("silent", LARGE_BYTES)
    site.service.ask("signal", "STOP")
    try:
        end = site.get(url)
    finally:
        site.service.ask("signal", "CONT")
    assert failed(end) == (Code.STAGE_IN_TIMEOUT, True)
    assert not site.got.exists()
    assert isinstance(site.get(url), Moved)


def test_a_full_storage_is_told_with_a_remedy(site):
    if not site.service.facts.get("full"):
        pytest.skip("only root can make a small storage")
    end = site.put(site.url(f"{site.service.facts['full']}/large"), 4 << 20)
    assert failed(end) == (Code.STAGE_OUT_FAILED, True)
    assert end.remedy
    assert isinstance(site.get(site.url(f"{site.service.facts['full']}/large")), NotMoved)


def test_a_token_for_reading_does_not_write(site):
    pool = site.with_token("storage.read:/")
    end = site.put(site.token_url("denied"), 10, pool)
    assert failed(end)[0] == Code.STAGE_OUT_FAILED
    assert end.remedy
    assert not Path(site.service.facts["store"], "denied").exists()


def test_an_expired_token_is_told_with_a_remedy(site):
    site.stored("kept", 10)
    pool = site.with_token("storage.read:/", -60)
    end = site.get(site.token_url("kept"), pool)
    assert failed(end)[0] == Code.STAGE_IN_FAILED
    assert end.remedy
    assert not site.got.exists()
