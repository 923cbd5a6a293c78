"""The transform that runs our jobs in other pilots, as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ailurus.protocol import panda
from ailurus.protocol.job import CredentialUse, InputFile, JobSpec, OutputFile
from ailurus.protocol.panda import PandaJob

TRANSFORM = Path(panda.__file__).parents[2] / "dispatcher/panda/trf/runailurus"


def run(spec: JobSpec, directory: Path) -> int:
    words = panda.packed(PandaJob(job_id=1, attempt_nr=2, spec=spec)).split()
    argv = [sys.executable, str(TRANSFORM), *words]
    return subprocess.run(argv, cwd=directory, check=False, timeout=60).returncode


def test_it_runs_the_command_and_leaves_the_output_for_the_pilot(tmp_path: Path):
    spec = JobSpec(name="job", command="echo hi > out", outputs=(OutputFile(name="out"),))
    assert run(spec, tmp_path) == 0
    assert (tmp_path / "1.2.out").read_text() == "hi\n"


@pytest.mark.parametrize(
    ("asks", "code"),
    [
        ({"credentials": (CredentialUse(name="cms-proxy"),)}, 1364),
        ({"inputs": (InputFile(name="in", url="https://a.example/in", direct=True),)}, 1300),
        ({"outputs": (OutputFile(name="out", scope="user.alice"),)}, 1300),
    ],
    ids=["credentials", "direct input", "output in Rucio"],
)
def test_it_refuses_what_only_our_own_pilots_do(tmp_path: Path, asks, code):
    assert run(JobSpec(name="job", command="touch out ran", **asks), tmp_path) == 70
    told = json.loads((tmp_path / "payload_error_report.json").read_text())
    assert told["error_code"] == code
    assert not (tmp_path / "ran").exists()
