"""What PanDA's pilots are told with their updates; and files, queues and forms at the door."""

from __future__ import annotations

import itertools
import json
from urllib.parse import parse_qsl

import pytest
from msgspec.structs import replace

from ailurus.protocol.api import TailQuery
from ailurus.protocol.job import OutputFile
from dispatcher.refusal import Rejected
from dispatcher.service.notices import TailRequest
from dispatcher.service.panda import updates
from tests.dispatcher.panda.conftest import ALICE, packed

# --- the back channel -----------------------------------------------------------------------------


def test_updates_after_the_end_are_answered_as_while_panda_registers_outputs(dispatcher, job):
    dispatcher.submit(job())
    got = dispatcher.get_job()
    assert dispatcher.update(got, "running") == "NULL"
    assert dispatcher.update(got, "failed", pilotErrorCode=1305) == "NULL"
    assert dispatcher.update(got, "running") == "NULL"
    assert dispatcher.update(got, "failed") == "alreadydone"
    dispatcher.forward(60)
    assert dispatcher.update(got, "running") == "alreadydone"


def test_a_job_without_its_outputs_fails_and_its_log_does_not_count(dispatcher, job):
    (job_id,) = dispatcher.submit(job(outputs=(OutputFile(name="o"),)))
    got = dispatcher.get_job()
    log = {"log.tgz": {"guid": "g", "fsize": 1, "adler32": "00000001"}}
    assert dispatcher.update(got, "finished", xml=json.dumps(log)) == "NULL"
    assert dispatcher.state(job_id) == "failed"


def test_a_second_batch_job_with_the_same_attempt_is_told_to_stop(dispatcher, job):
    dispatcher.submit(job())
    got = dispatcher.get_job()
    assert dispatcher.update(got, "running", batchID="a.pbs") == "NULL"
    assert dispatcher.update(got, "running", batchID="b.pbs") == "tobekilled"
    assert dispatcher.update(got, "running", batchID="a.pbs") == "NULL"
    assert dispatcher.update(got, "running", batchID="17") == "NULL"


def test_a_cancelled_job_s_pilot_is_told_to_stop(dispatcher, job):
    (job_id,) = dispatcher.submit(job())
    got = dispatcher.get_job()
    dispatcher.update(got, "running")
    dispatcher.cancel(job_id)
    assert dispatcher.update(got, "running") == "tobekilled"
    assert dispatcher.update(got, "failed", pilotErrorCode=1144) == "alreadydone"
    assert dispatcher.state(job_id) == "cancelled"


def test_debug_mode_brings_the_end_of_the_output_with_each_heartbeat(dispatcher, job):
    (job_id,) = dispatcher.submit(job())
    got = dispatcher.get_job()
    ask = {"pandaID": str(job_id), "modeOn": "True"}
    assert dispatcher.ask("/server/panda/setDebugMode", ask, "form").text == "Succeeded"
    assert dispatcher.update(got, "running") == "debug"
    assert dispatcher.update(got, "running", stdout="the last words") == "debug"
    assert dispatcher.service.state.leases.of(job_id).tail == "the last words"
    off = dispatcher.v1("job/set_debug_mode", {"job_id": job_id, "mode": False})
    assert off["success"]
    assert dispatcher.update(got, "running") == "NULL"
    ask["pandaID"] = "999"
    refused = dispatcher.ask("/server/panda/setDebugMode", ask, "form").text
    assert refused == "PandaID=999 not found in active DB"


def test_what_was_learnt_of_an_attempt_outlives_a_restart(dispatcher, job):
    (job_id,) = dispatcher.submit(job())
    got = dispatcher.get_job()
    dispatcher.update(got, "running", batchID="a.pbs")
    dispatcher.v1("job/set_debug_mode", {"job_id": job_id, "mode": True})
    dispatcher.restart()
    assert dispatcher.update(got, "running", batchID="b.pbs") == "tobekilled"
    assert dispatcher.update(got, "running", batchID="a.pbs") == "debug"
    dispatcher.update(got, "failed", pilotErrorCode=1144)
    facts = dispatcher.run(
        dispatcher.service.store.read(lambda tx: tx.all("fact.since", kind="attempt", since=0.0))
    )
    assert facts == []


@pytest.mark.field("P1")
def test_the_end_of_stdout_is_asked_for_by_a_word_that_pilot_3_bears(dispatcher, job):
    (job_id,) = dispatcher.submit(job())
    got = dispatcher.get_job()
    dispatcher.update(got, "running")
    dispatcher.run(dispatcher.service.peers.send(TailRequest(job_ids=(job_id,), text="stdout")))
    assert dispatcher.update(got, "running") == "debug"
    assert dispatcher.update(got, "running", stdout="words") == "NULL"
    look = TailQuery(file="stdout", wait_s=0)
    with pytest.raises(Rejected, match="has not answered yet"):
        dispatcher.run(dispatcher.service.users.tail(look, ALICE, job_id=job_id))
    for name in ("stderr", "payload.stdout", "x.root"):
        with pytest.raises(Rejected, match="shows the end of stdout and no other"):
            dispatcher.run(
                dispatcher.service.users.tail(TailQuery(file=name, wait_s=0), ALICE, job_id=job_id)
            )


@pytest.mark.field("P1")
def test_a_pilot_of_others_is_told_nothing_that_a_real_one_was_not_told_in_ci(dispatcher, job):
    (job_id,) = dispatcher.submit(job())
    dispatcher.get_job()
    lease = dispatcher.service.state.leases.of(job_id)
    said = set()
    for soft, tail, debug in itertools.product((False, True), ("", "stdout", "x"), (False, True)):
        lease.soft_kill, lease.tail_wanted = soft, tail
        lease.panda = replace(lease.panda, debug=debug)
        said.add(updates.command(lease))
    assert said == {None, "softkill", "debug"}


# --- a recorded Pilot 3 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recording", "state", "code"),
    [("pilot3-null-job", "finished", 0), ("pilot3-failing-payload", "failed", 1305)],
)
def test_every_request_of_a_recorded_pilot_3_is_answered_as_it_needs(
    dispatcher, job, recorded, recording, state, code
):
    """Version 3.11.5.1, which is not on PyPI; the one that is runs in tests/real."""
    outputs = (OutputFile(name="out.1001.txt"),)
    (job_id,) = dispatcher.submit(job(queue="STUB_QUEUE", outputs=outputs))
    for line in recorded(f"{recording}.jsonl"):
        if line["method"] == "GET":
            continue  # its transform: it asks for the one that the job names
        params = line["body"]["params"]
        if "jobId" in params:
            params["jobId"] = str(job_id)
        agent = {"user-agent": line["headers"]["User-Agent"]}
        body, headers = packed("gz", params)
        answer = dispatcher.raw("POST", line["path"], body, headers | agent)
        told = dict(parse_qsl(answer.text))
        assert (answer.status, told["StatusCode"]) == (200, "0")
        if "jobId" not in params:
            assert told["transformation"] == "http://127.0.0.1:8080/trf/user/runailurus"
        elif params["state"] in ("starting", "running"):
            assert told["command"] == "NULL"
    row = dispatcher.detail(job_id).row
    assert (row.state, row.code) == (state, code)


# --- files ----------------------------------------------------------------------------------------


def test_a_queue_is_described_before_it_has_seen_a_job(dispatcher):
    (name, whole) = dispatcher.raw("GET", "/cache/schedconfig/new.json").json.popitem()
    flat = dispatcher.raw("GET", "/cache/schedconfig/new.all.json").json
    assert (name, whole) == ("new", flat)
    assert flat["state"] == "ACTIVE"
