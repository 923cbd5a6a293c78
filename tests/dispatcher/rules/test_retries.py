"""Final jobs are tried again once each, as the jobs that they were."""

from __future__ import annotations

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import NoQuery, Scope
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.states import JobState
from dispatcher.accounts import costs
from dispatcher.accounts.rates import Limiter, Rates
from dispatcher.auth.caller import Caller
from dispatcher.refusal import Rejected
from dispatcher.rules import retention, retries
from tests.dispatcher.helpers import ALICE, BOB, job, run

S = JobState
BOSS = Caller(subject="boss", scopes=frozenset({*ALICE.scopes, Scope.ADMIN}))
MAKES = (OutputFile(name="x", url="file:///s"),)
NEEDS = (InputFile(name="x"),)


async def retry(b, *job_ids, caller=ALICE, request=None):
    ask = m.Retry(job_ids=job_ids, request_id=request)
    return list((await b.service.intake.retry(ask, caller)).job_ids)


async def fail(b, worker):
    (got,) = await worker.acquire()
    await worker.report(got, finished=False, code=1305)
    return got.job_id


async def finish(b, worker, **facts):
    (got,) = await worker.acquire()
    assert await worker.report(got, **facts) == "accepted"
    return got.job_id


async def show(b, job_id):
    return await b.service.users.show(NoQuery(), BOSS, job_id=job_id)


@pytest.mark.field("L8")
async def test_a_retried_child_waits_for_its_retried_parent_and_gets_its_output(b):
    parent, child = await b.submit(
        job("p", outputs=MAKES, max_attempts=1), job("c", depends_on=("p",), inputs=NEEDS)
    )
    worker = await b.worker()
    await fail(b, worker)
    assert await b.state(child) is S.FAILED
    new_child, new_parent = await retry(b, child, parent)
    assert [await b.state(one) for one in (new_parent, new_child)] == [S.ACTIVATED, S.PENDING]
    file = m.DoneFile(name="x", url="file:///s/x", size=1, adler32="00010001")
    assert await finish(b, worker, files=(file,)) == new_parent
    (got,) = await worker.acquire()
    assert got.job_id == new_child
    (made,) = msgspec.json.decode(msgspec.json.encode(got), type=m.Assignment).spec.inputs
    assert made.url == "file:///s/x"


@pytest.mark.field("L8")
async def test_a_child_alone_is_refused_while_its_parent_has_not_finished(b):
    parent, child = await b.submit(job("p", max_attempts=1), job("c", depends_on=("p",)))
    worker = await b.worker()
    await fail(b, worker)
    with pytest.raises(
        Rejected, match=f"job {child} depends on job {parent}, which is failed"
    ) as no:
        await retry(b, child)
    assert f"dispatcher retry {parent} {child}" in no.value.remedy
    (again,) = await retry(b, parent)
    (late,) = await retry(b, child)  # its parent is being tried again
    assert (await show(b, late)).parents == (again,)
    assert await finish(b, worker) == again
    assert await b.state(late) is S.ACTIVATED


@pytest.mark.field("L8", "K8")
async def test_a_child_is_tried_again_after_its_finished_parent_was_moved_away(b):
    _, child = await b.submit(
        job("p", outputs=MAKES), job("c", depends_on=("p",), inputs=NEEDS, max_attempts=1)
    )
    worker = await b.worker()
    await finish(
        b, worker, files=(m.DoneFile(name="x", url="file:///s/x", size=1, adler32="00010001"),)
    )
    await fail(b, worker)
    while await b.service.store.write(lambda tx: retention.tidy(tx, before=4e9)):
        pass
    (new,) = await retry(b, child)
    (got,) = await worker.acquire()
    assert got.job_id == new
    (made,) = msgspec.json.decode(msgspec.json.encode(got), type=m.Assignment).spec.inputs
    assert made.url == "file:///s/x"
    assert (await show(b, child)).retried_as == new


@pytest.mark.field("L8", "H8")
async def test_a_job_is_tried_again_once_however_it_is_asked_for(b):
    one, two = await b.submit(job("a", max_attempts=1), job("b", max_attempts=1))
    worker = await b.worker()
    for _ in range(2):
        await fail(b, worker)
    first = await retry(b, one, two)
    assert await retry(b, two) == first[1:]
    assert await retry(b, one, one) == [first[0], first[0]]
    await finish(b, worker)
    with pytest.raises(Rejected, match=f"job {one} was tried again as job {first[0]}, which has f"):
        await retry(b, one)
    await fail(b, worker)
    (third,) = await retry(b, two)  # the retry failed as well: a new one
    assert third > first[1]
    assert (await show(b, third)).retry_of == first[1]
    (rerun,) = await retry(b, first[0])
    assert rerun > third


@pytest.mark.field("H8")
async def test_a_retry_belongs_to_the_owner_and_says_who_asked_for_it(b):
    (job_id,) = await b.submit(job("a", max_attempts=1), caller=BOB)
    await fail(b, await b.worker())
    (new,) = await retry(b, job_id, caller=BOSS)
    mine = await b.service.users.show(NoQuery(), BOB, job_id=new)
    assert (mine.row.user, mine.retry_of, mine.retry_by) == ("bob", job_id, "boss")
    assert (await b.service.users.show(NoQuery(), BOB, job_id=job_id)).retried_as == new
    told = [(one.job_id, one.kind, one.data) for one in await b.told()]
    assert (job_id, "retried", {"by": "boss", "new": new}) in told
    assert (new, "retry", {"by": "boss", "of": job_id}) in told
    with pytest.raises(Rejected, match="there is no job"):
        await retry(b, job_id, caller=ALICE)


