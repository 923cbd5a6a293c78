"""Inputs that read as if they named what a parent leaves, and are paths on the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatcher.cli.jobfile import JobFiles

FILE = """
- {{name: make, command: make, outputs: [{output}]}}
- {{name: use, command: use, depends_on: [make], inputs: [{given}]}}
"""


def hints(directory: Path, given: str, output: str = "out.root") -> list[str]:
    path = directory / "jobs.yaml"
    path.write_text(FILE.format(given=given, output=output), "utf-8")
    return [*JobFiles([str(path)]).hints()]


@pytest.mark.parametrize("given", ["results/all.root", "./results/", "results/*.root"])
def test_a_path_that_is_not_there_is_told_of_beside_parents(tmp_path, given):
    (hint,) = hints(tmp_path, given)
    assert "job use: its input results/" in hint
    assert f"is the file {tmp_path}/results/" in hint
    assert "{name: results/" in hint


@pytest.mark.parametrize("output", ["{name: results/all.root}", "./results/all.root"])
def test_one_that_is_there_is_told_of_where_a_job_leaves_its_name(tmp_path, output):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/all.root").touch()
    assert hints(tmp_path, "results/all.root", output)
    assert not hints(tmp_path, "results/all.root")
    assert not hints(tmp_path, "results/*.root")


@pytest.mark.parametrize(
    "given", ["out.root", "{name: out.root}", "/data/calib.root", "root://h//x/all.root"]
)
def test_what_cannot_be_mistaken_is_not_told_of(tmp_path, given):
    assert not hints(tmp_path, given)


def test_a_job_without_parents_has_paths(tmp_path):
    path = tmp_path / "jobs.yaml"
    path.write_text("{name: a, command: a, inputs: [results/all.root]}", "utf-8")
    assert not [*JobFiles([str(path)]).hints()]


@pytest.mark.parametrize(
    ("launcher", "said"),
    [("mip", "did you mean mpi?"), ("dask", "none that every site has"), ("mpi", "")],
)
def test_a_launcher_that_few_sites_have_is_told_of(tmp_path, launcher, said):
    path = tmp_path / "jobs.yaml"
    path.write_text(f"{{name: a, command: a, launcher: {launcher}}}", "utf-8")
    found = " ".join(JobFiles([str(path)]).hints())
    assert said in found
    assert bool(said) == bool(found)
