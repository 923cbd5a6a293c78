"""What a pilot asks the dispatcher for, and what it does with the answers."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import InputFile
from ailurus.protocol.worker import Ending
from ailurus.wire.client import Nonsense, Refused
from pilot import acquiring
from pilot.node.slots import LATE_NODES_S
from pilot.upstream.link import Dismissed
from tests.pilot.fakes import assignment
from tests.pilot.serving import (
    GIVER,
    NONE,
    SILENT,
    acquires,
    end_all,
    jobs,
    joined,
    server_of,
    started,
)


def test_an_idle_pilot_offers_all_of_its_room_and_waits_long(world):
    acquires(world)
    (request,) = world.link.sent("acquire")
    assert (request.room.cores, request.room.memory_mb, request.room.seconds_left) == (
        4,
        9000,
        None,
    )
    assert (request.count, request.wait_s, request.ahead) == (4, acquiring.IDLE_POLL_S, False)


def test_a_busy_pilot_offers_what_is_free_and_waits_less(world):
    world.spawner.program = lambda spec: None
    made = server_of(world)
    made.take([assignment(1, cores=3)])
    request = made.acquirer.next_request()
    assert (request.room.cores, request.count, request.wait_s) == (1, 1, acquiring.BUSY_POLL_S)
    end_all(world, made)


def test_the_first_request_waits_for_nodes_that_are_on_their_way(world):
    slots = world.kit.slots
    slots.await_nodes(["n2"])
    made = server_of(world)
    world.clock.while_waiting = lambda: slots.join("n2", slots.room())
    assert made.acquirer.next_request() is None
    request = made.acquirer.next_request()
    assert (request.room.nodes, request.count, request.wait_s) == (2, 8, acquiring.IDLE_POLL_S)


def test_a_node_that_is_late_keeps_none_waiting_and_is_told_soon_after_it_has_come(world):
    world.kit.slots.await_nodes(["n2"])
    made = server_of(world)
    assert made.acquirer.next_request() is None
    request = made.acquirer.next_request()
    assert (request.room.nodes, request.wait_s) == (1, acquiring.BUSY_POLL_S)
    world.clock.forward(LATE_NODES_S)
    assert made.acquirer.next_request().wait_s == acquiring.IDLE_POLL_S


def test_a_node_that_fails_jobs_rests_twice_as_long_each_time_until_one_does_not_fail(world):
    made = server_of(world)

    def rests() -> float:
        before = world.clock.monotonic()
        while made.acquirer.next_request() is None:
            pass
        return world.clock.monotonic() - before

    assert rests() == 0
    found = []
    for _ in range(7):
        # Those that fail together count once.
        made.acquirer.rest()
        made.acquirer.rest()
        found.append(rests())
    assert found == [1, 2, 4, 8, 16, 30, 30]
    made.acquirer.rested()
    made.acquirer.rest()
    assert rests() == 1


def test_a_draining_pilot_does_not_rest(world):
    made = server_of(world)
    made.acquirer.rest()
    made.drain("enough")
    before = world.clock.monotonic()
    made.acquirer.next_request()
    assert world.clock.monotonic() == before


def test_jobs_are_on_disk_with_all_that_they_may_leave_before_they_begin(world):
    began: list[object] = []
    journal: Any = world.spool.own
    begin = journal.begin
    journal.begin = lambda attempts: (began.extend(attempts), begin(attempts))
    made = acquires(world, jobs(7))
    (one,) = began
    assert (one.job_id, one.attempt_nr, one.host) == (7, 1, "node")
    assert one.outputs == ("file:///out/7.1.log.tgz",)
    assert one.directory == f"{world.directory}/7.1"
    assert made.taken == 1
    assert [report.job_id for report in world.reports()] == [7]


@pytest.mark.parametrize("error", [OSError(28, "no space"), RuntimeError("bug")])
def test_jobs_that_no_journal_takes_are_run_all_the_same(world, error):
    def full(attempts: object) -> None:
        raise error

    journal: Any = world.spool.own
    journal.begin = full
    acquires(world, jobs(7))
    assert [report.job_id for report in world.reports()] == [7]


@pytest.mark.parametrize("error", [Dismissed, Refused])
def test_a_pilot_whose_request_is_refused_drains_as_failed(world, error):
    refusal = Refused(m.Problem(title="a stray", status=410))
    made = acquires(world, refusal if error is Refused else Dismissed(refusal))
    assert (made.ending, made.diagnosis) == (Ending.FAILED, "a stray")
    assert not made.broken


def test_a_silent_dispatcher_gets_the_same_request_after_pauses_that_grow(world):
    acquires(world, SILENT, SILENT, SILENT)
    requests = world.link.sent("acquire")
    assert len({one.request_id for one in requests}) == 1
    assert len(requests) == 4
    assert all(pause > 0 for pause in world.clock.waits)
    assert world.clock.waits[-1] > world.clock.waits[0]


def test_the_next_request_has_a_name_of_its_own(world):
    acquires(world, NONE, NONE)
    assert len({one.request_id for one in world.link.sent("acquire")}) == 3


def test_a_dispatcher_that_speaks_a_newer_language_is_left_to_a_newer_pilot(world):
    world.link.registered = m.Registered(
        worker_id=1, token="t", heartbeat_s=10.0, lease_s=30.0, giver=GIVER
    )
    made = acquires(world, *[Nonsense("colour", giver=GIVER)] * acquiring.MOST_NONSENSE)
    assert made.ending is Ending.FAILED
    assert "colour" in made.diagnosis


def test_nonsense_of_anybody_else_is_waited_out(world):
    made = acquires(world, *[Nonsense("<html>")] * (3 * acquiring.MOST_NONSENSE))
    assert made.diagnosis == "the dispatcher drains this worker"


def test_a_pilot_ends_after_its_number_of_jobs(world):
    made = acquires(world, jobs(1, 2), max_jobs=2)
    assert world.link.sent("acquire")[0].count == 2
    assert (made.ending, made.diagnosis) == (Ending.DONE, "2 jobs taken")
    assert made.taken == 2


def test_a_pilot_ends_after_its_number_of_empty_answers(world):
    def none(name: str, request: m.Acquire) -> m.Acquired:
        joined()
        return NONE

    made = acquires(world, none, jobs(1), none, none, empty_acquires=2)
    assert made.ending is Ending.IDLE_EXIT
    assert made.diagnosis == "no job in 2 requests"


def test_an_idle_pilot_waits_no_longer_than_it_may_and_then_ends(world):
    def idle(name: str, request: m.Acquire) -> m.Acquired:
        world.clock.forward(request.wait_s)
        return NONE

    made = acquires(world, idle, idle, idle, idle_exit_s=40)
    assert [one.wait_s for one in world.link.sent("acquire")] == [30.0, 10.0]
    assert (made.ending, made.diagnosis) == (Ending.IDLE_EXIT, "idle for 40 s")


def test_a_pilot_whose_job_has_just_ended_is_idle_from_then_on(world):
    made = server_of(world, idle_exit_s=40)
    world.clock.forward(3600)
    waits: list[float] = []

    class Jobs(set):
        def discard(self, one: object) -> None:
            super().discard(one)
            waits.append(made.acquirer.next_request().wait_s)

    made._jobs = Jobs()
    made.take([assignment(1)])
    joined()
    assert waits == [acquiring.IDLE_POLL_S]


def test_a_silent_dispatcher_does_not_make_an_idle_pilot_stay_longer(world):
    def silent(name: str, request: m.Acquire) -> m.Acquired:
        world.clock.forward(39)
        raise SILENT

    acquires(world, silent, idle_exit_s=40)
    assert world.link.sent("acquire")[1].wait_s < 1.0


def test_a_full_pilot_waits_for_room(world):
    world.spawner.program = lambda spec: None
    made = server_of(world)
    made.take([assignment(1, cores=4)])
    assert made.acquirer.next_request() is None
    assert world.clock.waits[-1] is None
    end_all(world, made)
    assert made.acquirer.next_request().room.cores == 4


def test_jobs_whose_inputs_still_come_have_their_room(world):
    come, asked = threading.Event(), threading.Semaphore(0)

    def slow(check: object) -> None:
        asked.release()
        assert come.wait(10)

    world.storage.files["file:///i"] = b"x"
    world.storage.on_call = slow
    made = server_of(world)
    inputs = (InputFile(name="i", url="file:///i"),)
    made.take([assignment(1, cores=2, inputs=inputs), assignment(2, cores=2, inputs=inputs)])
    assert asked.acquire(timeout=10)
    assert asked.acquire(timeout=10)
    assert made.acquirer.next_request() is None
    come.set()
    joined()
    assert made.acquirer.next_request().room.cores == 4


def test_a_dispatcher_that_lets_it_prefetch_is_asked_once_for_a_job_to_come(world):
    world.spawner.program = lambda spec: None
    made = server_of(world)
    made.acquirer.ended(1.0)
    made.acquirer.accept(m.Acquired(jobs=(assignment(1, cores=4),), prefetch=True), 0)
    started(world)
    request = made.acquirer.next_request()
    assert (request.ahead, request.count, request.wait_s) == (True, 1, acquiring.AHEAD_POLL_S)
    assert request.room.cores == 4
    assert made.acquirer.next_request() is None
    end_all(world, made)


@pytest.mark.parametrize("before_s", [None, acquiring.SHORT_S + 1], ids=["unknown", "long"])
def test_no_job_to_come_is_fetched_behind_jobs_that_may_run_for_long(world, before_s):
    world.spawner.program = lambda spec: None
    made = server_of(world)
    if before_s is not None:
        made.acquirer.ended(before_s)
    made.acquirer.accept(m.Acquired(jobs=(assignment(1, cores=4),), prefetch=True), 0)
    started(world)
    assert made.acquirer.next_request() is None
    end_all(world, made)


def test_a_job_fetched_ahead_goes_to_others_if_no_slot_comes(world):
    world.spawner.program = lambda spec: None
    made = server_of(world)
    made.take([assignment(1, cores=4)])
    started(world)
    made.acquirer.ended(1.0)
    made.acquirer.accept(m.Acquired(jobs=(assignment(2),), prefetch=True), 0, ahead=True)
    joined("job-2.1")
    world.kit.reporter.turn(world.service)
    assert [one.job_id for one in world.link.sent("release")[0].jobs] == [2]
    assert world.clock.now >= acquiring.SHORT_S
    # Nor is one fetched again behind the same jobs.
    assert made.acquirer.next_request() is None
    assert world.kit.slots.stuck
    end_all(world, made)
    assert not world.kit.slots.stuck


def test_a_request_says_how_much_time_is_left(world):
    acquires(world, lifetime_s=100.0, grace_s=20.0)
    assert world.link.sent("acquire")[0].room.seconds_left == 80.0


def test_a_job_that_comes_while_the_pilot_drains_is_given_back(world):
    made = server_of(world)
    made.drain("enough")
    made.take([assignment(1)])
    joined()
    world.kit.reporter.turn(world.service)
    assert [one.job_id for one in world.link.sent("release")[0].jobs] == [1]
    assert world.spawner.started == []
