"""Job files: what they may say, and how a mistake is told."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol import panda
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.submission import check, jobs_from
from ailurus.protocol.units import duration_s, size_bytes, size_mb

ONE = {"name": "a", "command": "true"}


def test_units_are_read_as_people_write_them():
    (job,) = jobs_from({**ONE, "memory": "4GiB", "disk": "500M", "walltime": "1-12:00:00"})
    assert (job.memory_mb, job.disk_mb, job.walltime_s) == (4096, 500, 129_600)


def test_a_sweep_makes_a_job_a_point():
    tree = {
        "name": "mc_{seed}",
        "command": "gen {seed} ${HOME}",
        "outputs": ["mc_{seed}.root"],
        "sweep": {"seed": {"from": 1, "to": 3}},
    }
    jobs = jobs_from(tree)
    assert [job.name for job in jobs] == ["mc_1", "mc_2", "mc_3"]
    assert jobs[2].command == "gen 3 ${HOME}"
    assert jobs[2].outputs == (OutputFile(name="mc_3.root"),)


def test_defaults_are_shared_and_paths_are_relative_to_the_file():
    tree = {
        "defaults": {"queue": "q"},
        "jobs": [{**ONE, "inputs": ["d/x.root"], "outputs": ["o/y"]}],
    }
    (job,) = jobs_from(tree, base="/home/me")
    assert job.queue == "q"
    assert job.inputs == (InputFile(name="x.root", url="file:///home/me/d/x.root"),)
    assert job.outputs == (OutputFile(name="y", url="file:///home/me/o"),)


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"comand": "x"}, "jobs[0].comand", "did you mean `command`?"),
        ({"cores": "two"}, "jobs[0].cores", "int"),
        ({"cores": 0}, "jobs[0].cores", "at least 1"),
        ({"command": "x" * 100_001}, "jobs[0].command", "a length of at most 100000"),
        ({"inputs": [{"url": "file:///x"}]}, "jobs[0].inputs[0].name", "missing (give it)"),
        ({"memory": "4 buckets"}, "jobs[0].memory", "not a size"),
        ({"memory": ["4"]}, "jobs[0].memory", "not a size"),
        ({"walltime": "soon"}, "jobs[0].walltime", "not a duration"),
        ({"name": "../x"}, "jobs[0].name", "letters, digits and _.:+@=-"),
        ({"name": "a\nb"}, "jobs[0].name", "letters, digits and _.:+@=-"),
        (
            {"inputs": [{"name": "x", "adler32": "zz"}]},
            "jobs[0].inputs[0].adler32",
            "8 hexadecimal digits",
        ),
        ({"launcher": "M"}, "jobs[0].launcher", "it must match ^[a-z]*$"),
        ({"launcher": {"mpi": {}, "ray": {}}}, "jobs[0].launcher", "2 launchers"),
        ({"launcher": {"mpi": 4}}, "jobs[0].launcher.mpi", "Expected `object`"),
        (
            {"launcher": {"mpi": {"ranks_pernode": 4}}},
            "jobs[0].launcher.mpi.ranks_pernode",
            "did you mean `ranks_per_node`?",
        ),
        (
            {"launcher": {"mpi": {"ranks_per_node": 0}}},
            "jobs[0].launcher.mpi.ranks_per_node",
            "at least 1",
        ),
        (
            {"launcher": {"mpi": {"flavour": "lam"}}},
            "jobs[0].launcher.mpi.flavour",
            "openmpi or mpich",
        ),
        (
            {"nodes": 2, "launcher": {"horovod": {"elastic": True, "min_nodes": 3}}},
            "jobs[0].launcher.horovod.min_nodes",
            "begins with 2 nodes",
        ),
        (
            {"nodes": 3, "launcher": {"horovod": {"elastic": True, "max_nodes": 2}}},
            "jobs[0].launcher.horovod.max_nodes",
            "begins with 3 nodes",
        ),
        (
            {"launcher": {"horovod": {"elastic": True}}},
            "jobs[0].launcher.horovod.elastic",
            "`nodes: 2` or more",
        ),
        (
            {"nodes": 2, "launcher": {"horovod": {"max_nodes": 4}}},
            "jobs[0].launcher.horovod.max_nodes",
            "elastic: true",
        ),
        (
            {"nodes": 2, "launcher": {"horovod": {"elastic": True, "controller": "mpi"}}},
            "jobs[0].launcher.horovod.controller",
            "by gloo",
        ),
        (
            {"nodes": 2, "launcher": {"torchrun": {"elastic": True, "min_nodes": 3}}},
            "jobs[0].launcher.torchrun.min_nodes",
            "begins with 2 nodes",
        ),
        (
            {"nodes": 3, "launcher": {"torchrun": {"min_nodes": 2}}},
            "jobs[0].launcher.torchrun.min_nodes",
            "elastic: true",
        ),
        (
            {"launcher": {"single": {"ranks_per_node": 2}}},
            "jobs[0].launcher.single.ranks_per_node",
            "no such field",
        ),
        ({"sweep": {"seed": []}}, "jobs[0].sweep.seed", "expected a list"),
        ({"sweep": {"seed": {"from": 1}}}, "jobs[0].sweep.seed", "expected a list"),
    ],
)
def test_a_mistake_names_field_and_remedy(change, field, says):
    with pytest.raises(AilurusError) as raised:
        jobs_from({**ONE, **change})
    assert raised.value.field == field
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("written", "name", "options"),
    [
        ("mpi", "mpi", {}),
        ({"mpi": None}, "mpi", {}),
        ({"mpi": {"ranks_per_node": 4}}, "mpi", {"ranks_per_node": 4}),
        ({"ofasite": {"depth": 3}}, "ofasite", {"depth": 3}),
    ],
)
def test_a_launcher_is_a_word_or_a_word_with_its_options(written, name, options):
    """One that a site installed has options of which only its pilots know the type."""
    (job,) = jobs_from({**ONE, "launcher": written})
    assert (job.launcher, job.launcher_options) == (name, options)


def test_options_of_a_launcher_are_checked_in_a_job_that_comes_as_it_is():
    with pytest.raises(AilurusError) as raised:
        check([JobSpec(**ONE, launcher="ray", launcher_options={"dashboards": True})])
    assert raised.value.field == "jobs[0].launcher_options.dashboards"
    assert raised.value.remedy == "did you mean `dashboard`?"


@pytest.mark.parametrize("tree", [None, 3, "x", [], [3], {"jobs": 3}, {"jobs": [], "x": 1}])
def test_what_is_no_job_file_is_said_so(tree):
    with pytest.raises(AilurusError):
        jobs_from(tree)


@pytest.mark.parametrize(
    ("jobs", "field", "says"),
    [
        ([{"name": "a"}], "jobs[0].command", "one of `command` and `script`"),
        ([{**ONE, "depends_on": ["b"]}], "jobs[0].depends_on[0]", "no job of this submission"),
        ([ONE, ONE, {**ONE, "name": "c", "depends_on": ["a"]}], "jobs[2].depends_on[0]", "2 jobs"),
        ([{**ONE, "inputs": ["x.root"]}], "jobs[0].inputs[0].url", "has no url"),
        (
            [ONE, {"name": "b", "command": "c", "depends_on": ["a"], "inputs": ["x.root"]}],
            "jobs[1].inputs[0].name",
            "no parent",
        ),
        ([{**ONE, "outputs": ["x", "x"]}], "jobs[0].outputs", "2 times"),
        (
            [
                {"name": "a", "command": "c", "depends_on": ["b"]},
                {"name": "b", "command": "c", "depends_on": ["a"]},
            ],
            "jobs[0].depends_on",
            "in a circle: a → b → a",
        ),
    ],
)
def test_what_does_not_hold_among_jobs_is_found_before_anything_is_stored(jobs, field, says):
    with pytest.raises(AilurusError) as raised:
        check(jobs_from(jobs))
    assert raised.value.field == field
    assert says in str(raised.value)


@given(st.integers(0, 10**6), st.sampled_from("KMGT"))
def test_sizes_count_in_1024s_however_they_are_spelled(number, letter):
    spelled = {
        size_bytes(f"{number}{unit}")
        for unit in (letter, letter + "B", letter + "iB", letter.lower())
    }
    assert len(spelled) == 1
    assert size_mb(f"{number}M") == number


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations_are_read_as_slurm_writes_them(days, hours, minutes, seconds):
    text = f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    assert duration_s(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@given(st.text(max_size=20))
def test_any_text_is_a_size_and_a_duration_or_a_clear_error(text):
    for read in (size_bytes, size_mb, duration_s):
        assert says(read, text) is None or repr(text) in says(read, text)


def says(read, text):
    """The error that reading `text` raises, as text; None if it can be read."""
    try:
        read(text)
    except AilurusError as error:
        return error.message
    return None


HOSTILE = st.text(
    st.one_of(
        st.sampled_from("\n\r\0'\"`$();&|<>\\-%s/. \t\u202e\ufeff~*?[]{}#!"),
        st.characters(),
    ),
    min_size=1,
    max_size=60,
) | st.sampled_from(
    ["x\n", "-rf", "..", "a/../b", "..%2f", "$(id)", "%s%n", "x" * 4096, "\x1b]8;;"]
)
WHERE = [
    ("name", lambda text: {"name": text}),
    ("queue", lambda text: {"queue": text}),
    ("launcher", lambda text: {"launcher": text}),
    ("environment", lambda text: {"environment": {text: "1"}}),
    ("inputs", lambda text: {"inputs": [{"name": text, "url": "file:///d/x"}]}),
    ("inputs", lambda text: {"inputs": [{"name": "x", "url": "file://" + text}]}),
    ("outputs", lambda text: {"outputs": [{"name": text}]}),
    ("depends_on", lambda text: {"depends_on": [text]}),
]


def read_or_refuse(entry: dict[str, object]) -> JobSpec | AilurusError:
    try:
        (job,) = jobs_from(entry)
    except AilurusError as error:
        return error
    return job


@pytest.mark.parametrize(("field", "put"), WHERE)
@given(text=HOSTILE)
def test_f2_a_name_is_a_plain_word_or_refused_with_its_field(field, put, text):
    job = read_or_refuse({**ONE, **put(text)})
    if isinstance(job, AilurusError):
        assert (job.field or "").startswith(f"jobs[0].{field}")
        return
    kept = msgspec.json.decode(msgspec.json.encode(job), type=JobSpec)
    assert kept == job
    if text in (job.name, job.queue, *job.environment):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]*", text)
    for file in job.inputs + job.outputs:
        parts = file.name.removesuffix("/").split("/")
        assert all(re.fullmatch(r"[A-Za-z0-9_*][A-Za-z0-9_.:+@=*-]*", part) for part in parts)
    assert not any(re.search(r"[\x00-\x20]", file.url) for file in job.inputs)


@pytest.mark.parametrize("field", ["command", "script"])
def test_f2_a_nul_is_refused_where_a_process_would_get_it(field):
    with pytest.raises(AilurusError, match="anything but a NUL") as caught:
        jobs_from({"name": "a", field: "echo \0"})
    assert caught.value.field == f"jobs[0].{field}"
    with pytest.raises(AilurusError):
        jobs_from({**ONE, "environment": {"A": "\0"}})


def test_f2_half_a_surrogate_pair_is_no_text():
    with pytest.raises(AilurusError, match="no character") as caught:
        jobs_from({**ONE, "environment": {"A": "\ud800"}})
    assert caught.value.field == "jobs[0].environment"
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(rb'{"name": "a", "command": "echo \ud800"}', type=JobSpec)


def test_an_output_does_not_take_the_name_of_the_log():
    jobs = jobs_from({"name": "j", "command": "true", "outputs": [{"name": "log.tgz"}]})
    with pytest.raises(AilurusError) as refused:
        check(jobs)
    assert refused.value.field == "jobs[0].outputs[0].name"


@pytest.mark.field("L1")
def test_a_file_in_one_text_is_named_by_the_path_of_its_url():
    tree = {
        **ONE,
        "inputs": ["http://h/d/x.root?sig=a/b", "http://h/y.root#z"],
        "outputs": ["http://h/d/a.out?authz=T", "http://h/b.out", "/c.out"],
    }
    (job,) = jobs_from(tree)
    assert job.inputs == (
        InputFile(name="x.root", url="http://h/d/x.root?sig=a/b"),
        InputFile(name="y.root", url="http://h/y.root#z"),
    )
    assert job.outputs == (
        OutputFile(name="a.out", url="http://h/d?authz=T"),
        OutputFile(name="b.out", url="http://h/"),
        OutputFile(name="c.out", url="file:///"),
    )
    check((job,))


@pytest.mark.field("W4")
def test_a_path_is_written_as_it_is_and_a_url_as_urls_are():
    tree = {
        **ONE,
        "inputs": ["./x.root", {"name": "d", "url": "./50% of #1?.txt"}, "file:///a%20b/y"],
        "outputs": ["./o/z"],
    }
    (job,) = jobs_from(tree, base="/home/Анна/my work")
    home = "file:///home/%D0%90%D0%BD%D0%BD%D0%B0/my%20work"
    assert job.inputs == (
        InputFile(name="x.root", url=f"{home}/x.root"),
        InputFile(name="d", url=f"{home}/50%25%20of%20%231%3F.txt"),
        InputFile(name="y", url="file:///a%20b/y"),
    )
    assert job.outputs == (OutputFile(name="z", url=f"{home}/o"),)
    check((job,))


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("./my file.txt", "'my file.txt' cannot be a file's name"),
        ("http://h/directory/", "'' cannot be a file's name"),
        ("http://h", "'' cannot be a file's name"),
        ("http://h/..", "'..' cannot be a file's name"),
        ("http://[::1/x", "is not a URL"),
        ("http://h/a b", "is not a URL"),
        ({"name": "x", "url": "http://[::1/x"}, "is not a URL"),
        ({"name": "x", "url": "file:///a#b"}, "write ? as %3F and # as %23"),
        ({"name": "x", "url": "file:///a?b"}, "write ? as %3F and # as %23"),
    ],
)
@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_a_file_that_has_no_place_is_told_at_submit(kind, file, says):
    with pytest.raises(AilurusError) as caught:
        check(jobs_from({**ONE, kind: [file]}))
    assert says in str(caught.value)
    assert caught.value.field.startswith(f"jobs[0].{kind}[0]")


@pytest.mark.field("H14")
@pytest.mark.parametrize("word", ["None", "NULL", "null"])
def test_a_word_that_panda_takes_for_nothing_names_no_container(word):
    job = JobSpec(name="j", command="x", container=word)
    with pytest.raises(AilurusError, match="means «nothing» to PanDA") as fault:
        check([job])
    assert fault.value.field == "jobs[0].container"


@pytest.mark.field("H14")
@pytest.mark.parametrize("word", ["None", "NULL", "null"])
def test_a_job_may_be_called_what_panda_takes_for_nothing(word):
    spec = JobSpec(name=word, command="x")
    check([spec])
    sent = panda.PandaJob(
        job_id=1, attempt_nr=1, spec=spec, owner="o", label="managed", transformation="t", queue="q"
    )
    told = panda.job_dictionary(sent)
    assert panda.read_job(told).spec.name == word
    assert panda.read_job(dict(parse_qsl(panda.to_text(told)))).spec.name == word
