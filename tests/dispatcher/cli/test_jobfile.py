"""A fault in a job file is told with file, line, field, and what would help."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest

from dispatcher.cli.exits import DATA, NO_INPUT, CommandError
from dispatcher.cli.jobfile import MOST_FAULTS, JobFiles


@pytest.fixture
def file(tmp_path):
    def write(text: str | bytes, name: str = "z.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def fault(file, text, name: str = "z.yaml") -> str:
    with pytest.raises(CommandError) as caught:
        JobFiles([file(text, name)])
    assert caught.value.code == DATA
    return str(caught.value).replace(file(text, name), name)


GOOD = "- name: a\n  command: 'true'\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            GOOD + "- name: b\n  command: 'true'\n  cores: four\n",
            "z.yaml:5: jobs[1].cores: Expected `int`",
        ),
        (GOOD + "  coers: 4\n", "z.yaml:3: jobs[0].coers: no such field (did you mean `cores`?)"),
        (
            GOOD + "  memory: much\n",
            "z.yaml:3: jobs[0].memory: 'much' is not a size (write 500M, 4GiB or a number of MiB)",
        ),
        (GOOD + "  walltime: soon\n", "z.yaml:3: jobs[0].walltime: 'soon' is not a duration"),
        (
            GOOD + "  outputs: a\n",
            "z.yaml:3: jobs[0].outputs: Expected `array`, got `str` (a list, also of one: `[…]`)",
        ),
        (GOOD + "  memory: 0\n", "z.yaml:3: jobs[0].memory: Expected `int` >= 1"),
        (GOOD + "  cores: 1\n  cores: 2\n", "z.yaml:4: jobs[0].cores: given twice"),
        (
            GOOD + "  inputs:\n    - {url: 'file:///x', name: a, adler32: zz}\n",
            "z.yaml:4: jobs[0].inputs[0].adler32",
        ),
        (
            GOOD + "  depends_on: [b]\n",
            "z.yaml:3: jobs[0].depends_on[0]: no job of this submission",
        ),
        (
            GOOD + "  depends_on: a\n",
            "z.yaml:3: jobs[0].depends_on: jobs wait for each other in a circle",
        ),
        ("name: a\n", "z.yaml:1: jobs[0].command: job 'a' needs one of `command` and `script`"),
        ("defaults:\n  cores: x\njobs:\n- name: a\n  command: b\n", "z.yaml:2: jobs[0].cores"),
        ("jobs:\n- name: a\n  command: b\nother: 1\n", "z.yaml:4: other: no such key"),
        ("name: [\n", "z.yaml:2: did not find expected node content"),
        ("", "z.yaml:1: the file is empty"),
        ("just text", "z.yaml:1: expected a job or a list of jobs"),
        ("[]", "z.yaml:1: expected a job or a list of jobs"),
        (GOOD + "  sweep: {i: 3}\n", "z.yaml:3: jobs[0].sweep.i: expected a list or whole numbers"),
        ("name: !!python/object:os.system x\n", "z.yaml:1: could not determine a constructor"),
    ],
)
def test_each_fault_is_told_with_its_line(file, text, said):
    assert fault(file, text).startswith(said)


def test_a_fault_among_the_jobs_of_a_sweep_is_told_at_its_entry(file):
    text = "- name: a{i}\n  command: x\n  sweep: {i: {from: 1, to: 50}}\n- name: b\n  command: x\n  depends_on: [c]\n"
    assert fault(file, text).startswith("z.yaml:6: jobs[1].depends_on[0]")


def test_a_fault_among_several_files_is_told_at_its_file(file):
    first, second = (
        file(GOOD, "one.yaml"),
        file("name: b\ncommand: x\ndepends_on: [c]\n", "two.yaml"),
    )
    with pytest.raises(CommandError) as caught:
        JobFiles([first, second])
    assert str(caught.value).startswith(f"{second}:3: jobs[0].depends_on[0]")


def test_jobs_of_several_files_may_depend_on_each_other(file):
    names = [file(GOOD, "one.yaml"), file("name: b\ncommand: x\ndepends_on: [a]\n", "two.yaml")]
    assert [job.name for job in JobFiles(names).jobs] == ["a", "b"]


def test_json_is_read_and_its_faults_have_lines_too(file):
    good = [{"name": f"j{nr}", "command": "true"} for nr in range(3)]
    assert len(JobFiles([file(json.dumps(good), "j.json")]).jobs) == 3
    good[2]["cores"] = "x"
    assert fault(file, json.dumps(good, indent=1), "j.json").startswith("j.json:13: jobs[2].cores")
    twice = '[\n{"name": "a",\n "command": "b",\n "name": "c"}]'
    assert fault(file, twice, "j.json").startswith("j.json:4: jobs[0].name: given twice")


def test_relative_paths_are_read_from_the_directory_of_the_file(file, tmp_path):
    job = JobFiles([file("name: a\ncommand: x\ninputs: [data/in.root]\n")]).jobs[0]
    assert job.inputs[0].url == f"file://{tmp_path}/data/in.root"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n" for last, name in pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: &a [*a]\n",
        "[" * 100_000,
        "[" * 200 + "]" * 200,
        '{"a":' * 100_000,
        "- " * 20_000,
        "x: " + "9" * 5000,
        "\x00",
        "? {a: b}\n: c\n",
        "2020-99-99: a\n",
        "name: a{i}\ncommand: x\nsweep: {i: {from: 1, to: 1000000000000000000000000}}\n",
        "name: a{i}\ncommand: x\nsweep: {i: {from: 1, to: 1000}, j: {from: 1, to: 1000}}\n",
        "name: 2020-99-99\n",
        b"\xff\xfe\x00",
    ],
)
def test_hostile_files_are_refused_quickly(file, text):
    began = time.perf_counter()
    fault(file, text)
    assert time.perf_counter() - began < 20  # a hang, not a busy machine


def test_a_missing_file_is_told_apart_from_a_bad_one(tmp_path):
    with pytest.raises(CommandError) as caught:
        JobFiles([str(tmp_path / "none.yaml")])
    assert caught.value.code == NO_INPUT


def test_ten_thousand_jobs_are_read_in_seconds(file):
    text = "".join(
        f"- name: j{nr}\n  command: echo {nr}\n  outputs: [a.txt]\n" for nr in range(10_000)
    )
    began = time.perf_counter()
    assert len(JobFiles([file(text)]).jobs) == 10_000
    assert time.perf_counter() - began < 10


def test_all_that_is_wrong_in_a_file_is_told_at_once_in_the_words_that_stand_there(file):
    text = """defaults: {cores: four}
jobs:
  - name: a
    command: 'true'
    memory: -1GB
  - name: b
    command: 'true'
    cores: 1
    memory: 0
    walltimes: 3
  - {name: fine, command: 'true', cores: 1}
  - name: [3]
    command: 'true'
    cores: 1
  - 7
"""
    with pytest.raises(CommandError) as caught:
        JobFiles([file(text)])
    faults = [caught.value, *caught.value.further]
    places = [one.field.rpartition("z.yaml:")[2] for one in faults]
    assert places == [
        "5: jobs[0].memory",
        "1: jobs[0].cores",
        "10: jobs[1].walltimes",
        "9: jobs[1].memory",
        "12: jobs[3].name",
        "15: jobs[4]",
    ]


def test_of_one_file_no_more_faults_are_told_than_people_read(file):
    text = "".join(f"- {{name: a{nr}, command: x, cores: x}}\n" for nr in range(100))
    with pytest.raises(CommandError) as caught:
        JobFiles([file(text)])
    assert len(caught.value.further) == MOST_FAULTS - 1
