"""The real Pilot 3 takes our dispatcher for a PanDA server.

Its pauses are long and its work is little: all jobs of this module run at once, one pilot a queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import Tail, TailQuery
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.states import FINAL
from ailurus.wire.client import Refused
from tests.real import pilot3
from tests.rig.programs import Program, Rig
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(240)]

PATIENCE_S = 150
LOOK = "tr a-z A-Z < in.txt > out.txt && cp out.txt kept.txt && echo said"


@dataclass
class Site:
    """A dispatcher with jobs in several queues, and a pilot at each."""

    rig: Rig
    storage: Path  # of the queues
    ids: dict[str, tuple[int, ...]]
    pilots: dict[str, Program]

    def ended(self, queue: str) -> list[m.JobDetail]:
        """The jobs of a queue, once they have ended."""
        states = self.rig.client.wait(self.ids[queue], PATIENCE_S).states
        self.rig.keep |= not FINAL.issuperset(states.values())
        return [self.rig.client.show(one) for one in self.ids[queue]]


def data_job(rig: Rig, queue: str) -> JobSpec:
    """A job with an input, an output for the queue's storage and one with a place of its own."""
    return JobSpec(
        name="data",
        queue=queue,
        command=LOOK,
        inputs=(InputFile(name="in.txt", url=f"file://{rig.storage}/in.txt"),),
        outputs=(
            OutputFile(name="out.txt"),
            OutputFile(name="kept.txt", url=f"file://{rig.storage}/kept"),
        ),
    )


def optional_job() -> JobSpec:
    """A job with one output that it makes, and two that it may leave out."""
    return JobSpec(
        name="optional",
        queue="optional",
        command="echo made > made.txt",
        outputs=(
            OutputFile(name="made.txt", optional=True),
            OutputFile(name="maybe.txt", optional=True),
        ),
    )


@pytest.fixture(scope="module")
def site(need) -> Iterator[Site]:
    pilot3.needed(need)
    with tempfile.TemporaryDirectory(prefix="ailurus-panda-") as name:
        own = Path(name)
        own.chmod(0o755)  # pytest's own directories are closed to the pilot's user
        for one in ("storage", "queues"):
            (own / one).mkdir()
            (own / one).chmod(0o777)
        for queue in ("three", "shared"):  # minutes: one pilot may take several jobs
            (own / "queues" / f"{queue}.json").write_text(json.dumps({"timefloor": 60}))
        yield from ran(own)


def ran(own: Path) -> Iterator[Site]:
    """Submit everything and start every pilot."""
    storage = own / "storage"
    serve = ["--panda-storage", storage, "--panda-queues", own / "queues"]
    with Rig(serve=serve) as rig:
        (rig.storage / "in.txt").write_text("hello\n")
        # What waits for it ends when somebody writes there.
        os.mkfifo(storage / "seen")
        (storage / "seen").chmod(0o644)
        (rig.storage / "kept").mkdir(mode=0o777)
        (rig.storage / "kept").chmod(0o777)
        config = pilot3.config(rig.directory, heartbeat=5, debug_heartbeat=5, update_sleep=5)
        asked = {
            "null": [JobSpec(name="null", command="true", queue="null")],
            "data": [data_job(rig, "data")],
            "ours": [data_job(rig, "ours")],
            "three": [JobSpec(name=f"j{n}", command="true", queue="three") for n in range(3)],
            "killed": [JobSpec(name="long", command="exec sleep 100", queue="killed")],
            "watched": [
                JobSpec(
                    name="w", command=f"echo words; timeout 600 cat {storage}/seen", queue="watched"
                )
            ],
            "asked": [JobSpec(name="soft", command="sleep 30", queue="asked")],
            "optional": [optional_job()],
            "failing": [JobSpec(name="bad", command="echo why >&2; exit 3", queue="failing")],
            "shared": [JobSpec(name=f"s{n}", command="sleep 5", queue="shared") for n in range(4)],
        }
        ids = {queue: rig.client.submit(jobs).job_ids for queue, jobs in asked.items()}
        pilots = {
            queue: pilot3.start(
                rig,
                queue,
                HARVESTER_PILOT_CONFIG=str(config),
                HARVESTER_ID="harvester",
                HARVESTER_WORKER_ID=str(nr),
            )
            for nr, queue in enumerate(asked, 1)
            if queue != "ours"
        }
        for queue, jobs in (("ours", 1), ("shared", 2)):
            rig.pilot("--max-jobs", str(jobs), "--queue", queue, name=f"our-pilot-{queue}")
        yield Site(rig, storage, ids, pilots)
        for pilot in pilots.values():
            pilot.kill()  # they would stay for a minute to end
    until(lambda: not running(), 10, "Pilot 3 ends with what started it")


