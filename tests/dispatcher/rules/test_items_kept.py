"""Items whose outputs are in storage are never run again, whatever becomes of their job."""

from __future__ import annotations

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import NoQuery
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.job import OutputFile
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.states import JobState
from tests.dispatcher.helpers import ALICE, Bench, Worker, job

FOREVER = 2**40
OUTPUTS = (OutputFile(name="out.root"),)


async def carrying(b: Bench, count: int, **fields: object) -> int:
    """A job of items with an output each."""
    items = tuple(ItemSpec(outputs=(OutputFile(name=f"{nr}.root"),)) for nr in range(count))
    await b.service.items.add_items(m.AddItems(list="mine", first=0, items=items), ALICE)
    (job_id,) = await b.submit(job(payloads=Payloads(list="mine", count=count), **fields))
    return job_id


def left(*indexes: int, attempt: str = "1.1") -> tuple[m.DoneFile, ...]:
    return tuple(
        m.DoneFile(
            name=f"{nr}.root",
            url=f"file:///s/{attempt}.{nr}.root",
            size=1,
            adler32="00620062",
            item=nr,
        )
        for nr in indexes
    )


async def ends(worker: Worker, one: m.RawAssignment, failing: tuple[int, ...] = ()) -> list[int]:
    """Run all that the job still has; which items these were."""
    items = (await worker.exchange(one, 50)).items
    told = [
        m.ItemEnd(
            index=item.index,
            attempt=item.attempt,
            outcome=ItemOutcome.FAILED if item.index in failing else ItemOutcome.FINISHED,
        )
        for item in items
    ]
    await worker.exchange(one, ended=tuple(told))
    return sorted(item.index for item in items)


async def files(b: Bench, job_id: int) -> list[str]:
    shown = await b.service.users.show(NoQuery(), ALICE, job_id=job_id)
    return [file.url for file in shown.files]


async def retried(b: Bench, job_id: int) -> int:
    (new,) = (await b.service.intake.retry(m.Retry(job_ids=(job_id,)), ALICE)).job_ids
    return new


@pytest.mark.parametrize("goal", ["all", "75%"])
async def test_a_retry_runs_what_failed_and_has_what_the_others_left(b, goal):
    job_id, worker = await carrying(b, 4, goal=goal), await b.worker()
    (one,) = await worker.acquire()
    await ends(worker, one, failing=(2,))
    await worker.report(one, files=left(0, 1, 3))
    wanted = JobState.FAILED if goal == "all" else JobState.FINISHED
    assert await b.state(job_id) is wanted
    new = await retried(b, job_id)
    assert [row.index for row in (await b.items(new, state="finished")).items] == [0, 1, 3]
    (two,) = await worker.acquire()
    assert await ends(worker, two) == [2]
    await worker.report(two, files=left(2, attempt="2.1"))
    assert await b.state(new) is JobState.FINISHED
    assert [row.index for row in (await b.items(new, state="finished")).items] == [0, 1, 2, 3]
    assert await files(b, new) == [
        *(f"file:///s/1.1.{nr}.root" for nr in (0, 1)),
        "file:///s/2.1.2.root",
        "file:///s/1.1.3.root",
    ]


async def test_what_a_lost_attempt_of_a_retry_left_is_made_anew_and_nothing_else(b):
    job_id, worker = await carrying(b, 4), await b.worker()
    (one,) = await worker.acquire()
    await ends(worker, one, failing=(2, 3))
    await worker.report(one, files=left(0, 1))
    new = await retried(b, job_id)
    lost = await b.worker()
    (two,) = await lost.acquire()
    assert await ends(lost, two, failing=(3,)) == [2, 3]
    await b.forward(FOREVER)
    assert [row.index for row in (await b.items(new, state="finished")).items] == [0, 1, 2]
    worker = await b.worker()
    (three,) = await worker.acquire()
    items = (await worker.exchange(three, 50)).items
    assert [item.index for item in items] == [2]
    assert [row.index for row in (await b.items(new, state="finished")).items] == [0, 1]


async def test_a_report_that_comes_with_items_left_loses_no_file(b):
    """The dispatcher took an item back that the pilot knows nothing of."""
    job_id, worker = await carrying(b, 3), await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 2)).items
    told = [m.ItemEnd(index=i.index, attempt=1, outcome=ItemOutcome.FINISHED) for i in got]
    await worker.exchange(one, ended=tuple(told))
    await worker.report(one, files=left(0, 1))
    assert await b.state(job_id) is JobState.ACTIVATED
    (two,) = await worker.acquire()
    assert await ends(worker, two) == [2]
    await worker.report(two, files=left(2, attempt="1.2"))
    assert await b.state(job_id) is JobState.FINISHED
    assert len(await files(b, job_id)) == 3


async def test_outputs_of_the_job_are_of_all_items_together(b):
    job_id, worker = await carrying(b, 2, outputs=OUTPUTS), await b.worker()
    (one,) = await worker.acquire()
    await ends(worker, one, failing=(1,))
    await worker.report(one, files=left(0))
    new = await retried(b, job_id)
    assert await files(b, new) == []
    (two,) = await worker.acquire()
    assert await ends(worker, two) == [0, 1]


async def test_a_report_that_failed_keeps_nothing(b):
    """Its outputs did not reach storage."""
    job_id, worker = await carrying(b, 2), await b.worker()
    (one,) = await worker.acquire()
    await ends(worker, one, failing=(1,))
    await worker.report(one, finished=False, code=1137)
    await retried(b, job_id)
    (two,) = await worker.acquire()
    assert await ends(worker, two) == [0, 1]
