"""Outputs that stand for many files: what goes to storage under which name, and that nothing from
outside the job's directory does, whatever lies there."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.job import OutputFile
from pilot.files import leaving as subject
from pilot.files import stage as stages
from pilot.files.undeclared import undeclared
from pilot.flow import announce, carry
from pilot.ports import JobError
from pilot.site import Limits
from pilot.workdir import Workdir
from tests.pilot.fakes import World


def fill(work: Workdir, *names: str) -> None:
    for name in names:
        path = work.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def staged(world: World, work: Workdir, *outputs: OutputFile) -> dict[str, str]:
    """Where each file went, by its name in the report."""
    attempt = world.attempt(outputs=outputs)
    done = world.kit.stage.stage_out(attempt, work)
    assert all(world.storage.files[one.url] for one in done)
    return {one.name: one.url for one in done}


def failing(world: World, work: Workdir, *outputs: OutputFile) -> JobError:
    with pytest.raises(JobError) as raised:
        world.kit.stage.stage_out(world.attempt(outputs=outputs), work)
    assert world.storage.files == {}
    return raised.value


def test_a_sub_directory_of_a_name_is_one_at_the_destination(world, work):
    fill(work, "results/hist.root")
    assert staged(world, work, OutputFile(name="results/hist.root")) == {
        "results/hist.root": "file:///out/1.1.results/hist.root"
    }


def test_what_stands_behind_a_directorys_path_stays_behind_that_of_a_file_in_a_tree(world):
    output = OutputFile(name="r/a", url="https://door/dir?authz=TOKEN")
    url = world.kit.stage.destinations.physical(world.attempt(), output)
    assert url.text == "https://door/dir/1.1.r/a?authz=TOKEN"


def test_a_glob_is_each_file_that_it_matches_in_the_order_of_their_names(world, work):
    fill(work, "r/b.root", "r/a.root", "r/a.txt", "r/.c.root", "r/sub/d.root", "a.root")
    assert list(staged(world, work, OutputFile(name="r/*.root"))) == ["r/a.root", "r/b.root"]
    assert list(staged(world, work, OutputFile(name="*/*"))) == ["r/a.root", "r/a.txt", "r/b.root"]


def test_a_tree_as_a_data_set_is_each_file_at_any_depth(world, work):
    fill(work, "r/b/c/d", "r/a", "r/z", "s/x")
    tree = OutputFile(name="r/", tree="dataset")
    assert staged(world, work, tree) == {
        name: f"file:///out/1.1.{name}" for name in ("r/a", "r/z", "r/b/c/d")
    }


def test_a_file_goes_once_under_the_declaration_that_names_it(world, work):
    fill(work, "r/a", "r/b.txt", "r/c")
    outputs = (
        OutputFile(name="r/", tree="dataset", url="file:///all"),
        OutputFile(name="r/*.txt", url="file:///text"),
        OutputFile(name="r/c", url="file:///c"),
    )
    assert staged(world, work, outputs[0], outputs[2]) == {
        "r/a": "file:///all/1.1.r/a",
        "r/b.txt": "file:///all/1.1.r/b.txt",
        "r/c": "file:///c/1.1.r/c",
    }
    error = failing(World(work.path), work, *outputs)
    assert (error.code, error.field) == (Code.MISSING_OUTPUT, "outputs[1].name")


@pytest.mark.parametrize(
    "output",
    [
        {"name": "r/*.root"},
        {"name": "none/", "tree": "dataset"},
        {"name": "none/", "tree": "archive"},
        {"name": "empty/", "tree": "dataset"},
        {"name": "none/x"},
    ],
)
def test_what_stands_for_no_file_is_missing_unless_it_is_optional(world, work, output):
    fill(work, "r/a.txt")
    (work.directory / "empty").mkdir()
    error = failing(world, work, OutputFile(**output))
    assert (error.code, error.field) == (Code.MISSING_OUTPUT, "outputs[0].name")
    assert "optional" in error.remedy
    assert staged(world, work, OutputFile(optional=True, **output)) == {}


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def directory_link(path: Path) -> None:
    path.symlink_to("/etc")


def bound_socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


@pytest.mark.parametrize("make", [link, directory_link, os.mkfifo, bound_socket])
@pytest.mark.parametrize(
    "output",
    [
        OutputFile(name="r/*"),
        OutputFile(name="r/", tree="dataset"),
        OutputFile(name="r/", tree="archive"),
    ],
)
def test_links_sockets_and_pipes_are_no_outputs(world, work, make: Callable[[Path], None], output):
    fill(work, "r/a")
    make(work.directory / "r" / "odd")
    error = failing(world, work, output)
    assert (error.code, error.field) == (Code.OUTPUT_UNSAFE, "outputs[0].name")
    assert "r/odd" in error.message


@pytest.mark.parametrize("name", ["up/*", "up/passwd"])
def test_no_link_to_a_directory_is_followed(world, work, name):
    (work.directory / "up").symlink_to("/etc")
    assert failing(world, work, OutputFile(name=name)).code is Code.OUTPUT_UNSAFE
    for tree in ("dataset", "archive"):
        error = failing(world, work, OutputFile(name="up/", tree=tree))
        assert error.code is Code.OUTPUT_UNSAFE


def test_a_directory_that_is_exchanged_for_a_link_meanwhile_is_not_followed(
    world, work, monkeypatch
):
    """As a process that a payload left behind would do between the look and the reading."""
    fill(work, "r/sub/passwd", "r/z")
    seen = subject.Walk._entries

    def exchanged(self: subject.Walk, parts: list[str]) -> object:
        found = seen(self, parts)
        if parts == ["r"]:
            (work.directory / "r" / "sub").rename(work.path / "moved")
            (work.directory / "r" / "sub").symlink_to("/etc")
        return found

    monkeypatch.setattr(subject.Walk, "_entries", exchanged)
    error = failing(world, work, OutputFile(name="r/", tree="dataset"))
    assert (error.code, "r/sub" in error.message) == (Code.OUTPUT_UNSAFE, True)


@pytest.mark.parametrize("name", ["my file", "ü", "a\nb", "-x", "x" * 201])
def test_a_name_that_no_catalogue_could_take_is_refused_and_archived(world, work, name):
    fill(work, f"r/{name}")
    error = failing(world, work, OutputFile(name="r/", tree="dataset"))
    assert (error.code, "tree: archive" in error.remedy) == (Code.BAD_FILE_NAME, True)
    assert list(staged(world, work, OutputFile(name="r/", tree="archive"))) == ["r.tar.gz"]


def test_a_name_that_rucio_does_not_take_is_refused_before_any_file_goes(world, work):
    fill(work, "r/b+c")
    world.kit.stage.destinations.rse = "SITE"
    error = failing(world, work, OutputFile(name="r/", tree="dataset", scope="user.a"))
    assert (error.code, error.field) == (Code.BAD_FILE_NAME, "outputs[0].name")
    assert "r/b+c" in error.message


def test_a_job_leaves_no_more_files_than_a_report_can_name(world, work, monkeypatch):
    monkeypatch.setattr(subject.trees, "MOST_FILES", 3)
    fill(work, "r/a", "r/b")
    assert len(staged(world, work, OutputFile(name="r/*"))) == 2
    fill(work, "r/c")
    error = failing(World(work.path), work, OutputFile(name="r/*"))
    assert (error.code, error.field) == (Code.OUTPUT_TOO_LARGE, "outputs")
    assert "tree: archive" in error.remedy


def test_names_that_fit_in_no_report_are_refused_before_any_file_goes(world, work, monkeypatch):
    monkeypatch.setattr(stages, "REPORT_BYTES", 400)
    fill(work, "r/a", "r/b", "r/c")
    assert failing(world, work, OutputFile(name="r/*")).field == "outputs"


@pytest.mark.parametrize("tree", ["dataset", "archive"])
def test_no_more_entries_are_looked_at_than_so_many(world, work, monkeypatch, tree):
    monkeypatch.setattr(subject, "MOST_ENTRIES", 3)
    fill(work, "r/a", "r/b", "r/c", "r/d")
    assert failing(world, work, OutputFile(name="r/", tree=tree)).code is Code.OUTPUT_TOO_LARGE


@pytest.mark.parametrize("tree", ["dataset", "archive"])
def test_a_tree_is_no_deeper_than_a_path_may_be_long(world, work, monkeypatch, tree):
    monkeypatch.setattr(subject, "LONGEST_PATH", 10)
    fill(work, "r/aaaa/bbbb/c")
    assert failing(world, work, OutputFile(name="r/", tree=tree)).code is Code.BAD_FILE_NAME


def test_each_file_of_a_tree_is_held_to_the_sites_size(world, work):
    fill(work, "r/a")
    (work.directory / "r/b").write_bytes(b"x" * (2 << 20))
    stage = world.kit_with(Limits(output="1")).stage
    attempt = world.attempt(outputs=(OutputFile(name="r/*"),))
    with pytest.raises(JobError) as raised:
        stage.stage_out(attempt, work)
    assert (raised.value.code, world.storage.files) == (Code.OUTPUT_TOO_LARGE, {})


def test_an_archive_of_holes_is_held_to_the_jobs_disk(world, work):
    fill(work, "r/a")
    os.truncate(work.directory / "r/a", 3000 << 20)
    error = failing(world, work, OutputFile(name="r/", tree="archive"))
    assert (error.code, "`disk`" in error.remedy) == (Code.OUTPUT_TOO_LARGE, True)


def test_all_urls_are_written_down_before_a_tree_of_unknown_files_goes(world, work):
    fill(work, "r/a", "r/b")
    attempt = world.attempt(outputs=(OutputFile(name="r/*"),))
    assert world.kit.stage.planned(attempt) == ["file:///out/1.1.log.tgz"]
    told: list[list[str]] = []
    world.kit.stage.stage_out(attempt, work, told.append)
    urls = ["file:///out/1.1.r/a", "file:///out/1.1.r/b", "file:///out/1.1.log.tgz"]
    assert told == [urls]
    announce(attempt, world.kit, urls)
    (owed,) = world.kit.journal.owed()
    assert list(owed.leftovers) == urls


def test_an_archive_is_planned_from_the_beginning(world):
    attempt = world.attempt(outputs=(OutputFile(name="r/", tree="archive"),))
    assert world.kit.stage.planned(attempt)[0] == "file:///out/1.1.r.tar.gz"


def test_files_of_a_tree_are_declared_and_others_beside_it_are_not(world, work):
    fill(work, "r/a", "r/sub/b", "s/a.txt", "s/b.root")
    outputs = (OutputFile(name="r/", tree="archive"), OutputFile(name="s/*.root"))
    attempt = world.attempt(outputs=outputs)
    assert undeclared(attempt.spec, work) == "left 1 file that was not declared: s/a.txt"


def test_a_failure_in_the_middle_of_a_tree_leaves_nothing_in_storage(world, work):
    fill(work, "r/a", "r/b", "r/c")
    final = JobError(Code.STAGE_OUT_FAILED, "gone", transient=False)
    world.storage.failures.extend([None, None, final])
    attempt = world.attempt(outputs=(OutputFile(name="r/", tree="dataset"),))
    with pytest.raises(JobError, match="gone"):
        world.kit.stage.stage_out(attempt, work)
    assert world.storage.files == {}


def test_a_whole_job_reports_the_files_of_its_tree(tmp_path):
    def program(spec):
        from pilot.ports import ProcessEnd

        (Path(spec.directory) / "r").mkdir()
        (Path(spec.directory) / "r" / "a").write_text("1")
        return ProcessEnd(key=1)

    world = World(tmp_path, program)
    outputs = (OutputFile(name="r/*"), OutputFile(name="r/", tree="archive"))
    carry(world.attempt(outputs=outputs), world.kit)
    (report,) = world.reports()
    assert (report.finished, [one.name for one in report.files]) == (True, ["r/a", "r.tar.gz"])
    with tarfile.open(fileobj=io.BytesIO(world.storage.files["file:///out/1.1.r.tar.gz"])) as tar:
        assert tar.getnames() == ["a"]
