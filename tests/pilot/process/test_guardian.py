"""The guardian starts processes, tells how they end, and lets nothing survive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.blame import GUARDIAN_DIED
from pilot.ports import ProcessEnd, ProcessSpec
from pilot.process.spawner import GuardedSpawner
from tests.pilot.helpers import guarded, processes_with
from tests.rig.waiting import until


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


def run(spawner: GuardedSpawner, *argv: str, **order: object) -> ProcessEnd:
    over, results = threading.Event(), []

    def done(ended: ProcessEnd) -> None:
        results.append(ended)
        over.set()

    spawner.spawn(ProcessSpec(argv=argv, **order), done)  # type: ignore[arg-type]
    assert over.wait(20)
    return results[0]


ORDINARY = """
import ctypes, logging, os, resource, traceback
from pilot.process import guardian  # first: the interpreter may lie where only root can read
from pilot.ports import ProcessSpec
from pilot.process.spawner import GuardedSpawner
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: as after an exec by that user
made = GuardedSpawner(*guardian.start())
made.spawn(ProcessSpec(argv=["/bin/sleep", "30"]), print)
while (pid := made.pid(1)) is None:
    made.turn()
print(open(f"/proc/{pid}/oom_score_adj").read())
made.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_when_memory_runs_out_payloads_of_an_ordinary_user_go_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORDINARY],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.stdout.strip() == "300", done.stderr


STOPPED = """
import os, signal
from pilot.process import guardian
from pilot.process.spawner import GuardedSpawner
made = GuardedSpawner(*guardian.start())
os.kill(made.guardian_pid, signal.SIGSTOP)
os.waitpid(made.guardian_pid, os.WUNTRACED)
made.close()
print("closed")
"""


def test_a_guardian_that_somebody_stopped_ends_with_its_pilot() -> None:
    argv = [sys.executable, "-c", STOPPED]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20)
    assert done.stdout.strip() == "closed", done.stderr


def test_an_exit_code_comes_back(spawner: GuardedSpawner) -> None:
    assert run(spawner, "/bin/sh", "-c", "exit 7").exit_code == 7


def test_a_signal_comes_back_negative(spawner: GuardedSpawner) -> None:
    assert run(spawner, "/bin/sh", "-c", "kill -TERM $$").exit_code == -signal.SIGTERM


def test_what_cannot_be_started_has_an_errno(spawner: GuardedSpawner) -> None:
    assert run(spawner, "/no/such/program").errno == 2
    assert run(spawner, "/bin/true", directory="/no/such/directory").errno == 2


def test_cpu_and_memory_are_told(spawner: GuardedSpawner) -> None:
    ended = run(spawner, sys.executable, "-c", "x = bytearray(50_000_000); sum(range(3_000_000))")
    assert ended.cpu_s > 0.02
    assert ended.max_rss_kb > 50_000


