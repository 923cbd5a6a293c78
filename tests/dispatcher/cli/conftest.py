"""A real dispatcher in a process of its own, and its command in this one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dispatcher.cli import main
from tests.rig.dispatcher import Dispatcher


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Dispatcher]]:
    """Starts dispatchers on one store; what still runs is stopped at the end."""
    started: list[Dispatcher] = []

    def begin(*options: str, listen: str = "127.0.0.1:0") -> Dispatcher:
        started.append(Dispatcher(tmp_path, *options, listen=listen))
        return started[-1]

    yield begin
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """One dispatcher for all tests that only need one."""
    running = Dispatcher(tmp_path_factory.mktemp("dispatcher"))
    yield running
    running.stop()


@pytest.fixture
def environment(
    server: Dispatcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """This user's environment: the server is found, nothing else is."""
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AILURUS_URL", server.url)
    monkeypatch.setenv("AILURUS_TOKEN_FILE", str(server.token_file))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return dict(os.environ)


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def run(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`run("jobs", "--json")` → exit code, stdout, stderr."""

    def verb(*words: str) -> Ran:
        capsys.readouterr()
        try:
            code = main(list(words))
        except SystemExit as exited:
            code = int(exited.code or 0)
        seen = capsys.readouterr()
        return Ran(code, seen.out, seen.err)

    return verb


@pytest.fixture
def jobfile(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "jobs.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture(params=["closed", "deaf"])
def silent_door(request):
    """An address where nobody listens, or where a connection is taken and nothing said."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        if request.param == "closed":
            door.close()
        yield f"http://127.0.0.1:{port}"


ONE = "name: one\ncommand: 'true'\nqueue: q\n"


def ids(ran) -> list[str]:
    assert ran.code == 0, ran.err
    return ran.out.split()
