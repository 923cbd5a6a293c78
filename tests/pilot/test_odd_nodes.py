"""Pilots as odd nodes start them: locales, closed descriptors, hangups."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from ailurus.protocol.errors import Code
from ailurus.protocol.states import JobState
from tests.pilot.attempts import open_up
from tests.pilot.helpers import BIN, Field
from tests.rig.waiting import until

pytestmark = pytest.mark.real
NOBODY = 100_000 + os.getpid()  # a limit of processes is a user's
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


@pytest.mark.field("L6", "L4")
@pytest.mark.parametrize("processes", [5, 8, 10, 12])
def test_at_a_limit_of_processes_a_pilot_ends_and_holds_no_job(
    field: Field, processes: int
) -> None:
    """Some of these end before they acquire, some among their jobs' threads, some in a sandbox's
    start."""
    if os.geteuid() != 0:
        pytest.skip("takes a user of its own, whose processes are none yet")
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for path in (field.storage, field.directory, field.directory / "work"):
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
    token = field.dispatcher.pilot_token
    open_up(token)
    open_up(field.storage)
    token.chmod(0o644)
    readable = [*user, "/bin/sh", "-c", f"{BIN / 'pilot'} --version && cat {token} {field.site}"]
    tried = subprocess.run(readable, check=False, capture_output=True)
    if tried.returncode:
        pytest.skip(f"an ordinary user cannot start this pilot: {tried.stderr.decode()}")
    jobs = [field.submit("sleep 0.1") for _ in range(5)]
    limited = [*user, "prlimit", f"--nproc={processes}"]
    spool = field.directory / "work" / "spool"
    pilot = field.pilot("--idle-exit", "1", "--spool", str(spool), prefix=limited)
    assert pilot.ended() in {0, 65, 66, 70}  # a statue would not end
    for job_id in jobs:
        detail = field.dispatcher.client.show(job_id)
        assert detail.row.state in {JobState.ACTIVATED, JobState.FINISHED, JobState.FAILED}
        if detail.row.state is JobState.FAILED:
            last = detail.attempts[-1]
            forked = (
                "fork" in last.stderr_tail
            )  # by the payload itself: nobody tells why it could not
            assert forked or Code(last.code).transient
