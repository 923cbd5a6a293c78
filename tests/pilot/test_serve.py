"""The service: what a pilot asks for, when it takes no more, and how it ends."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from ailurus.loops import Down, Loop
from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile
from ailurus.protocol.worker import Ending
from ailurus.wire.client import Nonsense, Refused, Unreachable
from pilot import serve
from pilot.clock import SYSTEM
from pilot.node.slots import LATE_NODES_S
from pilot.ports import JobError, ProcessEnd, ProcessSpec
from pilot.process.signals import NUDGE
from pilot.serve import Server, Terms
from pilot.upstream.link import Dismissed
from tests.pilot.fakes import FakeSignals, Started, World, assignment

SILENT = Unreachable("no answer")
GIVER = "the-dispatcher"


def server_of(world: World, signals: tuple[int, ...] = (), **terms: Any) -> Server:
    link: Any = world.link
    made = Server(world.kit, link, Terms(**terms), FakeSignals(world.clock, signals))
    no_loops: Any = lambda *args, **more: None  # noqa: E731
    made.loops.thread = no_loops  # type: ignore[method-assign]
    return made


def running() -> list[threading.Thread]:
    """The threads of jobs."""
    return [one for one in threading.enumerate() if one.name.startswith("job-")]


def joined() -> None:
    """Wait for all jobs that run to their end."""
    for thread in running():
        thread.join(10)


def acquires(world: World, *answers: Any, **terms: Any) -> Server:
    """A server that has had these answers to its acquires; after them the dispatcher drains it."""
    made = server_of(world, **terms)
    world.link.answers["acquire"] = deque([*answers, m.Acquired(jobs=(), drain=True)])
    made._acquire(Loop("acquirer", None, world.clock.monotonic))
    joined()
    return made


def jobs(*numbers: int, **fields: Any) -> m.Acquired:
    return m.Acquired(jobs=tuple(assignment(nr, **fields) for nr in numbers))


NONE = m.Acquired(jobs=())


# acquiring ----------------------------------------------------------------------------------------


def test_an_idle_pilot_offers_all_of_its_room_and_waits_long(world):
    acquires(world)
    (request,) = world.link.sent("acquire")
    assert (request.room.cores, request.room.memory_mb, request.room.seconds_left) == (
        4,
        9000,
        None,
    )
    assert (request.count, request.wait_s, request.ahead) == (4, serve.IDLE_POLL_S, False)


def test_a_busy_pilot_offers_what_is_free_and_waits_less(world):
    world.spawner.program = lambda spec: None
    made = server_of(world)
    made._take([assignment(1, cores=3)])
    request = made._next_request()
    assert (request.room.cores, request.count, request.wait_s) == (1, 1, serve.BUSY_POLL_S)
    end_all(world, made)


def test_the_first_request_waits_for_nodes_that_are_on_their_way(world):
    slots = world.kit.slots
    slots.await_nodes(["n2"])
    made = server_of(world)
    world.clock.while_waiting = lambda: slots.join("n2", slots.room())
    assert made._next_request() is None
    request = made._next_request()
    assert (request.room.nodes, request.count, request.wait_s) == (2, 8, serve.IDLE_POLL_S)


def test_a_node_that_is_late_keeps_none_waiting_and_is_told_soon_after_it_has_come(world):
    world.kit.slots.await_nodes(["n2"])
    made = server_of(world)
    assert made._next_request() is None
    request = made._next_request()
    assert (request.room.nodes, request.wait_s) == (1, serve.BUSY_POLL_S)
    world.clock.forward(LATE_NODES_S)
    assert made._next_request().wait_s == serve.IDLE_POLL_S


def end_all(world: World, server: Server) -> None:
    """Let all payloads end."""
    server._stop_all(JobError(Code.SIGTERM, "the test ends"), 0.0)
    while threads := running():
        for key in list(world.spawner._done):
            world.spawner.end(ProcessEnd(key=key, exit_code=-9))
        threads[0].join(0.001)


def started(world: World) -> None:
    """Wait for the first payload to start: its job waits for no slot any more."""
    while not world.spawner.started:
        running()[0].join(0.001)


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
    assert made._taken == 1
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
    made = acquires(world, *[Nonsense("colour", giver=GIVER)] * serve.MOST_NONSENSE)
    assert made.ending is Ending.FAILED
    assert "colour" in made.diagnosis


def test_nonsense_of_anybody_else_is_waited_out(world):
    made = acquires(world, *[Nonsense("<html>")] * (3 * serve.MOST_NONSENSE))
    assert made.diagnosis == "the dispatcher drains this worker"


def test_a_pilot_ends_after_its_number_of_jobs(world):
    made = acquires(world, jobs(1, 2), max_jobs=2)
    assert world.link.sent("acquire")[0].count == 2
    assert (made.ending, made.diagnosis) == (Ending.DONE, "2 jobs taken")
    assert made._taken == 2


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


def test_a_silent_dispatcher_does_not_make_an_idle_pilot_stay_longer(world):
    def silent(name: str, request: m.Acquire) -> m.Acquired:
        world.clock.forward(39)
        raise SILENT

    acquires(world, silent, idle_exit_s=40)
    assert world.link.sent("acquire")[1].wait_s < 1.0


def test_a_full_pilot_waits_for_room(world):
    world.spawner.program = lambda spec: None
    made = server_of(world)
    made._take([assignment(1, cores=4)])
    assert made._next_request() is None
    assert world.clock.waits[-1] is None
    end_all(world, made)
    assert made._next_request().room.cores == 4


def test_jobs_whose_inputs_still_come_have_their_room(world):
    come, asked = threading.Event(), threading.Semaphore(0)

    def slow(check: object) -> None:
        asked.release()
        assert come.wait(10)

    world.storage.files["file:///i"] = b"x"
    world.storage.on_call = slow
    made = server_of(world)
    inputs = (InputFile(name="i", url="file:///i"),)
    made._take([assignment(1, cores=2, inputs=inputs), assignment(2, cores=2, inputs=inputs)])
    assert asked.acquire(timeout=10)
    assert asked.acquire(timeout=10)
    assert made._next_request() is None
    come.set()
    joined()
    assert made._next_request().room.cores == 4


def test_a_dispatcher_that_lets_it_prefetch_is_asked_once_for_a_job_to_come(world):
    world.spawner.program = lambda spec: None
    made = server_of(world)
    made._accept(m.Acquired(jobs=(assignment(1, cores=4),), prefetch=True), 0)
    started(world)
    request = made._next_request()
    assert (request.ahead, request.count, request.wait_s) == (True, 1, serve.AHEAD_POLL_S)
    assert request.room.cores == 4
    assert made._next_request() is None
    end_all(world, made)


def test_a_request_says_how_much_time_is_left(world):
    acquires(world, lifetime_s=100.0, grace_s=20.0)
    assert world.link.sent("acquire")[0].room.seconds_left == 80.0


def test_a_job_that_comes_while_the_pilot_drains_is_given_back(world):
    made = server_of(world)
    made.drain("enough")
    made._take([assignment(1)])
    joined()
    world.kit.reporter.turn(world.service)
    assert [one.job_id for one in world.link.sent("release")[0].jobs] == [1]
    assert world.spawner.started == []


# the main thread ----------------------------------------------------------------------------------


def serving(
    world: World,
    *signals: int,
    while_it_runs: Callable[[Server], object] = lambda _: 0,
    **terms: Any,
) -> tuple[Server, serve.Served]:
    """A server with one job that runs, to its end."""
    world.spawner.program = lambda spec: None
    made = server_of(world, signals, **terms)
    attempt = world.attempt()
    made._jobs.add(attempt)
    attempt.start_payload(
        lambda: Started(world.spawner, world.spawner.spawn(ProcessSpec(argv=["true"]), print))
    )
    while_it_runs(made)
    return made, made.serve()


def test_the_first_signal_gives_payloads_their_grace_time_and_the_pilot_some_for_reports(world):
    began = world.clock.now
    made, served = serving(world, signal.SIGTERM, grace_s=5.0)
    (attempt,) = made._jobs
    assert attempt.stopped.code is Code.SIGTERM
    assert attempt.give_back
    assert attempt.kill_at == began + 5.0
    assert world.spawner.signals == [(1, signal.SIGTERM)]
    assert (served.ending, served.signal) == (Ending.PREEMPTED, signal.SIGTERM)
    assert world.clock.now == pytest.approx(began + 5.0 + serve.REPORTING_S, abs=6)


def test_the_second_signal_gives_none(world):
    made, served = serving(world, signal.SIGXCPU, signal.SIGINT, grace_s=500.0)
    assert world.spawner.signals == [(1, signal.SIGTERM), (1, signal.SIGKILL)]
    (attempt,) = made._jobs
    assert attempt.stopped.code is Code.SIGXCPU
    assert served.signal == signal.SIGXCPU
    assert world.clock.now < 1000 + 100


def test_usr2_lets_jobs_end_by_themselves(world):
    ended: list[Server] = []

    def one_ends(made: Server) -> None:
        signals: Any = made._signals
        wait = signals.wait

        def then(seconds: float) -> int | None:
            if made._draining and not ended:
                ended.append(made)
                made._gone(next(iter(made._jobs)))
            return wait(seconds)

        signals.wait = then

    _, served = serving(world, signal.SIGUSR2, while_it_runs=one_ends)
    assert (served.ending, served.diagnosis) == (Ending.DONE, "told to drain by SIGUSR2")
    assert served.signal == 0
    assert world.spawner.signals == []


def test_the_lifetime_ends_payloads_in_time_for_their_grace(world):
    began = world.clock.now
    made, served = serving(world, lifetime_s=100.0, grace_s=20.0)
    (attempt,) = made._jobs
    assert attempt.stopped.code is Code.WALLTIME
    assert attempt.kill_at == pytest.approx(began + 100.0, abs=0.1)
    assert served.ending is Ending.WALLTIME


def test_it_leaves_when_all_is_reported(world):
    made = server_of(world, (NUDGE, signal.SIGUSR2))
    served = made.serve()
    assert (served.ending, served.jobs, served.owed) == (Ending.DONE, 0, False)


def test_reports_without_a_verdict_are_left_in_the_spool(world):
    made = server_of(world, (signal.SIGTERM,), grace_s=0.0)
    report = m.Report(job_id=1, attempt_nr=1, report_key="k", finished=True)
    world.kit.reporter.owe(report, world.spool.own, seal="")
    assert made.serve().owed


@pytest.mark.parametrize(("loop", "stopped"), [("acquirer", False), ("reporter", True)])
def test_a_loop_that_is_down_ends_the_pilot(world, loop, stopped):
    made = server_of(world, grace_s=0.0)
    attempt = world.attempt()
    made._jobs.add(attempt)
    made._broken(Down(loop, "a bug", 40.0))
    assert (made.ending, made.broken) == (Ending.FAILED, True)
    assert (attempt.stopped is not None) is stopped


def test_it_sleeps_until_something_can_happen(world):
    made = server_of(world, lifetime_s=100.0, grace_s=20.0)
    assert made._next_look_s() == 80.0
    made.loops.add("reporter", 1.0)
    assert made._next_look_s() == 5.0
    made._stop_by = world.clock.now + 2.0
    assert made._next_look_s() == 2.0
    assert server_of(world)._next_look_s() == 3600.0


def test_a_lost_guardian_ends_the_pilot_as_broken(world):
    made = server_of(world)
    made.guardian_lost()
    assert (made.ending, made.broken) == (Ending.FAILED, True)
    assert "guardian" in made.diagnosis


def test_the_first_reason_to_drain_counts_and_the_dispatcher_hears_of_it(world):
    made = server_of(world)
    made.drain("first", Ending.IDLE_EXIT)
    made.drain("second", Ending.FAILED)
    assert (made.diagnosis, made.ending) == ("first", Ending.IDLE_EXIT)
    world.kit.reporter.turn(made)
    assert world.link.sent("beat")[0].draining


def test_a_stop_with_grace_reaches_the_supervisor(world):
    made = server_of(world)
    attempt = world.attempt()
    attempt._on_change = made._changed
    attempt.stop(JobError(Code.SIGTERM, "ends"))
    assert world.kit.supervisor._wake_at == float("inf")
    attempt.kill_at = 1234.0
    made._changed(attempt)
    assert world.kit.supervisor._wake_at == 1234.0


def test_real_threads_carry_a_job_from_its_acquisition_to_its_verdict(tmp_path):
    world = World(tmp_path, clock=SYSTEM)
    acquired = deque([jobs(1), m.Acquired(jobs=(), drain=True)])
    world.link.answers["acquire"] = acquired
    before = signal.pthread_sigmask(signal.SIG_BLOCK, serve.HANDLED_SIGNALS)
    try:
        link: Any = world.link
        made = Server(world.kit, link, Terms())
        served = made.serve()
    finally:
        world.kit.supervisor.close()
        world.kit.reporter.close()
        while signal.sigtimedwait(serve.HANDLED_SIGNALS, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert (served.ending, served.jobs, served.owed) == (Ending.DONE, 1, False)
    assert [one.job_id for one in world.link.sent("report")[0].reports] == [1]
    assert world.reports() == []
