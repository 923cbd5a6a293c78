"""What jobs wait for is stored slice by slice, however much of it one submission has."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.protocol.states import JobState
from dispatcher.refusal import Rejected
from dispatcher.rules import dependencies, preparing, submission
from dispatcher.store.sqlite import SqliteTx
from tests.dispatcher.helpers import ALICE, BOB, job, run

S = JobState
pytestmark = pytest.mark.field("A9")


@pytest.fixture
def slices(monkeypatch):
    """Rows of `parent.add` and of `job.add` by transaction."""
    seen = []
    many = SqliteTx.many

    def counted(tx, query, values):
        rows = list(values)
        if query in ("parent.add", "job.add"):
            seen.append((id(tx), query, len(rows)))
        many(tx, query, rows)

    monkeypatch.setattr(SqliteTx, "many", counted)
    return seen


def test_a_commit_holds_a_bounded_number_of_rows(tmp_path, slices):
    async def test(b):
        parents = await b.submit(*(job(f"p{nr}") for nr in range(90)))
        await b.submit(*(job(f"c{nr}", depends_on=tuple(parents)) for nr in range(60)))
        total = Counter()
        for _, query, rows in slices:
            total[query] += rows
            assert rows <= submission.LINKS
        assert total["parent.add"] == 90 * 60
        assert len([one for one in slices if one[1] == "parent.add" and one[2]]) == 6

    run(test, tmp_path)


async def test_one_job_with_more_parents_than_a_slice_waits_for_all(b, monkeypatch):
    monkeypatch.setattr(submission, "LINKS", 4)

    parents = await b.submit(*(job(f"p{nr}") for nr in range(10)))
    twice = (*parents, *parents[:3])
    child, _, other = await b.submit(
        job("c", depends_on=(*twice, "sister"), queue="q2"),
        job("sister", queue="q3"),
        job("d", depends_on=tuple(parents[:1]), queue="q2"),
    )
    worker, third = await b.worker(), await b.worker("q3")
    for left in range(10, 0, -1):
        assert await b.state(child) is S.PENDING, left
        (got,) = await worker.acquire()
        await worker.report(got)
    assert (await b.state(child), await b.state(other)) == (S.PENDING, S.ACTIVATED)
    (got,) = await third.acquire()
    await third.report(got)
    assert await b.state(child) is S.ACTIVATED


@pytest.mark.parametrize("fault", ["another user's", "no such job", "failed"])
async def test_a_submission_refused_in_the_middle_leaves_nothing(b, monkeypatch, fault):
    monkeypatch.setattr(submission, "LINKS", 3)

    parents = await b.submit(*(job(f"p{nr}") for nr in range(7)))
    bad = 10**9
    if fault == "another user's":
        (bad,) = await b.submit(caller=BOB)
    elif fault == "failed":
        (bad,) = await b.submit(job("bad"))
        await b.service.users.cancel(_cancel(bad), ALICE)
    jobs = [job(f"c{nr}", depends_on=tuple(parents)) for nr in range(3)]
    with pytest.raises(Rejected) as refused:
        await b.submit(*jobs, job("last", depends_on=(*parents, bad)))
    assert refused.value.field == "jobs[3].depends_on[7]"
    assert {row.name[0] for row in (await b.listed()).jobs} <= {"p", "b"}
    counts = await b.service.store.read(lambda tx: tx.all("counter.all"))
    assert not [row for row in counts if row[2] == S.DEFINED]
    children = await b.service.store.read(
        lambda tx: tx.all("parent.children", parent=parents[0], most=9)
    )
    assert children == []


def _cancel(job_id):
    from ailurus.protocol import messages as m

    return m.Cancel(job_ids=(job_id,))


async def test_a_parent_that_still_tells_its_children_counts_once(b, monkeypatch):
    """It has finished before the child was submitted, but has not told all of its older children
    yet."""
    monkeypatch.setattr(dependencies, "AT_ONCE", 0)
    monkeypatch.setattr(dependencies, "SLICE", 0)

    first, second = await b.submit(job("first"), job("second", queue="q2"))
    await b.submit(*(job(f"old{nr}", depends_on=(first,), queue="q3") for nr in range(3)))
    worker = await b.worker()
    (got,) = await worker.acquire()
    await worker.report(got)
    (child,) = await b.submit(job("child", depends_on=(first, second), queue="q3"))
    monkeypatch.setattr(dependencies, "SLICE", 500)
    await b.service.store.write(lambda tx: dependencies.unfold(tx, now=1.0))
    assert await b.state(child) is S.PENDING


def test_more_dependencies_than_a_submission_may_have_are_refused_with_a_sentence(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(submission, "MOST_LINKS", 10)

    async def test(b):
        parents = tuple(await b.submit(*(job(f"p{nr}") for nr in range(4))))
        await b.submit(*(job(f"c{nr}", depends_on=parents[:3]) for nr in range(3)))
        with pytest.raises(Rejected) as refused:
            await b.submit(*(job(f"c{nr}", depends_on=parents) for nr in range(3)))
        assert "12 dependencies" in refused.value.title
        assert refused.value.remedy

    run(test, tmp_path)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.integers(1, 2000))
def test_jobs_are_cleared_in_spans_that_hold_each_of_them_once(sizes, most):
    jobs = [
        preparing.Prepared(
            spec=job(f"j{nr}", depends_on=tuple(range(1, size + 1))), body=b"", shape=None, wants=0
        )
        for nr, size in enumerate(sizes)
    ]
    before, submission.LINKS = submission.LINKS, most
    try:
        spans = list(submission.spans(jobs))
    finally:
        submission.LINKS = before
    places = [place for first, last in spans for place in range(first, last + 1)]
    assert places == list(range(len(jobs)))
    for first, last in spans:
        rows = [len(one.spec.depends_on) for one in jobs[first : last + 1]]
        assert sum(rows[:-1]) <= most
