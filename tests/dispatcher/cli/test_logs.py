"""`dispatcher logs --follow` over a job that is tried again."""

from __future__ import annotations

import io
from argparse import Namespace
from types import SimpleNamespace

import pytest

from ailurus.output import Output
from ailurus.protocol import messages as m
from ailurus.protocol.states import JobState
from dispatcher.cli import logs

TEXTS = {1: "a long first attempt\n", 2: "second\n"}


class Client:
    """A dispatcher whose job is in its second attempt as soon as the first one's log has been
    read."""

    def __init__(self) -> None:
        self.latest = 1
        self.asked: list[tuple[int | None, int]] = []

    def log(self, job_id: int, query) -> m.LogChunk:
        self.asked.append((query.attempt_nr, query.offset))
        nr = query.attempt_nr or self.latest
        text = TEXTS[nr][query.offset :]
        if nr == 1:
            self.latest = 2
        end = len(TEXTS[nr])
        at = {"offset": query.offset, "end": end, "size": end, "kept": end, "attempt_nr": nr}
        return m.LogChunk(**at, text=text, final=True)

    def show(self, job_id: int) -> SimpleNamespace:
        attempts = [SimpleNamespace(attempt_nr=nr) for nr in range(1, self.latest + 1)]
        row = SimpleNamespace(job_id=job_id, state=JobState.RUNNING, attempt_nr=self.latest)
        return SimpleNamespace(row=row, attempts=attempts, files=())


@pytest.mark.field("H2")
@pytest.mark.parametrize(
    ("attempt", "text"), [(None, TEXTS[1] + TEXTS[2]), (1, TEXTS[1]), (2, TEXTS[2])]
)
def test_who_follows_a_job_gets_each_attempt_from_its_beginning(monkeypatch, attempt, text):
    client, stream = Client(), io.StringIO()
    monkeypatch.setattr(logs, "connect", lambda *_, **__: client)
    args = Namespace(id=(7, None), follow=True, stream="stdout", attempt=attempt)
    assert logs.main(args, Output(stream=stream)) == 0
    assert stream.getvalue() == text
    assert (2, len(TEXTS[1])) not in client.asked
