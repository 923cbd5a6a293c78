"""Files as answers: saved by a browser, never shown or run, and whole or broken off."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import Scope
from ailurus.protocol.job import InputFile
from ailurus.protocol.uploads import Upload
from dispatcher.door import contents
from dispatcher.ports import Handed
from dispatcher.refusal import Rejected
from tests.dispatcher.helpers import job


@pytest.mark.parametrize(
    ("name", "saved"),
    [("a/b.root", "b.root"), (".bashrc", "bashrc"), ('x"\r\ny', "x___y"), ("..", "file")],
)
def test_a_browser_is_told_a_plain_name(name, saved):
    assert contents.saved_as(name) == saved


def test_a_browser_saves_it_and_runs_nothing(dispatcher):
    alice = dispatcher.token(Scope.READ, Scope.CREATE)
    page = b"<script>alert(1)</script>"
    digest = sha256(page).hexdigest()
    ask = m.AddUpload(digest=digest, size=len(page), piece=page)
    assert dispatcher.ask("POST", "/uploads", ask, token=alice).status == 200
    mine = job(inputs=(InputFile(name="x.html", url=Upload(digest).url, size=len(page)),))
    taken = dispatcher.ask("POST", "/jobs", m.Submit(request_id="r", jobs=(mine,)), token=alice)
    path = f"/jobs/{taken.json['job_ids'][0]}/file?name=x.html"
    answer = dispatcher.ask("GET", path, token=alice)
    assert (answer.status, answer.body) == (200, page)
    assert answer.headers["content-disposition"] == 'attachment; filename="x.html"'
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-length"] == str(len(page))
    mallory = dispatcher.token(Scope.READ, subject="mallory")
    theirs = dispatcher.ask("GET", path, token=mallory)
    absent = dispatcher.ask("GET", "/jobs/99/file?name=x.html", token=mallory)
    assert theirs.status == absent.status == 404


def test_a_file_that_breaks_off_is_never_ended():
    """The server closes such a connection: no client takes the beginning for all of it."""
    sent = []

    async def send(message):
        sent.append(message)

    async def pieces(*, fails):
        yield b"half"
        if fails:
            raise Rejected(410, "no longer kept")

    async def main():
        half = contents.Sent(Handed("x", 8, pieces(fails=False)))
        await half.to(send)
        # What is charged for is what went.
        assert half.bytes == 4
        with pytest.raises(Rejected):
            await contents.Sent(Handed("x", None, pieces(fails=True))).to(send)

    asyncio.run(main())
    assert all(one.get("more_body") for one in sent if one["type"] == "http.response.body")
