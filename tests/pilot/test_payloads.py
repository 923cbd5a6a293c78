"""Real payloads through a real pilot and dispatcher: what they may do, and what they may not."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ailurus.protocol.api import LogQuery
from ailurus.protocol.errors import Code
from ailurus.protocol.job import InputFile, OutputFile
from ailurus.protocol.states import JobState
from tests.pilot.helpers import Field, SlowStore, processes_with
from tests.rig.waiting import until

pytestmark = pytest.mark.real


def code_of(detail) -> Code:
    return Code(detail.attempts[-1].code)


def test_outputs_are_in_storage_with_their_checksum(field: Field) -> None:
    detail = field.run("printf hello > o.txt", outputs=(OutputFile(name="o.txt"),))
    assert detail.row.state is JobState.FINISHED
    (file,) = detail.files
    path = Path(file.url.removeprefix("file://"))
    assert path.name == f"{detail.row.job_id}.1.o.txt"
    assert path.read_text(encoding="utf-8") == "hello"
    assert (file.size, file.adler32) == (5, f"{zlib.adler32(b'hello'):08x}")


LONG = "yes a line of twenty byte | head -c 22900000; echo the end"


@pytest.mark.field("H2")
def test_the_end_of_a_long_output_is_kept_though_nobody_watched(field: Field) -> None:
    detail = field.run(LONG, memory_mb=500)
    assert detail.row.state is JobState.FINISHED
    chunk = field.dispatcher.client.log(detail.row.job_id)
    assert chunk.text.endswith("the end\n")
    assert (chunk.size, chunk.skipped) == (22_900_008, chunk.size - chunk.kept)
    assert detail.files == ()


@pytest.mark.field("H2")
def test_a_whole_log_is_at_the_dispatcher_and_in_storage(field: Field) -> None:
    detail = field.run("seq 1 200000", log="whole")
    text, offset = "", -1
    while offset != (offset := len(text)):
        text += field.dispatcher.client.log(detail.row.job_id, LogQuery(offset=offset)).text
    wanted = "".join(f"{n}\n" for n in range(1, 200_001))
    assert text == wanted
    (kept,) = detail.files
    with tarfile.open(kept.url.removeprefix("file://")) as tar:
        member = tar.extractfile(f"{detail.row.job_id}.1/stdout")
        assert member is not None
        assert member.read().decode() == wanted


def test_inputs_are_checked_and_there(field: Field) -> None:
    (field.storage / "in.txt").write_text("data")
    url = f"file://{field.storage}/in.txt"
    good = InputFile(name="x", url=url, adler32=f"{zlib.adler32(b'data'):08x}", size=4)
    assert field.run("test $(cat x) = data", inputs=(good,)).row.state is JobState.FINISHED
    bad = InputFile(name="x", url=url, adler32="00000001")
    assert code_of(field.run("true", inputs=(bad,))) is Code.GET_ADLER_MISMATCH


@pytest.mark.parametrize("path", ["/proc/self/environ", "{storage}/../secret", "{storage}/link"])
def test_an_input_outside_the_storage_is_refused_by_name(field: Field, path: str) -> None:
    secret = field.directory / "secret"
    secret.write_text("canary-file")
    (field.storage / "link").symlink_to(secret)
    url = "file://" + path.format(storage=field.storage)
    detail = field.run("cat x", inputs=(InputFile(name="x", url=url),))
    assert detail.row.state is JobState.FAILED
    assert "canary-file" not in field.dispatcher.log(detail.row.job_id)
    assert "inputs[0]" in detail.row.diagnosis


@pytest.mark.parametrize("make", ["ln -s /etc/passwd o", "mkfifo o", "mkdir o"])
def test_an_output_that_is_no_regular_file_is_refused(field: Field, make: str) -> None:
    detail = field.run(make, outputs=(OutputFile(name="o"),))
    assert code_of(detail) is Code.OUTPUT_UNSAFE
    assert detail.row.diagnosis.startswith("outputs[0].name: 'o' is ")
    assert "only a regular file can be an output" in detail.row.diagnosis
    assert [file.name for file in detail.files] == ["log.tgz"]


def test_a_missing_output_and_a_failing_payload_say_so(field: Field) -> None:
    assert code_of(field.run("true", outputs=(OutputFile(name="o"),))) is Code.MISSING_OUTPUT
    detail = field.run("echo went wrong >&2; exit 3")
    assert (code_of(detail), detail.attempts[-1].exit_code) == (Code.PAYLOAD_FAILED, 3)
    assert "went wrong" in detail.attempts[-1].stderr_tail


LOOK = r"""
cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\0' '\n'
find / -xdev -name '*token*' -not -path '/usr/*' -not -path '/proc/*' 2>/dev/null
r=root; cat /proc/*/$r/etc/hostname 2>/dev/null
env; ls -l /proc/self/fd; ls /proc | grep -c '^[0-9]'
cat {spool}/* {work}/*/* {token} 2>&1
"""


def test_p1_p2_a_payload_finds_no_credential_of_anybody(field: Field) -> None:
    token = field.dispatcher.pilot_token
    command = LOOK.format(
        spool=field.directory / "work/spool", work=field.directory / "work", token=token
    )
    detail = field.run(command + "true")
    said = field.dispatcher.log(detail.row.job_id) + field.dispatcher.log(
        detail.row.job_id, "stderr"
    )
    assert detail.row.state is JobState.FINISHED
    assert "AILURUS_JOB_ID" in said  # it did look, and did see its own environment
    for canary in ("canary-environment", token.read_text(), "report_key", "AILURUS_TOKEN_FILE"):
        assert canary not in said
    for word in ("TOKEN=", "PROXY=", "X509", "SSH_", "PANDA_AUTH"):
        assert word not in said.upper().replace("AILURUS_TOKEN_FILE", "")


def test_p4_a_payload_writes_nowhere_but_in_its_own_directory(field: Field) -> None:
    outside = [field.storage / "hack", field.directory / "work/spool/hack", Path("/usr/hack")]
    tries = "".join(f"echo x > {path}; ln -s / l; echo x > l{path};" for path in outside)
    assert field.run(tries + "true").row.state is JobState.FINISHED
    assert not any(path.exists() for path in outside)


def test_p7_a_flood_of_output_ends_only_that_job(field: Field) -> None:
    field.write_site(limits={"grace": 1, "stdout": "1M"})
    flood = field.submit("yes")
    calm = field.submit("sleep 1; echo fine")
    pilot = field.pilot("--max-jobs", "2")
    assert code_of(field.dispatcher.final(flood)) is Code.STDOUT_TOO_BIG
    assert field.dispatcher.final(calm).row.state is JobState.FINISHED
    assert pilot.ended() == 0


def test_p8_signals_reach_neither_pilot_nor_neighbour(field: Field) -> None:
    neighbour = field.submit("sleep 2; echo fine")
    attacker = field.submit(f"kill -9 -1; kill -9 {os.getpid()} 1; true")
    pilot = field.pilot("--max-jobs", "2")
    field.dispatcher.final(attacker)
    assert field.dispatcher.final(neighbour).row.state is JobState.FINISHED
    assert pilot.ended() == 0


def test_p9_without_asking_there_is_no_network(field: Field) -> None:
    port = field.dispatcher.url.rpartition(":")[2]
    connect = (
        f"{sys.executable} -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 3)'"
    )
    command = connect.replace(sys.executable, "/usr/bin/python3")
    if subprocess.run(
        ["/usr/bin/python3", "--version"], check=False, capture_output=True
    ).returncode:
        pytest.skip("no /usr/bin/python3 to try with")
    detail = field.run(command)
    assert detail.attempts[-1].exit_code == 1
    assert (
        "refused" in detail.attempts[-1].stderr_tail
        or "unreachable" in detail.attempts[-1].stderr_tail
    )
    assert field.run(command, network=True).row.state is JobState.FINISHED


def test_p10_a_forged_report_in_the_directory_is_only_a_file(field: Field) -> None:
    forged = json.dumps({"job_id": 1, "attempt_nr": 1, "finished": True, "report_key": "x"})
    detail = field.run(f"echo '{forged}' > report.json; echo '{forged}'; exit 4")
    assert (detail.row.state, detail.attempts[-1].exit_code) == (JobState.FAILED, 4)


@pytest.mark.parametrize(
    ("command", "fields", "code"),
    [
        ("sleep 60", {"walltime_s": 1}, Code.WALLTIME),
        (
            "exec /usr/bin/python3 -c 'x = bytearray(600 << 20); import time; time.sleep(30)'",
            {},
            Code.OVER_MEMORY,
        ),
        ("head -c 400M /dev/zero > f; sleep 30", {}, Code.WORKDIR_TOO_LARGE),
    ],
)
def test_a_limit_passed_ends_the_job_with_pandas_code(field: Field, command, fields, code) -> None:
    detail = field.run(command, **fields)
    assert code_of(detail) is code


def test_a_cancelled_job_is_killed_within_a_heartbeat_or_two(field: Field) -> None:
    job_id = field.submit("sleep 300", environment={"MARK": "cancel-me-please"})
    pilot = field.pilot("--max-jobs", "1")
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    field.dispatcher.client.cancel([job_id])
    began = time.monotonic()
    assert pilot.ended() == 0
    assert time.monotonic() - began < 8
    assert not processes_with("cancel-me-please")


ESCAPE = "setsid sleep 300 & (setsid sh -c 'sleep 300 & sleep 300' &) ; sleep 300"


@pytest.mark.parametrize("container", ["bubblewrap", "bare"])
def test_p6_kill_9_of_the_pilot_leaves_nothing_and_the_next_one_says_so(
    field: Field, container
) -> None:
    field.write_site(container={"default": container, "bare": container == "bare"})
    mark = f"escape-{container}-{os.getpid()}"
    job_id = field.submit(ESCAPE, environment={"MARK": mark}, max_attempts=2)
    pilot = field.pilot()
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    until(lambda: processes_with(mark))
    pilot.signal(signal.SIGKILL)
    until(lambda: not processes_with(mark), 10)
    following = field.pilot("--max-jobs", "1")  # on the same spool
    detail = until(lambda: _attempts(field, job_id, 2))
    # who is quicker tells: the next pilot, from the spool, or the dispatcher, whose lease is short
    # here
    assert detail.attempts[0].code in (Code.KILL_SIGNAL, Code.LOST_HEARTBEAT)
    field.dispatcher.client.cancel([job_id])
    following.ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_r11_a_pilot_that_ends_in_the_middle_of_stage_out_leaves_nothing_of_that_attempt(
    field: Field, slow_store: SlowStore, number
) -> None:
    field.write_site(
        storage={
            "roots": [str(field.storage)],
            "default_output": f"file://{field.storage}/out",
            "http_allow": [slow_store.url],
        }
    )
    outputs = (OutputFile(name="a"), OutputFile(name="b", url=slow_store.url + "/out"))
    job_id = field.submit("echo 1 > a; echo 2 > b", outputs=outputs, max_attempts=2)
    first = field.pilot()
    assert slow_store.asked.wait(20)
    assert (field.storage / "out" / f"{job_id}.1.a").exists()
    first.signal(number)
    first.ended()
    slow_store.patient.set()
    second = field.pilot("--max-jobs", "1")  # on the same spool
    detail = field.dispatcher.final(job_id, 60)
    assert second.ended() == 0
    assert (detail.row.state, detail.row.attempt_nr) == (JobState.FINISHED, 2)
    outputs_of_2 = {f"{job_id}.2.a"}
    until(lambda: {path.name for path in (field.storage / "out").glob("*[ab]")} == outputs_of_2)
    until(lambda: set(slow_store.files) == {f"/out/{job_id}.2.b"})


@pytest.fixture
def slow_store() -> Iterator[SlowStore]:
    made = SlowStore()
    yield made
    made.close()


def _attempts(field: Field, job_id: int, count: int):
    detail = field.dispatcher.client.show(job_id)
    return detail if len(detail.attempts) >= count else None


@pytest.mark.parametrize("early", ["stopped one", "second one"])
def test_r2_a_pilot_that_comes_back_after_its_lease_changes_nothing_that_is_decided(
    field: Field, early: str
) -> None:
    """Whichever attempt reports first counts; the other's outputs go."""
    go = field.directory / "go"
    field.write_site(container={"default": "bare", "bare": True})  # each pilot a spool of its own
    wait = f"until test -e {go}-${{AILURUS_ATTEMPT##*.}}; do sleep 0.05; done; echo 1 > o"
    job_id = field.submit(wait, outputs=(OutputFile(name="o"),), max_attempts=3)
    stopped = field.pilot("--max-jobs", "1", directory="one")
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    stopped.signal(signal.SIGSTOP)
    second = field.pilot("--max-jobs", "1", directory="two")
    until(lambda: _attempts(field, job_id, 2))
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    winner = 2 if early == "second one" else 1
    if winner == 2:
        Path(f"{go}-2").touch()
        field.dispatcher.final(job_id)
        Path(f"{go}-1").touch()
        stopped.signal(signal.SIGCONT)
    else:
        Path(f"{go}-1").touch()
        stopped.signal(signal.SIGCONT)
        field.dispatcher.final(job_id)
    stopped.ended()
    second.ended()
    detail = field.dispatcher.client.show(job_id)
    assert detail.row.state is JobState.FINISHED
    assert [attempt.attempt_nr for attempt in detail.attempts if attempt.state == "finished"] == [
        winner
    ]
    assert {path.name for path in (field.storage / "out").glob("*.o")} == {f"{job_id}.{winner}.o"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU])
