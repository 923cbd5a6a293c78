"""Our pilot speaks PanDA's dialects, to our dispatcher, which refuses what PanDA's servers
refuse."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from tests.rig.programs import QUEUE, Rig
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory) -> Iterator[Rig]:
    storage = tmp_path_factory.mktemp("panda-storage")
    with Rig(serve=["--panda-storage", storage]) as made:
        (made.storage / "in.txt").write_text("hello\n")
        yield made


@pytest.fixture(params=["v1", "legacy"])
def dialect(request) -> str:
    return request.param


def job(rig: Rig, command: str, **fields: object) -> int:
    spec = JobSpec(name="job", queue=QUEUE, command=command, memory_mb=100, disk_mb=10, **fields)
    return rig.client.submit([spec]).job_ids[0]


def ended(rig: Rig, job_id: int) -> m.JobDetail:
    rig.client.wait([job_id], 30)
    return rig.client.show(job_id)


def path(file: m.FileRecord) -> Path:
    return Path(file.url.removeprefix("file://"))


def test_a_job_finishes_with_its_inputs_and_outputs(rig, dialect):
    job_id = job(
        rig,
        "cp in.txt o; cp in.txt placed",
        inputs=(InputFile(name="in.txt", url=f"file://{rig.storage}/in.txt"),),
        outputs=(
            OutputFile(name="o"),
            OutputFile(name="placed", url=f"file://{rig.storage}/there"),
        ),
    )
    rig.pilot("--dialect", dialect, "--max-jobs", "1", name=f"files-{dialect}")
    seen = ended(rig, job_id)
    assert seen.row.state == "finished", seen.row.diagnosis
    assert seen.attempts[-1].runtime == "panda"
    assert {file.name: path(file).read_text() for file in seen.files} == {
        "o": "hello\n",
        "placed": "hello\n",
    }


def test_a_failure_comes_with_its_reason_and_its_log(rig, dialect):
    job_id = job(rig, "echo why >&2; exit 3")
    rig.pilot("--dialect", dialect, "--max-jobs", "1", name=f"failing-{dialect}")
    seen = ended(rig, job_id)
    assert (seen.row.state, seen.row.code) == ("failed", 1305)
    assert seen.attempts[-1].exit_code == 3
    assert seen.attempts[-1].stderr_tail == "why"
    (log,) = seen.files
    with tarfile.open(path(log)) as tar:
        assert any(name.endswith("stderr") for name in tar.getnames())


def test_a_cancelled_job_is_killed_at_the_next_heartbeat(rig, dialect):
    job_id = job(rig, "exec sleep 100")
    pilot = rig.pilot(
        "--dialect", dialect, "--max-jobs", "1", "--heartbeat", "1s", name=f"killed-{dialect}"
    )
    until(lambda: rig.client.show(job_id).row.state == "running", 20, "the job runs")
    rig.client.cancel([job_id])
    until(lambda: not pilot.alive, 20, "its pilot has nothing more to do")
    assert ended(rig, job_id).row.state == "cancelled"


def test_many_jobs_share_a_node(rig, dialect):
    ids = [job(rig, "sleep 0.2") for _ in range(6)]
    rig.pilot("--dialect", dialect, "--max-jobs", "6", name=f"many-{dialect}")
    states = rig.client.wait(ids, 30).states
    assert set(states.values()) == {"finished"}


def test_a_job_too_long_for_a_command_line_is_fetched(rig, dialect):
    job_id = job(
        rig, "", script="#!/bin/sh\n" + "".join(f"echo {n * 7919}\n" for n in range(60_000))
    )
    rig.pilot("--dialect", dialect, "--max-jobs", "1", name=f"long-{dialect}")
    assert ended(rig, job_id).row.state == "finished"


def test_a_pilot_without_a_good_token_says_so(rig, dialect, tmp_path):
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("x.y.z")
    pilot = rig.pilot("--dialect", dialect, "--token-file", token, name=f"stranger-{dialect}")
    assert pilot.process.wait(20) == 68


def test_the_next_pilot_reports_for_one_that_was_killed(dialect):
    with Rig(container={"default": "bubblewrap"}) as rig:  # a bare one's spool is nobody else's
        job_id = job(rig, "exec sleep 100", max_attempts=1)
        options = ["--dialect", dialect, "--spool", rig.directory / "spool"]
        first = rig.pilot(*options, name="first")
        until(lambda: rig.client.show(job_id).row.state == "running", 20, "the job runs")
        first.kill()
        rig.pilot(*options, "--idle-exit", "1s", name="second")
        seen = ended(rig, job_id)
    assert (seen.row.state, seen.attempts[-1].runtime) == ("failed", "panda")
    assert "killed" in seen.row.diagnosis
