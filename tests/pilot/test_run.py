"""The payload: what it is started with, and what its end is called."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.resources import Resources
from pilot import run as runs
from pilot.attempt import Attempt
from pilot.node import containers
from pilot.node.gpus import Gpu
from pilot.node.local import started_as
from pilot.node.shares import Slot
from pilot.ports import Direct, JobError, ProcessEnd, ProcessSpec, Runtime, Sandbox
from pilot.process.oom import OomKills
from pilot.run import Outcome, run
from pilot.workdir import Workdir
from tests.pilot.fakes import World


def ran(world: World, work: Workdir, attempt: Attempt, slot: Slot | None = None) -> Outcome:
    return run(attempt, work, (slot or Slot(world.kit.slots.total),), world.kit)


def ended(world: World, work: Workdir, **end: object) -> Outcome:
    world.spawner.program = lambda spec: ProcessEnd(key=1, **end)  # type: ignore[arg-type]
    return ran(world, work, world.attempt())


def test_a_command_is_given_to_a_shell_with_the_streams_of_the_job(world, work):
    assert ran(world, work, world.attempt("echo hi")) == Outcome(exit_code=0)
    (spec,) = world.spawner.started
    assert list(spec.argv) == ["/bin/sh", "-c", "echo hi"]
    assert spec.directory == str(work.directory)
    assert (spec.stdout, spec.stderr) == (str(work.stdout), str(work.stderr))


def test_a_payload_with_a_share_of_a_gpu_reaches_its_mps(world, work, monkeypatch):
    boxes: list[Sandbox] = []

    def wrap(argv: Sequence[str], box: Sandbox) -> Direct:
        boxes.append(box)
        return Direct(argv=argv, environment=box.environment, directory=box.directory)

    monkeypatch.setattr(world.container, "wrap", wrap)
    gpus = (Gpu(name="GPU-1", number=1, key="1", files=("/dev/nvidia1",), mps="/run/mps"),)
    need = Resources(cores=1, memory_mb=1, gpus=1, gpu_share=30)
    mine = world.attempt(environment={"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "100"})
    ran(world, work, mine, Slot(need, gpus=gpus))
    ran(world, work, world.attempt(), Slot(replace(need, gpu_share=0), gpus=gpus))
    shared, whole = boxes
    assert shared.devices == ("/dev/nvidia1", "/run/mps")
    assert shared.environment["CUDA_MPS_PIPE_DIRECTORY"] == "/run/mps"
    assert shared.environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    assert whole.devices == ("/dev/nvidia1",)
    assert "CUDA_MPS_PIPE_DIRECTORY" not in whole.environment


@pytest.mark.parametrize(
    ("script", "argv"),
    [
        ("echo hi\n", ["/bin/sh"]),
        ("#!/usr/bin/python3 -u\n1\n", ["/bin/sh", "-c", 'exec "$@"', "ailurus_script",
                                        "/usr/bin/python3", "-u"]),
    ],
)  # fmt: skip
def test_a_script_is_given_to_its_interpreter(world, work, script, argv):
    ran(world, work, world.attempt("", script=script))
    path = work.directory / "ailurus_script"
    assert list(world.spawner.started[0].argv) == [*argv, str(path)]
    assert path.read_bytes().decode() == script
    assert path.stat().st_mode & 0o777 == 0o700


def test_a_script_that_cannot_be_written_is_the_nodes_fault(world, work):
    work.directory.rmdir()
    with pytest.raises(JobError, match="cannot write the job's script") as raised:
        ran(world, work, world.attempt("", script="true\n"))
    assert raised.value.code is Code.RESOURCE_UNAVAILABLE


def test_the_environment_is_the_jobs_and_nothing_of_the_pilots(world, work, monkeypatch):
    secrets = {"SECRET_TOKEN", "BEARER_TOKEN", "BEARER_TOKEN_FILE", "XDG_RUNTIME_DIR"}
    for name in secrets:
        monkeypatch.setenv(name, "x")
    attempt = world.attempt(environment={"A": "1", "LANG": "de", "AILURUS_ATTEMPT": "forged"})
    slot = Slot(world.kit.slots.total)
    ran(world, work, attempt, slot)
    environment = world.spawner.started[0].environment
    assert not environment.keys() & secrets
    assert environment["A"] == "1"
    assert environment["LANG"] == "de"
    assert environment["AILURUS_ATTEMPT"] == "1.1"  # by it the guardian knows its own
    assert environment["AILURUS_CORES"] == environment["OMP_NUM_THREADS"] == "4"
    assert environment["TMPDIR"] == str(work.tmp)


def test_a_payload_is_shown_its_gpus_and_gets_their_device_files_and_no_others(
    world, work, monkeypatch
):
    boxes: list[Sandbox] = []

    def wrap(argv: Sequence[str], box: Sandbox) -> Direct:
        boxes.append(box)
        return Direct(argv=argv, environment=box.environment, directory=box.directory)

    monkeypatch.setattr(world.container, "wrap", wrap)
    gpus = tuple(
        Gpu(name=f"GPU-{nr}", number=nr, key=f"{nr}", files=(f"/dev/nvidia{nr}", "/dev/nvidiactl"))
        for nr in (1, 3)
    )
    ran(
        world,
        work,
        world.attempt(environment={"CUDA_VISIBLE_DEVICES": "0"}),
        Slot(world.kit.slots.total, gpus=gpus),
    )
    ran(world, work, world.attempt(), Slot(world.kit.slots.total))
    with_gpus, without = boxes
    assert with_gpus.environment["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-3"
    assert with_gpus.devices == ("/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia3")
    assert without.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert without.environment["ROCR_VISIBLE_DEVICES"] == ""
    assert without.devices == ()


def test_a_runtime_gets_only_what_is_ours(world, work):
    spec = started_as(Runtime(argv=["bwrap"], arguments=b"a", filter=b"f"), "1.1")
    assert spec == ProcessSpec(
        argv=["bwrap"], environment={"AILURUS_ATTEMPT": "1.1"}, arguments=b"a", filter=b"f"
    )


@pytest.mark.parametrize(
    ("end", "exit_code", "code"),
    [
        ({"exit_code": 3}, 3, Code.PAYLOAD_FAILED),
        ({"exit_code": -11}, 139, Code.PAYLOAD_FAILED),
        ({"errno": errno.EMFILE, "before": True}, 0, Code.RESOURCE_UNAVAILABLE),
        ({"errno": errno.ENOENT}, 0, Code.CONTAINER_FAILED),
    ],
)
def test_how_it_ended_decides_whose_fault_it_was(world, work, end, exit_code, code):
    outcome = ended(world, work, **end)
    assert (outcome.exit_code, outcome.error.code) == (exit_code, code)


def test_the_more_exact_usage_counts(world, work):
    attempt = world.attempt()

    def program(spec: ProcessSpec) -> ProcessEnd:
        attempt.usage = runs.replace(attempt.usage, cpu_s=9.0, max_rss_kb=5, processes=3)
        return ProcessEnd(key=1, cpu_s=2.0, max_rss_kb=50, at=1004.0)

    world.spawner.program = program
    ran(world, work, attempt)
    usage = attempt.usage
    assert (usage.cpu_s, usage.max_rss_kb, usage.wall_s, usage.processes) == (9.0, 50, 4.0, 0)


def test_a_signal_that_the_pilot_gets_as_well_is_the_pilots_end(world, work):
    attempt = world.attempt()
    world.spawner.program = lambda spec: ProcessEnd(key=1, exit_code=-15)
    why = JobError(Code.SIGTERM, "the pilot got SIGTERM")
    waited: list[float | None] = world.clock.waits

    def stopped() -> None:
        if waited[-1] is not None:
            attempt.stop(why)

    world.clock.while_waiting = stopped
    assert ran(world, work, attempt).error is why


def test_the_same_signal_alone_is_the_payloads_own_end(world, work):
    outcome = ended(world, work, exit_code=-15)
    assert outcome.error.code is Code.PAYLOAD_FAILED
    assert world.clock.waits[-1] == runs.TOGETHER_S


def test_memory_that_the_kernel_took_back_is_named(world, work, monkeypatch):
    monkeypatch.setattr(OomKills, "since", lambda self: (1, "in this worker's cgroup"))
    outcome = ended(world, work, exit_code=-9, max_rss_kb=2_000_000)
    assert outcome.error.code is Code.OUT_OF_MEMORY


def test_a_directory_mounted_noexec_is_the_nodes_fault(world, work, monkeypatch):
    monkeypatch.setattr(Workdir, "executes", lambda self: False)
    assert ended(world, work, exit_code=126).error.code is Code.RESOURCE_UNAVAILABLE


def test_the_last_words_are_the_last_line_that_is_not_blank(world, work):
    work.stderr.write_bytes(b"".join(b"line %d\n" % nr for nr in range(30)) + b"end \0\n \n")
    outcome = ended(world, work, exit_code=1)
    assert "its last words: end \N{REPLACEMENT CHARACTER}" in outcome.error.message
    assert runs.stderr_tail(work).count("\n") == runs.TAIL_LINES - 1


def test_a_stream_that_the_payload_replaced_is_not_read(world, work, monkeypatch):
    monkeypatch.setattr(runs, "size_of", lambda path: 5)  # it was a file a moment ago
    work.stderr.unlink(missing_ok=True)
    work.stderr.symlink_to("/etc/passwd")
    assert runs.stderr_tail(work) == ""


def test_a_user_without_an_account_is_called_by_number(monkeypatch):
    def unknown(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert containers.user_name.__wrapped__() == f"user{os.geteuid()}"
