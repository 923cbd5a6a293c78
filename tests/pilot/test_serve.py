"""The service: how it ends, and when it takes no more."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from ailurus.loops import Down
from ailurus.protocol import messages as m
from ailurus.protocol.errors import Code
from ailurus.protocol.worker import Ending
from pilot import serve
from pilot.acquiring import Terms
from pilot.clock import SYSTEM
from pilot.ports import JobError, ProcessSpec
from pilot.process.signals import NUDGE
from pilot.serve import Server
from tests.pilot.fakes import Started, World
from tests.pilot.serving import jobs, server_of


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
