"""`files` and `get`: what jobs left, in the user's hand."""

from __future__ import annotations

import json
import os
import zlib
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from ailurus.protocol.job import InputFile
from ailurus.protocol.messages import FileRecord
from ailurus.protocol.uploads import Upload
from ailurus.protocol.url import Url
from dispatcher.cli import exits, files, get
from dispatcher.cli.download import brought
from dispatcher.cli.exits import CommandError
from tests.rig.web import page, serving

TEXT = b"Z to mu mu\n" * 1000


def record(url: str, name: str = "plot.png", text: bytes = TEXT) -> FileRecord:
    return FileRecord(name=name, url=url, size=len(text), adler32=f"{zlib.adler32(text):08x}")


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """The URL of a file in storage."""
    (tmp_path / "1.1.plot.png").write_bytes(TEXT)
    return str(Url.of_path(str(tmp_path / "1.1.plot.png")))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[FileRecord, ...]]:
    """What the dispatcher knows: files by job."""
    known: dict[int, tuple[FileRecord, ...]] = {}
    client = SimpleNamespace(show=lambda job_id: SimpleNamespace(files=known[job_id]))
    for verb in (files, get):
        monkeypatch.setattr(verb, "connect", lambda _: client)
    return known


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """A program called `name` on the PATH."""
    tool = folder / "bin" / name
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


def test_files_are_listed_with_their_urls(run, jobs, stored):
    jobs[1] = (record(stored),)
    assert stored in run("files", "1").out
    assert json.loads(run("files", "1", "--json").out)["url"] == stored


def test_a_file_comes_under_the_name_that_its_job_gave_it(run, jobs, stored, tmp_path):
    jobs[1] = (record(stored, "a/plot.png"), record(stored, "log.tgz"))
    ran = run("get", "1", "*.png", "--to", str(tmp_path / "mine"))
    assert ran.code == 0, ran.err
    found = [path for path in (tmp_path / "mine").rglob("*") if path.is_file()]
    assert [path.relative_to(tmp_path / "mine") for path in found] == [Path("a/plot.png")]
    assert found[0].read_bytes() == TEXT


def test_several_jobs_have_a_directory_each(run, jobs, stored, tmp_path):
    jobs.update({1: (record(stored),), 2: (record(stored),)})
    assert run("get", "1", "2", "--to", str(tmp_path / "mine")).code == 0
    assert (tmp_path / "mine/1/plot.png").read_bytes() == TEXT
    assert (tmp_path / "mine/2/plot.png").read_bytes() == TEXT


def test_a_file_that_is_here_is_not_brought_again_and_another_is_not_lost(stored, tmp_path):
    here = tmp_path / "mine"
    assert brought(record(stored), here) == "brought"
    assert brought(record(stored), here) == "was here"
    here.write_text("my own notes")
    with pytest.raises(CommandError, match="is here already"):
        brought(record(stored), here)
    assert here.read_text() == "my own notes"
    assert brought(record(stored), here, force=True) == "brought"
    assert here.read_bytes() == TEXT


def test_a_file_that_changed_in_storage_is_told_and_leaves_nothing(stored, tmp_path):
    other = tmp_path / "mine"
    other.mkdir()
    with pytest.raises(CommandError, match="11000 bytes and adler32"):
        brought(record(stored, text=b"other"), other / "plot.png")
    assert list(other.iterdir()) == []


def test_what_fails_is_told_and_the_others_come(run, jobs, stored, tmp_path):
    jobs[1] = (record("file:///not/there", "lost"), record(stored))
    ran = run("get", "1", "--to", str(tmp_path / "mine"))
    assert ran.code == exits.NO_INPUT
    assert "lost is at file:///not/there" in ran.err
    assert (tmp_path / "mine/plot.png").exists()
    told = json.loads(run("get", "1", "--json", "--to", str(tmp_path / "mine")).err)
    assert (told["exit_code"], told["message"][:4]) == (exits.NO_INPUT, "lost")


def test_a_fifo_in_storage_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CommandError, match="not a regular file"):
        brought(record(f"file://{tmp_path}/fifo"), tmp_path / "mine")


def test_a_job_without_files_or_without_that_name_is_no_success(run, jobs, stored):
    jobs.update({1: (), 2: (record(stored),)})
    assert run("get", "1").code == exits.NO_INPUT
    ran = run("get", "2", "plott.png")
    assert (ran.code, "no file called plott.png" in ran.err) == (exits.NO_INPUT, True)
    assert run("get", "plot.png").code == exits.USAGE
    assert run("get", "9" * 30).code == exits.USAGE


