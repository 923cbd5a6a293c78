"""A dispatcher is restarted, reloaded and watched without failing a request; the test is its
systemd."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ailurus import systemd
from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client
from ailurus.wire.credentials import fixed_token
from dispatcher.cli import parser_for
from tests.rig.waiting import until

UNITS = sorted(Path(__file__).parents[3].glob("scripts/systemd/**/*.service"))


ROOM = Room(cores=1, memory_mb=10_000, disk_mb=10_000)


GIVE = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])"""


class Asking:
    """Clients that ask all the time, some on kept connections, some on new ones; without a
    retry."""

    def __init__(self, server, clients: int = 8) -> None:
        self.address = urlsplit(server.url).netloc
        self.token = server.token_file.read_text().strip()
        self.answered, self.failed = 0, []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(nr % 2 == 0,)) for nr in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self, keeps: bool) -> None:
        line = None
        while not self._over.is_set():
            try:
                line = line or http.client.HTTPConnection(self.address, timeout=30)
                head = {"Authorization": f"Bearer {self.token}"}
                line.request("GET", "/api/ailurus/v1/overview", headers=head)
                answer = line.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failed.append(answer.status)
                self.answered += 1
                if answer.will_close or not keeps:
                    line.close()
                    line = None
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                line = None
        if line is not None:
            line.close()


def starts(directory: Path) -> int:
    return (directory / "serve.log").read_text().count("queue_opened")


@pytest.mark.slow
def test_restarts_under_load_fail_no_request(serve, tmp_path):
    running = serve()
    done = running.client.submit([JobSpec(name="kept", command="true")], "r")
    with Asking(running) as clients:
        for nr in range(3):
            time.sleep(0.5)
            running.process.send_signal(signal.SIGUSR2)
            until(lambda nr=nr: starts(tmp_path) == nr + 2)
            before = clients.answered
            until(lambda before=before: clients.answered > before + 20)
    assert clients.failed == []
    assert running.process.poll() is None  # the same process all the time
    assert running.client.show(done.job_ids[0]).row.name == "kept"


def test_who_waits_for_a_job_is_answered_when_it_restarts_and_gets_one_from_the_next(
    serve, tmp_path
):
    running = serve()
    client = running.client
    ask = m.NewToken(subject="p", scopes=("ailurus.pilot",))
    token = client.call("token", ask, answer=m.Token).token
    register = m.Register(instance="i", queue="q", total=ROOM)
    worker = Client(running.url, fixed_token(token)).call("register", register, answer=m.Registered)
    pilot = Client(running.url, fixed_token(worker.token))
    got: list[m.Acquired] = []

    def wait() -> None:
        acquire = m.Acquire(request_id="a", room=ROOM, wait_s=50)
        got.append(pilot.call("acquire", acquire, answer=m.Acquired, wait_s=50))
        again = m.Acquire(request_id="b", room=ROOM, wait_s=20)
        got.append(pilot.call("acquire", again, answer=m.Acquired, wait_s=20))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: starts(tmp_path) == 2)
    running.client.submit([JobSpec(name="j", command="true", queue="q")], "r")
    waiting.join(30)
    assert [len(one.jobs) for one in got] == [0, 1]


@pytest.fixture
def manager(tmp_path):
    """Who is told how a service is; `told("READY=1")` waits for that."""
    path = tmp_path / "notify"
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    line.bind(str(path))
    line.settimeout(20)

    def told(word: str) -> None:
        while word not in line.recv(4096).decode().splitlines():
            pass

    told.path = str(path)
    yield told
    line.close()


def test_a_service_manager_hands_it_the_socket_hears_of_it_and_may_restart_it(tmp_path, manager):
    store = f"sqlite:///{tmp_path}/queue.db"
    command = [
        sys.executable,
        "-c",
        "import sys; from dispatcher.cli import main; sys.exit(main())",
    ]
    subprocess.run([*command, "init", "--store", store], check=True, capture_output=True)
    with (tmp_path / "log").open("w") as log, socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def begin() -> subprocess.Popen[bytes]:
            serving = [*command, "serve", "--store", store, "--listen", "192.0.2.1:1"]
            return subprocess.Popen(
                [sys.executable, "-c", GIVE, str(listener.fileno()), *serving],
                pass_fds=[listener.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "200000"},
            )

        def ready() -> int:
            line = http.client.HTTPConnection(address, timeout=20)
            line.request("GET", "/readyz")
            with line.getresponse() as answer:
                answer.read()
            line.close()
            return answer.status

        first = begin()
        assert ready() == 200  # asked before it was ready: the socket waits
        for word in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):
            manager(word)
        first.send_signal(signal.SIGHUP)
        manager("RELOADING=1")
        manager("READY=1")
        first.send_signal(signal.SIGTERM)
        manager("STOPPING=1")
        second = begin() if first.wait(20) == 0 else None
        assert second is not None
        assert ready() == 200
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0


def test_sockets_of_another_process_are_not_taken():
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "A": "b"}
    assert systemd.inherited(environment) == []
    assert environment == {"A": "b"}


def test_nobody_is_told_where_nobody_listens(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    systemd.notify("READY=1")


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_units_start_our_programs_with_options_that_they_have(unit):
    started = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    assert len(started) == 1
    program, verb, *options = shlex.split(started[0])
    assert Path(program).name in ("dispatcher", "harvester-edge")
    if Path(program).name == "dispatcher":
        parser_for(verb).parse_args([verb, *options])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_systemd_has_nothing_to_say_against_the_units(unit, tmp_path):
    for path in unit.parent.glob("*.s*"):
        text = re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", path.read_text(), flags=re.MULTILINE)
        text = re.sub(r"^User=.*$", "", text, flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text)
    which = ["--user"] if unit.parent.name == "user" else []
    done = subprocess.run(
        ["systemd-analyze", "verify", *which, str(tmp_path / unit.name)],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert unit.stem not in done.stderr
