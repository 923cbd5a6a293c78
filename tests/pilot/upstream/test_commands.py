"""What the reporter does with each command that comes with a heartbeat's answer."""

from __future__ import annotations

from collections import deque

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.wire.client import Unreachable
from pilot.attempt import Attempt
from pilot.ports import ProcessSpec
from pilot.upstream import reporter as reporters
from pilot.upstream.reporter import Reporter
from pilot.workdir import Workdir
from tests.pilot.fakes import Started, World

SILENT = Unreachable("no answer")


@pytest.fixture
def reporter(world: World) -> Reporter:
    return world.kit.reporter


def command(world: World, action: m.Action, argument: str = "", seal: str = "") -> None:
    given = m.Command(job_id=1, attempt_nr=1, action=action, argument=argument, seal=seal)
    world.link.answers["beat"] = deque([m.BeatAnswer(heartbeat_s=10.0, commands=(given,))])
    world.clock.forward(10)
    world.turn()


def running(world: World) -> Attempt:
    attempt = world.attempt()
    attempt.start_payload(
        lambda: Started(world.spawner, world.spawner.spawn(ProcessSpec(argv=["true"]), print))
    )
    world.spawner.signals.clear()
    return attempt


@pytest.fixture
def slow(world: World) -> World:
    world.spawner.program = lambda spec: None
    return world


def test_kill_stops_the_attempt_with_the_sites_grace_time(slow):
    attempt = running(slow)
    command(slow, m.Action.KILL)
    assert attempt.stopped.code is Code.KILLED_BY_SERVER
    assert attempt.kill_at == slow.clock.now + 1.0
    assert slow.spawner.signals == [(1, 15)]


def test_soft_kill_lets_the_payload_end_with_its_own_result(slow):
    attempt = running(slow)
    command(slow, m.Action.SOFT_KILL)
    assert attempt.stopped is None
    assert slow.spawner.signals == [(1, 15)]


def test_tail_is_answered_with_the_next_heartbeat_and_once(slow, tmp_path):
    attempt = running(slow)
    attempt.work = Workdir(tmp_path / "1.1")
    attempt.work.make()
    attempt.work.stdout.write_bytes(b"so far\n")
    command(slow, m.Action.TAIL, "stdout")
    slow.clock.forward(1)
    slow.turn()
    slow.clock.forward(10)
    slow.turn()
    assert [one.jobs[0].tail for one in slow.link.sent("beat")[-2:]] == ["so far\n", None]


def test_a_log_is_followed_for_as_long_as_it_is_watched(slow, tmp_path, reporter):
    attempt = running(slow)
    attempt.work = Workdir(tmp_path / "1.1")
    attempt.work.make()
    attempt.work.stdout.write_bytes(b"one\n")
    command(slow, m.Action.LOG, "5")
    attempt.work.stdout.write_bytes(b"one\ntwo\n")
    assert reporter._due_in() == reporters.LIVE_S
    slow.turn()
    slow.clock.forward(16)
    slow.turn()
    attempt.work.stdout.write_bytes(b"one\ntwo\nthree\n")
    slow.turn()
    texts = [one.pieces[0].text for one in slow.link.sent("log_pieces")]
    assert "".join(texts) == "one\ntwo\n"
    end = reporter.follow(attempt).rest()
    reporter.owe(m.Report(job_id=1, attempt_nr=1, report_key="k", finished=True),
                 slow.spool.own, end, seal="")  # fmt: skip
    slow.turn()
    (piece,) = slow.link.sent("log_pieces")[-1].pieces
    assert piece.final


def test_a_live_log_that_nobody_takes_stops_nothing(slow, tmp_path):
    attempt = running(slow)
    attempt.work = Workdir(tmp_path / "1.1")
    attempt.work.make()
    slow.link.answers["log_pieces"] = SILENT
    command(slow, m.Action.LOG)
    attempt.work.stdout.write_bytes(b"x")
    slow.owe(2)
    assert slow.turn() == ["report", "log_pieces"]


@pytest.mark.parametrize("action", [m.Action.KILL, m.Action.SOFT_KILL])
def test_a_command_without_the_seal_of_the_attempt_is_not_obeyed(slow, reporter, action):
    attempt = running(slow)
    attempt.assignment = m.Assignment(
        job_id=1, attempt_nr=1, report_key="k", spec=attempt.spec, seal="s"
    )
    command(slow, action, seal="another")
    assert attempt.stopped is None
    assert slow.spawner.signals == []


def test_a_command_for_an_attempt_that_has_ended_is_nothing(slow):
    attempt = running(slow)
    slow.owe()
    slow.link.answers["report"] = SILENT
    command(slow, m.Action.KILL)
    assert attempt.stopped is None
    slow.kit.reporter.forget(attempt)
    command(slow, m.Action.KILL)
    assert attempt.stopped is None
