"""The transform that runs our jobs in other pilots, as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ailurus.protocol import panda
from ailurus.protocol.job import CredentialUse, InputFile, JobSpec, OutputFile
from ailurus.protocol.panda import PandaJob, PilotInput

TRANSFORM = Path(panda.__file__).parents[2] / "dispatcher/panda/trf/runailurus"


def run(spec: JobSpec, directory: Path, **more: Any) -> int:
    words = panda.packed(PandaJob(job_id=1, attempt_nr=2, spec=spec, **more)).split()
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


def test_what_the_pilot_staged_in_is_where_the_job_expects_it(tmp_path: Path):
    held = {"scope": "s", "size": 2}
    inputs = (
        PilotInput(of="calib", lfn="c.1", **held),
        PilotInput(of="same", lfn="same", **held),
        PilotInput(of="raw", lfn="raw", dataset="s:raw", **held),
        PilotInput(of="raw", lfn="r.2", dataset="s:raw", **held),
    )
    for file in inputs:
        (tmp_path / file.lfn).write_text(f"{file.lfn}\n")
    spec = JobSpec(
        name="job",
        command="cat calib same raw/raw raw/r.2 > out",
        inputs=tuple(
            InputFile(name=name, url=f"rucio://s:{name}") for name in ("calib", "same", "raw")
        ),
        outputs=(OutputFile(name="out"),),
    )
    assert run(spec, tmp_path, inputs=inputs) == 0
    assert (tmp_path / "1.2.out").read_text() == "c.1\nsame\nraw\nr.2\n"


def test_an_input_that_the_pilot_left_out_is_named(tmp_path: Path):
    spec = JobSpec(name="job", inputs=(InputFile(name="in", url="rucio://s:a"),))
    assert run(spec, tmp_path, inputs=(PilotInput(of="in", scope="s", lfn="a"),)) == 70
    told = json.loads((tmp_path / "payload_error_report.json").read_text())
    assert told["error_code"] == 1099
    assert told["error_diag"].startswith("input in: ")


def test_outputs_go_to_rucio_by_the_pilot_and_to_the_place_by_the_transform(tmp_path: Path):
    spec = JobSpec(
        name="job",
        command="echo hits > hits; echo seen > seen",
        outputs=(
            OutputFile(name="hits", scope="user.alice"),
            OutputFile(name="seen"),
            OutputFile(name="rare", scope="user.alice", optional=True),
        ),
    )
    place = tmp_path / "place"
    asked = {"rucio": True, "mark": "abcdefgh", "place": f"file://{place}/"}
    assert run(spec, tmp_path, storage="RSE", **asked) == 0
    assert (tmp_path / "abcdefgh.1.2.hits").read_text() == "hits\n"
    # Pilot 3 wants to see each.
    assert (tmp_path / "abcdefgh.1.2.rare").read_text() == "\n"
    assert (place / "1.2.seen").read_text() == "seen\n"
    told = json.loads((tmp_path / "jobReport.json").read_text())["ailurus"]
    assert {one["name"] for one in told} == {"seen", "rare"}
