"""Result documents: kept with their attempt, whoever sent them."""

from __future__ import annotations

import pytest

from tests.dispatcher.helpers import ALICE, job


async def results(b, job_id: int) -> list[str]:
    detail = await b.service.users.show(None, ALICE, job_id=job_id)
    return [attempt.result for attempt in detail.attempts]


async def test_a_result_is_kept_with_its_attempt(b):
    (job_id,) = await b.submit(job(result="r.json"))
    worker = await b.worker()
    (one,) = await worker.acquire()
    text = '{"loss":0.5,"text":"\\u0000 \u2028"}'
    assert await worker.report(one, result=text) == "accepted"
    assert await results(b, job_id) == [text]


@pytest.mark.parametrize("sent", ["{", "NaN", "[" * 40_000, '"\\ud800"'])
async def test_what_is_no_json_is_not_kept_and_its_report_counts(b, sent):
    (job_id,) = await b.submit(job(result="r.json"))
    worker = await b.worker()
    (one,) = await worker.acquire()
    assert await worker.report(one, result=sent) == "accepted"
    assert await results(b, job_id) == [""]


async def test_a_pilot_that_knows_no_results_gets_no_such_job(b):
    (job_id,) = await b.submit(job(result="r.json"))
    worker = await b.worker()
    assert await worker.acquire(results=False) == []
    (one,) = await worker.acquire()
    assert one.job_id == job_id
