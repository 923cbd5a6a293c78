"""Back-up, restore and what comes after (R12), on both stores."""

from __future__ import annotations

import asyncio
import stat

import pytest

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.states import JobState
from dispatcher.store import archive
from tests.dispatcher.helpers import ALICE, bench, job


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request, tmp_path):
    """URLs of one store and of a place for another."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/a/queue.db", f"sqlite:///{tmp_path}/b/queue.db"
    server = request.getfixturevalue("postgres_server")
    return server.database(), server.database()


def test_r12_a_back_up_taken_under_load_is_whole_and_runs_on_as_if_nothing_later_had_been(
    stores, tmp_path
):
    before, after = stores

    async def life() -> None:
        async with bench(before) as one:
            kept = await one.submit(*(job(f"kept-{nr}") for nr in range(20)))
            old = await one.worker()
            (running,) = await old.acquire()
            (done,) = await old.acquire()
            assert await old.report(done) == "accepted"
            beside = [asyncio.create_task(one.submit(job(f"beside-{nr}"))) for nr in range(50)]
            await asyncio.to_thread(archive.save, before, tmp_path)
            await asyncio.gather(*beside)
            lost = await one.submit(job("lost"), request="again")
            (taken,) = await old.acquire()  # after the back-up, which does not know of it
            later = await one.worker()
        await asyncio.to_thread(archive.load, after, tmp_path)
        async with bench(after) as two:
            rows = {row.job_id: row for row in (await two.listed()).jobs}
            assert set(kept) <= set(rows)
            assert not set(lost) & set(rows)
            assert rows[running.job_id].state == JobState.SENT
            assert rows[done.job_id].state == JobState.FINISHED
            assert rows[taken.job_id].state == JobState.ACTIVATED
            counted = (await two.service.figures.overview(None, ALICE)).states
            assert sum(counted.values()) == len(rows)
            # who ran before the back-up goes on, who began after it is not believed
            old.service = two.service
            assert await old.report(running) == "accepted"
            fresh = await two.worker()
            assert fresh.id > archive.GAP > later.id
            again = await fresh.acquire(count=1)
            assert again[0].job_id == taken.job_id
            assert await old.report(taken) == "badkey"
            assert await fresh.report(again[0]) == "accepted"
            # a submission that the restore forgot is made anew when it is repeated, with a new id
            (anew,) = await two.submit(job("lost"), request="again")
            assert anew > archive.GAP
            seqs = [event.seq for event in await two.told()]
            assert seqs == sorted(set(seqs))
            assert seqs[-1] > archive.GAP

    asyncio.run(asyncio.wait_for(life(), 50))


def test_r12_what_is_there_is_never_overwritten(stores, tmp_path):
    before, after = stores

    async def made(url: str, name: str) -> list[int]:
        async with bench(url) as one:
            return await one.submit(job(name))

    asyncio.run(made(before, "saved"))
    archive.save(before, tmp_path)
    asyncio.run(made(after, "there"))
    with pytest.raises(AilurusError, match=r"is there|not empty"):
        archive.load(after, tmp_path)

    async def names(url: str) -> list[str]:
        async with bench(url) as one:
            return [row.name for row in (await one.listed()).jobs]

    assert asyncio.run(names(after)) == ["there"]


def test_a_copy_is_private_and_a_folder_without_one_is_named(tmp_path):
    url = f"sqlite:///{tmp_path}/queue.db"

    async def made() -> None:
        async with bench(url):
            pass

    asyncio.run(made())
    (tmp_path / "out").mkdir()
    copy = archive.save(url, tmp_path / "out")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with pytest.raises(AilurusError, match="there is no"):
        archive.load(f"sqlite:///{tmp_path}/other.db", tmp_path / "nowhere")
    assert not (tmp_path / "other.db").exists()


def test_a_restore_that_breaks_off_leaves_no_store(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/a/queue.db"

    async def made() -> None:
        async with bench(url):
            pass

    asyncio.run(made())
    archive.save(url, tmp_path)

    def breaks(tx):
        raise OSError("the disk is gone")

    monkeypatch.setattr(archive, "_leave_a_gap", breaks)
    with pytest.raises(AilurusError, match="the disk is gone"):
        archive.load(f"sqlite:///{tmp_path}/b/queue.db", tmp_path)
    assert list((tmp_path / "b").iterdir()) == []


def test_no_password_of_a_database_is_seen_in_the_process_list(monkeypatch):
    seen = {}

    class Done:
        returncode, stdout = 0, "0"

    def run(argv, *, env, **_):
        seen.update(argv=argv, env=env)
        return Done()

    monkeypatch.setattr(archive.subprocess, "run", run)
    archive._run(["pg_dump"], "postgresql://me:se%40cret@db.example.org:5/x?sslmode=require")
    assert seen["env"]["PGPASSWORD"] == "se@cret"
    assert seen["argv"][-1] == "--dbname=postgresql://me@db.example.org:5/x?sslmode=require"