def test_p3_no_descriptor_above_2_and_no_directory_of_ours(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    run(
        spawner,
        "/bin/sh",
        "-c",
        "ls /proc/self/fd; pwd; readlink /proc/self/fd/0; env",
        directory=str(tmp_path),
        stdout=str(tmp_path / "out"),
        environment={"ONLY": "this"},
    )
    told = (tmp_path / "out").read_text().split()
    assert told[:4] == ["0", "1", "2", "3"]  # 3 is ls's own, on the directory it lists
    assert told[4:6] == [str(tmp_path), "/dev/null"]
    assert "ONLY=this" in told
    assert not [word for word in told if word.startswith("HOME=")]


def test_each_of_many_programs_has_its_own_directory_and_cpus(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    chosen = [cpus[:1], [], cpus[-1:], cpus[-1:], []]
    over = threading.Semaphore(0)
    orders = []
    for number, some in enumerate(chosen):
        directory = tmp_path / str(number)
        directory.mkdir()
        told = ["/bin/sh", "-c", "pwd -P; grep Cpus_allowed_list /proc/self/status"]
        where = "/" if number == 3 else str(directory)
        order = ProcessSpec(argv=told, directory=where, cpus=some, stdout=f"{directory}/out")
        orders.append((order, lambda _: over.release()))
    spawner.spawn_all(orders)  # type: ignore[arg-type]
    for _ in chosen:
        assert over.acquire(timeout=20)
    whole = Path("/proc/self/status").read_text("ascii").partition("Cpus_allowed_list:")[2].split()
    for number, some in enumerate(chosen):
        pwd, _, allowed = (tmp_path / f"{number}/out").read_text().split()
        assert pwd == ("/" if number == 3 else str(tmp_path / str(number)))
        assert allowed == (str(some[0]) if some else whole[0])


def test_stdout_follows_no_link(spawner: GuardedSpawner, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").symlink_to(tmp_path / "victim")
    ended = run(spawner, "/bin/echo", "overwritten", stdout=str(tmp_path / "out"))
    assert ended.errno != 0
    assert (tmp_path / "victim").read_text() == "mine"


def test_signals_have_their_default_meaning_in_a_payload(spawner: GuardedSpawner) -> None:
    ended = run(spawner, "/bin/sh", "-c", "kill -PIPE $$; exit 3")
    assert ended.exit_code == -signal.SIGPIPE


def test_term_spares_the_container_around_the_payload(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    over = threading.Event()
    results: list[ProcessEnd] = []

    def done(end: ProcessEnd) -> None:
        results.append(end)
        over.set()

    up = tmp_path / "up"
    payload = f"trap 'exit 9' TERM; touch {up}; while :; do sleep 0.02; done"
    container = f'/bin/sh -c "{payload}" & wait $!; exit $?'  # by a TERM of its own it would die
    order = ProcessSpec(
        argv=["/bin/sh", "-c", container], depth=1, environment={"PATH": os.environ["PATH"]}
    )
    key = spawner.spawn(order, done)
    until(up.exists)
    spawner.signal(key, signal.SIGTERM)
    assert over.wait(10)
    assert results[0].exit_code == 9


def test_p6_what_a_payload_leaves_behind_is_killed_before_its_end_is_told(
    spawner: GuardedSpawner,
) -> None:
    mark = f"3{os.getpid()}.1"
    began = time.monotonic()
    run(spawner, "/bin/sh", "-c", f"(setsid sh -c 'trap \"\" TERM; sleep {mark}' &) ; sleep 0.1")
    assert processes_with(f"sleep\0{mark}") == []
    assert time.monotonic() - began < 10


def test_an_orphan_of_a_running_payload_is_left_alone(spawner: GuardedSpawner) -> None:
    mark = f"3{os.getpid()}.2"
    over = threading.Event()
    environment = {"AILURUS_ATTEMPT": "77.1", "PATH": "/usr/bin:/bin"}
    order = ProcessSpec(
        argv=["/bin/sh", "-c", f"(setsid sleep {mark} &) ; sleep 30"], environment=environment
    )
    key = spawner.spawn(order, lambda _: over.set())
    until(lambda: processes_with(f"sleep\0{mark}"))
    run(spawner, "/bin/true")
    assert len(processes_with(f"sleep\0{mark}")) == 1
    spawner.signal(key, signal.SIGKILL)
    assert over.wait(10)
    assert processes_with(f"sleep\0{mark}") == []


def test_an_orphan_is_not_taken_for_a_stranger_in_the_middle_of_its_exec(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    many = 100
    orphan = f"(setsid sh -c '(setsid sh -c \"sleep 0.1; touch {tmp_path}/'$i'\" &)' &)"
    line = f"for i in $(seq {many}); do {orphan}; done; sleep 30"
    environment = {"PATH": "/usr/bin:/bin", "AILURUS_ATTEMPT": "one"}
    spawner.spawn(
        ProcessSpec(argv=["/bin/sh", "-c", line], environment=environment), lambda _: None
    )

    def all_there() -> bool:
        run(spawner, "/bin/true")  # each ending is followed by a look for strangers
        return len(list(tmp_path.iterdir())) == many

    until(all_there)


PILOT = textwrap.dedent("""
    import sys, threading, time
    from pilot.process import spawner
    from pilot.ports import ProcessSpec
    made = spawner.start()
    threading.Thread(target=made.listen, args=(lambda: print("lost", flush=True),), daemon=True).start()
    for number, line in enumerate(sys.argv[1:]):
        environment = {"PATH": "/usr/bin:/bin", "AILURUS_ATTEMPT": str(number)}
        made.spawn(ProcessSpec(argv=["/bin/sh", "-c", line], environment=environment),
                   lambda ended: print("ended", ended.errno, flush=True))
    print(made.guardian_pid, flush=True)
    time.sleep(60)
""")


@pytest.mark.parametrize("victim", ["pilot", "guardian"])
def test_p6_kill_9_of_pilot_or_guardian_leaves_nothing(victim: str) -> None:
    mark = f"4{os.getpid()}"
    lines = [
        f"sleep {mark}.1",
        f"setsid sleep {mark}.2 & wait",
        f"(setsid sh -c '(setsid sleep {mark}.3 &)' &); sleep {mark}.4",
        f"trap '' TERM HUP INT; while :; do sleep {mark}.5; done",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", PILOT, *lines], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    guardian_pid = int(process.stdout.readline())
    try:
        until(lambda: len(processes_with(f"sleep\0{mark}")) >= 5)
        os.kill(process.pid if victim == "pilot" else guardian_pid, signal.SIGKILL)
        until(lambda: not processes_with(f"sleep\0{mark}"), 10)
        if victim == "guardian":
            told = {process.stdout.readline().strip() for _ in range(5)}
            assert told == {"lost", f"ended {GUARDIAN_DIED}"}
        else:
            until(lambda: not Path(f"/proc/{guardian_pid}/environ").exists(), 5)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_p6_a_fork_bomb_dies_with_its_payload(spawner: GuardedSpawner) -> None:
    mark = f"5{os.getpid()}"
    bomb = textwrap.dedent(f"""
        import os, time
        name = "{mark}"
        end = time.monotonic() + 20
        made = 0
        while time.monotonic() < end and made < 150:  # bounded: the machine is not ours alone
            made += 1
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                time.sleep(20)
                os._exit(0)
        time.sleep(20)
    """)
    over = threading.Event()
    key = spawner.spawn(ProcessSpec(argv=[sys.executable, "-c", bomb]), lambda _: over.set())
    until(lambda: len(processes_with(mark)) > 100)
    began = time.monotonic()
    spawner.signal(key, signal.SIGKILL)
    assert over.wait(10)
    until(lambda: not processes_with(mark), 10)
    assert time.monotonic() - began < 10
