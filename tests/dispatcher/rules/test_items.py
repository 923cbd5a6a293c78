"""Items of a job: each finishes at most once, and the job ends exactly when its rule says."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import ItemQuery, LogQuery, NoQuery
from ailurus.protocol.item import ItemOutcome, ItemSpec, ItemState
from ailurus.protocol.job import OutputFile
from ailurus.protocol.states import JobState
from dispatcher.refusal import Rejected
from tests.dispatcher.helpers import ALICE, BOB, Worker, bench, job

O = ItemOutcome  # noqa: E741
FOREVER = 2**40


def end(item: m.RawItemLease, outcome: ItemOutcome = O.FINISHED, **facts: object) -> m.ItemEnd:
    return m.ItemEnd(index=item.index, attempt=item.attempt, outcome=outcome, **facts)


def begun(item: m.RawItemLease) -> m.ItemBegun:
    return m.ItemBegun(index=item.index, attempt=item.attempt, at=5.0, host="n1", slot="3")


async def all_done(worker, one, outcome: ItemOutcome = O.FINISHED, **facts: object):
    """Run whatever there is until nothing is left."""
    ended: tuple[m.ItemEnd, ...] = ()
    while True:
        answer = await worker.exchange(one, 50, ended=ended)
        if not answer.items:
            return answer
        ended = tuple(end(item, outcome, **facts) for item in answer.items)


async def test_a_job_finishes_when_all_its_items_have(b):
    job_id = await b.carrying(120)
    worker = await b.worker()
    (one,) = await worker.acquire()
    assert (await all_done(worker, one)).settled
    assert await worker.report(one) == "accepted"
    assert await b.state(job_id) is JobState.FINISHED
    counts = await b.counts(job_id)
    assert (counts.total, counts.finished, counts.waiting, counts.cancelled) == (120, 120, 0, 0)


async def test_items_are_leased_in_their_order_with_what_they_ask_for(b):
    specs = tuple(ItemSpec(name=f"i{nr}", arguments=(str(nr),)) for nr in range(5))
    await b.service.items.add_items(m.AddItems(list="mine", first=0, items=specs), ALICE)
    await b.submit(job(payloads=await listed("mine", 5)))
    worker = await b.worker()
    (one,) = await worker.acquire()
    first = (await worker.exchange(one, 2)).items
    second = (await worker.exchange(one, 9)).items
    assert [item.index for item in (*first, *second)] == [0, 1, 2, 3, 4]
    assert [msgspec.json.decode(item.spec, type=ItemSpec) for item in first] == list(specs[:2])


async def listed(name: str, count: int):
    from ailurus.protocol.payloads import Payloads

    return Payloads(list=name, count=count)


async def test_a_lease_whose_answer_was_lost_is_given_again(b):
    await b.carrying(10)
    worker = await b.worker()
    (one,) = await worker.acquire()
    first = await worker.exchange(one, 4, request="same")
    again = await worker.exchange(one, 4, request="same")
    assert [(i.index, i.attempt) for i in again.items] == [
        (i.index, i.attempt) for i in first.items
    ]
    assert again.waiting == first.waiting == 6


async def test_news_that_come_twice_count_once(b):
    job_id = await b.carrying(3)
    worker = await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 2)).items
    for _ in range(2):
        await worker.exchange(one, ended=(end(got[0]), end(got[1], O.FAILED)))
    counts = await b.counts(job_id)
    assert (counts.finished, counts.failed, counts.waiting) == (1, 1, 1)


async def test_what_a_lost_attempt_had_waits_again_and_what_finished_stays(b):
    job_id = await b.carrying(6)
    lost = await b.worker()
    (one,) = await lost.acquire()
    got = (await lost.exchange(one, 4)).items
    await lost.exchange(one, ended=(end(got[0]),), begun=(begun(got[1]),))
    await b.forward(FOREVER)
    counts = await b.counts(job_id)
    assert (counts.finished, counts.waiting, counts.leased, counts.running) == (1, 5, 0, 0)
    worker = await b.worker()
    (two,) = await worker.acquire()
    again = (await worker.exchange(two, 10)).items
    assert sorted((i.index, i.attempt) for i in again) == [(1, 2), (2, 2), (3, 2), (4, 1), (5, 1)]


async def test_a_late_end_of_a_lost_attempt_counts_once_and_another_is_told_to_stop(b):
    job_id = await b.carrying(1)
    lost = await b.worker()
    (one,) = await lost.acquire()
    (late,) = (await lost.exchange(one, 1)).items
    await b.forward(FOREVER)
    worker = await b.worker()
    (two,) = await worker.acquire()
    (again,) = (await worker.exchange(two, 1)).items
    await lost.exchange(one, ended=(end(late),))
    answer = await worker.exchange(two, begun=(begun(again),))
    assert [(key.index, key.attempt) for key in answer.stop] == [(0, 2)]
    answer = await worker.exchange(two, ended=(end(again),))
    assert answer.settled
    assert (await b.counts(job_id)).finished == 1


async def test_a_failure_of_a_lost_attempt_does_not_count(b):
    job_id = await b.carrying(1)
    lost = await b.worker()
    (one,) = await lost.acquire()
    (late,) = (await lost.exchange(one, 1)).items
    await b.forward(FOREVER)
    await lost.exchange(one, ended=(end(late, O.FAILED),))
    counts = await b.counts(job_id)
    assert (counts.failed, counts.waiting) == (0, 1)


async def test_an_item_that_failed_is_tried_as_often_as_the_job_says(b):
    job_id = await b.carrying(1, item_attempts=3)
    worker = await b.worker()
    (one,) = await worker.acquire()
    await all_done(worker, one, O.FAILED)
    detail = await b.service.items.item(query(0), ALICE, job_id=job_id)
    assert (detail.row.state, detail.row.attempt, detail.failures) == (ItemState.FAILED, 3, 3)


def query(index: int):

    return ItemQuery(index=index)


@pytest.mark.parametrize(
    ("goal", "failing", "state"),
    [("all", 0, "finished"), ("all", 1, "failed"), ("80%", 2, "finished"), ("80%", 3, "failed"),
     ("7", 3, "finished"), ("8", 3, "failed")],
)  # fmt: skip
async def test_a_job_ends_as_its_goal_says(b, goal, failing, state):
    job_id = await b.carrying(10, goal=goal, max_attempts=5)
    worker = await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 10)).items
    ends = [end(item, O.FAILED if item.index < failing else O.FINISHED) for item in got]
    await worker.exchange(one, ended=tuple(ends[:5]))
    assert await b.state(job_id) is JobState.SENT
    assert (await worker.exchange(one, ended=tuple(ends[5:]))).settled
    await worker.report(one)
    assert await b.state(job_id) == state
    if state == "failed":
        (attempt,) = (await b.service.users.show(NoQuery(), ALICE, job_id=job_id)).attempts
        assert f"dispatcher show {job_id} --items failed" in attempt.remedy


async def test_what_no_answer_acknowledged_comes_with_the_report(b):
    job_id = await b.carrying(700)
    worker = await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 1000)).items
    assert await worker.report(one, items=tuple(end(item) for item in got)) == "accepted"
    assert await b.state(job_id) is JobState.FINISHED


async def test_items_of_a_report_need_its_key(b):
    job_id = await b.carrying(2)
    worker = await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 2)).items
    assert await worker.report(one, key="k" * 40, items=tuple(map(end, got))) == "badkey"
    assert (await b.counts(job_id)).finished == 0


async def test_a_pilot_that_leaves_early_does_not_end_the_job(b):
    """Nor is it held against it, as long as something finished."""
    job_id = await b.carrying(3, max_attempts=1)
    for _ in range(3):
        worker = await b.worker()
        (one,) = await worker.acquire()
        (item, *_) = (await worker.exchange(one, 1)).items
        await worker.exchange(one, ended=(end(item),))
        if not (await worker.exchange(one)).settled:
            await worker.report(one, finished=False, transient=True, code=1200)
    assert await b.state(job_id) is JobState.SENT
    await worker.report(one)
    assert await b.state(job_id) is JobState.FINISHED


async def test_a_pilot_that_says_finished_too_early_is_not_believed(b):
    job_id = await b.carrying(3)
    worker = await b.worker()
    (one,) = await worker.acquire()
    await worker.report(one)
    assert await b.state(job_id) is JobState.ACTIVATED


async def test_a_job_without_progress_comes_to_an_end(b):
    job_id = await b.carrying(3, max_attempts=2)
    for _ in range(2):
        worker = await b.worker()
        (one,) = await worker.acquire()
        await worker.exchange(one, 3)
        await worker.report(one, finished=False, transient=True, code=1200)
    assert await b.state(job_id) is JobState.FAILED
    counts = await b.counts(job_id)
    assert (counts.cancelled, counts.waiting, counts.leased) == (3, 0, 0)


async def test_a_retried_job_runs_only_what_failed(b):
    job_id = await b.carrying(10)
    worker = await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 10)).items
    ends = tuple(end(item, O.FAILED if item.index in (2, 7) else O.FINISHED) for item in got)
    await worker.exchange(one, ended=ends)
    await worker.report(one)
    (new,) = (await b.service.intake.retry(m.Retry(job_ids=(job_id,)), ALICE)).job_ids
    (two,) = await worker.acquire()
    again = (await worker.exchange(two, 10)).items
    assert [(item.index, item.attempt) for item in again] == [(2, 2), (7, 2)]
    assert (await worker.exchange(two, ended=tuple(map(end, again)))).settled
    await worker.report(two)
    assert await b.state(new) is JobState.FINISHED
    before = await b.counts(job_id)
    assert (before.finished, before.failed, before.moved_to) == (8, 2, new)


async def test_a_finished_job_is_retried_as_a_whole(b):
    job_id = await b.carrying(3)
    worker = await b.worker()
    (one,) = await worker.acquire()
    await all_done(worker, one)
    await worker.report(one)
    await b.service.intake.retry(m.Retry(job_ids=(job_id,)), ALICE)
    (two,) = await worker.acquire()
    assert [item.attempt for item in (await worker.exchange(two, 9)).items] == [1, 1, 1]
    assert (await b.counts(job_id)).finished == 3


async def test_a_cancelled_job_cancels_what_has_not_ended_and_its_retry_runs_that(b):
    job_id = await b.carrying(5)
    worker = await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 3)).items
    await worker.exchange(one, ended=(end(got[0]),))
    await b.service.users.cancel(m.Cancel(job_ids=(job_id,)), ALICE)
    counts = await b.counts(job_id)
    assert (counts.finished, counts.cancelled) == (1, 4)
    states = [row.state for row in (await b.items(job_id)).items]
    assert states == ["finished", *["cancelled"] * 4]
    (new,) = (await b.service.intake.retry(m.Retry(job_ids=(job_id,)), ALICE)).job_ids
    (two,) = await worker.acquire()
    assert sorted(i.index for i in (await worker.exchange(two, 9)).items) == [1, 2, 3, 4]
    assert (await b.counts(new)).leased == 4


async def test_with_outputs_what_finished_in_a_lost_attempt_is_done_anew(b):
    """Its files went with that attempt's directory."""
    job_id = await b.carrying(4, outputs=(OutputFile(name="out"),))
    lost = await b.worker()
    (one,) = await lost.acquire()
    got = (await lost.exchange(one, 2)).items
    await lost.exchange(one, ended=(end(got[0]),))
    await b.forward(FOREVER)
    worker = await b.worker()
    (two,) = await worker.acquire()
    again = (await worker.exchange(two, 9)).items
    assert sorted((i.index, i.attempt) for i in again) == [(0, 2), (1, 2), (2, 1), (3, 1)]
    await lost.exchange(one, ended=(end(got[1]),))
    assert not (await worker.exchange(two, ended=tuple(map(end, again[:3])))).settled
    assert (await worker.exchange(two, ended=(end(again[3]),))).settled
    await worker.report(two)
    assert await b.state(job_id) is JobState.FINISHED
    assert (await b.counts(job_id)).finished == 4


