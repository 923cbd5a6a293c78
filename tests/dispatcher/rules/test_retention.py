"""What ended long ago is out of the way and still found."""

from __future__ import annotations

import msgspec
import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import EventsQuery, LogQuery, NoQuery, SamplesQuery, TailQuery
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.states import JobState
from dispatcher.refusal import Rejected
from dispatcher.rules import retention
from tests.dispatcher.helpers import ALICE, BOB, bench, job

S = JobState


async def tidy(b, before=4e9):
    while await b.service.store.write(lambda tx: retention.tidy(tx, before=before)):
        pass


async def finish(b, worker, **facts):
    (got,) = await worker.acquire()
    await worker.beat(got)
    piece = m.LogPiece(job_id=got.job_id, attempt_nr=1, stream="stdout", offset=0, text="hi")
    await b.service.workers.log_pieces(m.LogPieces(pieces=(piece,)), worker.caller)
    await worker.report(got, **facts)


async def test_an_ended_job_is_moved_whole_and_shown_as_before(b):
    ids = await b.submit(job("a"), job("b"), job("c"))
    worker = await b.worker()
    await finish(b, worker, exit_code=0)
    await finish(b, worker, finished=False, exit_code=3, diagnosis="no")
    before = [await b.service.users.show(NoQuery(), ALICE, job_id=one) for one in ids]
    await tidy(b)
    assert [await b.service.users.show(NoQuery(), ALICE, job_id=one) for one in ids] == before
    with pytest.raises(Rejected, match="there is no job"):
        await b.service.users.show(NoQuery(), BOB, job_id=ids[0])
    left = await b.service.store.read(lambda tx: tx.all("counter.all"))
    assert [(row[2], row[3]) for row in left] == [(S.ACTIVATED, 1)]
    with pytest.raises(Rejected, match="there is no job"):
        await b.service.users.log(LogQuery(), BOB, job_id=ids[0])
    assert not (await b.service.store.read(lambda tx: tx.all("event.after", after=0, most=9)))


async def test_a_young_job_and_one_whose_child_needs_it_stay(b):
    first, child = await b.submit(job("a"), job("b", depends_on=("a",)))
    worker = await b.worker()
    await finish(b, worker)
    await tidy(b, before=1.0)
    await tidy(b)
    states = (await b.service.intake.states_of((first, child), ALICE)).states
    assert states == {first: S.FINISHED, child: S.ACTIVATED}
    await finish(b, worker)
    await tidy(b)
    detail = await b.service.users.show(NoQuery(), ALICE, job_id=child)
    assert detail.parents == (first,)


@pytest.mark.field("K8")
async def test_a_moved_job_is_a_finished_job_to_every_question(b):
    (old,) = await b.submit(job("old"))
    await finish(b, await b.worker())
    await tidy(b)
    (new,) = await b.submit(job("new"))
    waited = m.WaitJobs(job_ids=(old, new), timeout_s=0.0)
    assert (await b.service.users.wait(waited, ALICE)).states == {
        old: S.FINISHED,
        new: S.ACTIVATED,
    }
    assert (await b.service.users.why(NoQuery(), ALICE, job_id=old)).verdict == "done"
    cancel = await b.service.users.cancel(m.Cancel(job_ids=(old,)), ALICE)
    assert (cancel.cancelled, cancel.already_done) == ((), (old,))
    assert (await b.service.users.samples(SamplesQuery(), ALICE, job_id=old)).samples == ()
    with pytest.raises(Rejected, match="is gone") as gone:
        await b.service.users.log(LogQuery(), ALICE, job_id=old)
    assert gone.value.status == 410
    with pytest.raises(Rejected, match="is not running"):
        await b.service.users.tail(TailQuery(file="stdout"), ALICE, job_id=old)
    await b.service.users.events(EventsQuery(job_id=old), ALICE)
    for ask in (
        b.service.intake.states_of((old,), BOB),
        b.service.users.why(NoQuery(), BOB, job_id=old),
        b.service.users.cancel(m.Cancel(job_ids=(old,)), BOB),
        b.service.intake.retry(m.Retry(job_ids=(old,)), BOB),
        b.submit(job("b", depends_on=(old,)), caller=BOB),
    ):
        with pytest.raises(Rejected, match="there is no job"):
            await ask


