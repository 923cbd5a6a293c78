"""The life of one attempt: whatever happens in it, one report is on disk, or the job is given
back."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.states import JobState
from pilot.attempt import Attempt
from pilot.flow import carry
from pilot.ports import JobError, ProcessEnd, ProcessSpec
from pilot.site import Limits
from tests.pilot.fakes import World


def writes(name: str, text: str, exit_code: int = 0, stderr: str = ""):
    def program(spec: ProcessSpec) -> ProcessEnd:
        Path(spec.directory, name).write_bytes(text.encode())
        Path(spec.stderr).write_bytes(stderr.encode())
        return ProcessEnd(key=1, exit_code=exit_code, cpu_s=2.0, max_rss_kb=3, at=1002.5)

    return program


def test_a_job_that_ends_well_has_its_outputs_in_storage_and_its_report_on_disk(tmp_path):
    world = World(tmp_path, writes("o", "result"))
    attempt = world.attempt(outputs=(OutputFile(name="o"),))
    carry(attempt, world.kit)
    (report,) = world.reports()
    assert (report.finished, report.code, report.exit_code) == (True, Code.OK, 0)
    assert world.storage.files == {"file:///out/1.1.o": b"result"}
    assert [(file.name, file.url, file.size) for file in report.files] == [
        ("o", "file:///out/1.1.o", 6)
    ]
    assert (report.usage.cpu_s, report.usage.max_rss_kb, report.usage.wall_s) == (2.0, 3, 2.5)
    assert (report.host, report.runtime, report.ended) == ("node", "fake", world.clock.time())
    assert set(report.timing) == {"stage_in", "wait", "run", "stage_out"}
    assert not list(world.directory.iterdir())


def test_its_states_come_one_after_the_other_and_each_is_reported(tmp_path):
    world = World(tmp_path)
    entered: list[JobState] = []
    attempt = world.attempt()
    attempt._on_change = lambda one: entered.append(one.state)
    carry(attempt, world.kit)
    assert entered == [JobState.STARTING, JobState.RUNNING, JobState.HOLDING]


def test_the_report_reaches_the_dispatcher_after_it_is_on_disk(tmp_path):
    world = World(tmp_path)
    carry(world.attempt(), world.kit)
    world.kit.reporter.turn(world.service)
    (sent,) = world.link.sent("report")
    assert [one.job_id for one in sent.reports] == [1]
    assert world.reports() == []
    assert world.kit.reporter.owes() == 0


def test_a_payload_that_fails_is_reported_with_its_last_words_and_its_log(tmp_path):
    world = World(tmp_path, writes("left", "half", 3, "a\nwent wrong\n"))
    carry(world.attempt(outputs=(OutputFile(name="o"),)), world.kit)
    (report,) = world.reports()
    assert (report.finished, report.code, report.exit_code) == (False, Code.PAYLOAD_FAILED, 3)
    assert "exit code 3" in report.diagnosis
    assert "went wrong" in report.diagnosis
    assert report.stderr_tail == "a\nwent wrong"
    assert [file.name for file in report.files] == ["log.tgz"]
    with tarfile.open(fileobj=io.BytesIO(world.storage.files["file:///out/1.1.log.tgz"])) as tar:
        assert {"1.1/stderr", "1.1/work/left", "1.1/pilot.log"} <= set(tar.getnames())


def test_files_that_nobody_declared_are_named_in_the_report_of_a_finished_job(tmp_path):
    world = World(tmp_path, writes("forgotten", "x"))
    carry(world.attempt(), world.kit)
    (report,) = world.reports()
    assert report.finished
    assert "forgotten" in report.diagnosis
    assert "outputs" in report.remedy


def test_a_missing_output_fails_the_job_and_removes_what_had_been_stored(tmp_path):
    world = World(tmp_path, writes("a", "1"))
    carry(world.attempt(outputs=(OutputFile(name="a"), OutputFile(name="b"))), world.kit)
    (report,) = world.reports()
    assert report.code is Code.MISSING_OUTPUT
    assert report.diagnosis.startswith("outputs[1].name: ")
    assert set(world.storage.files) == {"file:///out/1.1.log.tgz"}


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"launcher": "nonesuch"}, "launcher", Code.NOT_IMPLEMENTED),
        (
            {"launcher": "mpi", "launcher_options": {"ranks": 3}},
            "launcher_options",
            Code.PAYLOAD_FAILED,
        ),
        ({"nodes": 2}, "nodes", Code.NOT_IMPLEMENTED),
        ({"command": "true\r\n"}, "command", Code.PAYLOAD_FAILED),
        (
            {
                "command": "",
                "script": "true\n",
                "inputs": (InputFile(name="ailurus_script", url="file:///i"),),
            },
            "inputs",
            Code.PAYLOAD_FAILED,
        ),
    ],
)
def test_what_this_pilot_cannot_do_is_refused_by_the_name_of_its_field(
    tmp_path, fields, field, code
):
    world = World(tmp_path)
    carry(world.attempt(**{"command": "true", **fields}), world.kit)
    (report,) = world.reports()
    assert report.code is code
    assert report.diagnosis.startswith(f"{field}")
    assert report.exit_code is None
    assert world.spawner.started == []


def test_what_the_container_does_not_take_is_not_begun(tmp_path):
    world = World(tmp_path)
    world.container.refusal = JobError(Code.CONTAINER_FAILED, "no such image")
    attempt = world.attempt()
    carry(attempt, world.kit)
    (report,) = world.reports()
    assert (report.code, report.diagnosis) == (Code.CONTAINER_FAILED, "no such image")
    assert attempt.node_fault is world.container.refusal
    assert not attempt.began


def stopped_in(phase: str, world: World, attempt: Attempt) -> None:
    """Stop the attempt as soon as it is in this phase."""
    error = JobError(Code.SIGTERM, "the pilot ends")

    def changed(one: Attempt) -> None:
        if one.state == phase and one.stopped is None:
            one.stop(error)

    attempt._on_change = changed


@pytest.mark.parametrize("phase", ["starting", "running"])
def test_an_attempt_stopped_before_its_payload_is_given_back_when_the_pilot_ends(tmp_path, phase):
    world = World(tmp_path)
    world.storage.files["file:///i"] = b"x"
    attempt = world.attempt(inputs=(InputFile(name="i", url="file:///i"),))
    attempt.give_back = True
    stopped_in(phase, world, attempt)
    carry(attempt, world.kit)
    assert world.spawner.started == []
    assert world.reports() == []
    world.kit.reporter.turn(world.service)
    (release,) = world.link.sent("release")
    assert [one.job_id for one in release.jobs] == [1]


def test_one_that_the_dispatcher_stops_is_reported(tmp_path):
    world = World(tmp_path)
    attempt = world.attempt()
    stopped_in("running", world, attempt)
    carry(attempt, world.kit)
    (report,) = world.reports()
    assert (report.code, report.exit_code) == (Code.SIGTERM, None)


def test_a_running_payload_that_is_stopped_is_reported_with_why_even_if_it_ends_well(tmp_path):
    world = World(tmp_path)
    attempt = world.attempt()

    def killed(spec: ProcessSpec) -> ProcessEnd:
        attempt._stop = JobError(Code.WALLTIME, "too long")
        return ProcessEnd(key=1)

    world.spawner.program = killed
    attempt.give_back = True  # it was begun: it cannot be given back any more
    carry(attempt, world.kit)
    (report,) = world.reports()
    assert (report.code, report.exit_code) == (Code.WALLTIME, 0)


def test_the_end_of_its_output_is_sent_before_its_report(tmp_path):
    def program(spec: ProcessSpec) -> ProcessEnd:
        Path(spec.stdout).write_bytes(b"hello\n")
        return ProcessEnd(key=1)

    world = World(tmp_path, program)
    attempt = world.attempt()
    carry(attempt, world.kit)
    world.kit.reporter.turn(world.service)
    assert [name for name, _ in world.link.requests][:2] == ["log_pieces", "report"]
    (sent,) = world.link.sent("log_pieces")
    assert [(piece.text, piece.final) for piece in sent.pieces] == [("hello\n", True)]
    assert attempt.usage.stdout_bytes == 6


def test_a_finished_job_keeps_its_log_where_the_site_keeps_all(tmp_path):
    world = World(tmp_path)
    carry(world.attempt(), world.kit_with(Limits(), logs="all"))
    (report,) = world.reports()
    assert report.finished
    assert [file.name for file in report.files] == ["log.tgz"]


def test_a_diagnosis_is_cut_to_what_dispatchers_take(tmp_path):
    world = World(tmp_path)
    world.container.refusal = JobError(Code.CONTAINER_FAILED, "x" * 10_000)
    carry(world.attempt(), world.kit)
    (report,) = world.reports()
    assert len(report.diagnosis) == 7900
    assert report.diagnosis.endswith("…")
