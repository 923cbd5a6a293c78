"""The pages on jobs and commands say what is true."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from ailurus.protocol.job import JobSpec
from dispatcher.cli import VERBS, exits
from dispatcher.cli.jobfile import JobFiles

DOCS = Path(__file__).parents[3] / "docs"


def test_the_example_of_the_job_page_is_good(tmp_path):
    text = (DOCS / "jobs.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "jobs.yaml").write_text(example[1])
    jobs = JobFiles([str(tmp_path / "jobs.yaml")]).jobs
    assert [job.name for job in jobs] == ["generate-1", "generate-2", "merge"]
    assert jobs[2].outputs[0].url == f"file://{tmp_path}/results"


def test_every_field_is_on_the_job_page():
    text = (DOCS / "jobs.md").read_text()
    for field in msgspec.structs.fields(JobSpec):
        assert f"`{re.sub('_(mb|s)$', '', field.name)}`" in text


def test_every_verb_and_exit_code_is_on_the_command_page():
    text = (DOCS / "commands.md").read_text()
    for verb in VERBS:
        assert re.search(rf"`{verb}\b", text), verb
    codes = {
        value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)
    }
    for code in codes - {exits.SOFTWARE}:
        assert f"| {code} |" in text, code
