"""The supervisor: which limit ends a payload, with which code and after which grace time."""

from __future__ import annotations

import signal

import pytest

from ailurus.loops import Loop
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile
from pilot.node import supervisor as supervisors
from pilot.node.supervisor import Supervisor
from pilot.ports import JobError
from pilot.process.proc import Io, Mapped, Process
from pilot.process.usage import Nameless
from pilot.site import Limits, bounds_of
from pilot.workdir import Workdir
from tests.pilot.attempts import attempt_of
from tests.pilot.fakes import FakeClock
from tests.pilot.node.watch import MB, ROOT, Watch, watch_of


def test_a_payload_within_its_limits_runs_on_and_its_usage_is_noted(watch):
    watch.uses(rss_mb=50, cpu_s=3.0)
    assert watch.after(10) is None
    usage = watch.attempt.usage
    assert (usage.wall_s, usage.cpu_s, usage.processes) == (10.0, 3.0, 1)
    assert (usage.rss_kb, usage.max_rss_kb) == (50 * MB, 50 * MB)
    assert (usage.read_bytes, usage.write_bytes) == (7, 8)
    watch.uses(rss_mb=20, cpu_s=2.0)  # a child ended that nobody waited for
    watch.after(10)
    usage = watch.attempt.usage
    assert (usage.rss_kb, usage.max_rss_kb, usage.cpu_s) == (20 * MB, 50 * MB, 3.0)


def test_io_of_a_child_counts_once_before_and_after_its_parent_waited_for_it(watch):
    child = ROOT + 1
    watch.readings.processes[child] = Process(ROOT, 0.0, MB)
    watch.readings.io = {ROOT: Io(1, 2, 0), child: Io(100, 200, 0)}
    watch.after(1)
    assert (watch.attempt.usage.read_bytes, watch.attempt.usage.write_bytes) == (101, 202)
    del watch.readings.processes[child]
    watch.readings.io = {ROOT: Io(101, 202, 0)}
    watch.after(1)
    assert (watch.attempt.usage.read_bytes, watch.attempt.usage.write_bytes) == (101, 202)
    # Another process with the same number adds to it.
    watch.readings.processes[child] = Process(ROOT, 0.0, MB)
    watch.readings.io[child] = Io(10, 20, 0)
    watch.after(1)
    assert (watch.attempt.usage.read_bytes, watch.attempt.usage.write_bytes) == (111, 222)


def test_io_of_a_child_that_nobody_waited_for_stays_in_the_sum(watch):
    watch.uses()
    watch.after(1)
    watch.readings.io = {ROOT: Io(1, 2, 0)}
    watch.after(1)
    assert (watch.attempt.usage.read_bytes, watch.attempt.usage.write_bytes) == (7, 8)


def test_wall_time_ends_it_after_the_grace_time_of_the_site(watched):
    watch = watched(Limits(grace=7), walltime_s=60)
    assert watch.after(59) is None
    assert watch.after(1) is Code.WALLTIME
    assert watch.spawner.signals == [(1, signal.SIGTERM)]
    watch.after(6)
    assert watch.spawner.signals == [(1, signal.SIGTERM)]
    watch.after(1)
    assert watch.spawner.signals == [(1, signal.SIGTERM), (1, signal.SIGKILL)]


def test_one_that_ends_within_its_grace_time_is_not_killed(watched):
    watch = watched(Limits(grace=7), walltime_s=60)
    watch.after(60)
    watch.attempt.payload_ended()
    watch.after(10)
    assert watch.spawner.signals == [(1, signal.SIGTERM)]


def test_memory_is_what_is_left_after_shared_pages_are_shared_out(watch):
    watch.uses(rss_mb=150)
    watch.readings.pss = Mapped(90 * MB, 0)
    assert watch.after(1) is None
    assert watch.attempt.usage.max_pss_kb == 90 * MB
    watch.readings.pss = Mapped(101 * MB, 0)
    assert watch.after(1) is Code.OVER_MEMORY
    assert watch.spawner.signals == [(1, signal.SIGKILL)]
    assert "101 MB" in str(watch.attempt.stopped)


def test_where_the_kernel_shares_nothing_out_rss_decides(watch):
    watch.uses(rss_mb=101)
    watch.readings.pss = None
    assert watch.after(1) is Code.OVER_MEMORY


