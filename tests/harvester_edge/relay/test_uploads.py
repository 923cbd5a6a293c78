"""Small files that travel with jobs, for pilots behind a relay."""

from __future__ import annotations

from hashlib import sha256

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import InputFile
from ailurus.protocol.uploads import Upload
from harvester_edge.relay.state import Refusal
from tests.dispatcher.helpers import ALICE, job
from tests.harvester_edge.relay.world import Pilot, World, play

SCRIPT = b"#!/bin/sh\n"
NAMED = Upload(sha256(SCRIPT).hexdigest())


async def submitted(w: World) -> None:
    ask = m.AddUpload(digest=NAMED.digest, size=len(SCRIPT), piece=SCRIPT)
    await w.b.service.uploads.add_upload(ask, ALICE)
    file = InputFile(name="run.sh", url=NAMED.url, size=len(SCRIPT))
    await w.b.submit(job("named", inputs=(file,), memory_mb=100))


async def fetched(w: World, pilot: Pilot, one: m.Assignment) -> bytes:
    ask = m.UploadRequest(job_id=one.job_id, attempt_nr=one.attempt_nr, digest=NAMED.digest)
    return (await w.relay.job_upload(ask, pilot.known)).piece


def test_the_pilot_that_has_the_job_gets_its_file_and_no_other(tmp_path):
    async def test(w: World) -> None:
        await submitted(w)
        one, other = await w.pilots(2)
        (job,) = await w.fill(one, uploads=True)
        assert await fetched(w, one, job) == SCRIPT
        with pytest.raises(Refusal) as refused:
            await fetched(w, other, job)
        assert refused.value.problem.status == 404
        w.way.up = False
        await w.relay.release(
            m.Release(jobs=(m.AttemptKey(job_id=job.job_id, attempt_nr=job.attempt_nr),)), one.known
        )
        assert not await other.acquire(uploads=True)

    play(test, tmp_path)


def test_a_pilot_of_before_gets_no_such_job_from_another(tmp_path):
    async def test(w: World) -> None:
        await submitted(w)
        one, other = await w.pilots(2)
        (job,) = await w.fill(one, uploads=True)
        await w.relay.release(
            m.Release(jobs=(m.AttemptKey(job_id=job.job_id, attempt_nr=job.attempt_nr),)), one.known
        )
        assert not await other.acquire()
        (again,) = await other.acquire(uploads=True)
        assert await fetched(w, other, again) == SCRIPT

    play(test, tmp_path)
