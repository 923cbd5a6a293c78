"""Identifiers of Rucio: as texts, as URLs, and among a job's files."""

from __future__ import annotations

import re

import pytest

from ailurus.protocol.did import Did, physical, rse_of, store_mark
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import OutputFile
from ailurus.protocol.submission import check, jobs_from
from ailurus.protocol.url import Url

JOB = {"name": "a", "command": "true"}


@pytest.mark.parametrize(
    ("text", "scope", "name", "last"),
    [
        ("user.ann:hits.root", "user.ann", "hits.root", "hits.root"),
        ("cms:/store/data/x.root", "cms", "/store/data/x.root", "x.root"),
        (
            "mc23_13p6TeV:mc23.800001.evgen",
            "mc23_13p6TeV",
            "mc23.800001.evgen",
            "mc23.800001.evgen",
        ),
        ("belle:a/b/c", "belle", "a/b/c", "c"),
    ],
)
def test_an_identifier_is_a_url_and_back(text, scope, name, last):
    url = Url.parse(f"rucio://{text}")
    did = Did.of_url(url)
    assert (did.scope, did.name, url.name) == (scope, name, last)
    assert did.url() == url
    assert str(did) == text


def test_a_url_may_name_the_storage():
    url = Url.parse("rucio://user.ann:57.1.hits?rse=CERN-PROD_SCRATCHDISK")
    assert rse_of(url) == "CERN-PROD_SCRATCHDISK"
    assert Did.of_url(url).url(rse_of(url)) == url
    assert rse_of(Url.parse("rucio://user.ann:hits")) == ""


@pytest.mark.parametrize(
    "text",
    [
        "rucio://no-name",
        "rucio://user.ann/hits",
        "rucio://user.ann:",
        "rucio://user.ann:a b",
        "rucio://user.ann:../x",
        "rucio://user.ann:a/../x",
        "rucio://user.ann:a//b",
        "rucio://user.ann:8080",
        "rucio://:name",
        "rucio://u@user.ann:name",
        f"rucio://{'s' * 26}:name",
        f"rucio://s:{'n' * 251}",
    ],
)
def test_what_is_no_identifier_is_refused(text):
    if text.endswith(":8080"):  # a name of digits only is one, and no port
        assert Did.of_url(Url.parse(text)).name == "8080"
        return
    with pytest.raises(AilurusError) as caught:
        Did.of_url(Url.parse(text))
    assert caught.value.remedy


@pytest.mark.parametrize(
    "rse", ["", "..%2f..%2faccounts", "x%3Fy", "..", "a/b", "a%20b", "a" * 256]
)
def test_no_storage_is_called_what_leads_to_another_place_of_rucios_server(rse):
    with pytest.raises(AilurusError):
        rse_of(Url.parse(f"rucio://s:n?rse={rse}"))


def test_an_unknown_word_beside_the_storage_is_refused():
    with pytest.raises(AilurusError, match="more than Rucio knows"):
        rse_of(Url.parse("rucio://s:n?rse=A&site=B"))


def test_a_job_names_its_data_in_rucio():
    (job,) = jobs_from(
        {
            **JOB,
            "inputs": ["rucio://user.ann:raw.2026"],
            "outputs": [
                "rucio://user.ann:hits.root",
                {"name": "b", "scope": "user.ann", "dataset": "user.ann:out", "lifetime": "30d"},
            ],
        }
    )
    check([job])
    assert job.inputs[0].name == "raw.2026"
    assert job.outputs[0] == OutputFile(name="hits.root", scope="user.ann")
    assert job.outputs[1].lifetime_s == 30 * 86_400


def test_outputs_of_two_stores_share_no_name():
    one, other = store_mark("one"), store_mark("other")
    assert str(physical("user.ann", 57, 2, "b")) == "user.ann:57.2.b"
    assert str(physical("user.ann", 57, 2, "b", one)) == f"user.ann:{one}.57.2.b"
    assert one != other
    assert re.fullmatch("[a-z]{8}", one)
    assert store_mark("one") == one


@pytest.mark.parametrize(
    ("output", "field", "says"),
    [
        ({"dataset": "user.ann:out"}, "dataset", "no scope"),
        ({"lifetime": "1d"}, "lifetime", "no scope"),
        ({"scope": "user.ann", "url": "file:///data"}, "url", "a url and a scope"),
        ({"url": "rucio://user.bob:x"}, "url", "which is no directory"),
        ({"scope": "user.ann", "name": "a=b"}, "name", "cannot be a name in Rucio"),
        ({"scope": "user.ann", "dataset": "user.ann:a//b"}, "dataset", "not of the form"),
        ({"scope": "user.ann", "dataset": "user.ann:a/../b"}, "dataset", "no name in Rucio"),
        ({"scope": "user ann"}, "scope", "not of the form"),
        ({"scope": "user.ann", "lifetime": "soon"}, "lifetime", "not a duration"),
    ],
)
def test_an_output_that_cannot_be_registered_is_told_at_submit(output, field, says):
    with pytest.raises(AilurusError) as caught:
        check(jobs_from({**JOB, "outputs": [{"name": "hits", **output}]}))
    assert caught.value.field == f"jobs[0].outputs[0].{field}"
    assert says in caught.value.message
    assert caught.value.remedy


def test_an_input_that_is_no_identifier_is_told_at_submit():
    with pytest.raises(AilurusError) as caught:
        check(jobs_from({**JOB, "inputs": [{"name": "x", "url": "rucio://user.ann/x"}]}))
    assert caught.value.field == "jobs[0].inputs[0].url"
