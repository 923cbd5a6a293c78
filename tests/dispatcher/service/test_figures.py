"""Sums, groups and counts are the store's and memory's own, never a sum over a list that may be
cut."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import (
    FailuresQuery,
    JobsQuery,
    NoQuery,
    SamplesQuery,
    Scope,
    WorkersQuery,
)
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from dispatcher.rules import failures
from tests.dispatcher.helpers import ALICE, BIG, BOB, EDGE, job, run

BOSS = Caller(subject="boss", scopes=frozenset({Scope.READ, Scope.ADMIN}))
S = JobState


async def overview(b, caller=BOSS):
    b.service._supply = None  # as it is now, not as of a moment ago
    return await b.service.figures.overview(NoQuery(), caller)


async def failed(b, diagnoses, caller=ALICE, code=1305):
    """One job failed for each diagnosis."""
    ids = []
    worker = await b.worker()
    for start in range(0, len(diagnoses), 16):
        part = diagnoses[start : start + 16]
        ids += await b.submit(*(job(f"f{n}") for n in range(len(part))), caller=caller)
        for one, diagnosis in zip(await worker.acquire(16), part, strict=True):
            await worker.report(one, finished=False, code=code, diagnosis=diagnosis)
    return ids


KINDS = {
    "the payload failed: cannot read /data/{n}/x.root": 80,
    "bus error at 0x{n:x}": 70,
    "exit code 3 in step {n}": 60,
    "no such dataset": 50,
    "segfault": 25,
    "out of cheese": 15,
    "": 10,
}


@pytest.mark.field("H5")
def test_every_kind_of_failure_is_counted_and_leads_to_exactly_its_jobs(place):
    async def test(b):
        told = [text.format(n=n) for text, times in KINDS.items() for n in range(times)]
        ids = await failed(b, told)
        seen = await overview(b)
        assert [row.jobs for row in seen.failures] == [80, 70, 60, 50, 25, 15, 10]
        assert seen.failure_kinds == 7
        listed = []
        for row in seen.failures:
            page = await b.service.users.jobs(JobsQuery(kind=row.kind, limit=1000), BOSS)
            assert len(page.jobs) == row.jobs
            listed += [one.job_id for one in page.jobs]
        assert sorted(listed) == sorted(ids)

    run(test, place)


async def test_failures_are_counted_by_code_and_site_however_few_kinds_are_listed(b):
    await failed(b, ["a", "b", "c"])
    await failed(b, ["d"], code=1150)
    seen = await b.service.figures.failures(FailuresQuery(limit=1), BOSS)
    assert len(seen.kinds) == 1
    assert [(one.code, one.jobs) for one in seen.cells] == [(1150, 1), (1305, 3)]
    seen = await b.service.figures.failures(FailuresQuery(), BOB)
    assert (seen.kinds, seen.cells) == ((), ())


@pytest.mark.field("H5")
def test_failures_of_one_kind_are_paged(place):
    async def test(b):
        ids = await failed(b, ["the same"] * 30)
        (row,) = (await overview(b)).failures
        first = await b.service.users.jobs(JobsQuery(kind=row.kind, limit=20), BOSS)
        rest = await b.service.users.jobs(
            JobsQuery(kind=row.kind, limit=20, before=first.next), BOSS
        )
        found = [one.job_id for one in (*first.jobs, *rest.jobs)]
        assert found == sorted(ids, reverse=True)

    run(test, place)


def test_failures_of_one_kind_are_those_in_the_states_that_are_asked_for(place):
    async def test(b):
        kept, again = await failed(b, ["the same"] * 2)
        (row,) = (await overview(b)).failures
        for state, ids in ((S.FAILED, [again, kept]), (S.FINISHED, [])):
            ask = JobsQuery(kind=row.kind, state=state, limit=20)
            assert [one.job_id for one in (await b.service.users.jobs(ask, BOSS)).jobs] == ids
        ask = JobsQuery(kind=row.kind, state=f"{S.FAILED},{S.FINISHED}", limit=1)
        assert [one.job_id for one in (await b.service.users.jobs(ask, BOSS)).jobs] == [again]

    run(test, place)


@pytest.mark.field("H5", "H11")
def test_kinds_are_summed_over_users_for_an_administrator_and_a_users_own_for_a_user(place):
    async def test(b):
        mine = await failed(b, ["it broke at 1", "it broke at 2"])
        theirs = await failed(b, ["it broke at 3"], BOB)
        (all_,) = (await overview(b)).failures
        assert all_.jobs == 3
        page = await b.service.users.jobs(JobsQuery(kind=all_.kind), BOSS)
        assert {one.job_id for one in page.jobs} == {*mine, *theirs}
        (own,) = (await overview(b, ALICE)).failures
        assert own.jobs == 2
        (other,) = (await overview(b, BOB)).failures
        assert not (await b.service.users.jobs(JobsQuery(kind=other.kind), ALICE)).jobs

    run(test, place)


@pytest.mark.field("H5")
def test_a_payload_makes_no_more_kinds_than_are_kept(place, monkeypatch):
    monkeypatch.setattr(failures, "KINDS", 5)

    async def test(b):
        ids = await failed(b, ["x" * n for n in range(1, 21)])
        rows = (await overview(b)).failures
        assert len(rows) == 6
        assert sum(row.jobs for row in rows) == len(ids)

    run(test, place)


def test_what_a_diagnosis_says_beside_numbers_and_paths_makes_its_kind():
    alike = failures.alike
    assert alike("cannot read /a/b.root: 5") == alike("cannot read /c: 77")
    assert alike("at 0xDEAD") == alike("at 0x1")
    assert alike("no x") != alike("no y")
    assert len(alike("é" * 10_000)) == failures.LONGEST


@pytest.mark.field("H11")
def test_a_user_counts_own_jobs_only(place):
    async def test(b):
        await b.submit(job("a"), job("b", queue="other"))
        await b.submit(*(job(f"c{n}") for n in range(5)), caller=BOB)
        worker = await b.worker()
        (one, *_) = await worker.acquire()
        await worker.report(one)
        await b.service.users.cancel(m.Cancel(job_ids=(2,)), ALICE)
        mine, theirs = await overview(b, ALICE), await overview(b, BOB)
        assert mine.states == {S.FINISHED: 1, S.CANCELLED: 1}
        assert theirs.states == {S.ACTIVATED: 5}
        assert (mine.finished_per_min, theirs.finished_per_min) == (1, 0)
        assert (await overview(b)).states == {S.FINISHED: 1, S.CANCELLED: 1, S.ACTIVATED: 5}
        rows = {
            row.name: row.states for row in (await b.service.figures.queues(NoQuery(), BOB)).queues
        }
        assert rows["q"] == {S.ACTIVATED: 5}
        assert "other" not in rows

    run(test, place)


@pytest.mark.field("H11")
def test_own_counts_follow_every_step_as_those_of_all_do(place):
    async def test(b):
        parents = await b.submit(job("p0"), job("p1"), job("p2"))
        await b.submit(*(job(f"k{n}", depends_on=(parents[n % 3],)) for n in range(9)))
        worker = await b.worker()
        one, two, three = await worker.acquire(3)
        await worker.beat(one, two, three)
        await worker.report(one)
        await worker.report(two, finished=False, code=1305, diagnosis="no")
        await worker.report(three, finished=False, transient=True, code=1099, diagnosis="again")
        counted = Counter()
        for row in (await b.listed()).jobs:
            counted[row.state] += 1
        assert (await overview(b, ALICE)).states == (await overview(b)).states == counted

    run(test, place)


@pytest.mark.field("H5")
def test_a_cut_list_of_workers_says_how_many_there_are_and_sums_are_of_all(place):
    async def test(b):
        for _ in range(30):
            await b.worker(total=Room(cores=4, memory_mb=8000, disk_mb=8000))
        await b.submit(job("busy", cores=3))
        worker = await b.worker(total=Room(cores=4, memory_mb=8000, disk_mb=8000))
        await worker.acquire(room=Room(cores=4, memory_mb=8000, disk_mb=8000))
        rows = await b.service.figures.workers(WorkersQuery(limit=10), BOSS)
        assert (len(rows.workers), rows.total) == (10, 31)
        sums = (await overview(b)).pilots
        assert (sums.alive, sums.cores, sums.used) == (31, 124, 3)

    run(test, place)


@pytest.mark.field("H5")
def test_moved_jobs_leave_no_count_behind(place):
    async def test(b):
        await failed(b, ["it broke"] * 3)
        b.service.state.now = lambda: 2e9
        moved = asyncio.get_running_loop().time() + 20
        from dispatcher.rules import retention

        await b.service.store.write(lambda tx: retention.tidy(tx, before=1.99e9))
        assert asyncio.get_running_loop().time() < moved
        assert (await overview(b)).states == (await overview(b, ALICE)).states == {}
        rows = await b.service.store.read(
            lambda tx: tx.all("failure.top", owner="", since=0.0, most=10)
        )
        assert rows == []

    run(test, place)


# --- what is wrong --------------------------------------------------------------------------------

SLOT = m.SlotShape(name="s", queue="q", room=Room(cores=4, memory_mb=8000, disk_mb=8000))


async def hello(b, **fields):
    ask = m.Hello(**{"site": "here", "instance": "e1", "slots": (SLOT,), **fields})
    return await b.service.edges.hello(ask, EDGE)


@pytest.mark.field("H7")
def test_a_silent_edge_is_the_first_problem_and_in_its_queue(place):
    async def test(b):
        await hello(b)
        assert (await overview(b)).troubles == ()
        await b.submit()
        await b.forward(500.0)
        first, *rest = (await overview(b)).troubles
        assert (first.kind, first.site, first.queues) == ("edge-silent", "here", ("q",))
        assert rest == []  # it has just been submitted
        b.service.state.now = lambda: time.time() + 60.0
        assert [one.kind for one in (await overview(b)).troubles] == ["edge-silent", "unserved"]
        (row,) = (await b.service.figures.queues(NoQuery(), ALICE)).queues
        assert row.troubles == (first.sentence,)

    run(test, place)


@pytest.mark.field("H7")
@pytest.mark.parametrize("how", ["policy", "word"])
def test_a_paused_site_is_a_problem(place, how):
    async def test(b):
        welcome = await hello(b, online=how != "policy")
        if how == "word":
            word = m.SiteDecision(at=1.0, sentence="pause exists: by ann", binding="paused")
            ask = m.DemandRequest(site="here", epoch=welcome.epoch, word=word)
            await b.service.edges.demand(ask, EDGE)
        (only,) = (await overview(b)).troubles
        assert (only.kind, only.site) == ("site-paused", "here")

    run(test, place)


@pytest.mark.field("H7")
def test_a_site_that_is_held_is_a_problem_while_jobs_wait_for_it(place):
    async def test(b):
        welcome = await hello(b)
        word = m.SiteDecision(at=1.0, sentence="the history is refused", binding="history")
        await b.service.edges.demand(
            m.DemandRequest(site="here", epoch=welcome.epoch, word=word), EDGE
        )
        assert (await overview(b)).troubles == ()
        await b.submit()
        assert "site-held" in [one.kind for one in (await overview(b)).troubles]

    run(test, place)


@pytest.mark.field("H7")
def test_a_lost_pilot_is_a_problem_until_it_comes_back(place):
    async def test(b):
        worker = await b.worker(host="node7")
        await b.forward(1000)
        (lost,) = (await overview(b)).troubles
        assert (lost.kind, lost.queues) == ("pilots-lost", ("q",))
        assert "node7" in lost.sentence
        ask = m.Register(instance="i", queue="q", total=Room(cores=1))
        await b.service.registration.register(
            ask, Caller(subject="p", scopes=frozenset({Scope.PILOT}))
        )
        assert [one.kind for one in (await overview(b)).troubles] == ["pilots-lost"]
        row = await b.service.store.read(lambda tx: tx.one("worker.row", worker_id=worker.id))
        assert row[5] == "lost"

    run(test, place)


@pytest.mark.field("H7")
def test_a_pilot_that_misses_a_heartbeat_is_a_problem(place):
    async def test(b):
        await b.worker()
        await b.forward(25.0)
        (silent,) = (await overview(b)).troubles
        assert (silent.kind, silent.sentence) == ("pilots-silent", "1 pilot missed a heartbeat")

    run(test, place)


# --- curves ---------------------------------------------------------------------------------------


@pytest.mark.field("W8")
@pytest.mark.parametrize("sampled", [False, True])
def test_the_last_point_of_a_curve_is_what_the_attempt_says(place, sampled):
    async def test(b):
        (one,) = await b.submit()
        worker = await b.worker()
        (got,) = await worker.acquire()
        if sampled:
            usage = m.Usage(cpu_s=0.1, wall_s=0.5, rss_kb=2000)
            at = {"job_id": one, "attempt_nr": 1, "state": S.RUNNING, "since": 0.0}
            await b.service.heartbeats.beat(
                m.Beat(jobs=(m.Update(**at, usage=usage),), room=Room(cores=1)), worker.caller
            )
        final = m.Usage(cpu_s=0.8, wall_s=1.0, max_rss_kb=100_000)
        await worker.report(got, usage=final)
        samples = (await b.service.users.samples(SamplesQuery(), ALICE, job_id=one)).samples
        assert len(samples) == 1 + sampled
        detail = await b.service.users.show(None, ALICE, job_id=one)
        assert samples[-1].usage == detail.attempts[-1].usage == final
        assert sorted(sample.at for sample in samples) == [sample.at for sample in samples]
        if sampled:
            new = SamplesQuery(after=samples[0].at)
            assert (await b.service.users.samples(new, ALICE, job_id=one)).samples == samples[1:]

    run(test, place)


async def test_how_far_its_files_are_is_shown_while_they_move(b):
    (job_id,) = await b.submit()
    worker = await b.worker()
    (got,) = await worker.acquire()
    staging = m.Staging(files=2, done=1, moved_bytes=5, total_bytes=9, seconds=1.0)
    for told, shown in ((staging, staging), (None, None)):
        update = m.Update(
            job_id=got.job_id,
            attempt_nr=got.attempt_nr,
            state=JobState.STARTING,
            since=0.0,
            staging=told,
        )
        await b.service.heartbeats.beat(m.Beat(jobs=(update,), room=BIG), worker.caller)
        detail = await b.service.users.show(None, ALICE, job_id=job_id)
        assert detail.attempts[-1].staging == shown


async def failed_at(b, site, diagnosis, code):
    worker = await b.worker(site=site)
    await b.submit(job())
    (one,) = await worker.acquire(1)
    await worker.report(one, finished=False, code=code, diagnosis=diagnosis)


def test_failures_are_grouped_by_what_where_and_whose_fault(place):
    async def test(b):
        for nr in range(3):
            await failed_at(b, "CERN", f"cannot read /data/{nr}", 1099)
        await failed_at(b, "RAL", "cannot read /data/7", 1099)
        await failed_at(b, "RAL", "exit code 3", 1305)
        await failed_at(b, "RAL", "what?", 4711)
        seen = await b.service.figures.failures(FailuresQuery(), BOSS)
        assert [(one.jobs, one.code, one.site, one.fault) for one in seen.kinds] == [
            (3, 1099, "CERN", "input"),
            (1, 1099, "RAL", "input"),
            (1, 1305, "RAL", "payload"),
            (1, 4711, "RAL", "unknown"),
        ]
        assert (seen.jobs, seen.more) == (6, 0)
        top = seen.kinds[0]
        assert top.first is not None
        assert top.first <= top.last
        page = await b.service.users.jobs(JobsQuery(query=f"kind:{top.kind}"), BOSS)
        assert [row.job_id for row in page.jobs] == [3, 2, 1]
        page = await b.service.users.jobs(JobsQuery(query="fault:input site:RAL"), BOSS)
        assert [row.job_id for row in page.jobs] == [4]
        some = await b.service.figures.failures(FailuresQuery(site="RAL", fault="payload"), BOSS)
        assert [one.code for one in some.kinds] == [1305]
        cut = await b.service.figures.failures(FailuresQuery(limit=1), BOSS)
        assert (len(cut.kinds), cut.more, cut.jobs) == (1, 3, 6)
        assert not (await b.service.figures.failures(FailuresQuery(), BOB)).kinds
        with pytest.raises(Rejected, match="nobody"):
            await b.service.figures.failures(FailuresQuery(fault="cat"), BOSS)

    run(test, place)
