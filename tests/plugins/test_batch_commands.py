"""How a batch system's command is run."""

from __future__ import annotations

import os
import time

import pytest

from harvester_edge.ports import BatchError
from plugins.batch import commands
from plugins.batch.commands import CommandMissing, Ran, execute, output_of, runner

PATH = {"PATH": os.environ["PATH"]}


def sh(script, timeout_s=5.0):
    return execute(["sh", "-c", script], timeout_s=timeout_s, env=PATH)


def test_an_exit_code_and_both_outputs_come_back():
    assert sh("echo a; echo b >&2; exit 3") == Ran(3, "a\n", "b\n")
    assert sh("kill -9 $$").code == -9


def test_output_larger_than_a_pipe_comes_whole():
    assert len(sh("head -c 3000000 /dev/zero").out) == 3_000_000


@pytest.mark.parametrize(
    "script", ["sleep 60", "exec >&- 2>&-; sleep 60", "trap '' TERM; sleep 60"]
)
def test_e5_a_command_that_hangs_is_ended_and_says_nothing(script):
    began = time.monotonic()
    with pytest.raises(BatchError, match="did not answer within"):
        sh(script, 0.2)
    assert time.monotonic() - began < 5


def test_what_a_command_leaves_running_is_not_waited_for(tmp_path):
    began = time.monotonic()
    assert sh(f"sleep 20 & echo $! > {tmp_path}/pid; echo started").out == "started\n"
    assert time.monotonic() - began < 5
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_b2_a_command_that_never_stops_talking_is_ended(monkeypatch):
    monkeypatch.setattr(commands, "MAX_OUTPUT_BYTES", 1 << 20)
    with pytest.raises(BatchError, match="printed more than 1 MiB"):
        sh("while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done", 20)


def test_a_command_that_is_not_there_did_nothing():
    with pytest.raises(CommandMissing):
        execute(["/no/such/command"], timeout_s=1, env={})


def test_no_setting_of_the_edge_reaches_a_command(monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "secret")
    monkeypatch.setenv("AILURUS_TOKEN_FILE", "/secret")
    monkeypatch.setenv("SLURM_CONF", "/etc/x")
    said = runner(5, ("SLURM_CONF",))(["env"]).out
    assert "secret" not in said
    assert "SLURM_CONF=/etc/x" in said
    assert "LC_ALL=C.UTF-8" in said


@pytest.mark.parametrize("ran", [Ran(1, "1\n"), Ran(0, "", "Error: no\n"), Ran(0, "half")])
def test_what_is_no_answer(ran):
    with pytest.raises(BatchError):
        output_of("squeue", ran)


def test_a_banner_on_stderr_is_no_error():
    assert output_of("squeue", Ran(0, "1\n", "Welcome to the errors of our ways\n")) == "1\n"
    assert output_of("squeue", Ran(0, "", "Welcome\n")) == ""
