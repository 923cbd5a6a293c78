"""What an administrator does to a database while dispatchers are on it, and what stands in
between."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.states import JobState
from dispatcher.cli.doctor import postgres as looked_at
from dispatcher.ports import Unavailable
from dispatcher.store import open_store
from tests.dispatcher.helpers import bench
from tests.rig.waiting import eventually

pytestmark = pytest.mark.field("K1")


@pytest.fixture
def database(postgres_server) -> str:
    return postgres_server.database()


@pytest.fixture
def admin(database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def test_while_a_table_is_renamed_nobody_leads_and_afterwards_leases_expire(database, admin):
    async def main() -> None:
        async with (
            bench(database, heartbeat_s=0.1) as one,
            bench(database, heartbeat_s=0.1) as two,
        ):
            both = (one.service, two.service)
            (job,) = await one.submit()
            worker = await one.worker()
            await worker.acquire()
            await eventually(lambda: one.service.peers.leads or two.service.peers.leads)
            await asyncio.to_thread(admin.execute, "alter table process rename to x")
            await eventually(lambda: all(service.loops.failures()["time"] for service in both))
            await eventually(lambda: not any(service.peers.leads for service in both))
            await asyncio.to_thread(admin.execute, "alter table x rename to process")
            led: set[int] = set()

            def expired() -> bool:
                leaders = [nr for nr, service in enumerate(both) if service.peers.leads]
                assert len(leaders) < 2
                led.update(leaders)
                return bool(leaders) and not one.service.state.leases.of(job)

            await eventually(expired)
            assert led
            assert await one.state(job) is JobState.ACTIVATED  # its pilot was never heard again

    asyncio.run(main())


def test_who_cannot_say_that_it_lives_leads_no_more_before_another_does(database, monkeypatch):
    async def main() -> None:
        async with bench(database) as one, bench(database) as two:
            await eventually(lambda: one.service.peers.leads)

            async def cut_off(*_: object) -> None:
                raise Unavailable("no route")

            monkeypatch.setattr(one.service.store, "write", cut_off)

            def taken_over() -> bool:
                assert not (one.service.peers.leads and two.service.peers.leads)
                return two.service.peers.leads

            await eventually(taken_over)
            monkeypatch.undo()

    asyncio.run(main())


def test_a_revoked_right_is_no_bug_of_ours_and_over_when_it_is_given_back(database, admin):
    user = f"app_{os.getpid()}_{time.monotonic_ns()}"
    admin.execute(f"create role {user} login".encode())
    admin.execute(f"grant all on schema public to {user}".encode())
    mine = database.replace("//ailurus@", f"//{user}@")

    async def main() -> None:
        async with bench(mine) as one:
            admin.execute(f"revoke all on all tables in schema public from {user}".encode())
            with pytest.raises(Unavailable, match="permission denied"):
                await one.submit()
            with pytest.raises(Unavailable, match="permission denied"):
                await one.listed()
            admin.execute(f"grant all on all tables in schema public to {user}".encode())
            assert await one.submit()

    try:
        asyncio.run(main())
    finally:
        admin.execute(f"reassign owned by {user} to ailurus".encode())


def test_what_is_said_on_the_channel_by_others_stops_no_loop(database, admin):
    async def main() -> None:
        async with bench(database) as one:
            await one.submit()
            admin.execute("notify ailurus_bulletins, 'no json'")
            await eventually(lambda: one.service.loops.failures().get("subscribers", 0) == 1)
            assert one.service.loops.failures()["listen"] == 0

    asyncio.run(main())


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0


@contextmanager
def pooler(url: str, folder: Path, mode: str) -> Iterator[str]:
    """The URL of the same database behind a PgBouncer."""
    name, host = url.split("@/")[1].split("?host=")
    folder.mkdir(mode=0o755)
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{name} = host={host} user=ailurus\n"
        f"[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {folder}\n"
        f"auth_type = any\npool_mode = {mode}\nserver_round_robin = 1\n"
    )
    argv = ["/usr/sbin/pgbouncer", "-q", str(settings)]
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *argv]
    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stderr=log) as running:
        try:
            deadline = time.monotonic() + 10
            while not listens(folder / ".s.PGSQL.6432"):  # it is there before it listens
                assert running.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield f"postgresql://ailurus@/{name}?host={folder}&port=6432"
        finally:
            running.terminate()
            running.wait(10)


@pytest.fixture
def pgbouncer(need) -> None:
    need("pgbouncer", package="pgbouncer", option="--postgres", where="/usr/sbin")


@pytest.fixture
def folder(tmp_path_factory) -> Iterator[Path]:
    """One that another user can reach, with a path short enough for a socket."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ailurus-pb-") as made:
        Path(made).chmod(0o755)
        yield Path(made, "pooler")


@pytest.mark.real
@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("others", [0, 3])
def test_a_pooler_that_breaks_sessions_is_refused_at_the_start(
    pgbouncer, database, folder, mode, others
):
    with pooler(database, folder, mode) as url:
        idle = [psycopg.connect(url, autocommit=True) for _ in range(others)]
        for one in idle:  # sessions that the pooler has at hand
            one.execute("select 1")
        with pytest.raises(AilurusError, match="pooler") as refused:
            open_store(url)
        assert "session" in refused.value.remedy
        assert [one.state for one in looked_at(url)][-1] == "wrong"
        for one in idle:
            one.close()


@pytest.mark.real
def test_a_pooler_that_keeps_sessions_is_as_good_as_the_server(pgbouncer, database, folder):
    async def main(url: str) -> None:
        async with bench(url) as one, bench(database) as two:
            waiting = asyncio.create_task((await one.worker()).acquire(wait_s=20.0))
            await asyncio.sleep(0)
            await two.submit()
            assert len(await asyncio.wait_for(waiting, 10)) == 1

    with pooler(database, folder, "session") as url:
        asyncio.run(main(url))
        assert all(one.state == "ok" for one in looked_at(url))
