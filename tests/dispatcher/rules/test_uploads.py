"""Small files that travel with jobs, at the dispatcher: whose they are, how they come and go."""

from __future__ import annotations

from hashlib import sha256

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import InputFile
from ailurus.protocol.panda_acquire import JobRequest
from ailurus.protocol.uploads import MOST_SUBMISSION_BYTES, PIECE_BYTES, Upload
from dispatcher.refusal import Rejected
from dispatcher.rules import retention, uploads
from dispatcher.service.panda import acquire as panda
from tests.dispatcher.helpers import ALICE, BOB, job

SMALL = b"print('hello')\n"
LARGE = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"end"
DAY_S = 86_400.0


def digest(contents: bytes) -> str:
    return sha256(contents).hexdigest()


def naming(contents: bytes, **fields):
    url = Upload(digest(contents)).url
    return job(inputs=(InputFile(name="it", url=url, size=len(contents)),), **fields)


async def send(b, contents: bytes, *, first=0, end=None, caller=ALICE, of=None) -> int:
    """A piece of a file; `of`: what its digest is said to be of."""
    whole = contents if of is None else of
    end = min(len(contents), first + PIECE_BYTES) if end is None else end
    ask = m.AddUpload(
        digest=digest(whole), size=len(contents), first=first, piece=contents[first:end]
    )
    return (await b.service.uploads.add_upload(ask, caller)).have


async def upload(b, contents: bytes, caller=ALICE) -> None:
    have = await send(b, contents, end=0, caller=caller)
    while have < len(contents):
        have = await send(b, contents, first=have, caller=caller)


async def fetch(b, worker, got, contents: bytes) -> bytes:
    found = b""
    while True:
        ask = m.UploadRequest(
            job_id=got.job_id,
            attempt_nr=got.attempt_nr,
            digest=digest(contents),
            first=len(found),
        )
        answer = await b.service.uploads.job_upload(ask, worker.caller)
        found += answer.piece
        if len(found) >= answer.size:
            return found


async def trimmed(b, after_s: float) -> None:
    now = b.service.state.now() + after_s
    while await b.service.store.write(lambda tx: uploads.trim(tx, now=now)):
        pass


@pytest.mark.parametrize("contents", [b"", SMALL, LARGE], ids=["nothing", "a piece", "pieces"])
async def test_a_file_comes_to_the_worker_that_has_a_job_which_names_it(b, contents):
    await upload(b, contents)
    await b.submit(naming(contents))
    worker = await b.worker()
    (got,) = await worker.acquire()
    assert await fetch(b, worker, got, contents) == contents


async def test_a_file_that_is_here_is_not_sent_again_and_goes_on_where_it_was_cut_off(b):
    assert await send(b, LARGE) == PIECE_BYTES
    assert await send(b, LARGE) == PIECE_BYTES
    assert await send(b, LARGE, first=2 * PIECE_BYTES) == PIECE_BYTES
    await upload(b, LARGE)
    assert await send(b, LARGE, end=0) == len(LARGE)


async def test_a_file_of_another_digest_is_refused_and_may_be_sent_again(b):
    other = b"x" * len(LARGE)
    await send(b, other, of=LARGE)
    await send(b, LARGE, first=PIECE_BYTES)
    with pytest.raises(Rejected) as refused:
        await send(b, LARGE, first=2 * PIECE_BYTES)
    assert (refused.value.status, refused.value.field) == (422, "digest")
    await upload(b, LARGE)
    with pytest.raises(Rejected, match="has the SHA-256"):
        await send(b, b"wrong", of=b"right")
    with pytest.raises(Rejected, match="has the SHA-256"):
        await send(b, b"", of=SMALL)


async def test_pieces_have_their_size(b):
    for first, end, field in ((0, 10, "piece"), (PIECE_BYTES, PIECE_BYTES + 1, "piece")):
        with pytest.raises(Rejected) as refused:
            await send(b, LARGE, first=first, end=end)
        assert refused.value.field == field


async def test_jobs_name_what_their_user_has_uploaded_whole(b):
    await upload(b, SMALL, caller=BOB)
    await send(b, LARGE)
    for contents, what in ((SMALL, "is not here"), (LARGE, "only in part")):
        with pytest.raises(Rejected) as refused:
            await b.submit(job(), naming(contents))
        assert what in refused.value.title
        assert (refused.value.status, refused.value.field) == (422, "jobs[1].inputs[0].url")


