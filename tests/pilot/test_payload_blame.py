"""What nodes lack and what payloads do, each through a real sandbox: who is blamed for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import JobSpec
from ailurus.protocol.submission import check
from pilot.ports import Runtime
from pilot.process import oom
from pilot.process.spawner import GuardedSpawner
from pilot.run import Outcome
from plugins.container.bare import Bare
from plugins.container.bubblewrap import Bubblewrap
from tests.pilot.attempts import attempt_of, container_setup, open_up, outcome_of
from tests.pilot.helpers import guarded

ROOT = Path(__file__).parents[2]
NOBODY = 100_000 + os.getpid()  # a limit of processes is a user's
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")


@pytest.fixture
def spawner() -> Iterator[GuardedSpawner]:
    with guarded() as made:
        yield made


def blamed(outcome: Outcome) -> tuple[Code, bool]:
    assert outcome.error is not None
    return outcome.error.code, outcome.error.transient


JOBS_FAULT = (Code.PAYLOAD_FAILED, False)


@pytest.mark.field("W1")
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("#!/no/such/interpreter -x\ntrue\n", 127),
        ("#!/etc\ntrue\n", 126),
        ("#!\nexit 3\n", 3),
        ("#! /bin/sh -e\nfalse\ntrue\n", 1),
        ("exit 4", 4),
    ],
)
def test_a_scripts_interpreter_is_the_jobs_affair(
    spawner: GuardedSpawner, tmp_path: Path, text: str, code: int
) -> None:
    outcome = outcome_of(attempt_of(script=text), tmp_path, spawner)
    assert blamed(outcome) == JOBS_FAULT
    assert outcome.exit_code == code


@pytest.mark.field("W1")
@pytest.mark.parametrize(
    "command",
    [
        "echo 'bwrap: Creating new namespace failed' >&2; exit 1",
        "echo '{ \"exit-code\": 0 }' >&3 || echo '{}' > /proc/self/fd/3; exit 1",
        "kill -9 $$",
        "/no/such/program",
    ],
)
def test_a_payload_cannot_pass_its_failure_for_the_sandboxs(
    spawner: GuardedSpawner, tmp_path: Path, command: str
) -> None:
    assert blamed(outcome_of(attempt_of(command), tmp_path, spawner)) == JOBS_FAULT


@pytest.mark.field("W1")
def test_a_sandbox_that_cannot_be_made_is_not_the_jobs_fault(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    class Broken(Bubblewrap):
        def wrap(self, argv: Any, box: Any) -> Runtime:
            bwrap, *words = (made := super().wrap(argv, box)).argv
            return replace(made, argv=[bwrap, "--bind", "/no/such/path", "/x", *words])

    outcome = outcome_of(attempt_of("true"), tmp_path, spawner, Broken(container_setup()))
    assert blamed(outcome) == (Code.CONTAINER_FAILED, True)
    assert "/no/such/path" in str(outcome.error)  # shown, whoever is blamed


@pytest.mark.field("W1")
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"script": "#!/bin/sh\r\ntrue\r\n"}, "script"),
        ({"script": "echo a\r\necho b\r\n"}, "script"),
        ({"script": "\ufeff#!/bin/sh\ntrue\n"}, "script"),
        ({"command": "true\r\n"}, "command"),
        ({"command": "true\r"}, "command"),
        ({"command": "\ufefftrue"}, "command"),
    ],
)
def test_crlf_and_a_byte_order_mark_are_told_at_submit(fields: dict[str, str], field: str) -> None:
    with pytest.raises(AilurusError) as error:
        check([JobSpec(name="a", command="true"), JobSpec(name="b", **fields)])
    assert error.value.field == f"jobs[1].{field}"
    assert error.value.remedy


@pytest.mark.field("W1")
def test_a_cr_within_a_line_or_a_later_one_is_text() -> None:
    check([JobSpec(name="a", script="#!/bin/sh\nprintf 'a\r\n'\n")])
    check([JobSpec(name="a", command="printf 'a\rb'")])


@pytest.mark.field("W9")
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"command": "true", "environment": {"A": "x" * 140_000}}, "environment.A"),
        ({"command": "true " + "é" * 70_000}, "command"),
        (
            {"command": "true", "environment": {f"A{n}": "x" * 100_000 for n in range(25)}},
            "environment",
        ),
    ],
)
def test_what_linux_hands_to_no_program_is_told_at_submit_by_its_field(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(AilurusError) as error:
        check([JobSpec(name="a", **fields)])
    assert error.value.field == f"jobs[0].{field}"
    assert "bytes" in error.value.message
    check([JobSpec(name="a", command="true", environment={"A": "x" * 131_000})])


@pytest.mark.field("W9")
def test_the_longest_environment_that_is_taken_reaches_the_payload(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    variables = {f"A{n}": "x" * 131_000 for n in range(14)}
    attempt = attempt_of('test "${#A13}" = 131000', environment=variables)
    assert outcome_of(attempt, tmp_path, spawner).error is None


@pytest.mark.field("W2")
def test_a_child_killed_for_memory_is_named_and_a_later_kill_is_not_blamed_on_it(
    spawner: GuardedSpawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom_kill 0\n")
    monkeypatch.setattr(oom, "_counter", lambda: (str(counter), "in this worker's cgroup"))

    killing = f"echo oom_kill 1 > {counter}; exit 1"  # as the kernel does, while it runs
    first = outcome_of(attempt_of(killing), tmp_path, spawner, Bare(container_setup()))
    assert blamed(first) == JOBS_FAULT
    assert "killed 1 process for memory in this worker's cgroup" in str(first.error)
    second = outcome_of(attempt_of("kill -9 $$"), tmp_path, spawner)
    assert blamed(second) == JOBS_FAULT
    assert "memory" not in str(second.error)


BUSY = "head -c 60000000 /dev/zero | tail -c 60000000 >/dev/null; "
BUSY += "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"


@pytest.mark.field("W8")
@pytest.mark.parametrize("end", ["true", "exit 3", "kill -9 $$"])
def test_a_payload_shorter_than_any_sample_is_counted(
    spawner: GuardedSpawner, tmp_path: Path, end: str
) -> None:
    attempt = attempt_of(f"{BUSY}; {end}", memory_mb=1000)
    outcome_of(attempt, tmp_path, spawner)
    assert attempt.usage.cpu_s > 0.02
    assert attempt.usage.max_rss_kb > 58_000


@pytest.mark.field("W8")
def test_a_small_payload_is_not_charged_for_the_sandboxs_start(
    spawner: GuardedSpawner, tmp_path: Path
) -> None:
    attempt = attempt_of("true")
    outcome_of(attempt, tmp_path, spawner)
    assert 0 < attempt.usage.max_rss_kb < 10_000


def elsewhere(directory: Path, mount: str = "", **told: Any) -> dict[str, Any]:
    """The same in a process of its own, with `mount` on its work directory."""
    job = msgspec.json.encode({"directory": str(directory), **told}).decode()
    command = [sys.executable, "-m", "tests.pilot.attempts", job]
    if mount:
        mounts = f"mount -t tmpfs -o {mount} none {directory}"
        command = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *command]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = msgspec.json.decode(done.stdout)
    return answer


@as_root
@pytest.mark.real
@pytest.mark.field("L4")
@pytest.mark.parametrize("inodes", [2, 3, 4, 5, 6])
def test_a_node_without_inodes_is_the_nodes_wherever_it_is_met(tmp_path: Path, inodes: int) -> None:
    told = elsewhere(tmp_path, f"nr_inodes={inodes}", job={"script": "#!/bin/sh\ntrue\n"})
    assert (told["code"], told["transient"]) == (Code.NO_LOCAL_SPACE, True)
    assert "no inode left" in told["message"]


@as_root
@pytest.mark.real
@pytest.mark.field("L4")
def test_a_limit_of_processes_is_the_nodes(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    open_up(tmp_path)
    told = elsewhere(tmp_path, user=NOBODY, processes=1, bare=True, job={"command": "true"})
    assert (told["code"], told["transient"]) == (Code.RESOURCE_UNAVAILABLE, True)
    assert "processes" in told["message"]


@as_root
@pytest.mark.real
@pytest.mark.field("W1")
def test_on_a_noexec_work_directory_scripts_run_and_programs_are_not_the_jobs_fault(
    tmp_path: Path,
) -> None:
    told = elsewhere(tmp_path, "noexec", job={"script": "#!/bin/sh\nexit 7\n"})
    assert told["exit"] == 7
    told = elsewhere(tmp_path, "noexec", job={"command": "cp /bin/true t; ./t"})
    assert (told["code"], told["transient"]) == (Code.RESOURCE_UNAVAILABLE, True)
    assert "noexec" in told["message"]
    told = elsewhere(tmp_path, "size=10m", job={"command": "touch t; ./t"})
    assert (told["code"], told["transient"]) == JOBS_FAULT
