"""A real dispatcher, real pilots, real payloads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ailurus.protocol import messages as m
from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import FINAL, JobState
from pilot.process import guardian
from pilot.process.spawner import GuardedSpawner
from tests.pilot.nursery import nursery
from tests.rig import dispatcher as rig
from tests.rig.waiting import until

BIN = Path(sys.executable).parent


@contextmanager
def guarded(*, forked: bool = False) -> Iterator[GuardedSpawner]:
    """A guardian, and the spawner that speaks with it. `forked`: from this process, which is not
    that of the tests."""
    made = GuardedSpawner(*guardian.start()) if forked else nursery().start()
    threading.Thread(target=made.listen, args=(lambda: None,), daemon=True).start()
    try:
        yield made
    finally:
        made.close()


def processes_with(mark: str) -> list[int]:
    """All processes with `mark` in their command line or environment."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        if int(directory.name) == os.getpid():
            continue
        with suppress(OSError):
            text = (directory / "cmdline").read_bytes() + (directory / "environ").read_bytes()
            if mark.encode() in text and b"Z" not in _state(directory):
                found.append(int(directory.name))
    return found


def _state(directory: Path) -> bytes:
    return (directory / "stat").read_bytes().rsplit(b") ", 1)[1][:1]


class Dispatcher(rig.Dispatcher):
    """A dispatcher with a token for pilots, and jobs that need little."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "--heartbeat", "1s", "--log", directory / "log")
        self.pilot_token = directory / "pilot.token"
        self.pilot_token.write_text(self.token("pilots", "ailurus.pilot"))

    def submit(self, command: str = "", **fields: Any) -> int:
        fields.setdefault("name", "job")
        fields.setdefault("disk_mb", 100)
        fields.setdefault("memory_mb", 200)
        fields.setdefault("max_attempts", 1)
        spec = JobSpec(command=command, **fields)
        return self.client.submit([spec]).job_ids[0]

    def final(self, job_id: int, seconds: float = 30.0) -> m.JobDetail:
        states = self.client.wait([job_id], timeout_s=seconds).states
        assert states[job_id] in FINAL, self.client.show(job_id)
        return self.client.show(job_id)

    def in_state(self, job_id: int, state: JobState) -> m.JobDetail:
        def there() -> m.JobDetail | None:
            found = self.client.show(job_id)
            return found if found.row.state is state else None

        return until(there)

    def log(self, job_id: int, stream: str = "stdout") -> str:
        from ailurus.protocol.api import LogQuery

        return self.client.log(job_id, LogQuery(stream=stream)).text


class Pilot:
    """A pilot process."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        directory: Path,
        queue: str,
        *options: str,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        as_user = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        if user is not None:
            os.chown(directory, user, user)
        self.log = directory / "pilot.log"
        env = {
            "PATH": os.environ["PATH"],
            "AILURUS_TOKEN_FILE": str(dispatcher.pilot_token),
            "CANARY_TOKEN": "canary-environment",
            **(environment or {}),
        }
        self.process = subprocess.Popen(
            [
                *prefix,
                BIN / "pilot",
                "--url",
                dispatcher.url,
                "-q",
                queue,
                "-a",
                directory,
                "--log",
                self.log,
            ]
            + [str(option) for option in options],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
            **as_user,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def guardian(self) -> int:
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="utf-8")
        return int(text.split()[0])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = 30.0) -> int:
        return self.process.wait(seconds)

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for text in lines if (line := json.loads(text))["event"] == event]


class Field:
    """A queue of its own with the means to start pilots on it."""

    def __init__(self, dispatcher: Dispatcher, directory: Path, queue: str) -> None:
        self.dispatcher, self.directory, self.queue = dispatcher, directory, queue
        self.storage = directory / "storage"
        self.storage.mkdir()
        self.pilots: list[Pilot] = []
        self.site = directory / "site.yaml"
        self.write_site()

    def write_site(self, **more: Any) -> None:
        site = {
            "site": "test",
            "slots": {"s": {"queue": self.queue, "cores": 4, "memory": "4GiB", "disk": "4GiB"}},
            "storage": {
                "roots": [str(self.storage)],
                "default_output": f"file://{self.storage}/out",
            },
            "limits": {"grace": 1},
            **more,
        }
        self.site.write_text(json.dumps(site))

    def pilot(
        self, *options: str, directory: str = "work", dispatcher: Any = None, **started: Any
    ) -> Pilot:
        options = ("--site", str(self.site), "--grace", "1", *options)
        made = Pilot(
            dispatcher or self.dispatcher,
            self.directory / directory,
            self.queue,
            *options,
            **started,
        )
        self.pilots.append(made)
        return made

    def by_hand(self, *options: str) -> Pilot:
        """A pilot without a site file."""
        made = Pilot(self.dispatcher, self.directory / "work", self.queue, *options)
        self.pilots.append(made)
        return made

    def submit(self, command: str = "", **fields: Any) -> int:
        return self.dispatcher.submit(command, queue=self.queue, **fields)

    def run(self, command: str = "", **fields: Any) -> m.JobDetail:
        """One job through one pilot."""
        job_id = self.submit(command, **fields)
        pilot = self.pilot("--max-jobs", "1")
        detail = self.dispatcher.final(job_id)
        assert pilot.ended() == 0
        return detail

    def end(self) -> None:
        for pilot in self.pilots:
            if pilot.process.poll() is None:
                pilot.process.kill()
            pilot.process.wait()
            assert pilot.process.stderr is not None
            pilot.process.stderr.close()


class SlowStore:
    """An http storage that takes and gives no file before it is told to be patient no more."""

    def __init__(self) -> None:
        self.asked, self.patient = threading.Event(), threading.Event()
        self.files: dict[str, bytes] = {}
        store = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                store.asked.set()
                store.patient.wait(30)
                self._answer(200)

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                store.files[self.path] = body
                store.asked.set()
                store.patient.wait(30)
                self._answer(201)

            def do_DELETE(self) -> None:
                self._answer(204 if store.files.pop(self.path, None) is not None else 404)

            def _answer(self, status: int) -> None:
                with suppress(OSError):  # whoever asked may be dead
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self.thread.start()

    def close(self) -> None:
        self.patient.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