def running(command: str = "") -> list[str]:
    """The command lines of the processes of Pilot 3's user, or those that begin with `command`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == pilot3.user():
                found.append((path / "cmdline").read_text().replace("\0", " "))
    return [line for line in found if line.startswith(command)]


def test_a_null_job_finishes(site):
    (job,) = site.ended("null")
    assert job.row.state == "finished"
    assert job.attempts[-1].runtime == "panda"


def test_a_worker_of_a_harvester_is_known_by_its_number(site):
    (job,) = site.ended("null")
    workers = {worker.worker_id: worker for worker in site.rig.workers()}
    worker = workers[job.attempts[-1].worker_id]
    assert (worker.intent, worker.index) == ("harvester:harvester", 1)
    assert worker.phase == "active", "its pilot said that it started, and lives on for a minute"


def test_cancel_stops_the_payload(site):
    (job_id,) = site.ids["killed"]
    until(lambda: running("sleep 100"), PATIENCE_S, "the payload runs")
    site.rig.client.cancel([job_id])
    until(lambda: not running("sleep 100"), PATIENCE_S, "the cancelled payload ends")
    assert site.rig.client.show(job_id).row.state == "cancelled"
    assert "tobekilled" in site.pilots["killed"].log.read_text()


@pytest.mark.field("P1")
def test_the_end_of_stdout_is_shown_and_the_payload_lives_on(site):
    (job_id,) = site.ids["watched"]
    until(lambda: running(f"cat {site.storage}/seen"), PATIENCE_S, "the payload runs")
    query = TailQuery(file="stdout", wait_s=50)
    for _ in range(2):
        with contextlib.suppress(Refused):  # not yet
            tail = site.rig.client.call("tail", query, answer=Tail, wait_s=50, job_id=job_id)
    assert "words" in tail.text
    (site.storage / "seen").write_text("")
    (job,) = site.ended("watched")
    assert (job.row.state, len(job.attempts)) == ("finished", 1), job.row.diagnosis


@pytest.mark.field("P1")
def test_a_payload_that_is_asked_to_end_softly_may_run_to_its_end(site):
    site.rig.client.cancel(site.ids["asked"], soft=True)
    (job,) = site.ended("asked")
    assert job.row.state == "finished", job.row.diagnosis


@pytest.mark.field("P4")
def test_an_optional_output_may_be_missing(site):
    (job,) = site.ended("optional")
    assert job.row.state == "finished", job.row.diagnosis
    assert [file.name for file in job.files] == ["made.txt"]


def test_outputs_are_where_the_queue_and_the_job_want_them(site):
    (job,) = site.ended("data")
    assert job.row.state == "finished", job.row.diagnosis
    places = {file.name: file for file in job.files}
    assert set(places) == {"out.txt", "kept.txt"}
    for file in places.values():
        path = Path(file.url.removeprefix("file://").removeprefix("localhost"))
        assert path.read_text(encoding="utf-8") == "HELLO\n"
        assert file.size == 6
    assert places["kept.txt"].url.startswith(f"file://{site.rig.storage}/kept/")
    assert places["out.txt"].url.startswith(f"file://localhost{site.storage}/")


def test_the_same_job_gives_the_same_outputs_through_our_pilot_and_pilot_3(site):
    def outputs(job: m.JobDetail) -> set[tuple[str, int, str | None]]:
        return {(file.name, file.size, file.adler32) for file in job.files}

    (ours,), (theirs,) = site.ended("ours"), site.ended("data")
    assert ours.row.state == "finished"
    assert ours.attempts[-1].runtime != "panda"
    assert outputs(ours) == outputs(theirs)


def test_one_pilot_runs_three_jobs_in_a_row(site):
    jobs = site.ended("three")
    assert [job.row.state for job in jobs] == ["finished"] * 3
    assert len({job.attempts[-1].worker_id for job in jobs}) == 1


def test_pilot_3_and_our_pilot_share_a_queue(site):
    jobs = site.ended("shared")
    assert [job.row.state for job in jobs] == ["finished"] * 4
    assert {job.attempts[-1].runtime == "panda" for job in jobs} == {True, False}


def test_a_failure_carries_its_code_and_its_log(site):
    """The last test: Pilot 3 waits for two minutes before it says that a payload failed."""
    (job,) = site.ended("failing")
    assert job.row.state == "failed"
    assert job.row.code == 1305
    assert job.attempts[-1].exit_code == 3
    (log,) = [file for file in job.files if file.name == "log.tgz"]
    with tarfile.open(log.url.removeprefix("file://localhost")) as tar:
        (stderr,) = [one for one in tar.getnames() if one.endswith("payload.stderr")]
        found = tar.extractfile(stderr)
        assert found is not None
        assert found.read() == b"why\n"
