"""Edge, dispatcher and pilot as they are, on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import BY_NAME
from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import FINAL, JobState
from harvester_edge.book import Book
from tests.rig.dispatcher import Dispatcher
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
BIN = Path(sys.executable).parent


class Here:
    """A dispatcher and an edge of their own in a directory."""

    def __init__(self, root: Path) -> None:
        self.root, self.running = root, {}
        self.dispatcher = Dispatcher(root, "--heartbeat", "1s")
        self.url, self.client = self.dispatcher.url, self.dispatcher.client
        token = self.dispatcher.token("edge-demo", "ailurus.edge:demo")
        (root / "edge.token").touch(mode=0o600)
        (root / "edge.token").write_text(token)
        (root / "storage").mkdir()
        tree = {
            "schema": 1,
            "site": "demo",
            "extends": "local",
            "backend": {"limits": {"poll": "1s"}},
            "dispatcher": {"url": self.url, "token_file": str(root / "edge.token")},
            "paths": {"work": str(root / "work"), "state": str(root / "state")},
            "slots": {
                "std": {"queue": "demo", "cores": 2, "memory": "4G", "disk": "1G", "walltime": "1h"}
            },
            "scaling": {"max_total": 2, "max_queued": 2, "per_cycle": 2, "idle_exit": "2s"},
            "storage": {"roots": [str(root / "storage")]},
        }
        (root / "site.yaml").write_text(json.dumps(tree))

    def start(self, program: str, *args: str) -> subprocess.Popen[str]:
        log = (self.root / f"{program}.log").open("a")
        process = subprocess.Popen(
            [BIN / program, *args], stdout=subprocess.PIPE, stderr=log, text=True
        )
        log.close()
        self.running[program] = process
        return process

    def edge(self) -> subprocess.Popen[str]:
        return self.start("harvester-edge", "run", "--config", str(self.root / "site.yaml"))

    def kill(self, program: str, signum: signal.Signals = signal.SIGKILL) -> None:
        process = self.running.pop(program)
        process.send_signal(signum)
        process.wait(30)
        process.stdout.close()

    def submit(self, *commands: str) -> tuple[int, ...]:
        jobs = [
            JobSpec(name=f"j{n}", command=line, queue="demo", memory_mb=100, disk_mb=100)
            for n, line in enumerate(commands)
        ]
        return self.client.submit(jobs).job_ids

    def pilots(self) -> dict[Path, int]:
        """Workers' directories with the pids of those whose pilot runs."""
        found = {}
        for record in self.root.glob("state/workers/*/*/running"):
            pid = int(record.read_text().split()[0])
            if Path(f"/proc/{pid}").exists() and not (record.parent / "ended").exists():
                found[record.parent] = pid
        return found

    def until(self, true: Callable[[], object], seconds: float = 40) -> None:
        try:
            until(true, seconds)
        except TimeoutError:
            pytest.fail((self.root / "harvester-edge.log").read_text()[-3000:])


@pytest.fixture
def here(tmp_path: Path):
    assert BY_NAME["demand"].answer is m.Demand
    place = Here(tmp_path)
    yield place
    place.until(lambda: not place.pilots() or not place.running.get("harvester-edge"))
    for program in list(place.running):
        place.kill(program, signal.SIGKILL)
    place.dispatcher.kill()
    for pid in place.pilots().values():
        os.kill(pid, signal.SIGTERM)
    place.until(lambda: not place.pilots())


def test_jobs_bring_pilots_and_no_jobs_let_them_go(here):
    here.edge()
    ids = here.submit(*["sleep 0.5"] * 6)
    states = here.client.wait(ids, timeout_s=40).states
    assert set(states.values()) == {JobState.FINISHED}
    here.until(lambda: not here.pilots())
    doctor = [BIN / "harvester-edge", "doctor", "--config", here.root / "site.yaml", "--json"]
    ran = subprocess.run(doctor, capture_output=True, check=False, timeout=60)
    found = {one["about"]: one["verdict"] for one in json.loads(ran.stdout)["findings"]}
    assert found.keys() > {"site file", "dispatcher", "state", "pilot", "batch system", "slot std"}
    assert "bad" not in found.values(), ran.stdout
    here.until((here.root / "state" / "book.sqlite").exists)
    book = Book(here.root / "state" / "book.sqlite", read_only=True)
    here.until(lambda: not book.live())
    ended = book.recent()
    book.close()
    assert 1 <= len(ended) <= 2
    assert {str(worker.ending) for worker in ended} == {"idle_exit"}
    row = here.client.overview().sites[0]
    assert (row.site, row.online, row.heard, row.queues) == ("demo", True, True, ("demo",))
    assert row.word.binding == "demand"
    worker = ended[0]
    names = (worker.intent, worker.batch_id, str(worker.worker_id), str(ids[0]))
    for name in names:  # intent, batch id, worker, and a job: with the edge's own token
        trace = [
            BIN / "harvester-edge",
            "trace",
            name,
            "--config",
            here.root / "site.yaml",
            "--json",
        ]
        ran = subprocess.run(trace, capture_output=True, check=True, timeout=30)
        chain = json.loads(ran.stdout)["chain"]
        jobs = {job["job_id"] for link in chain for job in link["jobs"]}
        assert jobs & set(ids), name


def test_pilots_outlive_the_edge_and_are_adopted(here):
    here.edge()
    ids = here.submit("sleep 4", "sleep 4")
    here.until(here.pilots)
    here.kill("harvester-edge")
    before = here.pilots()
    time.sleep(1)
    here.edge()
    here.client.wait(ids, timeout_s=40)
    assert here.pilots().keys() <= before.keys()
    assert {here.client.show(one).row.attempt_nr for one in ids} == {1}


def test_a_finished_job_is_reported_although_its_pilot_died_and_no_other_comes(here):
    """Its report is in the spool; the dispatcher was not there to hear it."""
    edge = here.edge()
    (job,) = here.submit("sleep 1.5")
    here.until(lambda: here.client.show(job).row.state is JobState.RUNNING)
    here.dispatcher.process.send_signal(signal.SIGSTOP)
    here.until(lambda: any((here.root / "work" / "spool").glob("*.journal")))
    here.until(
        lambda: any(
            b'"report"' in one.read_bytes()
            for one in (here.root / "work" / "spool").glob("*.journal")
        )
    )
    for pid in here.pilots().values():
        os.kill(pid, signal.SIGKILL)
    here.dispatcher.process.send_signal(signal.SIGCONT)
    here.until(lambda: here.client.show(job).row.state in FINAL)
    row = here.client.show(job).row
    assert (row.state, row.attempt_nr) == (JobState.FINISHED, 1)
    assert edge.poll() is None


def test_an_edge_that_is_killed_at_random_loses_and_doubles_nothing(here):
    ids = here.submit(*["sleep 0.2"] * 30)
    for wait in (0.3, 0.7, 1.1, 1.6):
        here.edge()
        time.sleep(wait)
        here.kill("harvester-edge")
    here.edge()
    states = here.client.wait(ids, timeout_s=60).states
    assert set(states.values()) == {JobState.FINISHED}
    assert {here.client.show(one).row.attempt_nr for one in ids} == {1}
    book = Book(here.root / "state" / "book.sqlite", read_only=True)
    known = {f"{one.intent}/{one.index}" for one in book.recent(1000)}
    book.close()
    ran = {
        str(one.parent).split("workers/")[1] for one in here.root.glob("state/workers/*/*/running")
    }
    assert ran <= known