@pytest.mark.field("K8")
async def test_a_child_of_a_moved_job_gets_its_files(b):
    (old,) = await b.submit(job("old", outputs=(OutputFile(name="x", url="file:///s"),)))
    worker = await b.worker()
    done = m.DoneFile(name="x", url="file:///s/1.1.x", size=3, adler32="024d0127")
    await finish(b, worker, files=(done,))
    await tidy(b)
    await b.submit(job("new", depends_on=(old,), inputs=(InputFile(name="x"),)))
    (got,) = await worker.acquire()
    (made,) = msgspec.json.decode(msgspec.json.encode(got), type=m.Assignment).spec.inputs
    assert (made.url, made.size, made.adler32) == ("file:///s/1.1.x", 3, "024d0127")


def test_ids_go_on_after_everything_was_moved(place):
    import asyncio

    async def main():
        async with bench(place) as b:
            (last,) = await b.submit()
            await finish(b, await b.worker())
            await tidy(b)
        async with bench(place) as b:
            assert await b.submit() == [last + 1]
            events = await b.service.store.read(lambda tx: tx.all("event.after", after=0, most=9))
            assert events[0][0] > 1

    asyncio.run(main())


def as_sent(got) -> m.Assignment:
    return msgspec.json.decode(msgspec.json.encode(got), type=m.Assignment)


@pytest.mark.field("L1")
async def test_a_pilot_gets_what_a_url_holds_and_people_do_not(b):
    spec = job(
        "a",
        inputs=(InputFile(name="x", url="http://h/x?sig=S3CRET#S3CRET"),),
        outputs=(OutputFile(name="y", url="http://S3CRET:S3CRET@h/d?authz=S3CRET"),),
    )
    (job_id,) = await b.submit(spec)
    worker = await b.worker()
    (got,) = await worker.acquire()
    assert as_sent(got).spec == spec
    made = m.DoneFile(name="y", url="http://h/d/1.1.y?authz=S3CRET", size=1, adler32="00000001")
    await worker.report(got, files=(made,))
    for _ in ("where it is", "where it was moved to"):
        detail = await b.service.users.show(NoQuery(), ALICE, job_id=job_id)
        assert "S3CRET" not in msgspec.json.encode(detail).decode()
        assert [one.url for one in detail.files] == ["http://h/d/1.1.y?…"]
        assert [one.url for one in detail.spec.outputs] == ["http://h/d?…"]
        await tidy(b)
    child = job("b", depends_on=(job_id,), inputs=(InputFile(name="y"),))
    await b.submit(child)
    (got,) = await worker.acquire()
    assert [one.url for one in as_sent(got).spec.inputs] == [made.url]


@pytest.mark.field("A2")
@pytest.mark.parametrize(("loser", "word"), [(False, "accepted"), (True, "alreadydone")])
async def test_a_report_that_comes_after_its_job_was_moved_is_judged_under_its_seal(b, loser, word):
    """Else its pilot would keep it, for nobody but us can say that it is settled."""

    await b.submit(job("a", max_attempts=5))
    worker = await b.worker()
    (got,) = await worker.acquire()
    if loser:
        await b.forward(1e5)  # its lease runs out
        other = await b.worker()
        (again,) = await other.acquire()
        await other.report(again)
    else:
        await worker.report(got)
    await tidy(b)
    report = m.Report(
        job_id=got.job_id, attempt_nr=1, report_key=got.report_key, finished=True, ended=1.0
    )
    forged = msgspec.structs.replace(report, report_key="x")
    ask = m.Reports(reports=(report, forged))
    good, bad = (await b.service.conclusions.report(ask, None)).verdicts
    assert (good.verdict, good.seal) == (word, got.seal)
    assert (bad.verdict, bad.seal) == ("badkey", "")