def test_files_in_memory_count_once_beside_what_is_mapped_of_them(watched):
    watch = watched(memory_mb=100)
    watch.readings.processes = {ROOT: Process(1, 0.0, 1 * MB), 102: Process(ROOT, 0.0, 60 * MB)}
    watch.readings.dev_shm_kb = 60 * MB
    watch.readings.shmem_kb = 50 * MB
    watch.readings.pss = Mapped(61 * MB, 50 * MB)
    assert watch.after(1) is None
    assert watch.attempt.usage.rss_kb == (61 + 10) * MB
    assert watch.attempt.usage.max_pss_kb == (61 + 10) * MB
    watch.readings.pss = Mapped(61 * MB, 0)  # it does not tell how much of it is files: as rss does
    watch.readings.shmem_kb = 0
    assert watch.after(1) is Code.OVER_MEMORY
    assert "60 MB of it in files" in str(watch.attempt.stopped)


def test_disk_is_limited_beside_the_inputs_that_were_there(watched, tmp_path):
    watch = watched(disk_mb=1)
    (watch.work.directory / "f").write_bytes(b"x" * (512 << 10))
    assert watch.after(10) is None
    assert watch.attempt.usage.disk_mb == 1
    (watch.work.tmp / "g").write_bytes(b"x" * (600 << 10))
    assert watch.after(10) is Code.WORKDIR_TOO_LARGE


def test_inputs_do_not_count_against_the_disk_that_was_asked_for(tmp_path):
    attempt = attempt_of("true", disk_mb=1, inputs=(InputFile(name="i", url="file:///i"),))
    supervisor = Supervisor(bounds_of(Limits()), {}, FakeClock())
    work = Workdir(tmp_path / "1.1")
    work.make()
    (work.directory / "i").write_bytes(b"x" * (2 << 20))
    with supervisor.watching(attempt, work, []):
        pass
    assert attempt.stopped is None
    assert attempt.usage.disk_mb == 2


def test_files_without_a_name_count_as_disk(watched):
    watch = watched(disk_mb=1)
    watch.readings.files = Nameless(0, 2 << 20)
    assert watch.after(10) is Code.WORKDIR_TOO_LARGE


def test_directories_that_no_path_reaches_are_refused(watch, monkeypatch):
    monkeypatch.setattr(
        supervisors.Disk, "step", lambda disk, most=0: setattr(disk, "too_deep", True) or True
    )
    assert watch.after(10) is Code.WORKDIR_TOO_LARGE
    assert "so deep" in str(watch.attempt.stopped)


def test_output_is_limited_by_the_site(watched):
    watch = watched(Limits(stdout="1"))
    watch.work.stdout.write_bytes(b"x" * (700 << 10))
    assert watch.after(2) is None
    watch.work.stderr.write_bytes(b"x" * (700 << 10))
    assert watch.after(2) is Code.STDOUT_TOO_BIG


def idle(watch: Watch, seconds: float) -> Code | None:
    """Look every ten seconds, for so long."""
    found = None
    for _ in range(int(seconds / 10)):
        found = watch.after(10)
    return found


def test_a_payload_without_a_sign_of_life_is_ended_as_looping(watched):
    watch = watched(Limits(looping=100, grace=30))
    assert idle(watch, 100) is None
    assert idle(watch, 20) is Code.LOOPING_JOB
    assert watch.spawner.signals == [(1, signal.SIGTERM)]


def works(watch: Watch) -> None:
    watch.uses(cpu_s=watch.attempt.usage.cpu_s + 5)


def moves(watch: Watch) -> None:
    watch.uses(moved=watch.readings.io[ROOT].moved + (1 << 20))


def prints(watch: Watch) -> None:
    with watch.work.stdout.open("ab") as file:
        file.write(b"x")


def writes(watch: Watch) -> None:
    name = f"f{int(watch.clock.now)}"
    (watch.work.directory / name).touch()


@pytest.mark.parametrize("sign", [works, moves, prints, writes])
def test_any_sign_of_life_keeps_it(watched, sign):
    watch = watched(Limits(looping=100))
    for _ in range(30):
        sign(watch)
        assert watch.after(10) is None


@pytest.mark.parametrize(("own", "code"), [(0.0, None), (500.0, None), (50.0, Code.LOOPING_JOB)])
def test_the_jobs_own_limit_of_looping_comes_before_the_sites(watched, own, code):
    watch = watched(Limits(looping=100), looping_s=own)
    assert idle(watch, 90 if code else 300) is code


