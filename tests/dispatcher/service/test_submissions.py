"""A submission is an object: it is found, counted, waited for and tried again as a whole."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.api import Filter, JobsQuery, Scope
from ailurus.protocol.api_submissions import SubmissionQuery, SubmissionsQuery
from ailurus.protocol.query_text import parse
from ailurus.protocol.states import PARTS, JobState
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from dispatcher.rules import preparing, submission, submissions
from tests.dispatcher.helpers import ALICE, BOB, Bench, bench, job, new_id, request, run

BOSS = Caller(subject="boss", scopes=frozenset(Scope))
S = JobState


async def submit(b: Bench, *jobs, caller: Caller = ALICE, **more) -> int:
    ask = m.Submit(request_id=new_id(), jobs=jobs, **more)
    return (await b.service.intake.submit(ask, caller)).submission


async def show(b: Bench, number: int, caller: Caller = ALICE, wait_s: float = 0.0):
    ask = SubmissionQuery(submission=number, wait_s=wait_s)
    return await b.service.submissions.submission(ask, caller)


async def listed(b: Bench, caller: Caller = ALICE, **query) -> list[m.SubmissionRow]:
    page = await b.service.submissions.submissions(SubmissionsQuery(**query), caller)
    return list(page.submissions)


async def again(b: Bench, number: int, caller: Caller = ALICE, **more):
    ask = m.RetrySubmission(submission=number, **{"request_id": new_id(), **more})
    return await b.service.intake.retry_submission(ask, caller)


async def names(b: Bench, query: str, caller: Caller = ALICE) -> str:
    page = await b.service.users.jobs(JobsQuery(query=query, limit=1000), caller)
    return "".join(sorted(row.name for row in page.jobs))


async def told(b: Bench, number: int) -> m.Parts:
    """What the rows of the jobs tell, whatever is kept."""
    row = (await show(b, number)).row
    counted = await b.service.store.read(lambda tx: submissions.count(tx, number, row.jobs))
    return m.Parts(**counted)


# --- what it is ---


async def test_a_submission_has_a_number_a_name_and_labels(b):
    number = await submit(b, job("a"), job("b"), name="sweep", labels={"campaign": "mc23"})
    row = (await show(b, number)).row
    assert (row.submission, row.jobs, row.name, row.user) == (number, 2, "sweep", "alice")
    assert row.labels == {"campaign": "mc23"}
    assert row.parts == m.Parts(waiting=2)
    assert not row.ended
    assert [row] == await listed(b)
    # Any of its jobs leads to it.
    assert (await show(b, number + 1)).row == row


async def test_without_a_name_it_is_called_as_its_first_job(b):
    number = await submit(b, job("first"), job("second"))
    assert (await show(b, number)).row.name == "first"


async def test_submissions_are_found_by_name_label_user_and_whether_they_have_ended(b):
    one = await submit(b, job(), name="sweep-1", labels={"campaign": "mc23"})
    two = await submit(b, job(), name="other", labels={"campaign": "mc24"})
    bobs = await submit(b, job(), caller=BOB)
    await b.service.users.cancel(m.Cancel(job_ids=(two,)), ALICE)

    async def numbers(caller: Caller = ALICE, **query) -> list[int]:
        return [row.submission for row in await listed(b, caller, **query)]

    assert await numbers() == [two, one]
    assert await numbers(name="sweep*") == await numbers(name="sweep-1") == [one]
    assert await numbers(label="campaign=mc24") == [two]
    assert await numbers(label="campaign") == [two, one]
    assert await numbers(open=True) == [one]
    assert await numbers(BOSS) == [bobs, two, one]
    assert await numbers(BOSS, user="bob") == [bobs]
    assert await numbers(limit=1) == [two]
    assert await numbers(before=two) == [one]


async def test_its_jobs_are_a_term_of_the_language(b):
    await submit(b, job("a"))
    number = await submit(b, job("b"), job("c"))
    await submit(b, job("d"))
    assert await names(b, f"submission:{number}") == "bc"
    assert await names(b, f"submission:{number + 1} name:c") == "c"
    assert await names(b, f"not submission:{number}") == "ad"
    assert await names(b, f"submission>{number} or submission<{number}") == "ad"
    assert await names(b, f"submission>={number}") == "bcd"
    assert await names(b, "submission:99") == ""
    assert await names(b, f"submission:{number}", BOB) == ""
    counted = await b.service.users.count(Filter(query=f"submission:{number}"), ALICE)
    assert counted.jobs == 2


def test_a_submission_in_a_query_is_a_number():
    with pytest.raises(Exception, match="'sweep' is no number"):
        parse("submission:sweep")


async def test_a_name_belongs_to_what_a_request_says(b):
    ask = m.Submit(request_id="mine", jobs=(job("a"),), name="one")
    first = await b.service.intake.submit(ask, ALICE)
    again_ = await b.service.intake.submit(ask, ALICE)
    assert (again_.submission, again_.repeated) == (first.submission, True)
    other = m.Submit(request_id="mine", jobs=(job("a"),), name="two")
    with pytest.raises(Rejected, match="other contents"):
        await b.service.intake.submit(other, ALICE)


# --- how far it is ---


MANY = submission.COUNTED_ON_SIGHT + 20


async def test_a_large_one_is_counted_by_the_commits_that_change_its_jobs(b):
    number = await submit(b, *(job(f"j{nr}", max_attempts=1) for nr in range(MANY)))
    worker = await b.worker()
    got = await worker.acquire(count=10)
    await worker.beat(*got[:6])
    await worker.report(got[0])
    await worker.report(got[1], finished=False)
    await b.service.users.cancel(m.Cancel(job_ids=(number + 50, number + 51)), ALICE)
    row = (await show(b, number)).row
    assert row.parts == m.Parts(waiting=MANY - 12, running=8, finished=1, failed=1, cancelled=2)
    assert row.parts == await told(b, number)
    assert (await listed(b))[0].parts == row.parts


async def test_what_fails_with_its_parent_is_counted(b):
    others = [job(f"child{nr}", depends_on=("parent",)) for nr in range(MANY)]
    number = await submit(b, job("parent"), *others)
    await b.service.users.cancel(m.Cancel(job_ids=(number,)), ALICE)
    row = (await show(b, number, wait_s=10)).row
    assert row.ended
    assert row.parts == m.Parts(failed=MANY, cancelled=1) == await told(b, number)


async def test_a_small_one_has_no_tally(b):
    number = await submit(b, *(job(f"j{nr}") for nr in range(submission.COUNTED_ON_SIGHT)))
    rows = await b.service.store.read(lambda tx: tx.all("tally.open", first=0, most=9))
    assert rows == []
    assert (await show(b, number)).row.parts == m.Parts(waiting=submission.COUNTED_ON_SIGHT)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.sampled_from("acfxhs"), st.integers(0, 5)), max_size=25))
def test_the_tally_is_what_the_rows_tell_whatever_happens(tmp_path_factory, steps):
    async def test(b: Bench) -> None:
        number = await submit(b, *(job(f"j{nr}", max_attempts=2) for nr in range(6)))
        worker, held = await b.worker(), []
        for step, nr in steps:
            if step == "a":
                held += await worker.acquire(count=nr)
            elif step == "x":
                await b.service.users.cancel(m.Cancel(job_ids=(number + nr,)), ALICE)
            elif step in "hs":
                verb = "hold" if step == "h" else "release"
                ask = m.ChangeMany(request_id=new_id(), verb=verb, job_ids=(number + nr,))
                await b.service.actions.change_many(ask, ALICE)
            elif held:
                one = held.pop(nr % len(held))
                await worker.report(one, finished=step == "f")
        row = (await show(b, number)).row
        kept = await b.service.store.read(
            lambda tx: tx.all("submission.page", owner="", least=0, before=number + 1, most=1)
        )
        assert kept[0][-5] is not None
        assert row.parts == await told(b, number)

    before, submission.COUNTED_ON_SIGHT = submission.COUNTED_ON_SIGHT, 5
    try:
        run(test, tmp_path_factory.mktemp("tally"))
    finally:
        submission.COUNTED_ON_SIGHT = before


def test_a_tally_that_an_earlier_version_left_wrong_is_mended_at_a_start(place):
    kept = []

    async def first() -> None:
        async with bench(place) as b:
            kept.append(await submit(b, *(job(f"j{nr}") for nr in range(MANY))))
            wrong = {"first": kept[0], **dict.fromkeys(PARTS, 7)}
            await b.service.store.write(lambda tx: tx.run("tally.set", **wrong))

    async def then() -> None:
        async with bench(place) as b:
            end = time.monotonic() + 10
            while (await show(b, kept[0])).row.parts != m.Parts(waiting=MANY):
                assert time.monotonic() < end
                await asyncio.sleep(0.01)

    asyncio.run(first())
    asyncio.run(then())


async def test_a_large_one_of_an_earlier_version_is_counted_where_it_is_looked_at(b, monkeypatch):
    monkeypatch.setattr(submission, "COUNTED_ON_SIGHT", MANY)
    number = await submit(b, *(job(f"j{nr}") for nr in range(MANY)))
    monkeypatch.undo()
    monkeypatch.setattr(submissions, "COUNTED_ON_SIGHT", submission.COUNTED_ON_SIGHT)
    assert [row.parts for row in await listed(b)] == [None]
    assert (await show(b, number)).row.parts == m.Parts(waiting=MANY)


async def test_who_waits_is_told_the_end(b):
    number = await submit(b, job("a"), job("b"))
    waiting = asyncio.create_task(show(b, number, wait_s=20))
    worker = await b.worker()
    for one in await worker.acquire(count=2):
        await worker.report(one)
    row = (await asyncio.wait_for(waiting, 5)).row
    assert row.ended
    assert row.parts == m.Parts(finished=2)


def test_moved_jobs_are_counted_until_the_submission_is_forgotten(place):
    async def test(b: Bench) -> None:
        number = await submit(b, job("a"), job("b"))
        (one,) = await (worker := await b.worker()).acquire()
        await worker.report(one)
        await b.service.store.write(
            lambda tx: (
                tx.run("tally.trim")
                or __import__("dispatcher.rules.retention").rules.retention.tidy(
                    tx, before=2e9 + 1e8
                )
            )
        )
        # One is still in the queue, so the submission is known.
        assert (await show(b, number)).row.parts == m.Parts(waiting=1, finished=1)

    run(test, place)


# --- tried again ---


async def fail(b: Bench, *wanted: str) -> None:
    """Let jobs of these names fail, and others finish."""
    worker = await b.worker()
    while got := await worker.acquire(count=10):
        for one in got:
            bad = (await b.service.users.show(None, BOSS, job_id=one.job_id)).row.name in wanted
            facts = {"code": 1305, "diagnosis": "no"} if bad else {}
            await worker.report(one, finished=not bad, **facts)


async def test_what_failed_is_tried_again_with_what_depends_on_it(b):
    number = await submit(
        b,
        job("a", max_attempts=1),
        job("b", depends_on=("a",)),
        job("c", depends_on=("b",)),
        job("d"),
        name="flow",
        labels={"x": "y"},
    )
    await fail(b, "a")
    await show(b, number, wait_s=5)
    assert await names(b, "state:failed") == "abc"
    answer = await again(b, number)
    assert len(answer.job_ids) == 3
    new = await show(b, answer.submission)
    assert (new.row.name, new.row.labels, new.row.retry_of) == ("flow", {"x": "y"}, number)
    assert new.row.parts == m.Parts(waiting=3)
    assert (await show(b, number)).retried_as == (answer.submission,)
    detail = await b.service.users.show(None, ALICE, job_id=answer.job_ids[1])
    assert detail.parents == (answer.job_ids[0],)
    await fail(b)
    assert (await show(b, answer.submission, wait_s=5)).row.parts == m.Parts(finished=3)
    # Nothing is left to be tried.
    with pytest.raises(Rejected, match="nothing is to be tried again") as no:
        await again(b, number)
    assert no.value.status == 409


async def test_a_retry_that_comes_again_gives_the_same_jobs(b):
    number = await submit(b, job("a", max_attempts=1))
    await fail(b, "a")
    first = await again(b, number, request_id="mine")
    await fail(b)
    second = await again(b, number, request_id="mine")
    assert (second.job_ids, second.repeated) == (first.job_ids, True)
    with pytest.raises(Rejected, match="other contents"):
        await again(b, number, request_id="mine", whole=True)


async def test_what_was_cancelled_comes_back_only_for_what_waits_for_it(b):
    number = await submit(b, job("a"), job("b", depends_on=("a",)), job("c"))
    await b.service.users.cancel(m.Cancel(job_ids=(number, number + 2)), ALICE)
    await show(b, number, wait_s=5)
    answer = await again(b, number)
    assert await names(b, f"submission:{answer.submission}") == "ab"


async def test_all_of_a_workflow_is_restarted_with_owner_and_dependencies(b):
    number = await submit(b, job("a"), job("b", depends_on=("a",)))
    with pytest.raises(Rejected, match="have not ended"):
        await again(b, number, BOSS, whole=True)
    await fail(b)
    answer = await again(b, number, BOSS, whole=True)
    row = (await show(b, answer.submission)).row
    assert (row.user, row.by, row.jobs, row.parts) == ("alice", "boss", 2, m.Parts(waiting=2))
    detail = await b.service.users.show(None, ALICE, job_id=answer.submission + 1)
    assert detail.parents == (answer.submission,)
    # And once more, from its latest tries.
    await fail(b)
    third = await again(b, number, whole=True)
    assert [row.retry_of for row in await listed(b)] == [number, number, None]
    assert third.submission != answer.submission


async def test_jobs_of_a_task_are_no_submission(b):
    jobs = preparing.prepare([job("a")])
    answer = await b.service.intake._once(replace(request("task"), task_id=3), jobs)
    assert await listed(b) == []
    with pytest.raises(Rejected, match="no submission"):
        await show(b, answer.job_ids[0])
