"""The rules of the queue, on a real store."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import JobsQuery, LogQuery
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from tests.dispatcher.helpers import ALICE, BIG, BOB, bench, job, request, run
from tests.rig.waiting import eventually

S = JobState
CAROL = Caller(subject="carol", scopes=ALICE.scopes)


async def test_a_job_goes_from_submission_to_its_end(b):
    (one,) = await b.submit()
    worker = await b.worker()
    (got,) = await worker.acquire()
    assert (got.job_id, got.attempt_nr, await b.state(one)) == (one, 1, S.SENT)
    await worker.beat(got, state=S.STARTING)
    await worker.beat(got)
    assert await b.state(one) is S.RUNNING
    assert await worker.report(got, exit_code=0) == "accepted"
    assert await b.state(one) is S.FINISHED
    overview = await b.service.figures.overview(None, ALICE)
    assert {s: n for s, n in overview.states.items() if n} == {S.FINISHED: 1}


async def test_a_submission_repeated_is_the_first_one(b):
    first = await b.submit(job("a"), job("b"), request="once")
    assert await b.submit(job("a"), job("b"), request="once") == first
    assert await b.submit(request="once", caller=BOB) != first  # another user's own id


@pytest.mark.parametrize("jobs", [1, 20])
async def test_a_submission_repeated_is_the_first_one_though_nobody_could_run_it_now(b, jobs):
    large = [job(f"j{nr}", cores=BIG.cores + 1) for nr in range(jobs)]
    first = await b.submit(*large, request="once")
    await b.worker()
    assert await b.submit(*large, request="once") == first
    with pytest.raises(Rejected, match="no queue can ever run"):
        await b.submit(*large, request="another")


async def test_ten_thousand_jobs_arrive_all_or_none_and_once(b):
    many = tuple(job(f"j{i}") for i in range(10_000))

    both = await asyncio.gather(b.submit(*many, request="bulk"), b.submit(*many, request="bulk"))
    assert both[0] == both[1]
    assert len(set(both[0])) == 10_000
    overview = await b.service.figures.overview(None, ALICE)
    assert overview.states[S.ACTIVATED] == 10_000


def test_a_submission_cut_short_by_a_crash_leaves_nothing(place):
    from dispatcher.rules import preparing, submission
    from dispatcher.rules.lanes import Lanes

    async def crash():
        async with bench(place) as b:
            jobs = preparing.prepare([job(f"j{i}") for i in range(5)])

            def half(tx):
                first = submission.begin(
                    tx, request("half"), 5, process=b.service.peers.name, now=1.0
                )
                submission.add(
                    tx,
                    request("half"),
                    jobs[:3],
                    Lanes(tx, "alice", "", b.service.state.turns, {}, 1.0),
                    first=first,
                    ranks=[0.0] * 3,
                    now=1.0,
                )

            await b.service.store.write(half)

    async def again(b):
        assert (await b.service.figures.overview(None, ALICE)).states.get(S.DEFINED, 0) == 0
        ids = await b.submit(*(job(f"j{i}") for i in range(5)), request="half")
        assert [await b.state(one) for one in ids] == [S.ACTIVATED] * 5

    asyncio.run(crash())
    run(again, place)


async def test_an_acquire_repeated_gets_the_same_jobs(b):
    await b.submit(job("a"), job("b"))
    worker = await b.worker()
    first = await worker.acquire(request="r")
    again = await worker.acquire(request="r")
    assert [(j.job_id, j.attempt_nr, j.report_key) for j in again] == [
        (j.job_id, j.attempt_nr, j.report_key) for j in first
    ]


async def test_jobs_that_do_not_fit_never_stand_in_front(b):
    await b.submit(job("wide", cores=8, priority=10))
    (small,) = await b.submit(job("small", cores=1))
    worker = await b.worker()
    got = await worker.acquire(count=5, room=Room(cores=2, memory_mb=4000, disk_mb=4000))
    assert [j.job_id for j in got] == [small]


async def test_jobs_handed_out_together_fit_together_best_priority_first(b):
    low, high = await b.submit(job("low", cores=2), job("high", cores=2, priority=5))
    worker = await b.worker()
    got = await worker.acquire(count=5, room=Room(cores=3, memory_mb=9000, disk_mb=9000))
    assert [j.job_id for j in got] == [high]
    assert await b.state(low) is S.ACTIVATED


async def test_a_waiting_worker_is_woken_by_a_submission(b):
    worker = await b.worker()
    waiting = asyncio.create_task(worker.acquire(wait_s=20))
    await eventually(lambda: b.service.hub.waiting("q"))
    ids = await b.submit()
    assert [j.job_id for j in await asyncio.wait_for(waiting, 2)] == ids


async def test_a_worker_that_waits_beside_a_job_asks_anew_when_that_has_ended(b):
    await b.submit(job("first"), job("wide", cores=2))
    worker = await b.worker()
    (first,) = await worker.acquire(room=Room(cores=1, memory_mb=9000, disk_mb=9000))
    left = Room(cores=1, memory_mb=9000, disk_mb=9000)
    waiting = asyncio.create_task(worker.acquire(room=left, wait_s=20))
    await eventually(lambda: b.service.hub.waiting("q"))
    await worker.report(first)  # it has room for the wide one now, which it did not ask for
    assert await asyncio.wait_for(waiting, 2) == []
    assert [j.job_id for j in await worker.acquire()] != []


async def test_a_worker_that_hung_up_while_waiting_gets_no_job(b):
    gone, there = await b.worker(), await b.worker()
    waiting = asyncio.create_task(gone.acquire(wait_s=20))
    await eventually(lambda: b.service.hub.waiting("q"))
    waiting.cancel()
    await asyncio.wait({waiting})
    ids = await b.submit()
    assert [j.job_id for j in await there.acquire()] == ids


async def test_a_job_without_a_queue_goes_to_any(b):
    ids = await b.submit(job(queue=""))
    worker = await b.worker(queue="anything")
    assert [j.job_id for j in await worker.acquire()] == ids


async def test_a_lost_lease_makes_a_new_attempt(b):
    await b.submit()
    first = await (await b.worker()).acquire()
    await b.forward(31)
    second = await (await b.worker()).acquire()
    assert (second[0].job_id, second[0].attempt_nr) == (first[0].job_id, 2)


async def test_a_heartbeat_renews_the_leases_it_lists_and_no_other(b):
    kept, lost = await b.submit(job("a"), job("b"))
    worker = await b.worker()
    got = await worker.acquire(count=2)
    for _ in range(4):
        await b.forward(20)
        await worker.beat(*(j for j in got if j.job_id == kept))
    assert (await b.state(kept), await b.state(lost)) == (S.RUNNING, S.ACTIVATED)


async def test_the_first_finished_attempt_wins_and_the_other_is_told_to_stop(b):
    (one,) = await b.submit()
    slow, quick = await b.worker(), await b.worker()
    (first,) = await slow.acquire()
    await b.forward(31)
    (second,) = await quick.acquire()
    assert (await slow.beat(first)).commands == ()  # lost, yet its report may still win
    assert await slow.report(first) == "accepted"
    assert [c.action for c in (await quick.beat(second)).commands] == [m.Action.KILL]
    assert await quick.report(second) == "alreadydone"
    detail = await b.service.users.show(None, ALICE, job_id=one)
    assert [a.state for a in detail.attempts] == ["finished", "overtaken"]
    assert detail.row.attempt_nr == 1


async def test_a_report_whose_answer_was_lost_is_accepted_again(b):
    await b.submit(job(outputs=(OutputFile(name="o"),)))
    worker = await b.worker()
    (got,) = await worker.acquire()
    file = m.DoneFile(name="o", url="file:///s/1.1.o", size=3, adler32="00000001")
    verdicts = [await worker.report(got, files=(file,)) for _ in range(3)]
    assert verdicts == ["accepted"] * 3


async def test_a_report_needs_the_key_of_its_attempt(b):
    (one,) = await b.submit()
    worker = await b.worker()
    (got,) = await worker.acquire()
    assert await worker.report(got, key="forged") == "badkey"
    assert await b.state(one) is S.SENT


async def test_t4_a_worker_reaches_only_its_own_attempts(b):
    (one,) = await b.submit()
    mine, other = await b.worker(), await b.worker()
    (got,) = await mine.acquire()
    await other.beat(got)
    piece = m.LogPiece(job_id=one, attempt_nr=1, stream="stdout", offset=0, text="forged")
    await b.service.workers.log_pieces(m.LogPieces(pieces=(piece,)), other.caller)
    ask = m.Release(jobs=(m.AttemptKey(job_id=one, attempt_nr=1),))
    await b.service.workers.release(ask, other.caller)
    assert await b.state(one) is S.SENT
    assert (await b.service.users.log(LogQuery(), ALICE, job_id=one)).text == ""
    assert await mine.report(got) == "accepted"


async def test_a_log_ends_with_its_job_though_none_of_it_ran(b):
    (one,) = await b.submit()
    ask = LogQuery(wait_s=20.0)
    follower = asyncio.create_task(b.service.users.log(ask, ALICE, job_id=one))
    assert not (await b.service.users.log(LogQuery(), ALICE, job_id=one)).final
    await b.service.users.cancel(m.Cancel(job_ids=(one,)), ALICE)
    assert (await asyncio.wait_for(follower, 5)).final
    assert (await b.service.users.log(ask, ALICE, job_id=one)).final


async def test_the_log_of_an_attempt_that_is_not_there_is_refused_with_the_field(b):
    (one,) = await b.submit()
    for has in ("none of it has begun", "it has 1 to 1"):
        with pytest.raises(Rejected) as refused:
            await b.service.users.log(LogQuery(attempt_nr=99, wait_s=20.0), ALICE, job_id=one)
        told = refused.value
        assert (told.status, told.field, told.remedy) == (404, "attempt_nr", has)
        await (await b.worker()).acquire()


async def test_a_transient_failure_is_tried_again_and_a_payloads_own_is_not(b):
    unlucky, wrong = await b.submit(job("unlucky"), job("wrong"))
    worker = await b.worker()
    first, second = await worker.acquire(count=2)
    await worker.report(first, finished=False, transient=True, code=Code.STAGE_IN_FAILED)
    await worker.report(second, finished=False, code=Code.PAYLOAD_FAILED, exit_code=3)
    assert (await b.state(unlucky), await b.state(wrong)) == (S.ACTIVATED, S.FAILED)


async def test_max_attempts_asked_for_counts_every_failure(b):
    (one,) = await b.submit(job(max_attempts=2))
    worker = await b.worker()
    for attempt_nr, state in ((1, S.ACTIVATED), (2, S.FAILED)):
        (got,) = await worker.acquire()
        assert got.attempt_nr == attempt_nr
        await worker.report(got, finished=False, code=Code.PAYLOAD_FAILED, exit_code=1)
        assert await b.state(one) is state


async def test_a_job_given_back_is_not_counted_as_an_attempt(b):
    (one,) = await b.submit(job(max_attempts=1))
    worker = await b.worker()
    (got,) = await worker.acquire()
    ask = m.Release(jobs=(m.AttemptKey(job_id=one, attempt_nr=got.attempt_nr),))
    await b.service.workers.release(ask, worker.caller)
    assert [j.job_id for j in await worker.acquire()] == [one]


async def test_children_begin_when_all_parents_have_finished_and_read_their_outputs(b):
    out = (OutputFile(name="o.root"),)
    ids = await b.submit(
        job("a", outputs=out),
        job("b"),
        job("c", depends_on=("a", "b"), inputs=(InputFile(name="o.root"),)),
    )
    worker = await b.worker()
    first, second = await worker.acquire(count=3)
    file = m.DoneFile(name="o.root", url="file:///s/1.1.o.root", size=3, adler32="0000000a")
    await worker.report(first, files=(file,))
    assert await b.state(ids[2]) is S.PENDING
    await worker.report(second)
    (child,) = await worker.acquire()
    assert child.job_id == ids[2]
    assert b'"url":"file:///s/1.1.o.root"' in bytes(child.spec)
    assert b'"adler32":"0000000a"' in bytes(child.spec)


async def test_a_failed_parent_ends_its_descendants_with_that_reason(b):
    ids = await b.submit(
        job("a"), job("b", depends_on=("a",)), job("c", depends_on=("b",)), job("d")
    )
    worker = await b.worker()
    got = await worker.acquire(count=2)
    await worker.report(got[0], finished=False, code=Code.PAYLOAD_FAILED, exit_code=1)
    await b.service.users.wait(m.WaitJobs(job_ids=tuple(ids[:3]), timeout_s=5), ALICE)
    rows = (await b.service.users.jobs(JobsQuery(), ALICE)).jobs
    said = {row.name: (row.state, row.diagnosis) for row in rows}
    assert said["b"] == (S.FAILED, f"depends on job {ids[0]} (a), which is failed")
    assert said["c"] == (S.FAILED, f"depends on job {ids[1]} (b), which is failed")
    assert said["d"][0] is S.SENT


async def test_a_wide_fan_out_is_released_in_slices_and_all_of_it(b):
    ids = await b.submit(job("a"), *(job(f"c{i}", depends_on=("a",)) for i in range(1800)))
    worker = await b.worker()
    (got,) = await worker.acquire()
    await worker.report(got)
    for _ in range(100):
        states = (await b.service.figures.overview(None, ALICE)).states
        if states.get(S.ACTIVATED) == len(ids) - 1:
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"not all released: {states}")


async def test_a_cancelled_job_stops_its_pilot_and_its_children(b):
    ids = await b.submit(job("a"), job("b", depends_on=("a",)))
    worker = await b.worker()
    (got,) = await worker.acquire()
    answer = await b.service.users.cancel(m.Cancel(job_ids=(ids[0],)), ALICE)
    assert answer.cancelled == (ids[0],)
    assert [c.action for c in (await worker.beat(got)).commands] == [m.Action.KILL]
    assert await worker.report(got) == "alreadydone"
    assert [await b.state(one) for one in ids] == [S.CANCELLED, S.FAILED]


async def test_a_job_of_another_user_does_not_exist(b):
    (one,) = await b.submit()
    for ask in (
        b.service.users.show(None, BOB, job_id=one),
        b.service.users.cancel(m.Cancel(job_ids=(one,)), BOB),
        b.service.intake.submit(m.Submit(request_id="x", jobs=(job(depends_on=(one,)),)), BOB),
    ):
        with pytest.raises(Rejected, match=f"there is no job {one}"):
            await ask


async def together(b, *calls, return_exceptions=False):
    """Have the calls share a commit: the writer stands still until all have asked."""
    begun, go = threading.Event(), threading.Event()
    store = b.service.store
    first = asyncio.create_task(store.write(lambda _: (begun.set(), go.wait(10))))
    await eventually(begun.is_set)
    tasks = [asyncio.create_task(call) for call in calls]
    await eventually(lambda: len(store._waiting) == len(calls))
    go.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=return_exceptions)


async def test_neither_the_key_nor_the_seal_of_an_attempt_is_found_in_another_or_in_each_other(b):
    attempts = [(1, 1, 1), (1, 2, 1), (11, 1, 1), (1, 1, 11)]
    words = [word for one in attempts for word in b.service.seals.of_attempt(*one)]
    assert min(map(len, words)) >= 24
    assert not [(a, b) for a in words for b in words if a is not b and a in b]
    assert b.service.seals.seal(1, 2, 1) == words[3]


async def test_acquires_that_share_a_commit_get_the_best_jobs_once_each(b):
    ids = await b.submit(*(job(f"j{nr}", priority=nr) for nr in range(6)))
    workers = [await b.worker() for _ in range(4)]
    got = await together(b, *(worker.acquire(2) for worker in workers))
    assert sorted(one.job_id for jobs in got for one in jobs) == ids
    assert [[one.job_id for one in jobs] for jobs in got[:2]] == [ids[:3:-1], ids[3:1:-1]]
    assert got[3] == []


async def test_an_acquire_sent_twice_at_once_gets_one_job_twice(b):
    await b.submit(job("a"), job("b"))
    worker = await b.worker()
    one, two = await together(b, worker.acquire(request="same"), worker.acquire(request="same"))
    assert [got.job_id for got in one] == [got.job_id for got in two]


async def test_a_report_that_comes_again_leaves_the_lease_of_a_newer_attempt(b):
    (id_,) = await b.submit(job(max_attempts=2))
    first, second = await b.worker(), await b.worker()
    (got,) = await first.acquire()
    failed = {"finished": False, "transient": True}
    assert await first.report(got, **failed) == "accepted"
    ((new,), verdict) = await together(b, second.acquire(), first.report(got, **failed))
    assert (new.attempt_nr, verdict) == (2, "accepted")
    assert b.service.state.leases.held(second.id, id_, 2)


async def test_what_a_commit_writes_is_seen_by_the_changes_behind_it(b):
    low, high = await b.submit(job("low"), job("high", priority=9))
    first, second = await b.worker(), await b.worker()
    (held,) = await first.acquire()
    assert held.job_id == high
    await together(
        b,
        first.beat(held, state=S.STARTING),
        first.beat(held, state=S.RUNNING),
        b.service.users.cancel(m.Cancel(job_ids=(low,)), ALICE),
        first.report(held, finished=False, transient=True, code=Code.STAGE_IN_FAILED),
        second.acquire(),  # it gets what the report gave back
    )
    assert (await b.state(low), await b.state(high)) == (S.CANCELLED, S.SENT)
    told = [(e.job_id, e.data["state"]) for e in await b.told() if e.kind == "state" and e.job_id]
    of_high = [state for job_id, state in told if job_id == high]
    assert of_high == [S.SENT, S.STARTING, S.RUNNING, S.ACTIVATED, S.SENT]
    attempts = (await b.service.users.show(None, ALICE, job_id=high)).attempts
    assert [(one.state, one.running is not None) for one in attempts] == [
        ("failed", True),
        ("sent", False),
    ]
    overview = await b.service.figures.overview(None, ALICE)
    assert {s: n for s, n in overview.states.items() if n} == {S.CANCELLED: 1, S.SENT: 1}


async def test_a_report_that_fails_in_a_shared_commit_harms_no_other(b):
    await b.submit(job("a"), job("b"), job("c"))
    worker = await b.worker()
    held = await worker.acquire(3)
    answers = await together(
        b,
        worker.report(held[0], diagnosis="a\0b"),
        worker.report(held[1], exit_code=2**70),
        worker.report(held[2]),
        return_exceptions=True,
    )
    assert answers[::2] == ["accepted", "accepted"]
    assert isinstance(answers[1], OverflowError)
    states = [await b.state(one.job_id) for one in held]
    assert states == [S.FINISHED, S.SENT, S.FINISHED]