def test_a_node_that_was_suspended_makes_nobody_loop(watched):
    watch = watched(Limits(looping=100))
    idle(watch, 50)
    due = watch.clock.now + 1
    watch.clock.forward(3600)
    watch.supervisor._look(watch.clock.now, due)
    assert watch.attempt.stopped is None
    assert idle(watch, 40) is None
    assert idle(watch, 60) is Code.LOOPING_JOB


def test_a_second_limit_changes_nothing_of_the_first(watched):
    watch = watched(walltime_s=5)
    assert watch.after(5) is Code.WALLTIME
    watch.uses(rss_mb=1000)
    assert watch.after(5) is Code.WALLTIME


def test_what_is_not_known_yet_is_not_judged(watch):
    watch.readings.processes = {}
    assert watch.after(5) is None
    watch.attempt.payload_ended()
    assert watch.after(5) is None


def test_the_last_look_notes_that_a_payload_left_nothing(watched):
    watch = watched()
    watch.supervisor._last_look(watch.supervisor._watched[watch.attempt.name])
    assert watch.work.empty
    (watch.work.directory / "f").touch()
    watch.supervisor._last_look(watch.supervisor._watched[watch.attempt.name])
    assert not watch.work.empty


def test_an_output_that_is_gone_is_no_output(watch):
    watch.work.stdout.unlink(missing_ok=True)
    assert watch.after(2) is None


# when it looks ------------------------------------------------------------------------------------


def test_it_sleeps_for_ever_where_nothing_runs_and_until_a_deadline_where_something_does(tmp_path):
    supervisor = Supervisor(bounds_of(Limits()), {}, FakeClock())
    assert supervisor._look(1000.0) == float("inf")
    for watch in watch_of(tmp_path, walltime_s=0.5):
        assert watch.supervisor._look(watch.clock.now) == watch.clock.now + 0.5


def test_a_sample_that_costs_more_is_taken_less_often(watched):
    watch = watched()
    watch.clock.cpu_s = iter([0.0, 0.01] * 10).__next__  # each pass takes 10 ms
    watch.clock.forward(1)
    assert watch.supervisor._look(watch.clock.now) == watch.clock.now + 4.0


def test_its_thread_looks_waits_and_ends_with_close(watched):
    watch = watched(walltime_s=5)
    looks: list[float] = []

    def ended() -> None:
        looks.append(watch.clock.now)
        if watch.attempt.stopped is not None:
            watch.supervisor.close()

    watch.clock.while_waiting = ended
    watch.supervisor.run(Loop("supervisor", None, lambda: watch.clock.now))
    assert watch.attempt.stopped.code is Code.WALLTIME
    assert looks[0] == 1000.0
    assert watch.clock.now == 1005.0


def test_a_stop_with_grace_wakes_it_in_time(watched):
    watch = watched()
    watch.supervisor._wake_at = watch.clock.now + 60
    watch.attempt.stop(JobError(Code.SIGTERM, "the pilot ends"), grace_s=2)
    watch.supervisor.wake_by(watch.attempt.kill_at)
    assert watch.supervisor._news.is_set()
    assert watch.supervisor._look(watch.clock.now) <= watch.clock.now + 2


def test_a_payload_that_starts_during_a_look_has_its_limits(watched):
    """The look has not seen it, and was due before the payload begins to count."""
    watch = watched(walltime_s=5)
    supervisor, look = watch.supervisor, watch.supervisor._look
    late = supervisor._watched.pop(watch.attempt.name)

    def look_and_start(now: float, *due: float) -> float:
        again_at = look(now, *due)
        supervisor._look = look
        supervisor._watched[watch.attempt.name] = late
        supervisor.wake_by(now + 1)
        return again_at

    def ended() -> None:
        assert watch.clock.waits[-1] is not None
        if watch.attempt.stopped is not None:
            supervisor.close()

    supervisor._look, watch.clock.while_waiting = look_and_start, ended
    supervisor.wake_by(watch.clock.now)
    supervisor.run(Loop("supervisor", None, lambda: watch.clock.now))
    assert watch.attempt.stopped.code is Code.WALLTIME
    assert watch.clock.now == 1005.0
