"""The reporter: when it speaks, what it repeats, and what it does with each answer."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from ailurus.loops import Loop
from ailurus.protocol import messages as m
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.states import JobState
from ailurus.wire.client import Refused, Unreachable
from pilot.attempt import Attempt
from pilot.upstream import reporter as reporters
from pilot.upstream.link import Dismissed
from pilot.upstream.reporter import Reporter
from pilot.workdir import Workdir
from tests.pilot.fakes import World, verdict

SILENT = Unreachable("no answer")


@pytest.fixture
def reporter(world: World) -> Reporter:
    return world.kit.reporter


def problem(status: int) -> Refused:
    return Refused(m.Problem(title="no", status=status))


# heartbeats ---------------------------------------------------------------------------------------


def test_a_heartbeat_comes_at_the_dispatchers_interval_with_all_attempts_and_the_free_room(world):
    world.attempt()
    assert world.turn() == []
    world.clock.forward(10)
    assert world.turn() == ["beat"]
    (beat,) = world.link.sent("beat")
    assert [(one.job_id, one.state) for one in beat.jobs] == [(1, JobState.SENT)]
    assert beat.room == world.service.room()
    assert not beat.draining


def test_the_dispatcher_sets_the_interval(world, reporter):
    world.link.answers["beat"] = m.BeatAnswer(heartbeat_s=60.0)
    world.clock.forward(10)
    world.turn()
    assert reporter._due_in() == 60.0


def test_changes_that_come_together_go_together_and_heartbeats_for_them_keep_apart(world, reporter):
    one = world.attempt()
    one.usage = m.Usage(cpu_s=1.0)
    reporter.changed(one)
    assert reporter._due_in() == pytest.approx(reporters.GATHER_S)
    world.clock.forward(0.01)
    reporter.changed(one)
    assert world.turn() == []
    world.clock.forward(0.02)
    assert world.turn() == ["beat"]
    assert world.link.sent("beat")[0].jobs[0].usage.cpu_s == 1.0
    reporter.changed(one)
    assert reporter._due_in() == pytest.approx(reporters.APART_S)


def test_a_change_of_an_attempt_that_is_not_here_is_not_reported(world, reporter):
    attempt = world.attempt()
    reporter.forget(attempt)
    reporter.changed(attempt)
    world.clock.forward(1)
    assert world.turn() == []


def test_an_attempt_that_is_forgotten_is_in_no_heartbeat(world, reporter):
    attempt = world.attempt()
    reporter.changed(attempt)
    reporter.forget(attempt)
    world.clock.forward(10)
    world.turn()
    assert world.link.sent("beat")[0].jobs == ()


def test_a_change_that_did_not_arrive_is_reported_again_after_pauses_that_grow(world, reporter):
    world.link.answers["beat"] = SILENT
    reporter.changed(world.attempt())
    world.clock.forward(1)
    pauses = []
    for _ in range(4):
        assert world.turn() == ["beat"]
        pauses.append(reporter._due_in())
        world.clock.forward(pauses[-1])
    assert all(pause > 0 for pause in pauses)
    assert pauses[-1] > pauses[0]
    del world.link.answers["beat"]
    world.turn()
    assert [one.job_id for one in world.link.sent("beat")[-1].jobs] == [1]


def test_a_drain_is_reported_before_anything_else_and_until_it_has_arrived(world, reporter):
    world.link.answers["beat"] = deque([SILENT])
    world.owe()
    reporter.drain()
    assert world.turn() == ["beat"]
    world.clock.forward(100)
    assert world.turn()[:2] == ["beat", "report"]
    assert world.link.sent("beat")[-1].draining
    assert world.turn() == []


def test_a_drain_that_begins_during_a_heartbeat_is_reported_at_once(world, reporter):
    def drained(name: str, request: m.Beat) -> m.BeatAnswer:
        reporter.drain()
        return m.BeatAnswer(heartbeat_s=10.0)

    world.link.answers["beat"] = deque([drained])
    world.clock.forward(10)
    world.turn()
    assert not world.link.sent("beat")[-1].draining
    assert reporter._due_in() == 0
    world.turn()
    assert world.link.sent("beat")[-1].draining
    assert reporter._due_in() == 10


def test_the_dispatchers_drain_reaches_the_service(world):
    world.link.answers["beat"] = m.BeatAnswer(heartbeat_s=10.0, drain=True)
    world.clock.forward(10)
    world.turn()
    assert world.service.drained == ["the dispatcher drains this worker"]


def test_a_dispatcher_that_dismisses_the_pilot_drains_it_and_reports_are_still_tried(
    world, reporter
):
    world.link.answers["beat"] = Dismissed(problem(410))
    world.clock.forward(10)
    world.turn()
    assert len(world.service.drained) == 1
    world.owe()
    world.clock.forward(100)
    assert "report" in world.turn()


# reports ------------------------------------------------------------------------------------------


def test_a_report_that_is_accepted_is_done_with(world, reporter):
    world.attempt()
    world.owe()
    assert world.turn() == ["report"]
    assert (reporter.owes(), reporter.idle(), world.reports()) == (0, True, [])
    assert world.service.settled == 1
    world.clock.forward(10)
    world.turn()
    assert world.link.sent("beat")[0].jobs == ()


@pytest.mark.parametrize(
    ("word", "seal", "shown", "kept", "deleted"),
    [
        ("accepted", "s", "s", False, False),
        ("alreadydone", "s", "s", False, True),
        ("alreadydone", "s", "", True, False),
        ("alreadydone", "s", "another", True, False),
        ("alreadydone", "", "", False, False),
        ("badkey", "", "", True, False),
    ],
)
def test_each_verdict_ends_the_report_or_not_and_removes_its_files_or_not(
    world, reporter, word, seal, shown, kept, deleted
):
    world.storage.files["file:///out/1.1.o"] = b"x"
    world.link.answers["report"] = lambda name, request: m.ReportVerdicts(
        verdicts=tuple(verdict(one, word, shown) for one in request.reports)
    )
    world.owe(seal=seal)
    world.turn()
    assert bool(reporter.owes()) is kept
    assert bool(world.reports()) is kept
    assert (world.storage.files == {}) is deleted


def test_what_uploads_left_is_removed_whatever_the_verdict(world, reporter):
    world.storage.files["file:///out/part"] = b"x"
    report = m.Report(job_id=1, attempt_nr=1, report_key="k", finished=False, ended=1.0)
    reporter.owe(report, world.spool.own, seal="", leftovers=["file:///out/part"])
    assert not reporter.idle()
    world.turn()
    assert world.storage.files == {}
    assert (reporter.owes(), reporter.idle()) == (0, True)


def test_a_report_that_no_server_answers_is_repeated_and_stays_on_disk(world, reporter):
    world.link.answers["report"] = SILENT
    world.owe()
    for _ in range(3):
        assert world.turn() == ["report"]
        assert world.service.settled == 0
        world.clock.forward(reporter._due_in())
    assert len(world.reports()) == 1
    del world.link.answers["report"]
    world.turn()
    assert world.reports() == []


def test_a_report_refused_by_a_strange_server_is_repeated_less_and_less_often(world, reporter):
    world.link.answers["report"] = problem(404)
    world.owe()
    pauses = []
    for _ in range(8):
        assert "report" in world.turn()
        pauses.append(reporter._refused_at - world.clock.now)
        world.clock.now = reporter._refused_at
    assert pauses[-1] > 10 * pauses[0]
    assert not reporter.idle()
    assert reporter.owes() == 1


def test_a_pilot_waits_no_longer_than_an_hour_for_the_verdict_of_a_strange_server(world, reporter):
    world.link.answers["report"] = problem(404)
    world.owe()
    world.turn()
    world.clock.forward(3599)
    assert not reporter.idle()
    world.clock.forward(1)
    assert reporter.idle()


def test_an_adopted_report_is_waited_for_until_it_is_refused(world, reporter):
    world.link.answers["report"] = deque([SILENT, problem(404)])
    world.owe(adopted=True)
    world.turn()
    assert not reporter.idle()
    world.clock.forward(100)
    world.turn()
    assert reporter.idle()


def test_refused_reports_are_sent_at_once_when_the_dispatcher_is_back(world, reporter):
    world.link.answers["report"] = problem(404)
    world.owe()
    world.turn()
    world.link.answers["beat"] = SILENT
    world.clock.forward(10)
    world.turn()
    world.link.answers.clear()
    world.clock.forward(20)
    reporter._refused_at = world.clock.now + 1000
    assert world.turn() == ["beat"]
    assert world.turn() == ["report"]
    assert reporter.owes() == 0


def test_one_report_at_fault_does_not_delay_the_rest(world, reporter, monkeypatch):
    def answer(name: str, request: m.Reports) -> m.ReportVerdicts:
        if any(one.job_id == 3 for one in request.reports):
            raise problem(400)
        return m.ReportVerdicts(verdicts=tuple(verdict(one, "accepted") for one in request.reports))

    monkeypatch.setattr(reporters.authority, "divisible", lambda error: True)
    world.link.answers["report"] = answer
    for job_id in range(1, 6):
        world.owe(job_id)
    world.turn()
    assert [one.job_id for one in world.reports()] == [3]


def test_a_flush_sends_all_and_says_what_stays(world, reporter):
    world.owe()
    reporter.flush()
    world.link.answers["report"] = problem(404)
    world.owe(2)
    with pytest.raises(AilurusError, match="1 reports stay in the spool"):
        reporter.flush()


# logs and attempts given back ---------------------------------------------------------------------


def with_output(world: World, tmp_path: Path) -> Attempt:
    attempt = world.attempt()
    attempt.work = Workdir(tmp_path / "1.1")
    attempt.work.make()
    attempt.work.stdout.write_bytes(b"the end\n")
    return attempt


def test_reports_do_not_wait_for_logs_that_nobody_takes(world, reporter, tmp_path):
    attempt = with_output(world, tmp_path)
    world.link.answers["log_pieces"] = SILENT
    report = m.Report(job_id=1, attempt_nr=1, report_key="k", finished=True)
    reporter.owe(report, world.spool.own, reporter.follow(attempt).rest(), seal="")
    assert world.turn() == ["log_pieces", "report"]
    assert not reporter.idle()
    world.clock.forward(3600)
    assert reporter.idle()
    del world.link.answers["log_pieces"]
    assert "log_pieces" in world.turn()
    assert world.turn() == []


def test_an_attempt_given_back_is_settled(world, reporter):
    settled: list[Attempt] = []
    attempt = world.attempt()
    attempt._on_settled = settled.append
    reporter.release(attempt)
    assert reporter._due_in() == 0
    assert world.turn() == ["release"]
    assert (settled, reporter.idle()) == ([attempt], True)


def test_one_that_the_dispatcher_does_not_take_back_is_left_to_the_next_pilot(world, reporter):
    settled: list[Attempt] = []
    attempt = world.attempt()
    attempt._on_settled = settled.append
    world.link.answers["release"] = problem(400)
    reporter.release(attempt)
    world.turn()
    assert (settled, reporter.idle()) == ([], True)


def test_one_that_no_dispatcher_answers_about_is_given_back_later(world, reporter):
    world.link.answers["release"] = deque([SILENT])
    reporter.release(world.attempt())
    world.turn()
    assert not reporter.idle()
    world.clock.forward(100)
    assert "release" in world.turn()
    assert reporter.idle()


# the thread ---------------------------------------------------------------------------------------


def test_its_thread_sleeps_until_something_is_due_and_ends_with_close(world, reporter):
    def closes_after_the_second_heartbeat() -> None:
        if len(world.link.sent("beat")) == 2:
            reporter.close()

    world.clock.while_waiting = closes_after_the_second_heartbeat
    reporter.run(Loop("reporter", None, lambda: world.clock.now), world.service)
    assert reporter.closed
    assert world.clock.waits[:2] == [10.0, 10.0]


def test_many_ends_of_logs_go_in_few_requests(world, reporter, tmp_path, monkeypatch):
    monkeypatch.setattr("pilot.upstream.log_sender.MOST_PIECES", 2)
    for job_id in range(1, 6):
        (tmp_path / f"{job_id}").mkdir()
        attempt = with_output(world, tmp_path / f"{job_id}")
        report = m.Report(job_id=job_id, attempt_nr=1, report_key="k", finished=True)
        reporter.owe(report, world.spool.own, reporter.follow(attempt).rest(), seal="")
    world.turn()
    assert [len(one.pieces) for one in world.link.sent("log_pieces")] == [2, 2, 1]
