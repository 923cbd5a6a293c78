"""What stops an attempt, and how soon its payload ends."""

from __future__ import annotations

import signal

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import Assignment
from pilot import attempt as attempts
from pilot.attempt import Attempt
from pilot.ports import JobError, ProcessSpec
from tests.pilot.fakes import FakeClock, FakeSpawner, Started

WHY = JobError(Code.WALLTIME, "too long")


@pytest.fixture
def spawner() -> FakeSpawner:
    return FakeSpawner()


@pytest.fixture
def attempt() -> Attempt:
    spec = JobSpec(name="job", command="true")
    given = Assignment(job_id=7, attempt_nr=2, report_key="k", spec=spec)
    return Attempt(given, lambda _: None, clock=FakeClock(0.0))


def runs(attempt: Attempt, spawner: FakeSpawner) -> None:
    attempt.start_payload(
        lambda: Started(spawner, spawner.spawn(ProcessSpec(argv=["true"]), print))
    )


def test_a_stop_reaches_a_payload_that_runs(attempt, spawner):
    runs(attempt, spawner)
    attempt.stop(WHY)
    assert attempt.stopped is WHY
    assert attempt.wakeup.is_set()
    assert spawner.signals == [(1, signal.SIGKILL)]
    with pytest.raises(JobError, match="too long"):
        attempt.check()


def test_a_stopped_attempt_starts_no_payload(attempt, spawner):
    attempt.check()
    attempt.stop(WHY)
    with pytest.raises(JobError, match="too long"):
        runs(attempt, spawner)
    assert spawner.started == []


def test_a_later_stop_makes_the_end_sooner_and_changes_no_reason(attempt, spawner):
    runs(attempt, spawner)
    attempt.stop(WHY, grace_s=20)
    assert attempt.kill_at == 20.0
    attempt.stop(JobError(Code.SIGTERM, "the pilot ends"), grace_s=30)
    assert attempt.kill_at == 20.0
    attempt.stop(JobError(Code.SIGTERM, "the pilot ends"), grace_s=10)
    assert attempt.kill_at == 10.0
    attempt.kill()
    assert attempt.kill_at is None
    assert attempt.stopped is WHY
    assert [number for _, number in spawner.signals] == [15, 15, 15, 9]


def test_a_payload_that_has_ended_gets_no_signal(attempt, spawner):
    runs(attempt, spawner)
    attempt.stop(WHY, grace_s=20)
    attempt.payload_ended()
    assert attempt.kill_at is None
    attempt.terminate()
    attempt.kill()
    attempt.stop(WHY)
    assert spawner.signals == [(1, signal.SIGTERM)]


def test_what_is_beside_its_payload_is_stopped_by_itself(attempt, spawner):
    runs(attempt, spawner)
    beside = attempt.beside()
    beside.stop(WHY)
    assert (beside.stopped, attempt.stopped, spawner.signals) == (WHY, None, [])
    beside.note("seen")
    assert attempt.notes[-1].endswith(" seen")


def test_a_stop_that_may_come_is_waited_for(attempt):
    clock = attempt._clock
    assert attempt.stopped_within(1.0) is None
    assert clock.now == 1.0
    clock.while_waiting = lambda: attempt.stop(WHY)
    assert attempt.stopped_within(1.0) is WHY
    assert clock.now == 1.0


def test_its_own_log_has_bounded_length(attempt, monkeypatch):
    monkeypatch.setattr(attempts, "MOST_NOTES", 2)
    for text in ("one", "two", "three"):
        attempt.note(text)
    assert [note.split(" ", 1)[1] for note in attempt.notes] == ["one", "two"]
    assert attempt.notes[0].startswith("2023-11-14T22:13:20Z")


def test_it_is_named_after_job_and_attempt(attempt):
    assert attempt.name == "7.2"
    attempt.settle()  # nobody wants to know
