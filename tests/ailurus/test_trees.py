"""Names that stand for many files: what they match, which output a file belongs to, and which jobs
could not be meant."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol import trees
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.panda import PandaJob, job_dictionary
from ailurus.protocol.submission import check, jobs_from
from ailurus.protocol.url import Url

WORDS = st.text("ab.*", min_size=1, max_size=5).filter(lambda text: text[0] not in "./")
FILES = st.text("ab./", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("pattern", "name", "is_one"),
    [
        ("results/*.root", "results/hist.root", True),
        ("results/*.root", "results/sub/hist.root", False),
        ("results/*.root", "results/.root", False),
        ("*", ".hidden", False),
        ("*/out", "a/out", True),
        ("results/", "results/sub/hist.root", True),
        ("results/", "results", False),
        ("results/", "results.root", False),
        ("a[b]*", "ab", False),
        ("plain", "plain", True),
    ],
)
def test_a_star_stands_for_any_characters_but_a_slash_and_no_leading_dot(pattern, name, is_one):
    assert trees.matches(pattern, name) is is_one


@given(pattern=WORDS, name=FILES)
def test_a_glob_is_the_plain_regular_expression_that_it_looks_like(pattern, name):
    words = "".join("[^/]*" if sign == "*" else re.escape(sign) for sign in pattern)
    expected = re.fullmatch(words, name) is not None and not name.startswith(".")
    assert trees.matches(pattern, name) is expected


def test_a_pattern_of_many_stars_is_matched_in_no_time():
    began = time.perf_counter()
    assert not trees.matches("*a" * 100, "a" * 199 + "b")
    assert time.perf_counter() - began < 1


@given(patterns=st.lists(WORDS, max_size=4), name=FILES)
def test_a_file_belongs_to_the_output_of_its_name_else_to_the_first_that_matches(patterns, name):
    outputs = [OutputFile(name=pattern) for pattern in patterns]
    owner = trees.owner(outputs, name)
    if name in patterns:
        assert owner == OutputFile(name=name)
    else:
        fitting = [one for one in outputs if "*" in one.name and trees.matches(one.name, name)]
        assert owner == (fitting[0] if fitting else None)


def test_an_archive_belongs_to_the_directory_that_it_was_made_of():
    output = OutputFile(name="results/", tree="archive")
    assert trees.owner([output], "results.tar.gz") is output
    assert trees.owner([output], "results/hist.root") is None


def job(name: str = "a", **fields: object) -> dict[str, object]:
    return {"name": name, "command": "true", **fields}


def refused(*jobs: dict[str, object]) -> AilurusError:
    with pytest.raises(AilurusError) as caught:
        check(jobs_from(list(jobs)))
    return caught.value


def test_trees_globs_and_sub_directories_are_taken():
    outputs = [
        {"name": "results/hist.root"},
        {"name": "plots/*.png", "optional": True},
        {"name": "logs/", "tree": "archive"},
        {"name": "hits/", "tree": "dataset", "scope": "user.a", "dataset": "user.a:hits"},
        "*.txt",
    ]
    inputs = [
        {"name": "calib.tar.gz", "url": "root://h//s/calib.tgz", "unpack": True},
        {"name": "conf/run.yaml", "url": "file:///s/run.yaml"},
        "root://h//s/run7/*.root",
        "./data/",
    ]
    (made,) = jobs_from([job(inputs=inputs, outputs=outputs)], base="/home/ann")
    check([made])
    assert [file.name for file in made.inputs] == ["calib.tar.gz", "conf/run.yaml", "run7", "data"]
    assert made.inputs[3].url == "file:///home/ann/data/"
    assert made.outputs[4].name == "*.txt"


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"outputs": [{"name": "results/"}]}, "outputs[0].tree", "not said what becomes of it"),
        ({"outputs": [{"name": "x", "tree": "archive"}]}, "outputs[0].tree", "is no directory"),
        (
            {"outputs": [{"name": "a*/", "tree": "archive"}]},
            "outputs[0].name",
            "stands for many directories",
        ),
        (
            {"outputs": [{"name": "log/", "tree": "archive"}, {"name": "log.tar.gz"}]},
            "outputs",
            "appears 2 times",
        ),
        (
            {"outputs": [{"name": "d/", "tree": "dataset", "scope": "user.a"}]},
            "outputs[0].dataset",
            "none is named",
        ),
        ({"outputs": ["results/*.root"]}, "outputs[0]", "{name: results/*.root}"),
        ({"outputs": ["logs/"]}, "outputs[0]", "{name: logs/, tree: dataset}"),
        ({"outputs": [{"name": "d/", "tree": "zip"}]}, "outputs[0].tree", "archive or dataset"),
        ({"outputs": [{"name": "../x"}]}, "outputs[0].name", "form that is allowed"),
        ({"outputs": [{"name": "/x"}]}, "outputs[0].name", "form that is allowed"),
        ({"outputs": [{"name": "a//b"}]}, "outputs[0].name", "form that is allowed"),
        ({"outputs": [{"name": "a/" + "b" * 201}]}, "outputs[0].name", "form that is allowed"),
        (
            {"inputs": [{"name": "a/*", "url": "root://h//d/"}]},
            "inputs[0].name",
            "its name stands for many files",
        ),
        (
            {"inputs": [{"name": "a", "url": "root://h//d/", "size": 5}]},
            "inputs[0]",
            "no common size or checksum",
        ),
        (
            {"inputs": [{"name": "a", "url": "root://h//d/", "unpack": True}]},
            "inputs[0].unpack",
            "is no archive",
        ),
        (
            {"inputs": [{"name": "a", "url": "root://h//d/", "direct": True}]},
            "inputs[0].direct",
            "gives one URL",
        ),
        (
            {"inputs": [{"name": "a", "url": "root://h//*/x"}]},
            "inputs[0].url",
            "* in the name of a directory",
        ),
        (
            {"inputs": ["root://h//d/", {"name": "d/x", "url": "root://h//x"}]},
            "inputs",
            "'d/x' needs a directory where 'd' is",
        ),
        (
            {
                "inputs": [
                    {"name": "d", "url": "root://h//x"},
                    {"name": "d.tgz", "url": "root://h//d.tgz", "unpack": True},
                ]
            },
            "inputs",
            "'d' appears 2 times",
        ),
    ],
)
def test_what_could_not_be_meant_is_refused_with_its_field(fields, field, text):
    error = refused(job(**fields))
    assert error.field == f"jobs[0].{field}"
    assert text in f"{error.message} {error.remedy}"


MAKER = job("maker", outputs=[{"name": "r/", "tree": "dataset"}, {"name": "l/", "tree": "archive"}])


@pytest.mark.parametrize("name", ["r/", "r/*.root", "r/a/b", "l.tar.gz"])
def test_a_child_may_name_what_a_parents_tree_leaves(name):
    child = job("child", depends_on=["maker"], inputs=[{"name": name}])
    check(jobs_from([MAKER, child]))


@pytest.mark.parametrize("name", ["r", "l/", "l/x", "s/*", "r.tar.gz"])
def test_a_child_may_not_name_what_no_parent_leaves(name):
    child = job("child", depends_on=["maker"], inputs=[{"name": name}])
    assert f"no parent of job 'child' writes {name!r}" in refused(MAKER, child).message


def test_a_page_of_a_web_server_is_one_file_though_its_url_ends_in_a_slash():
    check(jobs_from([job(inputs=[{"name": "index.html", "url": "http://h/d/", "size": 5}])]))
    assert not trees.is_listed(Url.parse("https://h/d/*"))


@pytest.mark.parametrize(
    "spec",
    [
        JobSpec(name="a", outputs=(OutputFile(name="r/*.root"),)),
        JobSpec(name="a", outputs=(OutputFile(name="r/x"),)),
        JobSpec(name="a", inputs=(InputFile(name="x.tgz", url="file:///x", unpack=True),)),
        JobSpec(name="a", inputs=(InputFile(name="x", url="file:///x/"),)),
    ],
)
def test_a_pilot_of_pandas_is_never_given_what_it_would_not_understand(spec):
    with pytest.raises(ValueError, match="let native pilots serve its queue"):
        job_dictionary(PandaJob(job_id=1, attempt_nr=0, spec=spec))


@given(st.lists(st.text("ab-/", min_size=1, max_size=6).filter(lambda text: text[0] != "/")))
def test_a_name_is_within_another_if_that_is_a_directory_above_it(names):
    pairs = {(one, other) for one in names for other in names if one.startswith(f"{other}/")}
    found = trees.within(names)
    assert found in pairs if pairs else found is None


def test_names_of_many_parts_are_soon_compared():
    names = [f"{'a/' * 195}{nr}" for nr in range(10_000)]
    began = time.process_time()
    assert trees.within(names) is None
    assert time.process_time() - began < 0.4


@pytest.mark.parametrize("names", [["a", "a/b"], ["a", "a/b/c"], ["a/b", "c", "a/b/c"]])
def test_a_name_within_another_is_found(names):
    assert trees.within(names) is not None
    assert trees.within(["ab", "a/b", "a/c"]) is None