async def test_pages_are_in_order_and_in_a_state(b):
    job_id = await b.carrying(1500, item_attempts=2)
    worker = await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 8)).items
    ends = [end(got[0]), end(got[1], O.FAILED), end(got[2], O.RETURNED), end(got[3], O.LOST)]
    await worker.exchange(one, ended=tuple(ends), begun=(begun(got[4]),))
    page = await b.items(job_id, limit=1000)
    assert [row.index for row in page.items] == list(range(1000))
    rest = await b.items(job_id, limit=1000, after=page.next)
    assert ([row.index for row in rest.items], rest.next) == (list(range(1000, 1500)), None)
    waiting = await b.items(job_id, state="waiting", limit=4)
    assert [row.index for row in waiting.items] == [1, 2, 3, 8]
    assert [row.index for row in (await b.items(job_id, state="finished")).items] == [0]
    assert [row.index for row in (await b.items(job_id, state="running")).items] == [4]
    assert [row.index for row in (await b.items(job_id, state="leased")).items] == [5, 6, 7]
    assert (await b.items(job_id, state="failed")).items == ()


async def test_an_item_says_why_it_is_where_it_is(b):
    job_id = await b.carrying(3)
    worker = await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 2)).items
    failed = end(got[0], O.FAILED, exit_code=3, diagnosis="exit code 3", stderr_tail="no such file",
                 host="n1", usage=m.Usage(cpu_s=1.5))  # fmt: skip
    await worker.exchange(one, ended=(failed,), begun=(begun(got[1]),))
    items = [await b.service.items.item(query(nr), ALICE, job_id=job_id) for nr in range(3)]
    assert [one.why for one in items] == [
        "it failed on n1 in attempt 1, which was its last: exit code 3",
        "it runs on n1, in attempt 1",
        "it waits for a free slot of its job, behind 0 others",
    ]
    assert (items[0].stderr_tail, items[0].usage.cpu_s) == ("no such file", 1.5)