async def test_a_worker_gets_only_files_of_jobs_that_it_has(b):
    await upload(b, SMALL)
    await upload(b, b"another")
    await b.submit(naming(SMALL))
    worker, other = await b.worker(), await b.worker()
    (got,) = await worker.acquire()
    for who, contents in ((other, SMALL), (worker, b"another")):
        with pytest.raises(Rejected) as refused:
            await fetch(b, who, got, contents)
        assert refused.value.status == 403
    await worker.report(got)
    with pytest.raises(Rejected):
        await fetch(b, worker, got, SMALL)


async def test_a_job_that_is_tried_again_has_it_and_so_has_its_retry(b):
    await upload(b, SMALL)
    (job_id,) = await b.submit(naming(SMALL, max_attempts=2))
    worker = await b.worker()
    (got,) = await worker.acquire()
    await worker.report(got, finished=False)
    (again,) = await worker.acquire()
    assert again.attempt_nr == 2
    assert await fetch(b, worker, again, SMALL) == SMALL
    await worker.report(again, finished=False)
    await trimmed(b, 2 * DAY_S)
    await b.service.intake.retry(m.Retry(job_ids=(job_id,)), ALICE)
    (retried,) = await worker.acquire()
    assert await fetch(b, worker, retried, SMALL) == SMALL


async def test_what_no_job_names_is_forgotten_after_a_day(b):
    await upload(b, SMALL)
    await upload(b, LARGE)
    await b.submit(naming(SMALL))
    await trimmed(b, DAY_S - 60)
    assert await send(b, LARGE, end=0) == len(LARGE)
    await trimmed(b, DAY_S + 60)
    assert await send(b, SMALL, end=0) == len(SMALL)
    assert await send(b, LARGE, end=0) == 0


async def test_it_goes_once_the_last_job_that_names_it_has_been_moved_away(b):
    await upload(b, SMALL)
    await b.submit(naming(SMALL))
    worker = await b.worker()
    (got,) = await worker.acquire()
    await worker.report(got)
    later = b.service.state.now() + 1
    await b.service.store.write(lambda tx: retention.tidy(tx, before=later))
    await trimmed(b, DAY_S + 60)
    with pytest.raises(Rejected, match="is not here"):
        await b.submit(naming(SMALL))


async def test_a_user_has_no_more_than_the_quota(b, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_BYTES", len(LARGE) + 10)
    await upload(b, LARGE)
    with pytest.raises(Rejected) as refused:
        await upload(b, SMALL)
    assert (refused.value.status, refused.value.field) == (429, "size")
    await upload(b, SMALL, caller=BOB)


async def test_a_submission_has_no_more_than_its_limit_each_file_counted_once(b):
    def of(nr: int) -> InputFile:
        return InputFile(name=f"f{nr}", url=Upload(digest(b"%d" % nr)).url, size=10 << 20)

    most = MOST_SUBMISSION_BYTES // (10 << 20)
    same = [job(f"j{nr}", inputs=(of(0),)) for nr in range(most + 1)]
    many = [job(f"j{nr}", inputs=(of(nr),)) for nr in range(most + 1)]
    with pytest.raises(Rejected, match="is not here"):
        await b.submit(*same)
    with pytest.raises(Rejected, match="travel with these jobs") as refused:
        await b.submit(*many)
    assert refused.value.field == f"jobs[{most}].inputs[0]"


async def test_pandas_pilots_get_no_such_job(b):
    await upload(b, SMALL)
    (named,) = await b.submit(naming(SMALL))
    (plain,) = await b.submit(job("plain"))
    ask = panda.Acquisition(request=JobRequest(site="q", node="n1"))
    (sent,) = await panda.acquire(b.service, ask)
    assert int(sent["PandaID"]) == plain
    ask = panda.Acquisition(request=JobRequest(site="q", node="n2"))
    assert not await panda.acquire(b.service, ask)
    (got,) = await (await b.worker()).acquire()
    assert got.job_id == named


async def test_pilots_of_before_get_no_such_job_and_why_says_so(b):
    await upload(b, SMALL)
    (job_id,) = await b.submit(naming(SMALL))
    older = await b.worker()
    assert await older.acquire(uploads=False) == []
    why = await b.service.users.why(None, ALICE, job_id=job_id)
    assert why.sentence.startswith("None of the 1 pilots that could hold it knows uploaded files;")
    (got,) = await older.acquire()
    assert got.job_id == job_id
