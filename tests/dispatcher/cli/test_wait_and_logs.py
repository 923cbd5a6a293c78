"""`dispatcher wait` and `logs`: how they exit, and what they say of output that is not kept."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.resources import Room
from ailurus.wire.client import Client, Unreachable
from ailurus.wire.credentials import fixed_token
from dispatcher.cli import exits
from dispatcher.cli.connection import Silence
from tests.dispatcher.cli.conftest import ONE, ids

ROOM = Room(cores=4, memory_mb=8000, disk_mb=8000)


@pytest.fixture
def pilot_of(server):
    """Registers a worker of a queue."""

    def register(queue: str) -> Client:
        ask = m.NewToken(subject="p", scopes=("ailurus.pilot",))
        token = server.client.call("token", ask, answer=m.Token).token
        ask = m.Register(instance=os.urandom(4).hex(), queue=queue, total=ROOM)
        registered = Client(server.url, fixed_token(token)).call(
            "register", ask, answer=m.Registered
        )
        return Client(server.url, fixed_token(registered.token))

    return register


@pytest.fixture
def pilot(pilot_of):
    """A worker of queue `pq` that ends every job it gets with the exit code of its command."""
    worker = pilot_of("pq")

    def work() -> None:
        ask = m.Acquire(request_id=os.urandom(4).hex(), room=ROOM, wait_s=5.0)
        for one in worker.call("acquire", ask, answer=m.Acquired, wait_s=5.0).jobs:
            code = int(one.spec.command.removeprefix("exit "))
            piece = m.LogPiece(
                job_id=one.job_id,
                attempt_nr=one.attempt_nr,
                stream="stdout",
                offset=0,
                text="hello\x1b[31m\n",
                final=True,
            )
            worker.call("log_pieces", m.LogPieces(pieces=(piece,)), answer=m.Done)
            report = m.Report(
                job_id=one.job_id,
                attempt_nr=one.attempt_nr,
                report_key=one.report_key,
                finished=code == 0,
                code=1305 if code else 0,
                exit_code=code,
                diagnosis="x" * bool(code),
            )
            worker.call("report", m.Reports(reports=(report,)), answer=m.ReportVerdicts)

    return work


@pytest.mark.parametrize("code", [0, 3])
def test_wait_exits_as_the_payload_did(run, jobfile, pilot, code):
    (job,) = ids(run("submit", jobfile(f"name: w\ncommand: exit {code}\nqueue: pq\n")))
    pilot()
    ran = run("wait", job)
    assert ran.code == code
    assert ran.err == (f"dispatcher: job {job} (w) is failed: x\n" if code else "")
    assert run("show", job).code == 0
    assert run("logs", job, "--follow").out == "hello\x1b[31m\n"


def test_submit_follow_prints_the_output_and_exits_as_the_payload_did(run, jobfile, pilot):
    with ThreadPoolExecutor(1) as beside:
        working = beside.submit(pilot)
        ran = run("submit", "--follow", jobfile("name: f\ncommand: exit 3\nqueue: pq\n"))
        working.result(10)
    job, *output = ran.out.splitlines()
    assert (ran.code, job.isdecimal(), output) == (3, True, ["hello\x1b[31m"])
    several = run("submit", "--follow", jobfile("name: f\ncommand: x\nsweep: {i: [1, 2]}\n"))
    assert (several.code, several.out) == (exits.USAGE, "")


def test_the_log_of_a_job_that_never_ran_ends_and_says_so(run, jobfile):
    (job,) = ids(run("submit", jobfile(ONE)))
    waiting = run("logs", job)
    assert (waiting.code, waiting.err) == (
        0,
        f"dispatcher: job {job} is activated, and has not run\n",
    )
    run("cancel", job)
    ended = run("logs", job, "--follow")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"dispatcher: job {job} is cancelled, and has not run\n"


@pytest.fixture
def ended_with(run, jobfile, pilot_of):
    """The id of a job whose stdout ended with these pieces, of so many bytes in all."""

    def end(*pieces: tuple[int, str], size: int) -> str:
        (job,) = ids(run("submit", jobfile("name: wordy\ncommand: x\nqueue: wordy\n")))
        worker = pilot_of("wordy")
        ask = m.Acquire(request_id=os.urandom(4).hex(), room=ROOM)
        (one,) = worker.call("acquire", ask, answer=m.Acquired).jobs
        at = {"job_id": one.job_id, "attempt_nr": one.attempt_nr}
        told = tuple(
            m.LogPiece(**at, stream="stdout", offset=offset, text=text, final=True)
            for offset, text in pieces
        )
        if told:
            worker.call("log_pieces", m.LogPieces(pieces=told), answer=m.Done)
        usage = m.Usage(stdout_bytes=size)
        report = m.Report(**at, report_key=one.report_key, finished=True, usage=usage)
        worker.call("report", m.Reports(reports=(report,)), answer=m.ReportVerdicts)
        return job

    return end


@pytest.mark.field("H2")
def test_a_log_that_is_cut_shows_its_end_and_says_so(run, ended_with):
    job = ended_with((0, "begin\n"), (22_900_000, "end\n"), size=22_900_004)
    ran = run("logs", job)
    assert ran.out == "begin\n\n[22,899,994 bytes are not kept here]\nend\n"
    assert "10 of the 22,900,004 bytes of stdout are kept here" in ran.err
    assert "log: whole" in ran.err
    assert ran.code == 0


@pytest.mark.field("H2")
def test_a_log_of_which_nothing_is_kept_is_66(run, ended_with):
    ran = run("logs", ended_with(size=1000))
    assert (ran.code, ran.out) == (exits.NO_INPUT, "")
    assert "0 of the 1,000 bytes of stdout are kept here" in ran.err


@pytest.mark.field("H2")
def test_a_log_that_is_all_there_needs_no_words(run, ended_with):
    ran = run("logs", ended_with((0, "all\n"), size=4))
    assert (ran.code, ran.out, ran.err) == (0, "all\n", "")


def test_an_attempt_that_a_job_does_not_have_is_66(run, jobfile):
    (job,) = ids(run("submit", jobfile(ONE)))
    ran = run("logs", job, "--follow", "--attempt", "99")
    assert ran.code == exits.NO_INPUT
    assert f"job {job} has no attempt 99 (none of it has begun)" in ran.err


def test_wait_of_a_job_that_can_never_run_says_so(run, jobfile, pilot_of):
    name = jobfile("name: huge\ncommand: exit 0\nqueue: small\ncores: 5000\n")
    (job,) = ids(run("submit", name))
    pilot_of("small")
    ran = run("wait", job)
    assert run("why", job, "--json").code == ran.code == exits.NEVER
    assert ran.err
    refused = run("submit", name)
    assert refused.code == exits.DATA
    assert "jobs.yaml:4: jobs[0].cores: no queue can ever run job 'huge'" in refused.err
    assert run("cancel", job).code == 0
    assert run("wait", job).code == 1


@pytest.mark.field("H6")
def test_wait_of_jobs_that_wait_for_one_that_can_never_run_ends(run, jobfile, pilot_of):
    text = (
        "- {name: huge, command: x, queue: tiny, cores: 5000}\n"
        "- {name: 'child-{n}', command: x, queue: tiny, depends_on: [huge], sweep: {n: {from: 1, to: 30}}}\n"
    )
    all_ = ids(run("submit", jobfile(text)))
    pilot_of("tiny")
    ran = run("wait", *all_[1:], "--timeout", "60s")
    assert ran.code == exits.NEVER
    assert f"it waits for job {all_[0]}" in ran.err
    assert "and 10 more jobs like these" in ran.err
    run("cancel", all_[0])


def test_wait_gives_up_after_its_time(run, jobfile):
    (job,) = ids(run("submit", jobfile("name: slow\ncommand: x\nqueue: nobody\n")))
    assert run("wait", job, "--timeout", "0.1s").code == exits.TRY_AGAIN


@pytest.mark.field("K7")
def test_wait_gives_up_after_its_time_though_nobody_answers(run, silent_door):
    began = time.monotonic()
    ran = run("wait", "1", "--timeout", "0.5s", "--url", silent_door)
    assert ran.code == exits.TRY_AGAIN
    assert "no dispatcher answers" in ran.err
    assert time.monotonic() - began < 5.0


@pytest.mark.field("K7")
def test_a_wait_in_python_gives_up_after_its_time_though_nobody_answers(silent_door):
    began = time.monotonic()
    with pytest.raises(Unreachable):
        Client(silent_door).wait([1], 0.2)
    assert time.monotonic() - began < 10.0


@pytest.mark.field("K7")
def test_who_waits_for_an_answer_is_told_so_and_not_at_each_try(capsys):
    moments = iter([0.0, 0.5, 1.2, 5.0, 62.0, 63.0, 500.0, 500.5, 501.5])
    silence = Silence("http://h", clock=moments.__next__)
    said = []
    for _ in range(9):
        silence("Connection refused")
        said.append(bool(capsys.readouterr().err))
    assert said == [False, False, True, False, True, False, False, False, True]