async def test_others_see_no_items(b):
    job_id = await b.carrying(3)
    with pytest.raises(Rejected) as refused:
        await b.service.items.item(query(0), BOB, job_id=job_id)
    assert refused.value.status == 404


async def test_another_worker_cannot_tell_of_items(b):
    job_id = await b.carrying(3)
    worker, other = await b.worker(), await b.worker()
    (one,) = await worker.acquire()
    got = (await worker.exchange(one, 3)).items
    answer = await other.exchange(one, 3, ended=tuple(map(end, got)))
    assert answer.items == ()
    assert (await b.counts(job_id)).finished == 0


async def test_a_pilot_that_does_not_know_items_is_given_no_such_job(b):
    await b.carrying(3)
    (plain,) = await b.submit(job("plain"))
    worker = await b.worker()
    got = await worker.acquire(count=5, items=False)
    assert [one.job_id for one in got] == [plain]
    assert len(await worker.acquire(count=5)) == 1


# --- output ---------------------------------------------------------------------------------------


async def test_the_output_of_an_item_is_its_own(b):
    job_id = await b.carrying(2)
    worker = await b.worker()
    (one,) = await worker.acquire()
    await worker.exchange(one, 2)

    def piece(item: int, text: str, offset: int = 0, **more: object) -> m.LogPiece:
        place = {"job_id": job_id, "attempt_nr": 1, "stream": "stdout"}
        return m.LogPiece(**place, offset=offset, text=text, item=item, item_attempt=1, **more)

    pieces = (piece(0, "zero"), piece(1, "one"), piece(0, " and more", 4), piece(0, "zero"))
    await worker.service.workers.log_pieces(m.LogPieces(pieces=pieces), worker.caller)
    for index, text in enumerate(("zero and more", "one")):
        chunk = await b.service.users.log(LogQuery(item=index), ALICE, job_id=job_id)
        assert (chunk.text, chunk.attempt_nr, chunk.final) == (text, 1, False)


