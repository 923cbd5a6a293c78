"""What items leave, as the job's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import OutputFile
from pilot.files.destinations import field_of_output
from pilot.items.outputs import ItemOutputs
from pilot.ports import JobError
from pilot.workdir import Workdir
from tests.pilot.attempts import attempt_of

HERE = ("all.root", "hist_0.root", "hist_1.root")


def outputs(*names: str) -> tuple[OutputFile, ...]:
    return tuple(OutputFile(name=name) for name in names)


def left_by(directory: Path, job: Sequence[str], item: Sequence[str]) -> dict[str, int]:
    """Whose files are, of a job with these outputs whose payload 0 has those."""
    work = Workdir(directory / "1.1")
    work.make()
    for name in HERE:
        (work.directory / name).touch()
    left = ItemOutputs(attempt_of(command="x", outputs=outputs(*job)), work, lambda _: True)
    left.ended(0, ItemSpec(outputs=outputs(*item)))
    return left.items


def test_what_the_job_names_itself_is_no_payloads_by_a_glob(tmp_path: Path) -> None:
    assert left_by(tmp_path, ["all.root", "*.txt"], ["*.root"]) == {
        "hist_0.root": 0, "hist_1.root": 0,
    }  # fmt: skip


def test_what_a_glob_of_the_job_takes_as_well_is_the_payloads(tmp_path: Path) -> None:
    assert left_by(tmp_path, ["*.root"], ["hist_0.root"]) == {"hist_0.root": 0}


def test_one_name_is_not_of_the_job_and_of_a_payload(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"'all\.root' is an output of the job itself"):
        left_by(tmp_path, ["all.root"], ["all.root"])


@pytest.mark.parametrize(
    ("name", "field"), [("all.root", "outputs[0].name"), ("hist_1.root", "payloads[7].outputs")]
)
def test_an_error_of_storage_says_whose_output_it_is_about(name: str, field: str) -> None:
    """The job has no third output that it could be about."""
    attempt = attempt_of(command="x", outputs=outputs("all.root"))
    attempt.of_items = {"hist_1.root": 7}
    with pytest.raises(JobError) as told, field_of_output(attempt, 0, name):
        raise JobError(Code.STAGE_OUT_FAILED, "no room")
    assert told.value.field == field