@pytest.mark.parametrize(
    "name",
    ["../mine", "/etc/mine", "a/../../mine", ".bashrc", ".ssh/rc", "a\0b", "", "a\x1b[2J"],
    ids=range(8),
)
def test_a_name_that_no_output_can_have_writes_no_file(run, jobs, stored, tmp_path, name):
    """A worker says how the files are called that it left."""
    here = tmp_path / "here"
    jobs[1] = (record(stored, name), record(stored))
    ran = run("get", "1", "--to", str(here))
    assert (ran.code, "no name of an output" in ran.err) == (exits.DATA, True)
    assert [path.name for path in here.rglob("*")] == ["plot.png"]
    assert not (tmp_path / "mine").exists()


def test_a_web_server_is_asked_without_a_tool_and_has_an_end(tmp_path):
    with serving(page(TEXT)) as url:
        assert brought(record(f"{url}/x"), tmp_path / "mine") == "brought"
    with serving(page(TEXT * 100)) as url, pytest.raises(CommandError, match="bytes and adler32"):
        brought(record(f"{url}/x"), tmp_path / "more")
    with serving(page(status=403)) as url, pytest.raises(CommandError, match="no credential"):
        brought(record(f"{url}/x"), tmp_path / "more")
    with pytest.raises(CommandError) as refused:
        brought(record(f"{url}/x"), tmp_path / "more")
    assert refused.value.code == exits.UNAVAILABLE


def test_other_storage_is_asked_by_its_own_tool(tmp_path, monkeypatch):
    (tmp_path / "there").write_bytes(TEXT)
    command(
        tmp_path, monkeypatch, "xrdcp", f'cp {tmp_path}/there "$3"; echo "$2" > {tmp_path}/asked'
    )
    assert brought(record("root://store:1094//data/x"), tmp_path / "mine", ["store"]) == "brought"
    assert (tmp_path / "asked").read_text() == "root://store:1094//data/x\n"
    command(
        tmp_path,
        monkeypatch,
        "rucio",
        f'cp {tmp_path}/there "$4/1.1.x"; echo "$5" > {tmp_path}/asked',
    )
    assert brought(record("rucio://user:1.1.x?rse=A"), tmp_path / "yours") == "brought"
    assert (tmp_path / "asked").read_text() == "user:1.1.x\n"


def test_a_tool_that_fails_or_is_not_there_is_named_with_what_it_said(tmp_path, monkeypatch):
    command(tmp_path, monkeypatch, "gfal-copy", "echo no valid proxy >&2; exit 70")
    with pytest.raises(CommandError, match=r"exit 70.*no valid proxy"):
        brought(record("davs://store/x"), tmp_path / "mine", ["store"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="`xrdcp` is not on the PATH"):
        brought(record("root://store//x"), tmp_path / "mine", ["store"])
    with pytest.raises(CommandError, match="nothing here fetches tape: URLs"):
        brought(record("tape://store/x"), tmp_path / "mine")


@pytest.mark.parametrize("scheme", ["root", "davs", "s3", "srm"])
def test_no_host_that_a_worker_names_sees_the_users_credentials_unasked(
    run, jobs, tmp_path, monkeypatch, scheme
):
    (tmp_path / "there").write_bytes(TEXT)
    for tool in ("xrdcp", "gfal-copy"):
        command(tmp_path, monkeypatch, tool, f"touch {tmp_path}/shown; exit 1")
    jobs[1] = (record(f"{scheme}://evil.example/x"),)
    ran = run("get", "1", "--to", str(tmp_path / "mine"))
    assert (ran.code, "--trust evil.example" in ran.err) == (exits.NO_PERMISSION, True)
    run("get", "1", "--to", str(tmp_path / "mine"), "--trust", "store.example")
    assert not (tmp_path / "shown").exists()
    run("get", "1", "--to", str(tmp_path / "mine"), "--trust", "evil.example")
    assert (tmp_path / "shown").exists()


def test_what_travelled_with_a_job_comes_back_compared(run, monkeypatch, tmp_path):
    digest = sha256(TEXT).hexdigest()
    inputs = (
        InputFile(name="cuts.yaml", url=Upload(digest).url, size=len(TEXT)),
        InputFile(name="far", url="file:///far"),
    )
    detail = SimpleNamespace(spec=SimpleNamespace(inputs=inputs), files=())
    sent = [TEXT, b"something else"]
    client = SimpleNamespace(
        show=lambda job_id: detail, contents=lambda name, ask, job_id: sent.pop(0)
    )
    monkeypatch.setattr(get, "connect", lambda _: client)
    assert "brought" in run("get", "1", "--inputs", "--to", str(tmp_path / "here")).out
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["cuts.yaml"]
    assert (tmp_path / "here/cuts.yaml").read_bytes() == TEXT
    assert run("get", "1", "--inputs", "--to", str(tmp_path / "there")).code == exits.DATA
    assert run("get", "1", "no*", "--inputs").code == exits.NO_INPUT
    assert run("get", "1.2", "--inputs").code == exits.USAGE