async def test_of_an_item_without_output_of_its_own_its_last_words_are_shown(b):
    job_id = await b.carrying(1)
    worker = await b.worker()
    (one,) = await worker.acquire()
    (item,) = (await worker.exchange(one, 1)).items
    usage = m.Usage(stderr_bytes=1000)
    last = end(item, O.FAILED, stderr_tail="the end", usage=usage)
    await worker.exchange(one, ended=(last,))
    chunk = await b.service.users.log(LogQuery(item=0, stream="stderr"), ALICE, job_id=job_id)
    assert (chunk.text, chunk.skipped, chunk.size, chunk.final) == ("the end", 993, 1000, True)


async def test_a_client_of_pandas_is_given_no_such_job(b):
    from ailurus.protocol.panda_acquire import JobRequest
    from dispatcher.service.panda import acquire as panda

    await b.carrying(3)
    (plain,) = await b.submit(job("plain"))
    wanted = panda.Acquisition(request=JobRequest(site="q", node="n1", count=5))
    sent = [int(one["PandaID"]) for one in await panda.acquire(b.service, wanted)]
    assert sent == [plain]


async def test_why_says_how_far_the_items_of_a_job_are(b):
    job_id = await b.carrying(3)
    worker = await b.worker()
    (one,) = await worker.acquire()
    (item,) = (await worker.exchange(one, 1)).items
    await worker.exchange(one, ended=(end(item),))
    why = await b.service.users.why(None, ALICE, job_id=job_id)
    assert why.blockers[-1].startswith("of its 3 payloads 1 have finished, 0 have failed")


async def test_two_dispatchers_on_one_store_give_no_item_twice(postgres_server):
    place = postgres_server.database()
    async with bench(place) as a, bench(place) as other:
        job_id = await a.carrying(300)
        worker = await a.worker()
        (one,) = await worker.acquire()
        known = m.Registered(worker_id=worker.id, token="", heartbeat_s=1, lease_s=3)
        there = Worker(other.service, known, "q")
        got: list[int] = []
        while True:
            answers = await asyncio.gather(worker.exchange(one, 20), there.exchange(one, 20))
            leased = [item for answer in answers for item in answer.items]
            if not leased:
                break
            got += [item.index for item in leased]
            ends = tuple(map(end, leased))
            await asyncio.gather(worker.exchange(one, ended=ends), there.exchange(one, ended=ends))
        assert sorted(got) == list(range(300))
        assert (await other.counts(job_id)).finished == 300
