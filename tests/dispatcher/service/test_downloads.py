"""Files that users have from the dispatcher: whole or not at all, and only their own jobs'."""

from __future__ import annotations

from hashlib import sha256

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import FileQuery, LogFileQuery
from ailurus.protocol.job import InputFile
from ailurus.protocol.uploads import PIECE_BYTES, Upload
from dispatcher.refusal import Rejected
from tests.dispatcher.helpers import ALICE, BOB, job

LARGE = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"end"


async def uploaded(b, whole: bytes) -> InputFile:
    digest = sha256(whole).hexdigest()
    have = -1
    while have < len(whole):
        first = max(0, have)
        piece = b"" if have < 0 else whole[first : first + PIECE_BYTES]
        ask = m.AddUpload(digest=digest, size=len(whole), first=first, piece=piece)
        have = (await b.service.uploads.add_upload(ask, ALICE)).have
    return InputFile(name="data/it", url=Upload(digest).url, size=len(whole))


async def taken(handed) -> bytes:
    return b"".join([piece async for piece in handed.pieces])


@pytest.mark.parametrize("whole", [b"", b"small", LARGE], ids=["nothing", "a piece", "pieces"])
async def test_an_uploaded_input_comes_back_whole(b, whole):
    (job_id,) = await b.submit(job(inputs=(await uploaded(b, whole),)))
    handed = await b.service.downloads.file(FileQuery(name="data/it"), ALICE, job_id)
    assert (handed.name, handed.size, await taken(handed)) == ("data/it", len(whole), whole)


async def test_what_is_in_storage_and_what_is_anothers_is_not_handed_out(b):
    stored = InputFile(name="far", url="https://example.org/far", size=3)
    (job_id,) = await b.submit(job(inputs=(await uploaded(b, b"mine"), stored)))
    for caller, name in ((BOB, "data/it"), (ALICE, "far"), (ALICE, "no such")):
        with pytest.raises(Rejected) as refused:
            await b.service.downloads.file(FileQuery(name=name), caller, job_id)
        assert refused.value.status == 404


async def test_a_log_is_handed_out_with_its_holes_and_of_one_attempt(b):
    (job_id,) = await b.submit(job(max_attempts=2))
    worker = await b.worker()
    (got,) = await worker.acquire()
    parts = ((0, "first\n", False), (1000, "é last\n", True))
    pieces = tuple(
        m.LogPiece(job_id=job_id, attempt_nr=1, stream="stdout", offset=at, text=text, final=end)
        for at, text, end in parts
    )
    await b.service.workers.log_pieces(m.LogPieces(pieces=pieces), worker.caller)
    await worker.report(got, finished=False, usage=m.Usage(stdout_bytes=1100))
    ask = LogFileQuery(attempt_nr=1)
    handed = await b.service.downloads.log_file(ask, ALICE, job_id)
    assert handed.name == f"{job_id}.1.stdout.txt"
    assert (await taken(handed)).decode() == (
        "first\n\n[994 bytes are not kept here]\né last\n\n[92 bytes are not kept here]\n"
    )
    with pytest.raises(Rejected):
        await b.service.downloads.log_file(ask, BOB, job_id)
