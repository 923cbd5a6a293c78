"""Staging: what is declared is what comes, transfers that fail for the moment are repeated, and all
or none of the outputs arrive."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, OutputFile
from pilot.files import stage as stages
from pilot.files.tries import PAUSES_S
from pilot.files.undeclared import undeclared
from pilot.ports import Check, Copied, JobError
from pilot.site import Limits
from pilot.workdir import Workdir
from tests.pilot.fakes import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.storage.files["file:///s/in"] = b"12345"
    return made


def failing(call: Callable[[], object]) -> JobError:
    with pytest.raises(JobError) as raised:
        call()
    return raised.value


TRANSIENT = JobError(Code.STAGE_IN_FAILED, "busy", transient=True)
FINAL = JobError(Code.STAGE_IN_FAILED, "gone", transient=False)


def declared(**fields: object) -> InputFile:
    return InputFile(name="in", url="file:///s/in", **fields)  # type: ignore[arg-type]


def test_an_input_comes_under_its_name(world, work):
    world.kit.stage.stage_in(world.attempt(inputs=(declared(),)), work)
    assert (work.directory / "in").read_bytes() == b"12345"


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"size": 6}, Code.STAGE_IN_FAILED, "has 5 bytes, declared are 6"),
        ({"adler32": "00000009"}, Code.GET_ADLER_MISMATCH, "adler32 1"),
        ({"md5": "0" * 32}, Code.GET_MD5_MISMATCH, "md5 2"),
    ],
)
def test_an_input_that_is_not_as_declared_is_refused(world, work, fields, code, text):
    attempt = world.attempt(inputs=(declared(**fields),))
    error = failing(lambda: world.kit.stage.stage_in(attempt, work))
    assert (error.code, error.field) == (code, "inputs[0]")
    assert text in error.message


def test_an_input_that_is_as_declared_is_taken(world, work):
    world.storage.copied = Copied(size=5, adler32="00000009", md5="0" * 32)
    file = declared(size=5, adler32="00000009", md5="0" * 32)
    world.kit.stage.stage_in(world.attempt(inputs=(file,)), work)
    assert world.storage.calls == ["get file:///s/in"]


def test_a_transient_failure_is_repeated_after_growing_pauses(world, work):
    world.storage.failures.extend([TRANSIENT, TRANSIENT, None])
    attempt = world.attempt(inputs=(declared(),))
    world.kit.stage.stage_in(attempt, work)
    assert len(world.storage.calls) == 3
    assert world.clock.waits == list(PAUSES_S)
    assert sum("tries again after: busy" in note for note in attempt.notes) == 2
    assert (work.directory / "in").read_bytes() == b"12345"  # of one try, not of three


def test_a_pause_is_one_although_a_slot_was_granted_meanwhile(world, work):
    """The event that tells of it stays set."""
    world.storage.failures.append(TRANSIENT)
    attempt = world.attempt(inputs=(declared(),))
    attempt.wakeup.set()
    began = world.clock.now
    world.kit.stage.stage_in(attempt, work)
    assert world.clock.now == began + PAUSES_S[0]


def outage(world, seconds):
    """Storage that takes nothing for so long."""
    until = world.clock.now + seconds

    def act(check: Check) -> None:
        if world.clock.now < until:
            raise TRANSIENT

    world.storage.on_call = act


@pytest.mark.parametrize("away_s", [1, 30, 600, 899])
def test_an_output_waits_for_storage_that_is_away_and_is_stored_then(world, work, away_s):
    stage = world.kit_with(Limits(), storage={"outage_tolerance": "15m"}).stage
    (work.directory / "o").write_bytes(b"result")
    outage(world, away_s)
    (done,) = stage.stage_out(world.attempt(outputs=(OutputFile(name="o"),)), work)
    assert world.storage.files[done.url] == b"result"
    assert max(world.clock.waits) <= 60
    assert len(world.storage.calls) < 25


def test_an_outage_longer_than_the_sites_tolerance_fails_the_attempt(world, work):
    stage = world.kit_with(Limits(), storage={"outage_tolerance": "15m"}).stage
    (work.directory / "o").write_bytes(b"result")
    outage(world, 901)
    began = world.clock.now
    attempt = world.attempt(outputs=(OutputFile(name="o"),))
    assert failing(lambda: stage.stage_out(attempt, work)).transient
    assert world.clock.now == began + 900


def test_the_wait_for_storage_ends_with_the_attempt(world, work):
    stage = world.kit_with(Limits(), storage={"outage_tolerance": "15m"}).stage
    (work.directory / "o").write_bytes(b"result")
    outage(world, 600)
    attempt = world.attempt(outputs=(OutputFile(name="o"),))
    stop = JobError(Code.KILLED_BY_SERVER, "cancelled")

    def meanwhile() -> None:
        if world.clock.now > 1060:
            attempt.stop(stop)

    world.clock.while_waiting = meanwhile
    assert failing(lambda: stage.stage_out(attempt, work)) is stop
    assert world.clock.now < 1200


def test_neither_an_input_nor_a_log_waits_for_storage(world, work):
    stage = world.kit_with(Limits(), storage={"outage_tolerance": "15m"}).stage
    outage(world, 600)
    attempt = world.attempt(inputs=(declared(),))
    assert failing(lambda: stage.stage_in(attempt, work)) is TRANSIENT
    (work.directory / "log.tgz").write_bytes(b"log")
    with (work.directory / "log.tgz").open("rb") as file:
        assert failing(lambda: stage.put(attempt, stages.LOG, file.fileno())) is TRANSIENT
    assert world.clock.now < 1060


def test_the_third_transient_failure_counts(world, work):
    world.storage.failures.extend([TRANSIENT] * 3)
    attempt = world.attempt(inputs=(declared(),))
    assert failing(lambda: world.kit.stage.stage_in(attempt, work)).message == "busy"
    assert len(world.storage.calls) == 3


def test_a_final_failure_is_not_repeated(world, work):
    world.storage.failures.append(FINAL)
    attempt = world.attempt(inputs=(declared(),))
    assert failing(lambda: world.kit.stage.stage_in(attempt, work)).message == "gone"
    assert (len(world.storage.calls), world.clock.waits) == (1, [])


def test_no_try_begins_after_the_sites_time_for_one_file(world, work):
    stage = world.kit_with(Limits(staging=2)).stage
    world.storage.failures.extend([TRANSIENT, TRANSIENT])
    attempt = world.attempt(inputs=(declared(),))
    assert failing(lambda: stage.stage_in(attempt, work)).message == "busy"
    assert world.clock.waits == [0.5]  # a pause of 3 s would have passed the limit


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_transfer_that_takes_too_long_is_ended_by_its_own_check(world, work, way):
    def slow(check: Check) -> None:
        world.clock.forward(7201)
        check()

    world.storage.on_call = slow
    (work.directory / "o").write_bytes(b"x")
    attempt = world.attempt(
        inputs=(declared(),) if way == "in" else (), outputs=(OutputFile(name="o"),)
    )
    stage = world.kit.stage
    if way == "in":
        assert failing(lambda: stage.stage_in(attempt, work)).code is Code.STAGE_IN_TIMEOUT
    else:
        world.storage.on_call = lambda check: slow(check) if len(world.storage.calls) == 1 else None
        assert failing(lambda: stage.stage_out(attempt, work)).code is Code.STAGE_OUT_TIMEOUT


@pytest.mark.parametrize(("seconds", "late"), [(3, False), (5, True)])
def test_a_file_has_the_time_that_its_size_takes_at_the_least_speed(world, work, seconds, late):
    """At 100 bytes a second and 1 s more at least."""
    world.storage.on_call = lambda check: (world.clock.forward(seconds), check())
    world.storage.files["file:///s/in"] = b"x" * 300
    stage = world.kit_with(Limits(), storage={"min_speed": "100B", "min_time": 1}).stage
    attempt = world.attempt(inputs=(declared(size=300),))
    if not late:
        stage.stage_in(attempt, work)
        return
    error = failing(lambda: stage.stage_in(attempt, work))
    assert (error.code, len(world.storage.calls)) == (Code.STAGE_IN_TIMEOUT, 1)
    assert "min_speed" in error.remedy


def test_inputs_come_several_at_a_time_once_two_were_slow(world, work):
    """Three after those meet at a barrier, which none would pass alone."""
    barrier = threading.Barrier(3)

    def slow(check: Check) -> None:
        world.clock.forward(1)
        if len(world.storage.calls) > 2:
            barrier.wait(5)

    world.storage.on_call = slow
    world.storage.files |= {f"file:///s/{nr}": b"x" for nr in range(5)}
    inputs = tuple(InputFile(name=f"f{nr}", url=f"file:///s/{nr}") for nr in range(5))
    world.kit.stage.stage_in(world.attempt(inputs=inputs), work)
    assert len(list(work.directory.iterdir())) == 5


def test_a_stop_ends_a_transfer_and_its_repetition(world, work):
    attempt = world.attempt(inputs=(declared(),))
    world.storage.failures.append(TRANSIENT)
    world.storage.on_call = lambda check: attempt.stop(JobError(Code.KILLED_BY_SERVER, "stop"))
    error = failing(lambda: world.kit.stage.stage_in(attempt, work))
    assert (error.code, len(world.storage.calls)) == (Code.KILLED_BY_SERVER, 1)


def test_a_stop_wakes_the_pause_before_the_next_try(world, work):
    attempt = world.attempt(inputs=(declared(),))
    world.storage.failures.append(TRANSIENT)
    world.clock.while_waiting = lambda: attempt.stop(JobError(Code.KILLED_BY_SERVER, "stop"))
    before = world.clock.now
    error = failing(lambda: world.kit.stage.stage_in(attempt, work))
    assert error.code is Code.KILLED_BY_SERVER
    assert world.clock.now == before


def test_an_input_longer_than_declared_is_cut_off_on_the_way(world, work):
    world.storage.files["file:///s/in"] = b"x" * 200_000
    attempt = world.attempt(inputs=(declared(size=10),))
    error = failing(lambda: world.kit.stage.stage_in(attempt, work))
    assert error.code is Code.STAGE_IN_FAILED
    assert "more than the 10 bytes declared" in error.message


def test_inputs_of_unknown_size_have_the_jobs_disk_in_common(world, work):
    world.storage.files |= {"file:///s/in": b"x" * 700_000, "file:///s/two": b"x" * 700_000}
    two = InputFile(name="two", url="file:///s/two")
    attempt = world.attempt(inputs=(declared(), two), disk_mb=1)
    error = failing(lambda: world.kit.stage.stage_in(attempt, work))
    assert (error.code, error.field) == (Code.INPUTS_TOO_LARGE, "inputs[1]")
    assert "declare the `size`" in error.remedy


def test_inputs_that_cannot_be_made_are_the_nodes_fault(world, work):
    work.directory.rmdir()
    attempt = world.attempt(inputs=(declared(),))
    error = failing(lambda: world.kit.stage.stage_in(attempt, work))
    assert (error.code, error.transient) == (Code.RESOURCE_UNAVAILABLE, True)
    assert "cannot make the input 'in'" in error.message


# before a job begins ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"inputs": (InputFile(name="in", url="file:///no"),)}, "inputs[0].url"),
        ({"inputs": (InputFile(name="in", url="no url"),)}, "inputs[0].url"),
        ({"outputs": (OutputFile(name="o", url="file:///no/"),)}, "outputs[0].url"),
        ({"outputs": (OutputFile(name="o", url="file:///" + "x" * 4096),)}, "outputs[0].url"),
    ],
)
def test_a_url_that_the_site_does_not_allow_is_refused_before_the_start(world, fields, field):
    world.storage.forbidden |= {"file:///no", "file:///no/1.1.o"}
    error = failing(lambda: world.kit.stage.allowed(world.attempt(**fields)))
    assert (error.code, error.field) == (Code.STORAGE_FORBIDDEN, field)


@pytest.mark.parametrize("name", ["maybe", "results/*.root"])
def test_an_input_that_no_parent_left_is_no_such_file(world, name):
    attempt = world.attempt(inputs=(InputFile(name=name),))
    error = failing(lambda: world.kit.stage.allowed(attempt))
    assert (error.code, error.field) == (Code.NO_SUCH_FILE, "inputs[0].url")
    assert name in error.message


def test_a_site_without_default_storage_refuses_outputs_that_name_none(world):
    stage = world.kit_with(Limits(), default="").stage
    assert not stage.has_default
    error = failing(lambda: stage.allowed(world.attempt(outputs=(OutputFile(name="o"),))))
    assert "no default storage" in error.message
    named = OutputFile(name="o", url="file:///d/")
    assert stage.destinations.physical(world.attempt(), named).text == "file:///d/1.1.o"


def test_outputs_whose_names_fit_in_no_report_are_refused(world, monkeypatch):
    monkeypatch.setattr(stages, "REPORT_BYTES", 400)
    names = tuple(OutputFile(name=f"o{nr}") for nr in range(3))
    error = failing(lambda: world.kit.stage.allowed(world.attempt(outputs=names)))
    assert error.field == "outputs"
    world.kit.stage.allowed(world.attempt(outputs=names[:2]))


@pytest.mark.parametrize(("limit", "refused"), [("4", False), ("0", False), ("1", True)])
def test_inputs_that_are_too_large_together_are_refused(world, limit, refused):
    stage = world.kit_with(Limits(inputs=limit)).stage
    attempt = world.attempt(inputs=(declared(size=2 << 20), declared(size=1)))
    if refused:
        assert failing(lambda: stage.allowed(attempt)).code is Code.INPUTS_TOO_LARGE
    else:
        stage.allowed(attempt)


def test_all_that_an_attempt_may_leave_is_planned(world):
    attempt = world.attempt(outputs=(OutputFile(name="o"), OutputFile(name="p", url="no url")))
    assert world.kit.stage.planned(attempt) == ["file:///out/1.1.o", "file:///out/1.1.log.tgz"]


# outputs ------------------------------------------------------------------------------------------


def test_an_optional_output_may_be_missing(world, work):
    outputs = (OutputFile(name="o", optional=True),)
    assert world.kit.stage.stage_out(world.attempt(outputs=outputs), work) == ()


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_link, make_fifo, Path.mkdir])
def test_only_a_regular_file_can_be_an_output(world, work, make):
    make(work.directory / "o")
    attempt = world.attempt(outputs=(OutputFile(name="o"),))
    error = failing(lambda: world.kit.stage.stage_out(attempt, work))
    assert (error.code, error.field) == (Code.OUTPUT_UNSAFE, "outputs[0].name")
    assert "regular file" in error.message


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (errno.EACCES, Code.OUTPUT_UNSAFE, "may not read it"),
        (errno.EIO, Code.RESOURCE_UNAVAILABLE, "cannot read the output 'o'"),
    ],
)
def test_an_output_that_cannot_be_read_says_whose_fault_that_is(
    world, work, monkeypatch, number, code, text
):
    def unreadable(self: Workdir, name: str) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Workdir, "open", unreadable)
    attempt = world.attempt(outputs=(OutputFile(name="o"),))
    error = failing(lambda: world.kit.stage.stage_out(attempt, work))
    assert error.code is code
    assert text in error.message


def test_an_output_larger_than_the_site_takes_is_refused(world, work):
    stage = world.kit_with(Limits(output="1")).stage
    with (work.directory / "o").open("wb") as file:
        file.truncate((1 << 20) + 1)
    attempt = world.attempt(outputs=(OutputFile(name="o"),))
    assert failing(lambda: stage.stage_out(attempt, work)).code is Code.OUTPUT_TOO_LARGE


def test_when_one_output_fails_those_before_it_are_removed(world, work):
    for name in ("a", "b"):
        (work.directory / name).write_bytes(b"x")
    world.storage.failures.extend([None, FINAL])
    attempt = world.attempt(outputs=(OutputFile(name="a"), OutputFile(name="b")))
    assert failing(lambda: world.kit.stage.stage_out(attempt, work)).message == "gone"
    assert world.storage.calls[-1] == "delete file:///out/1.1.a"
    assert set(world.storage.files) == {"file:///s/in"}


def test_what_was_under_way_when_the_job_was_stopped_is_removed_as_well(world, work):
    (work.directory / "a").write_bytes(b"x")
    attempt = world.attempt(outputs=(OutputFile(name="a"),))

    def stopped(check: Check) -> None:
        attempt.stop(JobError(Code.KILLED_BY_SERVER, "stop"))
        if len(world.storage.calls) == 1:
            check()

    world.storage.on_call = stopped
    failing(lambda: world.kit.stage.stage_out(attempt, work))
    assert world.storage.calls == ["put file:///out/1.1.a", "delete file:///out/1.1.a"]


def test_what_cannot_be_deleted_is_named(world):
    world.storage.failures.append(FINAL)
    assert world.kit.stage.delete(["file:///s/in", "no url"]) == ["file:///s/in", "no url"]


def test_a_server_that_fails_slowly_is_asked_to_remove_one_file_and_not_ten_thousand(world):
    world.storage.failures += [FINAL] * 10
    world.storage.on_call = lambda check: world.clock.forward(60)
    urls = [f"file:///s/{number}" for number in range(10)]
    assert world.kit.stage.delete(urls) == urls
    assert world.storage.calls == ["delete file:///s/0"]


def test_one_that_fails_at_once_is_asked_to_remove_each(world):
    world.storage.failures += [FINAL, None]
    assert world.kit.stage.delete(["file:///s/a", "file:///s/b"]) == ["file:///s/a"]
    assert len(world.storage.calls) == 2


# what nobody declared -----------------------------------------------------------------------------


def test_what_a_payload_left_is_listed_shortly(world, work, monkeypatch):
    monkeypatch.setattr("pilot.files.undeclared.MOST_COUNTED", 8)
    spec = world.attempt(inputs=(declared(),), outputs=(OutputFile(name="o"),)).spec
    assert undeclared(spec, work) == ""
    for name in ("in", "o", "x" * 80):
        (work.directory / name).touch()
    assert undeclared(spec, work) == f"left 1 file that was not declared: {'x' * 59}…"
    for number in range(9):
        (work.directory / f"f{number}").touch()
    assert "left 8 or more files that were not declared: " in undeclared(spec, work)
    assert undeclared(spec, work).endswith(", …")


def test_a_jobs_own_script_is_none_of_what_it_left(world, work):
    (work.directory / "ailurus_script").touch()
    assert undeclared(world.attempt("", script="true\n").spec, work) == ""
