"""Pilots as odd nodes start them: locales, closed descriptors, hangups."""

from __future__ import annotations

import signal

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.states import JobState
from tests.pilot.helpers import Field, until

pytestmark = pytest.mark.real
LEGACY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.field("L7")
@pytest.mark.parametrize("kind", ["script", "command"])
def test_text_reaches_the_payload_as_it_was_submitted(field: Field, kind: str) -> None:
    look = 'printf "é€" | od -An -tx1; printf "$V" | od -An -tx1; touch "ü€"; ls | od -An -c'
    text = {"script": f"#!/bin/sh\n{look}\n"} if kind == "script" else {"command": look}
    job_id = field.submit(environment={"V": "ß€"}, **text)
    pilot = field.pilot("--max-jobs", "1", environment=LEGACY)
    detail = field.dispatcher.final(job_id)
    assert pilot.ended() == 0
    assert detail.row.state is JobState.FINISHED
    said = field.dispatcher.log(job_id).split()
    assert " ".join(said[:10]) == "c3 a9 e2 82 ac c3 9f e2 82 ac"
    assert "303" in said  # the file's name is UTF-8, too


@pytest.mark.field("W6")
def test_a_pilot_without_standard_descriptors_runs_jobs(field: Field) -> None:
    job_id = field.submit("echo fine; cat; test ! -e report_key")
    closed = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    pilot = field.pilot("--max-jobs", "1", prefix=closed)
    assert field.dispatcher.final(job_id).row.state is JobState.FINISHED
    assert pilot.ended() == 0
    assert field.dispatcher.log(job_id) == "fine\n"


@pytest.mark.field("W6")
def test_a_hangup_gives_payloads_their_grace(field: Field) -> None:
    job_id = field.submit("trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    pilot = field.pilot()
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    work = field.directory / "work"
    until(lambda: [one for one in work.glob("*/*/stdout") if one.read_text() == "up\n"])
    pilot.signal(signal.SIGHUP)
    assert pilot.ended() == 128 + signal.SIGHUP
    detail = field.dispatcher.client.show(job_id)
    assert Code(detail.attempts[0].code) is Code.SIGTERM
    assert "SIGHUP" in detail.attempts[0].diagnosis
    assert "asked" in field.dispatcher.log(job_id)


@pytest.mark.field("W6")
def test_under_nohup_a_hangup_is_nothing(field: Field) -> None:
    job_id = field.submit("sleep 0.5; echo fine")
    ignoring = ["/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    pilot = field.pilot("--max-jobs", "1", prefix=ignoring)
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    pilot.signal(signal.SIGHUP)
    assert field.dispatcher.final(job_id).row.state is JobState.FINISHED
    assert pilot.ended() == 0
