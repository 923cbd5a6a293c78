"""Outputs that stand for many files: each is registered under the declaration that it belongs to,
and the next job gets those that it names."""

from __future__ import annotations

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol import trees
from ailurus.protocol.did import Did, physical
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from dispatcher.catalogue.settings import CatalogueSettings
from tests.dispatcher.helpers import ALICE, Bench, bench, job
from tests.rig.catalogue import InMemory

SCOPES = CatalogueSettings(kind="rucio", scopes={"user.{user}": ("*",)})
ALL = "user.alice:all"
HITS = OutputFile(name="hits/", tree="dataset", scope="user.alice", dataset=ALL)


def at_site(name: str) -> m.DoneFile:
    return m.DoneFile(name=name, url=f"file:///s/1.1.{name}", size=7, adler32="0000abcd")


def in_rucio(one: m.RawAssignment, name: str) -> m.DoneFile:
    did = physical("user.alice", one.job_id, one.attempt_nr, name, one.mark)
    url = Did.parse(str(did)).url("SITE").text
    return m.DoneFile(name=name, url=url, size=7, adler32="0000abcd")


async def finished(b: Bench, spec: JobSpec, *files: m.DoneFile) -> int:
    (job_id,) = await b.submit(spec)
    worker = await b.worker()
    (one,) = await worker.acquire()
    assert await worker.report(one, files=files) == "accepted"
    return job_id


async def handed_out(b: Bench) -> JobSpec:
    (one,) = await (await b.worker()).acquire()
    return msgspec.json.decode(one.spec, type=JobSpec)


async def test_each_file_of_a_tree_is_registered_and_its_data_set_closed(place):
    catalogue = InMemory()
    async with bench(place, catalogue=SCOPES) as b:
        b.service.registrar._ask = catalogue.ask
        (job_id,) = await b.submit(job(outputs=(HITS, OutputFile(name="hits/plain"))))
        worker = await b.worker()
        (one,) = await worker.acquire()
        files = [in_rucio(one, name) for name in ("hits/a", "hits/sub/b")]
        await worker.report(one, files=(*files, at_site("hits/plain"), at_site("other")))
        while await b.service.registrar.turn():
            pass
        shown = await b.service.users.show(None, ALICE, job_id=job_id)
        states = {file.name: file.registration for file in shown.files}
    assert states == {"hits/a": "done", "hits/sub/b": "done", "hits/plain": "", "other": ""}
    names = sorted(name.rpartition(f".{job_id}.1.")[2] for name in catalogue.datasets[ALL])
    assert names == ["hits/a", "hits/sub/b"]
    assert catalogue.open == set()


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("hits/", ["hits/a.root", "hits/sub/b.root", "hits/t.txt"]),
        ("hits/*.root", ["hits/a.root"]),
        ("hits/sub/b.root", ["hits/sub/b.root"]),
    ],
)
async def test_the_next_job_gets_the_files_that_it_names(place, wanted, names):
    made = [at_site(name) for name in ("hits/a.root", "hits/sub/b.root", "hits/t.txt")]
    async with bench(place) as b:
        parent = await finished(b, job(outputs=(OutputFile(name="hits/", tree="dataset"),)), *made)
        await b.submit(job("child", depends_on=(parent,), inputs=(InputFile(name=wanted),)))
        spec = await handed_out(b)
    assert [file.name for file in spec.inputs] == names
    assert [file.url for file in spec.inputs] == [f"file:///s/1.1.{name}" for name in names]
    assert {(file.size, file.adler32) for file in spec.inputs} == {(7, "0000abcd")}


async def test_what_the_child_says_of_an_archive_stays(place):
    async with bench(place) as b:
        tree = OutputFile(name="hits/", tree="archive")
        parent = await finished(b, job(outputs=(tree,)), at_site("hits.tar.gz"))
        wanted = InputFile(name="hits.tar.gz", unpack=True)
        await b.submit(job("child", depends_on=(parent,), inputs=(wanted,)))
        (file,) = (await handed_out(b)).inputs
    assert (file.unpack, file.url) == (True, "file:///s/1.1.hits.tar.gz")


async def test_a_job_whose_parents_left_too_many_files_fails_alone(place, monkeypatch):
    monkeypatch.setattr(trees, "MOST_FILES", 2)
    made = [at_site(f"hits/{nr}") for nr in range(3)]
    async with bench(place) as b:
        parent = await finished(b, job(outputs=(OutputFile(name="hits/", tree="dataset"),)), *made)
        (child, _) = await b.submit(
            job("child", depends_on=(parent,), inputs=(InputFile(name="hits/"),)), job("other")
        )
        assert (await handed_out(b)).name == "other"
        shown = await b.service.users.show(None, ALICE, job_id=child)
    assert "its parents left 3 files for it: 2 are possible" in shown.row.diagnosis
