"""Pilots of other versions, and what their jobs may carry."""

from __future__ import annotations

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import InputFile, OutputFile
from tests.dispatcher.helpers import ALICE, Bench, job

FILES = [
    {"inputs": (InputFile(name="in.root", url="file:///s/in.root"),)},
    {"outputs": (OutputFile(name="*.root"),)},
]


async def carrying(b: Bench, **files: object) -> int:
    (job_id,) = await b.submit(job(payloads=await b.upload(3, **files)))
    return job_id


@pytest.mark.parametrize("files", FILES, ids=["inputs", "outputs"])
async def test_a_pilot_that_knows_no_files_of_items_gets_jobs_without_them_alone(b, files):
    with_files, without = await carrying(b, **files), await carrying(b)
    (plain,) = await b.submit(job("plain"))
    older = await b.worker()
    got = await older.acquire(count=5, item_files=False)
    assert [one.job_id for one in got] == [without, plain]
    got = await (await b.worker()).acquire(count=5)
    assert [one.job_id for one in got] == [with_files]


async def test_why_tells_that_all_pilots_are_of_an_earlier_version(b):
    with_files, without = await carrying(b, **FILES[0]), await carrying(b)
    older = await b.worker()
    assert await older.acquire(items=False) == []
    why = await b.service.users.why(None, ALICE, job_id=without)
    assert why.sentence.startswith("None of the 1 pilots that could hold it knows payloads;")
    assert await older.acquire(item_files=False) != []
    why = await b.service.users.why(None, ALICE, job_id=with_files)
    assert why.sentence.startswith(
        "None of the 1 pilots that could hold it knows payloads with files of their own;"
    )
    assert (why.blockers, why.remedy) == (
        (f"worker {older.id}: its pilot is of an earlier version",),
        "let the sites of this queue start pilots of this version",
    )
    newer = await b.worker()
    why = await b.service.users.why(None, ALICE, job_id=with_files)
    assert why.sentence.startswith("1 of 1 pilots have room for it")
    assert await newer.acquire() != []


async def test_a_retry_needs_what_its_job_needed(b):
    job_id = await carrying(b, **FILES[1])
    (one,) = await (await b.worker()).acquire()
    await b.service.users.cancel(m.Cancel(job_ids=(job_id,)), ALICE)
    await b.service.intake.retry(m.Retry(job_ids=(job_id,)), ALICE)
    older = await b.worker()
    assert one.job_id == job_id
    assert await older.acquire(item_files=False) == []
    assert await older.acquire() != []