def test_a_signal_ends_the_pilot_gracefully_with_a_report(field: Field, number) -> None:
    job_id = field.submit("sleep 300")
    pilot = field.pilot()
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    pilot.signal(number)
    assert pilot.ended(15) != 0
    code = {
        signal.SIGTERM: Code.SIGTERM,
        signal.SIGUSR1: Code.SIGUSR1,
        signal.SIGXCPU: Code.SIGXCPU,
    }
    detail = field.dispatcher.client.show(job_id)
    assert Code(detail.attempts[0].code) is code[number]
    # the job's fault it was not: it waits for another pilot, and the one that ends did not get it
    # again
    assert detail.row.state is JobState.ACTIVATED
    assert len(detail.attempts) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_payload_that_gets_its_sites_signal_before_the_pilot_has_not_failed(
    field: Field, number
) -> None:
    """Slurm signals all processes of a job that it ends, requeues or preempts."""
    field.write_site(container={"default": "bare", "bare": True})
    mark = f"3000.{time.time_ns()}"
    job_id = field.submit(f"exec sleep {mark}")
    pilot = field.pilot()
    field.dispatcher.in_state(job_id, JobState.RUNNING)
    (payload,) = until(lambda: processes_with(mark), 10)
    os.kill(payload, number)
    until(lambda: not processes_with(mark))  # the pilot now waits a second for a signal of its own
    pilot.signal(signal.SIGTERM)
    pilot.ended(15)
    detail = field.dispatcher.client.show(job_id)
    assert Code(detail.attempts[0].code) is Code.SIGTERM
    assert detail.row.state is JobState.ACTIVATED


