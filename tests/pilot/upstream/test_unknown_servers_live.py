"""A2 with real programs: while a payload ends, somebody else answers at the dispatcher's
address."""

from __future__ import annotations

import http.client
import signal
import subprocess
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from ailurus.protocol.job import OutputFile
from ailurus.protocol.states import JobState
from tests.pilot.helpers import BIN
from tests.rig.waiting import until

pytestmark = [pytest.mark.field("A2"), pytest.mark.slow]
HTML = b"<html><body>no</body></html>"


class Door:
    """What is at the address: the dispatcher behind it, or somebody who answers for himself."""

    def __init__(self, behind: str) -> None:
        self.behind, self.host = behind, ""  # a Host to ask for instead
        self.stranger: int | None = None  # the status of a page that answers everything
        self.asked: list[str] = []
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                door.asked.append(self.path)
                with suppress(OSError, http.client.HTTPException):
                    if door.stranger is not None:
                        self._say(door.stranger, "text/html", HTML)
                    else:
                        self._say(*self._passed_on(body))

            def _passed_on(self, body: bytes) -> tuple[int, str, bytes]:
                upper = urlsplit(door.behind)
                way = http.client.HTTPConnection(upper.hostname, upper.port, timeout=60)
                headers = {**self.headers, "Host": door.host or upper.netloc}
                try:
                    way.request(self.command, self.path, body or None, headers)
                    got = way.getresponse()
                    return got.status, got.headers.get("content-type", ""), got.read()
                finally:
                    way.close()

            def _say(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def door(field):
    made = Door(field.dispatcher.url)
    yield made
    made.close()


def refused(field, door, pilot):
    """A job whose payload has ended and whose report an empty dispatcher does not know."""
    job_id = field.submit(
        "echo good > o; sleep 2", outputs=(OutputFile(name="o"),), max_attempts=20
    )
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    door.host = "elsewhere.example"
    until(lambda: pilot.said("reports_kept"), 30)
    return job_id


def test_a_killed_pilot_s_report_waits_for_the_next_one_and_the_dispatcher(field, door):
    there = SimpleNamespace(url=door.url, pilot_token=field.dispatcher.pilot_token)
    first = field.pilot(dispatcher=there)
    job_id = refused(field, door, first)
    first.signal(signal.SIGKILL)
    first.ended()
    spool = next((field.directory / "work").glob("ailurus-spool-*"))
    recover = [BIN / "pilot", "--recover", "--url", door.url, "-q", field.queue,
               "--site", field.site, "--spool", spool, "--dialect", "native"]  # fmt: skip
    again = subprocess.run(recover, check=False, capture_output=True, text=True)
    assert again.returncode != 0
    assert "stay in the spool" in again.stderr
    output = field.storage / "out" / f"{job_id}.1.o"
    assert output.read_text() == "good\n"
    door.host = ""
    subprocess.run(recover, check=True, capture_output=True)
    assert field.dispatcher.final(job_id).row.state is JobState.FINISHED
    assert output.read_text() == "good\n"


PAGES = (200, 302, 400, 403, 404, 405, 410, 502)


@pytest.mark.parametrize("who", ["another host", "an empty dispatcher", *PAGES])
def test_outputs_stay_and_the_report_comes_when_the_dispatcher_is_back(field, door, who, request):
    there = SimpleNamespace(url=door.url, pilot_token=field.dispatcher.pilot_token)
    other = request.getfixturevalue("own_dispatcher") if who == "an empty dispatcher" else None
    pilot = field.pilot(dispatcher=there)
    job_id = field.submit(
        "echo good > o; sleep 3", outputs=(OutputFile(name="o"),), max_attempts=20
    )
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    if who == "another host":
        door.host = "elsewhere.example"
    elif other is not None:
        door.behind = other.url
    else:
        door.stranger = who
    until(lambda: pilot.said("job_ended"))
    door.asked.clear()
    until(lambda: sum(path.endswith("/report") for path in door.asked) >= 2, 30)
    assert pilot.process.poll() is None
    assert pilot.said("draining") == []
    outputs = field.storage / "out"
    assert (outputs / f"{job_id}.1.o").read_text() == "good\n"
    door.host, door.stranger, door.behind = "", None, field.dispatcher.url
    detail = field.dispatcher.final(job_id, 50)  # its lease has run out: the first report counts
    assert detail.row.state is JobState.FINISHED
    (counts,) = [one.attempt_nr for one in detail.attempts if one.state == "finished"]
    assert (outputs / f"{job_id}.{counts}.o").read_text() == "good\n"
