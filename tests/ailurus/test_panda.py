"""PanDA's words for jobs and updates, in both directions."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ailurus.protocol import messages as m
from ailurus.protocol import panda
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from ailurus.protocol.panda_job import PandaAttempt, read_attempt
from ailurus.protocol.panda_update import (
    JobUpdate,
    outputs_of,
    read_update,
    update_fields,
)
from ailurus.protocol.resources import Room
from ailurus.protocol.states import JobState
from ailurus.wire import panda as wire
from ailurus.wire.credentials import TokenFile
from ailurus.wire.panda_token import PandaToken, key_file
from dispatcher.panda import legacy, v1

RECORDED = Path(__file__).parents[1] / "recorded" / "panda"
ROOM = Room(cores=8, memory_mb=16_000, disk_mb=100_000)

letters = string.ascii_letters + string.digits + "_"
names = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from(letters),
    st.text(alphabet=letters + ".:+@=-", max_size=20),
)
texts = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60
)
urls = st.builds(lambda path: f"file:///s/{path}", names)
inputs = st.builds(
    InputFile,
    name=names,
    url=urls,
    size=st.none() | st.integers(0, 2**63 - 1),
    adler32=st.none() | st.from_regex(r"\A[0-9a-f]{8}\Z"),
)
outputs = st.builds(
    OutputFile,
    name=names,
    url=st.just("") | urls,
    optional=st.booleans(),
    scope=st.just("") | st.just("user.ann"),
)
jobs = st.builds(
    JobSpec,
    name=names,
    command=texts,
    script=texts,
    inputs=st.lists(inputs, max_size=3).map(tuple),
    outputs=st.lists(outputs, max_size=3).map(tuple),
    container=texts.filter(lambda word: not word or word not in panda.NOTHING),  # refused at submit
    cores=st.integers(1, 1000),
    memory_mb=st.integers(1, 10**8),
    disk_mb=st.integers(1, 10**8),
    gpus=st.integers(0, 8),
    nodes=st.integers(1, 100),
    walltime_s=st.none() | st.integers(1, 31_536_000),
    environment=st.dictionaries(
        st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,9}\Z"), texts, max_size=3
    ),
    network=st.booleans(),
    priority=st.integers(-(10**6), 10**6),
    max_attempts=st.none() | st.integers(1, 100),
    log=st.sampled_from(["end", "whole"]),
)
sents = st.builds(
    panda.PandaJob,
    job_id=st.integers(1, 2**63 - 1),
    attempt_nr=st.integers(1, 10**6),
    spec=jobs,
    owner=names,
    transformation=st.just("http://h/trf/user/runailurus"),
    queue=names,
    storage=st.just("") | names,
    log_storage=st.just("") | names,
    mark=st.just("") | st.just("abcdefgh"),
    rucio=st.booleans(),
    place=st.just("") | st.just("file:///place/"),
)


@settings(max_examples=60)
@given(sents)
def test_any_job_survives_text_and_json(sent):
    dictionary = panda.job_dictionary(sent)
    as_text = dict(parse_qsl(panda.to_text(dictionary), keep_blank_values=True))
    as_json = json.loads(json.dumps(dictionary))
    for one in (as_text, as_json):
        back = panda.read_job(one)
        assert back.spec == sent.spec
        assert (back.job_id, back.attempt_nr) == (sent.job_id, sent.attempt_nr)
        assert back.owner == sent.owner


def test_our_pilot_reports_an_output_by_the_name_that_the_dictionary_has():
    hits, seen = OutputFile(name="hits", scope="user.ann"), OutputFile(name="seen")
    spec = JobSpec(name="j", command="x", outputs=(hits, seen))
    sent = panda.PandaJob(job_id=5, attempt_nr=2, spec=spec, mark="abcdefgh", storage="SE")
    told = panda.job_dictionary(msgspec.structs.replace(sent, transformation="http://h/runailurus"))
    got = read_attempt(told, ROOM, lambda _: pytest.fail("it is not too long"))
    assert panda.listing(told["outFiles"]) == [got.lfn("hits"), got.lfn("seen")]
    assert got.lfn("hits") == "abcdefgh.5.2.hits"
    assert got.lfn("seen") == "5.2.seen"


@settings(max_examples=60)
@given(sents)
def test_positional_lists_have_one_entry_for_each_file(sent):
    job = panda.job_dictionary(sent)
    files = len(panda.listing(job["outFiles"]))
    for name in (
        "realDatasets",
        "destinationDblock",
        "fileDestinationSE",
        "dispatchDBlockTokenForOut",
    ):
        assert len(job[name].split(",")) == max(1, files), name
    logs = 1 if job["logFile"] else 0
    assert len(panda.listing(job["scopeOut"])) == files - logs
    assert not job["logFile"] or job["outFiles"].split(",")[-1] == job["logFile"]


amounts = st.integers(0, 10**12)
usages = st.builds(
    m.Usage, cpu_s=st.floats(0, 1e9), max_rss_kb=amounts, rss_kb=amounts, read_bytes=amounts
)
tolds = st.builds(
    JobUpdate,
    job_id=st.integers(1, 2**62),
    state=st.sampled_from(["starting", "running", "finished", "failed"]),
    attempt_nr=st.integers(1, 100),
    started=st.none() | st.floats(1, 2**32),
    exit_code=st.none() | st.integers(-255, 255),
    code=st.none() | st.integers(0, 10_000),
    diagnosis=texts,
    cpu_s=st.none() | amounts,
    max_rss_kb=st.none() | amounts,
    log=texts,
    stdout=texts,
)


@settings(max_examples=60)
@given(tolds)
def test_no_update_that_we_send_is_refused_for_its_names_or_types(update):
    v1.bound(v1.METHODS["pilot/update_job"], "POST", update_fields(update, "v1"))
    legacy.checked("updateJob", update_fields(update, "legacy"))


@settings(max_examples=60)
@given(tolds)
def test_an_update_is_read_as_it_was_said_in_both_spellings(update):
    as_text = {name: str(value) for name, value in update_fields(update, "legacy").items()}
    one, other = read_update(update_fields(update, "v1"), "v1"), read_update(as_text, "legacy")
    assert one == other
    assert (one.job_id, one.state, one.code) == (update.job_id, update.state, update.code)


@given(
    st.dictionaries(
        st.sampled_from([key.name for key in panda.JOB]),
        st.none() | st.text(max_size=20) | st.integers() | st.floats() | st.lists(st.integers()),
    )
)
def test_a_dictionary_of_anything_is_a_job_or_a_valueerror(job):
    try:
        got = read_attempt(job, ROOM, lambda _: JobSpec(name="fetched"))
    except ValueError:
        return
    assert isinstance(got.spec, JobSpec)


# --- jobs of real PanDA servers -------------------------------------------------------------------


@pytest.fixture
def theirs() -> dict[str, Any]:
    """A job as the real server 1.0.4 handed it out."""
    lines = (RECORDED / "server-1.0.4-answers.jsonl").read_text().splitlines()
    return json.loads(lines[0].replace(":PORT/", ":25080/"))["answer"]["data"]["jobs"][0]


def test_a_foreign_job_is_its_transform_with_arguments(theirs):
    got = read_attempt(theirs, ROOM, lambda _: pytest.fail("nothing to fetch"))
    assert got.id == (1364, 1)
    assert got.spec.command.startswith('chmod +x runcmd && ./runcmd -p "echo%20hello')
    assert [file.url for file in got.spec.inputs] == ["http://127.0.0.1:25080/trf/user/runcmd"]
    assert [file.name for file in got.spec.outputs] == ["nulljob.out"]
    assert got.log == "1364.nulljob.log.tgz"
    assert got.spec.walltime_s == 3600


def test_a_foreign_input_carries_its_scope_size_and_checksum(theirs):
    job = {
        **theirs,
        "inFiles": "a.root,b.root",
        "scopeIn": "user.x,user.y",
        "fsize": "7,8",
        "checksum": "ad:0000abcd,md:" + "0" * 32,
    }
    one, two, _ = read_attempt(job, ROOM, lambda _: JobSpec(name="x")).spec.inputs
    assert (one.url, one.size, one.adler32) == ("rucio://user.x:a.root", 7, "0000abcd")
    assert (two.url, two.size, two.md5) == ("rucio://user.y:b.root", 8, "0" * 32)


@pytest.mark.field("L1")
def test_a_foreign_file_is_named_by_the_path_of_its_url(theirs):
    job = {
        **theirs,
        "transformation": "https://h/trf/run?token=a/b",
        "inFiles": "https://h/x.root?sig=c/d",
        "scopeIn": "user.x",
    }
    spec = read_attempt(job, ROOM, lambda _: JobSpec(name="x")).spec
    assert [file.name for file in spec.inputs] == ["x.root", "run"]
    assert spec.command.startswith("chmod +x run && ./run ")


def test_an_input_of_size_0_is_one_whose_size_the_server_does_not_know(theirs):
    job = {**theirs, "inFiles": "a.root", "scopeIn": "user.x", "fsize": "0", "checksum": "NULL"}
    one, _ = read_attempt(job, ROOM, lambda _: JobSpec(name="x")).spec.inputs
    assert (one.size, one.adler32, one.md5) == (None, None, None)


def test_a_foreign_job_is_no_larger_than_the_worker(theirs):
    job = {**theirs, "coreCount": 64, "minRamCount": 10**6}
    spec = read_attempt(job, ROOM, lambda _: JobSpec(name="x")).spec
    assert (spec.cores, spec.memory_mb) == (8, 16_000)


def test_what_the_adder_needs_of_outputs_and_log_is_reported(theirs):
    job = read_attempt(theirs, ROOM, lambda _: JobSpec(name="x"))
    files = [
        m.DoneFile(
            name="nulljob.out", url="file:///s/1364.1.nulljob.out", size=6, adler32="084b021f"
        ),
        m.DoneFile(name="log.tgz", url="file:///s/1364.1.log.tgz", size=100, adler32="00000001"),
    ]
    listed, kept = outputs_of(files, job)
    assert set(listed) == set(theirs["outFiles"].split(","))
    assert kept == []
    out = listed["nulljob.out"]
    assert (out["fsize"], out["adler32"], out["surl"]) == (6, "084b021f", files[0].url)
    assert out["endpoint"] == "STUB_DISK"
    assert len(out["guid"]) == 36
    assert outputs_of(files, job) == (listed, kept), "said again, it is the same"


def test_another_pilot_can_report_from_the_spool_what_this_one_would(theirs):
    job = read_attempt(theirs, ROOM, lambda _: JobSpec(name="x"))
    files = [m.DoneFile(name="log.tgz", url="file:///s/l", size=1, adler32="00000001")]
    listed, _ = outputs_of(files, PandaAttempt.of_key(job.id, job.key))
    assert set(listed) == {"1364.nulljob.log.tgz"}


# --- the back channel -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "answered", "expected"),
    [
        ("", False, []),
        ("tobekilled", False, [m.Action.KILL]),
        ("debug,tobekilled", False, [m.Action.KILL]),
        ("alreadydone", False, [m.Action.KILL]),
        ("badattemptnr", False, [m.Action.KILL]),
        ("softkill", False, [m.Action.SOFT_KILL]),
        ("tail payload.stdout", False, [m.Action.TAIL]),
        ("tail payload.stdout", True, []),
        ("debug", False, [m.Action.TAIL]),
        ("nocleanup", False, []),
    ],
)
def test_commands_of_the_back_channel_are_understood(words, answered, expected):
    found = wire._commands(1, 1, words, answered=answered)
    assert [one.action for one in found] == expected


class Server:
    """What a PanDA server would answer, in order."""

    def __init__(self, client: wire.PandaClient, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        client._client.request = self.request  # type: ignore[method-assign]

    def request(self, method, path, body=None, **_: object):
        self.asked.append((path, json.loads(body or b"{}")))
        return 200, json.dumps(self.answers.pop(0)).encode()


def client() -> wire.PandaClient:
    who = m.Register(instance="i", queue="Q", host="n1", total=ROOM)
    return wire.PandaClient("http://127.0.0.1:1", None, "v1", who, sleep=lambda _: None)


def update(code: int, command: str | None = None, *, success: bool = True) -> dict[str, Any]:
    return {"success": success, "message": "", "data": {"StatusCode": code, "command": command}}


def test_a_success_with_a_status_code_of_trouble_is_none():
    speaker = client()
    server = Server(speaker, update(30), update(10), update(0, "NULL"))
    news = m.Update(job_id=1, attempt_nr=1, state=JobState.RUNNING, since=1.0)
    beat = m.Beat(jobs=(news,), room=ROOM)
    for _ in range(2):
        with pytest.raises(wire.Unreachable):
            speaker.call("beat", beat, answer=m.BeatAnswer)
    assert speaker.call("beat", beat, answer=m.BeatAnswer).commands == ()
    assert {asked["job_status"] for _, asked in server.asked} == {"running"}


def test_staging_out_is_no_holding_there():
    speaker = client()
    server = Server(speaker, update(0, "NULL"))
    news = m.Update(job_id=1, attempt_nr=1, state=JobState.HOLDING, since=1.0)
    speaker.call("beat", m.Beat(jobs=(news,), room=ROOM), answer=m.BeatAnswer)
    assert server.asked[0][1]["job_status"] == "running"


@pytest.mark.parametrize("command", ["alreadydone", "tobekilled", None])
def test_no_answer_to_a_report_makes_the_pilot_delete_its_outputs(command):
    """It may be the answer to the same report, come twice: the first one counted."""
    speaker = client()
    Server(speaker, update(0, command))
    report = m.Report(job_id=1, attempt_nr=1, report_key="lfn:", finished=True, ended=1.0)
    answer = speaker.call("report", m.Reports(reports=(report,)), answer=m.ReportVerdicts)
    assert [one.verdict for one in answer.verdicts] == ["accepted"]


def test_an_unreadable_job_is_failed_at_once_and_not_left_to_time_out():
    speaker = client()
    bad = {"StatusCode": 0, "PandaID": 5, "attemptNr": 2, "transformation": "NULL"}
    server = Server(
        speaker,
        {"success": True, "message": "", "data": {"StatusCode": 0, "jobs": [bad]}},
        update(0, "NULL"),
    )
    ask = m.Acquire(request_id="r", room=ROOM)
    assert speaker.call("acquire", ask, answer=m.Acquired).jobs == ()
    path, said_of_it = server.asked[1]
    assert path == "/api/v1/pilot/update_job"
    assert (said_of_it["job_id"], said_of_it["job_status"]) == (5, "failed")


def test_yes_sent_for_a_number_is_kept_as_a_number():
    assert json.dumps(read_update({"maxRSS": True}, "legacy").max_rss_kb) == "1"


# --- the token ------------------------------------------------------------------------------------


@pytest.fixture
def renewable(tmp_path):
    (tmp_path / "key").write_text("k\n")
    (tmp_path / "token").write_text("first")
    clock = [0.0]
    file = TokenFile(tmp_path / "token")
    token = PandaToken(file, tmp_path / "key", now=lambda: clock[0])
    return token, clock, tmp_path / "token"


def test_a_token_is_renewed_each_hour_as_pilot_3_does(renewable):
    token, clock, _ = renewable
    asked = []

    def answer(ask):
        asked.append(dict(ask))
        return {"success": True, "data": {"user_proxy": f"renewed-{len(asked)}"}}

    for clock[0] in (0.0, 10.0, 3599.0, 3600.0):
        token.renew(answer)
    assert asked == [{"client_name": "pilot_server", "token_key": "k"}] * 2
    assert token() == "renewed-2"


def test_a_renewal_that_fails_is_tried_again_and_the_old_token_goes_on(renewable):
    token, clock, _ = renewable
    answers = [
        {"success": False, "message": "no", "data": None},
        {"StatusCode": 50, "errorDialog": "no"},
        {"StatusCode": 0, "userProxy": "renewed"},
    ]
    for clock[0] in (0.0, 300.0):
        token.renew(lambda _: answers.pop(0))
        assert token() == "first"
    clock[0] = 600.0
    token.renew(lambda _: answers.pop(0))
    assert token() == "renewed"


def test_a_renewed_token_that_is_refused_gives_way_to_the_file(renewable):
    token, _, file = renewable
    token.renew(lambda _: {"StatusCode": 0, "userProxy": "renewed"})
    file.write_text("second")
    assert token(fresh=True) == "second"


def test_the_key_lies_where_pilot_3_looks_for_it():
    place = {"PANDA_AUTH_TOKEN_KEY": "key", "PANDA_AUTH_DIR": "/site/tokens/"}
    assert key_file(place) == Path("/site/tokens/key")
    assert key_file(place | {"PANDA_AUTH_TOKEN_KEY": "/own/key"}) == Path("/own/key")
    assert key_file({"PANDA_AUTH_DIR": "/site/tokens/"}) is None


def test_a_panda_server_s_403_makes_the_pilot_read_its_token_again(tmp_path):
    (tmp_path / "token").write_text("old")
    who = m.Register(instance="i", queue="Q", host="n1", total=ROOM)
    speaker = wire.PandaClient("http://127.0.0.1:1", TokenFile(tmp_path / "token"), "v1", who)
    sent = []

    def once(method, url, body, kind, wait_s, *, fresh):
        sent.append(speaker._client.token(fresh=fresh))
        (tmp_path / "token").write_text("new")
        if len(sent) == 1:
            return 403, b"ERROR : Token authentication failed."
        return 200, json.dumps(update(0, "NULL")).encode()

    speaker._client._once = once  # type: ignore[method-assign]
    news = m.Update(job_id=1, attempt_nr=1, state=JobState.RUNNING, since=1.0)
    speaker.call("beat", m.Beat(jobs=(news,), room=ROOM), answer=m.BeatAnswer)
    assert sent == ["old", "new"]
