"""What is kept of payloads' output: the end always, and a word about what is not."""

from __future__ import annotations

import asyncio

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import LogQuery, TailQuery
from ailurus.protocol.states import JobState
from dispatcher.rules.payload_logs import END_BYTES
from tests.dispatcher.helpers import ALICE, BIG, run

pytestmark = pytest.mark.field("H2")


async def started(b):
    (job_id,) = await b.submit()
    worker = await b.worker()
    (got,) = await worker.acquire()
    return job_id, worker, got


def pieces(got, *parts, final=False):
    return m.LogPieces(
        pieces=tuple(
            m.LogPiece(
                job_id=got.job_id,
                attempt_nr=got.attempt_nr,
                stream="stdout",
                offset=offset,
                text=text,
                final=final,
            )
            for offset, text in parts
        )
    )


async def read(b, job_id, offset=0):
    """All of a log, a chunk after the other."""
    chunks = []
    while True:
        chunk = await b.service.users.log(LogQuery(offset=offset), ALICE, job_id=job_id)
        chunks.append(chunk)
        if chunk.end == offset:
            return chunks
        offset = chunk.end


async def test_the_end_of_a_log_beyond_the_limit_is_kept(b):
    job_id, worker, got = await started(b)
    await b.service.workers.log_pieces(
        pieces(got, (22_900_000, "the end\n"), final=True), worker.caller
    )
    await worker.report(got, usage=m.Usage(stdout_bytes=22_900_008))
    (first, last) = await read(b, job_id)
    assert (first.text, first.skipped) == ("the end\n", 22_900_000)
    assert (last.final, last.size, last.kept) == (True, 22_900_008, 8)


async def test_a_hole_is_told_and_never_filled_with_other_text(b):
    job_id, worker, got = await started(b)
    told = pieces(got, (0, "one\n"), (4, "two\n"), (100, "end\n"))
    await b.service.workers.log_pieces(told, worker.caller)
    chunks = [(c.offset, c.end, c.skipped, c.text) for c in await read(b, job_id)]
    assert chunks[:2] == [(0, 8, 0, "one\ntwo\n"), (100, 104, 92, "end\n")]


@pytest.mark.settings(live_log_bytes=4000)
async def test_a_log_over_its_limit_keeps_its_beginning_and_its_end(b):
    job_id, worker, got = await started(b)
    for nr in range(5):
        await b.service.workers.log_pieces(pieces(got, (nr * 1000, "x" * 1000)), worker.caller)
    await b.service.workers.log_pieces(pieces(got, (5000, "end"), final=True), worker.caller)
    text = "".join(c.text for c in await read(b, job_id))
    assert text.startswith("x" * 2000)
    assert text.endswith("end")
    last = (await read(b, job_id))[-1]
    assert (last.size, last.kept) == (5003, len(text))
    assert last.kept < 5000


@pytest.mark.field("A20")
@pytest.mark.settings(live_log_bytes=20_000)
async def test_pieces_that_overlap_or_come_again_take_no_more_room_than_the_limit(b):
    job_id, worker, got = await started(b)
    for nr in range(300):
        told = pieces(got, *((nr * 10 + k, "y" * 1000) for k in range(10)), final=nr % 2 == 0)
        await b.service.workers.log_pieces(told, worker.caller)
    assert (await read(b, job_id))[-1].kept <= 20_000 + END_BYTES


async def test_output_of_which_nothing_came_is_known_by_its_length(b):
    job_id, worker, got = await started(b)
    await worker.report(got, usage=m.Usage(stdout_bytes=70))
    (only,) = await read(b, job_id)
    assert (only.text, only.final, only.size, only.kept) == ("", True, 70, 0)


@pytest.mark.field("A20")
async def test_the_last_piece_may_come_after_the_report_and_no_other(b):
    job_id, worker, got = await started(b)
    await worker.report(got)
    await b.service.workers.log_pieces(pieces(got, (0, "late")), worker.caller)
    assert (await read(b, job_id))[-1].kept == 0
    await b.service.workers.log_pieces(pieces(got, (0, "end"), final=True), worker.caller)
    assert (await read(b, job_id))[0].text == "end"


def test_who_asks_for_one_file_is_not_shown_another(tmp_path):
    async def test(b):
        worker, (job_id,) = await b.worker(), await b.submit()
        (got,) = await worker.acquire()
        await worker.beat(got)

        async def tail(file):
            ask = TailQuery(file=file, wait_s=5.0)
            return (await b.service.users.tail(ask, ALICE, job_id=job_id)).text

        asked = asyncio.gather(*map(tail, "abc"))
        while not asked.done():
            await asyncio.sleep(0)  # a heartbeat without news does not wait for anything
            told = [one.argument for one in (await worker.beat(got)).commands]
            for file in told:
                said = {"state": JobState.RUNNING, "since": 0.0, "tail": f"end of {file}"}
                update = m.Update(job_id=job_id, attempt_nr=1, **said)
                await b.service.heartbeats.beat(m.Beat(jobs=(update,), room=BIG), worker.caller)
        assert await asked == ["end of a", "end of b", "end of c"]

    run(test, tmp_path)