@pytest.mark.field("H8")
async def test_an_event_says_who_cancelled(b):
    (job_id,) = await b.submit(caller=BOB)
    await b.service.users.cancel(m.Cancel(job_ids=(job_id,)), BOSS)
    assert [one.data["by"] for one in await b.told() if "by" in one.data] == ["boss"]
    assert (await show(b, job_id)).row.diagnosis == "cancelled by boss"


async def test_the_jobs_of_several_users_are_not_one_retry(b):
    worker = await b.worker()
    ids = [(await b.submit(job(max_attempts=1), caller=who))[0] for who in (ALICE, BOB)]
    for _ in ids:
        await fail(b, worker)
    with pytest.raises(Rejected, match="these are jobs of alice, bob"):
        await retry(b, *ids, caller=BOSS)


async def test_a_retry_that_is_sent_again_gives_its_first_answer(b):
    one, two = await b.submit(job("a", max_attempts=1), job("b", max_attempts=1))
    worker = await b.worker()
    for _ in range(2):
        await fail(b, worker)
    (second,) = await retry(b, two)
    answer = await retry(b, one, two, request="mine")
    assert answer[1] == second
    for _ in range(2):
        await finish(b, worker)
    assert await retry(b, one, two, request="mine") == answer
    with pytest.raises(Rejected, match="with other contents"):
        await retry(b, two, one, request="mine")


async def test_a_running_job_is_not_tried_again(b):
    (job_id,) = await b.submit()
    with pytest.raises(Rejected, match=f"job {job_id} is activated"):
        await retry(b, job_id)


@pytest.mark.field("L9")
async def test_a_request_id_stands_for_one_request(b):
    ids = await b.submit(job("a"), request="mine")
    assert await b.submit(job("a"), request="mine") == ids
    for other in ([job("b")], [job("a"), job("b")], [job("a", priority=1)]):
        with pytest.raises(Rejected, match="with other contents") as no:
            await b.submit(*other, request="mine")
        assert (no.value.status, no.value.field) == (422, "request_id")
    assert await b.submit(job("b"), request="mine", caller=BOB) != ids


@pytest.mark.field("L9")
def test_a_request_id_of_a_version_before_gives_the_first_answer(place):
    async def test(b):
        ids = await b.submit(job("a"), request="mine")
        await b.service.store.write(
            lambda tx: tx.run("request.drop", owner="alice", request_id="mine")
        )
        old = {"owner": "alice", "request_id": "mine", "first": ids[0], "jobs": 1, "made": 0.0}
        old |= dict.fromkeys(("digest", "name", "labels", "of_user", "retry_of", "task_id"))
        await b.service.store.write(
            lambda tx: (
                tx.one("request.add", **old, process=""),
                tx.run("request.complete", owner="alice", request_id="mine"),
            )
        )
        assert await b.submit(job("b"), request="mine") == ids

    run(test, place)


# --- what they cost -------------------------------------------------------------------------------


class Chain:
    """A transaction on a store where each of these jobs is the retry of the one before."""

    def __init__(self, *states: JobState) -> None:
        self._states = states
        self.looks = 0

    def one(self, query: str, job_id: int) -> tuple[int] | None:
        assert query == "retry.of"
        self.looks += 1
        return (job_id + 1,) if job_id + 1 < len(self._states) else None

    def all(self, query: str, ids: str) -> list[tuple[int, JobState, str]]:
        return [(one, self._states[one], "alice") for one in msgspec.json.decode(ids)]


@pytest.mark.parametrize("order", [1, -1])
def test_each_step_of_a_chain_is_looked_up_once_however_many_name_it(order):
    """Ten thousand times the first of 150 tries held a reader for ten seconds."""
    states = [S.FAILED] * 1000
    states[400] = S.FINISHED
    tx = Chain(*states)
    tries = retries.Tries(tx)
    for job_id in (3, 450, 990, 999)[::order]:
        assert tries.latest(job_id) == 999
        assert tries.finished(job_id) == (400 if job_id <= 400 else None)
        then = 7 if job_id <= 7 else 500 if job_id <= 500 else 999
        assert tries.made([job_id], {7, 500}) == [then]
    tx.looks = 0
    tries = retries.Tries(tx)
    for job_id in list(range(1000))[::order] * 3:
        tries.latest(job_id)
        tries.finished(job_id)
    tries.made(list(range(1000))[::order] * 3, {7, 500})
    assert tx.looks <= 3 * 1000


def test_what_jobs_wait_for_is_bounded_and_charged_when_they_are_tried_again(tmp_path, monkeypatch):
    async def test(b):
        ids = await b.submit(job("p"), *(job(f"c{nr}", depends_on=("p",)) for nr in range(5)))
        worker = await b.worker()
        await fail(b, worker)
        b.service.state.limiter = limiter = Limiter(Rates(), lambda: 0.0)
        limiter.ask("alice")
        before = limiter._account("alice").left
        monkeypatch.setattr(retries, "MOST_LINKS", 4)
        with pytest.raises(Rejected, match="more than 4 dependencies"):
            await retry(b, *ids)
        monkeypatch.setattr(retries, "MOST_LINKS", 5)
        await retry(b, *ids)
        paid = (before - limiter._account("alice").left) * costs.REQUEST_S
        assert paid == pytest.approx(5 * costs.LINK_S)

    run(test, tmp_path)
