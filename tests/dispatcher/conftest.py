"""The rules hold on both stores: a test that asks for `place`, or a service on it, is run on each.

A test that is a coroutine function runs on an event loop of its own, with `b` a service that is
open.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from tests.dispatcher.helpers import Bench, bench

FIXTURE = Path(__file__).parents[2] / "scripts/fixtures/postgres"
_numbers = itertools.count()


class Server:
    """A PostgreSQL of one's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = self.start()

    def start(self) -> str:
        # what is tested is no power cut: the kernel keeps what it was given
        return self._ask("start", "fsync=off", "full_page_writes=off")

    def kill(self) -> None:
        self._ask("kill")

    def stop(self) -> None:
        self._ask("stop")

    def database(self) -> str:
        """The URL of a new, empty one."""
        import psycopg

        name = f"ailurus_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        return self.url.replace("/ailurus?", f"/{name}?")

    def drop(self, url: str) -> None:
        """Take a database away: hundreds at the end are 100,000 files to be removed at once."""
        import psycopg

        name = url.rpartition("?")[0].rpartition("/")[2]
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"drop database {name} with (force)".encode())

    def _ask(self, verb: str, *more: str) -> str:
        argv = [str(FIXTURE), verb, str(self.folder), *more]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@contextmanager
def _server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="ailurus-pg-") as folder:
        Path(folder).chmod(0o755)  # as root it is another user's
        server = Server(Path(folder, "server"))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres(need) -> None:
    """A test asks for this that starts a server."""
    need("pg_ctl", package="postgresql", option="--postgres", where="/usr/lib/postgresql/*/bin")


@pytest.fixture(scope="session")
def postgres_server(postgres) -> Iterator[Server]:
    """One server for all tests of this process; each takes a database of its own."""
    with _server() as server:
        yield server


@pytest.fixture
def own_server(postgres) -> Iterator[Server]:
    """A server that a test may kill."""
    with _server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path) -> Iterator[str]:
    """The URL of an empty store."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'queue.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    url = server.database()
    yield url
    server.drop(url)


@pytest.fixture
def b(request, place) -> AbstractAsyncContextManager[Bench]:
    """A service on an empty store, with the settings of the test's marker `settings`."""
    marker = request.node.get_closest_marker("settings")
    return bench(place, **(marker.kwargs if marker else {}))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "settings(**settings): of the service that the test is given"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine function; what it is given and must be entered is entered on the same
    loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    given = {name: pyfuncitem.funcargs[name] for name in names}

    async def main() -> None:
        async with AsyncExitStack() as stack:
            for name, value in given.items():
                if isinstance(value, AbstractAsyncContextManager):
                    given[name] = await stack.enter_async_context(value)
            await asyncio.wait_for(pyfuncitem.obj(**given), 30)

    asyncio.run(main())
    return True
