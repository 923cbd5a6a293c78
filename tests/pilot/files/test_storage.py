"""Where a payload's files go, and what is said of those that go nowhere."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.states import JobState
from ailurus.protocol.url import Url
from pilot import options, site
from pilot.files import stage
from pilot.files.undeclared import undeclared
from pilot.ports import JobError
from pilot.workdir import SCRIPT, Workdir
from tests.pilot.attempts import attempt_of
from tests.pilot.helpers import Field

pytestmark = pytest.mark.field("H3")
ARGV = ["--url", "http://127.0.0.1:1", "--queue", "q"]
SPEC = JobSpec(
    name="a", command="true", inputs=(InputFile(name="in"),), outputs=(OutputFile(name="out"),)
)


@pytest.fixture
def work(tmp_path: Path):
    with Workdir(tmp_path / "job") as made:
        made.make()
        for name in ("in", "out"):
            (made.directory / name).touch()
        (made.tmp / "scratch").touch()
        yield made


def test_what_was_declared_is_not_named(work: Workdir) -> None:
    assert undeclared(SPEC, work) == ""


def test_the_script_that_the_pilot_wrote_is_no_file_of_the_users(work: Workdir) -> None:
    os.close(work.create(SCRIPT))
    spec = replace(SPEC, command="", script="#!/bin/sh\ntrue\n")
    assert undeclared(spec, work) == ""
    assert SCRIPT in undeclared(SPEC, work)


def test_the_document_that_is_the_result_is_kept_and_not_named(work: Workdir) -> None:
    (work.directory / "count.json").touch()
    assert undeclared(replace(SPEC, result="count.json"), work) == ""
    assert "count.json" in undeclared(SPEC, work)


def test_what_goes_with_the_directory_is_named(work: Workdir) -> None:
    (work.directory / "hello.txt").touch()
    assert undeclared(SPEC, work) == "left 1 file that was not declared: hello.txt"
    (work.directory / "d").mkdir()
    (work.directory / "d" / "out").touch()
    (work.directory / "link").symlink_to("/etc/passwd")
    found = undeclared(SPEC, work)
    assert found == "left 2 files that were not declared: d/out, hello.txt"


def test_however_much_was_left_the_sentence_is_short(work: Workdir) -> None:
    for n in range(1100):
        (work.directory / f"{n:04}{'x' * 200}").touch()
    found = undeclared(SPEC, work)
    assert found.startswith("left 1000 or more files that were not declared: ")
    assert len(found) < 500
    assert found.endswith("…, …")


def parsed(*argv: str, **env: str) -> options.Options:
    return options.parse([*ARGV, *argv], env)


def test_a_pilot_by_hand_has_a_storage(tmp_path: Path) -> None:
    assert parsed(HOME=str(tmp_path)).storage == tmp_path / "ailurus-data"
    assert parsed("--storage", "x", HOME=str(tmp_path)).storage == Path("x")
    assert parsed().storage is None
    assert parsed(HOME="nowhere").storage is None
    assert parsed("--site", "s", HOME=str(tmp_path)).storage is None
    with pytest.raises(SystemExit):
        parsed("--site", "s", "--storage", "x")


def test_outputs_go_there_and_inputs_come_from_there(tmp_path: Path) -> None:
    made = site.by_hand(tmp_path / "my data")
    assert made.storage.roots == (f"{tmp_path}/my data",)
    assert made.storage.default_output == f"file://{tmp_path}/my%20data"
    assert site.by_hand(None).storage == site.Storage()


def test_a_site_file_is_read_as_its_edge_reads_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "site.yaml"
    file.write_text("storage: {roots: [~/data, $HOME/more], default_output: ~/my data}\n")
    storage = site.read(file).storage
    assert storage.roots == (f"{tmp_path}/data", f"{tmp_path}/more")
    assert storage.default_output == f"file://{tmp_path}/my%20data"
    assert site.in_home((*storage.roots, "/nfs/x", str(tmp_path))) == [
        tmp_path / "data",
        tmp_path / "more",
    ]


def test_the_shipped_laptop_keeps_outputs() -> None:
    shipped = Path(__file__).parents[3] / "site_configs" / "laptop.yaml"
    storage = site.read(shipped).storage
    assert storage.default_output == f"file://{storage.roots[0]}"
    assert site.in_home(storage.roots) == [Path(storage.roots[0])]


@pytest.mark.field("A3")
@pytest.mark.parametrize("directory", ["http://h/".ljust(2600, "x"), "nowhere", "http://[::1"])
def test_a_storage_that_makes_no_url_fails_one_job(directory: str) -> None:
    made = stage.Stage(lambda _: None, directory, None, site.Storage(logs="none"))
    with pytest.raises(JobError):
        made.destinations.physical(attempt_of(), OutputFile(name="out"))
    assert made.planned(attempt_of()) == []


class Drip:
    """A transfer that gets nowhere, but for its checks."""

    tries = 0

    def get(self, url, into, check, *, md5):
        self.tries += 1
        while True:
            check()
            time.sleep(0.001)


@pytest.mark.field("A3")
def test_outputs_that_no_report_can_name_are_refused_before_the_job_begins() -> None:
    """9,000 outputs with URLs of 1,600 characters were stored, and the job was `holding` for
    ever."""
    made = stage.Stage(
        lambda scheme: SimpleNamespace(allowed=lambda url: None),  # type: ignore[arg-type,return-value]
        "",
        site.bounds_of(site.Limits()),
    )

    def outputs(number: int) -> tuple[OutputFile, ...]:
        url = "file:///d/" + "x" * 1600
        return tuple(OutputFile(name=f"o{n}", url=url) for n in range(number))

    made.allowed(attempt_of("true", outputs=outputs(3000)))
    with pytest.raises(JobError, match="longer than the report") as refused:
        made.allowed(attempt_of("true", outputs=outputs(5000)))
    assert not refused.value.transient
    assert refused.value.field == "outputs"


@pytest.mark.field("A18")
@pytest.mark.parametrize("stopped", [True, False])
def test_an_input_that_drips_ends_with_its_limit_or_its_job(
    tmp_path: Path, *, stopped: bool
) -> None:
    drip = Drip()
    bounds = site.bounds_of(site.Limits(staging=60 if stopped else 0.05))
    attempt = attempt_of("true", inputs=(InputFile(name="x", url="http://h/x"),))
    if stopped:
        threading.Timer(0.05, attempt.stop, [JobError(Code.KILLED_BY_SERVER, "stop")]).start()
    with Workdir(tmp_path / "job") as made:
        made.make()
        with pytest.raises(JobError) as caught:
            stage.Stage(lambda _: drip, "", bounds, site.Storage(logs="none")).stage_in(
                attempt, made
            )
    assert caught.value.code is (Code.KILLED_BY_SERVER if stopped else Code.STAGE_IN_TIMEOUT)
    assert drip.tries == 1


@pytest.mark.field("A26", "L1")
@given(
    st.sampled_from(["http://h", "http://h/57.1.a", "file:///s/57.1.a", "http://h/d/.."]),
    st.sampled_from(["", "/", "//", "?", "?x=", "?/", "#", "#x/", "/?a#b", "%2F", "/%2e%2e"]),
    st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,40}\Z"),
)
def test_whatever_a_job_says_what_it_writes_carries_its_number(
    url: str, more: str, name: str
) -> None:
    made = stage.Stage(lambda _: None, "", None, site.Storage(logs="none"))
    to = made.destinations.physical(attempt_of(of=(58, 2)), OutputFile(name=name, url=url + more))
    assert to.name == f"58.2.{name}"
    assert Url.parse(to.text).segments[-1] == to.name.encode()


@pytest.mark.real
def test_a_pilot_by_hand_leaves_the_output_and_names_the_rest(field: Field) -> None:
    storage = field.directory / "my données"
    job_id = field.submit("echo hi | tee hello.txt > rest", outputs=(OutputFile(name="hello.txt"),))
    pilot = field.by_hand("--storage", str(storage), "--max-jobs", "1")
    detail = field.dispatcher.final(job_id)
    assert pilot.ended() == 0
    assert detail.row.state is JobState.FINISHED
    assert (storage / f"{job_id}.1.hello.txt").read_text() == "hi\n"
    assert detail.row.diagnosis == "left 1 file that was not declared: rest"


@pytest.mark.real
@pytest.mark.field("W4")
def test_a_program_is_run_from_a_directory_with_a_blank(field: Field, tmp_path: Path) -> None:
    home = field.storage / "Анна's work #1"
    home.mkdir()
    (home / "run.sh").write_text("#!/bin/sh\necho ran > out\n")
    (home / "run.sh").chmod(0o755)
    (home / "jobs.yaml").write_text(
        f"{{name: w, command: ./run.sh, inputs: [./run.sh], outputs: [./o/out], queue: {field.queue},"
        " memory: 200, disk: 100, max_attempts: 1}\n"
    )
    from dispatcher.cli.jobfile import JobFiles

    (job_id,) = field.dispatcher.client.submit(JobFiles([str(home / "jobs.yaml")]).jobs).job_ids
    field.pilot("--max-jobs", "1")
    assert field.dispatcher.final(job_id).row.state is JobState.FINISHED
    assert (home / "o" / f"{job_id}.1.out").read_text() == "ran\n"