def test_bare_is_refused_unless_the_site_allows_it(field: Field) -> None:
    field.write_site(container={"default": "bare"})
    pilot = field.pilot()
    assert pilot.ended() != 0
    assert pilot.process.stderr is not None
    assert "bare" in pilot.process.stderr.read()


def test_reports_wait_on_disk_while_the_dispatcher_is_down(frail: Field) -> None:
    job_id = frail.submit("sleep 1; echo done")
    pilot = frail.pilot("--max-jobs", "1")
    frail.dispatcher.in_state(job_id, JobState.RUNNING)
    frail.dispatcher.kill()
    until(lambda: pilot.said("job_ended") and pilot.said("dispatcher_silent"))
    frail.dispatcher.start()
    assert frail.dispatcher.final(job_id).row.state is JobState.FINISHED
    assert pilot.ended() == 0


def test_r7_a_job_that_only_a_newer_pilot_understands_is_left_to_one(frail: Field) -> None:
    job_id = frail.submit("true")
    frail.dispatcher.kill()
    with closing(sqlite3.connect(frail.dispatcher.directory / "queue.db")) as store, store:
        (spec,) = store.execute("select spec from body where job_id = ?", (job_id,)).fetchone()
        newer = json.dumps({**json.loads(spec), "colour": "red"}).encode()
        store.execute("update body set spec = ? where job_id = ?", (newer, job_id))
    store.close()
    frail.dispatcher.start()
    pilot = frail.pilot()
    assert pilot.ended(60) == 78
    assert "colour" in pilot.log.read_text()
    with closing(sqlite3.connect(frail.dispatcher.directory / "queue.db")) as store, store:
        assert store.execute("select state from job where job_id = ?", (job_id,)).fetchone() == (
            "activated",
        )
    store.close()
