"""Files that travel with the jobs of a job file."""

from __future__ import annotations

from hashlib import sha256

import pytest

from ailurus.protocol.job import InputFile
from ailurus.protocol.uploads import MOST_FILE_BYTES
from dispatcher.cli.exits import CommandError
from dispatcher.cli.jobfile import JobFiles

HEAD = "name: a\ncommand: ./run.sh\n"


@pytest.fixture
def read(tmp_path):
    def from_text(text: str) -> JobFiles:
        (tmp_path / "z.yaml").write_text(HEAD + text)
        return JobFiles([str(tmp_path / "z.yaml")])

    return from_text


def test_a_path_beside_the_job_file_becomes_a_url_by_its_contents(read, tmp_path):
    (tmp_path / "run.sh").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "c.txt").write_bytes(b"c")
    files = read("inputs: [{upload: ./run.sh}, {upload: c.txt, name: conf/c.txt}, ./stays.root]\n")
    one, two, path = files.jobs[0].inputs
    run, conf = (sha256(text).hexdigest() for text in (b"#!/bin/sh\n", b"c"))
    assert one == InputFile(name="run.sh", url=f"upload://program/{run}", size=10)
    assert two == InputFile(name="conf/c.txt", url=f"upload://file/{conf}", size=1)
    assert path.url == f"file://{tmp_path}/stays.root"
    assert list(files.uploads) == [b"#!/bin/sh\n", b"c"]


def test_one_file_of_many_jobs_is_read_once_and_paths_may_be_swept(read, tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    files = read('sweep: {x: [a, b], seed: [1, 2]}\ninputs: [{upload: "./{x}.txt"}]\n')
    assert len(files.jobs) == 4
    assert list(files.uploads) == [b"a.txt", b"b.txt"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("{upload: ./none.py}", "inputs[0].upload: "),
        ("{upload: ./dir}", "is a directory (pack it: `tar czf dir.tar.gz dir`"),
        ("{upload: ./large}", "has at most 10,485,760 (put it on storage that the nodes reach"),
        ("{upload: 'my x.txt'}", "cannot be a file's name in the job's directory (name it other"),
        ("{upload: a.txt, url: 'file:///x'}", "inputs[0].url: url says where a file is"),
        ("{upload: a.txt, direct: true}", "inputs[0].direct: "),
        ("{upload: 3}", "inputs[0].upload: expected the path of a file (upload: ./script.py)"),
        ("{upload: a.txt, nmae: b}", "inputs[0].nmae: no such field"),
    ],
)
def test_a_fault_is_told_with_its_field_and_what_helps(read, tmp_path, inputs, said):
    (tmp_path / "dir").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "my x.txt").write_text("a")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_FILE_BYTES + 1)
    with pytest.raises(CommandError) as refused:
        read(f"inputs: [{inputs}]\n")
    assert said in str(refused.value)
    assert "z.yaml:3" in str(refused.value)


def test_a_file_that_changes_meanwhile_is_told(read, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    files = read("inputs: [{upload: a.txt}]\n")
    (tmp_path / "a.txt").write_text("b")
    with pytest.raises(CommandError, match="changed while it was read"):
        list(files.uploads)


def test_submit_uploads_before_it_submits(run, server, tmp_path):
    (tmp_path / "a.txt").write_text("this one is new")
    (tmp_path / "z.yaml").write_text(HEAD + "queue: none\ninputs: [{upload: a.txt}]\n")
    assert run("submit", str(tmp_path / "z.yaml"), "--dry-run").code == 0
    ran = run("submit", str(tmp_path / "z.yaml"))
    assert ran.code == 0, ran.err
    (file,) = server.client.show(int(ran.out)).spec.inputs
    assert file.url == f"upload://file/{sha256(b'this one is new').hexdigest()}"
