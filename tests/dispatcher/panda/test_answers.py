"""Answers that no recording in the tree holds, as the servers' sources of 0.8.1 and 1.0.4 give
them."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any
from urllib.parse import parse_qsl

import pytest
from msgspec.structs import replace

from ailurus.protocol.api import TailQuery
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec, OutputFile
from dispatcher.door.access_log import AccessLog, Traffic
from dispatcher.panda import bodies, queue_data, updates
from dispatcher.panda.door import PandaSettings
from dispatcher.refusal import Rejected
from dispatcher.rules import retention
from dispatcher.service.notices import TailRequest
from tests.dispatcher.panda.conftest import ALICE, Dispatcher, packed

WORKER = {
    "workerID": 42,
    "batchID": "28",
    "status": "submitted",
    "computingSite": "q",
    "nCore": 1,
    "jobType": "managed",
    "resourceType": "SCORE",
    "pandaid_list": [],
}
STATISTICS = json.dumps({"managed": {"SCORE": {"running": 1}}})
BROKEN = "database error in the PanDA server"
V1: list[tuple[str, str, Any, bool, str, Any]] = [
    # method, path, parameters, success, message, data
    ("GET", "harvester/get_current_worker_id", {"harvester_id": "nobody"}, False, BROKEN, None),
    ("POST", "harvester/heartbeat", {"harvester_id": "h"}, True, "", None),
    ("POST", "harvester/update_workers", {"harvester_id": "h", "workers": []}, True, "", []),
    ("POST", "harvester/update_workers", {"harvester_id": "h", "workers": [WORKER]}, True, "", [True]),
    ("GET", "harvester/get_current_worker_id", {"harvester_id": "h"}, True, "", 42),
    (
        "POST",
        "harvester/report_worker_statistics",
        {"harvester_id": "h", "panda_queue": "q", "statistics": STATISTICS},
        True,
        "OK",
        None,
    ),
    (
        "GET",
        "harvester/get_worker_statistics",
        {},
        True,
        "",
        {"q": {"h": json.loads(STATISTICS)}},
    ),
    ("POST", "harvester/acknowledge_commands", {"command_ids": [1, 2]}, True, "", None),
    (
        "POST",
        "harvester/add_dialogs",
        {
            "harvester_id": "h",
            "dialogs": [
                {
                    "diagID": 1,
                    "moduleName": "m",
                    "identifier": "i",
                    "creationTime": "2026-01-01 00:00:00.000000",
                    "messageLevel": "INFO",
                    "diagMessage": "hello",
                }
            ],
        },
        True,
        "",
        None,
    ),
    (
        "POST",
        "pilot/update_worker_status",
        {"worker_id": "42", "harvester_id": "h", "status": "started", "node_id": "n"},
        True,
        "",
        None,
    ),
    (
        "POST",
        "pilot/update_worker_status",
        {"worker_id": 42, "harvester_id": "h", "status": "dancing"},
        False,
        "Invalid worker state. The worker state has to be in ('started', 'finished')",
        None,
    ),
    (
        "POST",
        "pilot/update_worker_node",
        {"site": "s", "host_name": "n", "cpu_model": "c", "clock_speed": 2000.0},
        True,
        "Inserted new worker node.",
        None,
    ),
    (
        "POST",
        "pilot/update_worker_node",
        {"site": "s", "host_name": "n", "cpu_model": "c", "clock_speed": 2000},
        False,
        "Type error: 'clock_speed' must be of type float, got int.",
        None,
    ),
    (
        "POST",
        "pilot/update_worker_node_gpu",
        {"site": "s", "host_name": "n", "vendor": "NVIDIA", "model": "A100", "count": 4},
        True,
        "Inserted new worker node GPU.",
        None,
    ),
    (
        "POST",
        "pilot/update_worker_node_gpu",
        {"site": "s", "host_name": "n", "vendor": "NVIDIA", "model": "A100", "count": 4},
        True,
        "Updated existing worker node GPU.",
        None,
    ),
    ("GET", "job/get_status", {"job_ids": [999]}, True, "", [{"status": "unknown", "command": "tobekilled"}]),
    (
        "GET",
        "pilot/get_job_status",
        {"job_ids": [999]},
        True,
        "",
        [{"job_id": 999, "status": "not found", "attempt_number": 0}],
    ),
    (
        "GET",
        "pilot/get_job_status",
        {"job_ids": [-1, 2**63]},
        True,
        "",
        [
            {"job_id": -1, "status": "not found", "attempt_number": 0},
            {"job_id": 2**63, "status": "not found", "attempt_number": 0},
        ],
    ),
    (
        "GET",
        "pilot/get_job_status",
        {"job_ids": "9" * 41},
        False,
        f"Type error: 'job_ids' with value '['{'9' * 41}']' could not be casted to type List from list.",
        None,
    ),
    (
        "GET",
        "job/get_status",
        {"job_ids": "many"},
        False,
        "Type error: 'job_ids' with value '['many']' could not be casted to type List from list.",
        None,
    ),
    (
        "GET",
        "job/get_status",
        {"job_ids": 1, "timeout": "soon"},
        False,
        "Type error: 'timeout' with value 'soon' could not be casted to type int from str.",
        None,
    ),
    (
        "POST",
        "pilot/update_jobs_bulk",
        {"job_list": [{"job_status": "running"}]},
        False,
        "failed with KeyError 'job_id'",
        [],
    ),
    (
        "POST",
        "pilot/update_jobs_bulk",
        {"job_list": [{"job_id": 999, "job_status": "dancing"}]},
        True,
        "",
        [
            {
                "success": False,
                "message": "Invalid job status: dancing",
                "data": {"StatusCode": 50},
            }
        ],
    ),
    (
        "POST",
        "pilot/update_jobs_bulk",
        {"job_list": {"job_id": 1}},
        False,
        "Type error: 'job_list' must be of type list, got dict.",
        None,
    ),
    (
        "POST",
        "pilot/update_job",
        {"job_id": 999, "job_status": "running", "max_rss": 1.5, "mean_core_count": 1.5},
        False,
        "Type error: 'mean_core_count' must be of type int, got float.",
        None,
    ),
    ("POST", "pilot/update_job", {"job_id": 999, "job_status": "running", "max_rss": 10**30}, False,
     "Type error: 'max_rss' is too large.", None),
    ("POST", "pilot/update_job", {"job_id": 2**63, "job_status": "running"}, False,
     "Type error: 'job_id' is too large.", None),
    ("POST", "pilot/update_worker_node",
     {"site": "s", "host_name": "n", "cpu_model": "c", "total_memory": 10**30}, False,
     "Type error: 'total_memory' is too large.", None),
    ("GET", "event/get_available_event_range_count", {"job_id": 1, "jobset_id": 1, "task_id": 1}, True, "", 0),
    (
        "POST",
        "pilot/acquire_jobs",
        {"site_name": "nowhere", "resourceType": "SCORE"},
        False,
        "No jobs in PanDA",
        None,
    ),
    (
        "POST",
        "pilot/acquire_jobs",
        {"site_name": "nowhere", "timeout": None},
        False,
        "Type error: 'timeout' must be of type int, got NoneType.",
        None,
    ),
    (
        "POST",
        "pilot/acquire_jobs",
        {},
        False,
        "Argument error: missing a required argument: 'site_name'",
        None,
    ),
    ("POST", "pilot/update_jobs_bulk", {"job_list": [7]}, False,
     "failed with TypeError 'int' object is not subscriptable", []),
    ("GET", "creds/get_access_token", {"client_name": "x"}, False,
     "failed since token key is invalid for x", None),
    ("POST", "job/set_debug_mode", {"job_id": 999, "mode": True}, False,
     "PandaID=999 not found in active DB", None),
]  # fmt: skip


def test_v1_answers_with_panda_words(dispatcher):
    for method, path, params, success, message, data in V1:
        answer = dispatcher.v1(path, params, how="get" if method == "GET" else "json")
        assert answer == {"success": success, "message": message, "data": data}, path


UNREADABLE = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "No jobs in PanDA"),
        ('{"gpus": []}', "No jobs in PanDA"),
        ("[]", "target_architecture must be a JSON object"),
        ("{", f"failed to parse target_architecture with {UNREADABLE}"),
    ],
)
def test_a_pilot_s_hardware_is_read_as_panda_reads_it(dispatcher, told, message):
    ask = {"site_name": "nowhere", "target_architecture": told}
    assert dispatcher.v1("pilot/acquire_jobs", ask)["message"] == message


def test_who_asks_for_the_key_of_a_proxy_is_told_that_there_is_none(dispatcher, job):
    dispatcher.submit(job("a"), job("b"), job("c"))
    ask = {"site_name": "q", "get_proxy_key": "True"}
    (new,) = dispatcher.v1("pilot/acquire_jobs", ask)["data"]["jobs"]
    old = dispatcher.legacy("getJob", {"siteName": "q", "getProxyKey": "True"})
    assert [(got["credname"], got["myproxy"]) for got in (new, old)] == [("", "")] * 2
    assert "credname" not in dispatcher.legacy("getJob", {"siteName": "q"})


def test_a_body_that_should_be_json_and_is_empty_is_refused(dispatcher):
    answer = dispatcher.ask("/api/v1/pilot/acquire_jobs", "", "raw")
    words = "ERROR : received invalid JSON : Expecting value: line 1 column 1 (char 0)"
    assert (answer.status, answer.text) == (500, words)


def test_a_queue_without_workers_is_in_no_statistics(dispatcher):
    told = {"harvester_id": "h", "panda_queue": "q", "statistics": STATISTICS}
    dispatcher.v1("harvester/report_worker_statistics", told)
    dispatcher.v1("harvester/report_worker_statistics", told | {"statistics": "{}"})
    assert dispatcher.v1("harvester/get_worker_statistics", how="get")["data"] == {}


def test_statistics_of_nothing_are_a_failure_as_in_panda(dispatcher):
    message = "Database failure getting the job statistics"
    answer = dispatcher.v1("statistics/active_job_stats_by_site", how="get")
    assert answer == {"success": False, "message": message, "data": {}}


def test_statistics_count_jobs_by_site_type_label_and_state(dispatcher, job):
    dispatcher.submit(job("one"), job("two", cores=8, memory_mb=8000))
    by_site = dispatcher.v1("statistics/active_job_stats_by_site", how="get")["data"]
    by_type = dispatcher.v1("statistics/active_job_detailed_stats_by_site", how="get")["data"]
    assert by_site == {"q": {"activated": 2, "assigned": 0, "running": 0}}
    one = {"managed": {"activated": 1, "assigned": 0, "running": 0}}
    assert by_type == {"q": {"SCORE": one, "MCORE": one}}


LEGACY: list[tuple[str, Any, str, str, str]] = [
    # method, parameters, how, content type, body
    ("isAlive", {}, "form", "text/plain", "alive=yes"),
    ("getStatus", {"ids": "998 999"}, "gz-accept", "text/plain",
     "StatusCode=0&status=notfound%2Bnotfound&attemptNr=0%2B0"),
    ("checkJobStatus", {"ids": "998,999"}, "form", "application/json",
     json.dumps({"StatusCode": 0, "data": [{"status": "unknown", "command": "tobekilled"}] * 2})),
    ("updateJob", {"jobId": "999", "state": "dancing"}, "gz", "text/plain", "StatusCode=0"),
    ("updateJob", {"jobId": "NULL", "state": "running"}, "form", "text/plain", "StatusCode=0"),
    ("updateJob", {"jobId": "999", "state": "running"}, "form", "text/plain",
     "StatusCode=0&command=tobekilled"),
    ("getJob", {"siteName": "nowhere"}, "gz-accept", "application/json",
     '{"StatusCode": 20, "errorDialog": "no jobs in PanDA"}'),
    ("updateWorkerPilotStatus",
     {"workerID": "7", "harvesterID": "h", "status": "started", "site": "q", "node_id": "n"},
     "form", "text/plain", "StatusCode=0"),
    ("updateWorkerPilotStatus",
     {"workerID": "7", "harvesterID": "h", "status": "?", "site": "q"}, "form", "text/plain",
     "Invalid worker state. The worker state has to be in ('started', 'finished')"),
    ("harvesterIsAlive", {"harvesterID": "h", "data": "{}"}, "form", "text/plain",
     '[true, "succeeded"]'),
    ("updateWorkers", {"harvesterID": "h", "workers": json.dumps([WORKER])}, "form",
     "text/plain", "[true, [true]]"),
    ("updateWorkers", {"harvesterID": "h", "workers": "{"}, "form", "text/plain",
     '[false, "failed to load JSON"]'),
    ("get_max_worker_id", {"harvester_id": "h"}, "form", "text/plain", "42"),
    ("get_max_worker_id", {"harvester_id": "nobody"}, "form", "text/plain", "null"),
    ("reportWorkerStats_jobtype",
     {"harvesterID": "h", "siteName": "q", "paramsList": STATISTICS}, "form", "text/plain",
     '[true, "OK"]'),
    ("getWorkerStats", {}, "form", "text/plain",
     '{"q": {"h": {"managed": {"SCORE": {"running": 1}}}}}'),
    ("updateServiceMetrics",
     {"harvesterID": "h", "metrics": '[["2026-01-01 00:00:00.0", "host", "{}"]]'}, "form",
     "text/plain", "[true, [true]]"),
    ("addHarvesterDialogs", {"harvesterID": "h", "dialogs": "[]"}, "form", "text/plain",
     '[true, ""]'),
    ("ackCommands", {"command_ids": "[1]"}, "gz-accept", "application/json",
     '{"StatusCode": 0, "Returns": 0}'),
    ("ackCommands", {"command_ids": "[1]"}, "form", "text/plain", "StatusCode=0&Returns=0"),
    ("checkEventsAvailability", {"pandaID": 1, "jobsetID": 1, "taskID": 1}, "form",
     "application/json", '{"StatusCode": 0, "nEventRanges": 0}'),
    ("updateEventRanges", {"eventRanges": "[{}]", "version": 0}, "gz-accept",
     "application/json", '{"StatusCode": 0, "Returns": "[false]", "Command": "{}"}'),
    ("updateEventRanges", {"eventRanges": "[{}]", "version": 1}, "gz-accept",
     "application/json", '{"StatusCode": 0, "Returns": [false], "Command": {}}'),
    ("updateJobsInBulk", {"jobList": '[{"state": "running"}]', "harvester_id": "h"}, "form",
     "text/plain", '[false, "updateJobsInBulk h failed with KeyError \'jobId\'"]'),
    ("updateJobsInBulk", {"jobList": '[{"jobId": 999, "state": "running"}]'}, "form",
     "text/plain", '[true, ["StatusCode=0&command=tobekilled"]]'),
    ("updateJobsInBulk", {"jobList": '[{"jobId": 999, "state": "running"}]'}, "gz-accept",
     "text/plain", json.dumps([True, [{"type": "json",
         "content": '{"StatusCode": 0, "command": "tobekilled"}'}]])),
]  # fmt: skip


def test_legacy_answers_with_panda_words(dispatcher):
    for name, params, how, kind, body in LEGACY:
        answer = dispatcher.ask(f"/server/panda/{name}", params, how)
        assert (answer.status, answer.type, answer.text) == (200, kind, body), name


@pytest.mark.parametrize("job_id", [2**63, str(2**63), "9" * 60, -(2**80)])
def test_an_update_of_a_job_beyond_all_numbers_is_one_of_a_job_that_is_not_there(
    dispatcher, job, job_id
):
    dispatcher.submit(job())
    got = dispatcher.get_job()
    huge = {"jobId": job_id, "state": "running"}
    assert dispatcher.legacy("updateJob", huge) == {"StatusCode": 0, "command": "tobekilled"}
    good = {"jobId": got["PandaID"], "state": "running"}
    told = dispatcher.legacy("updateJobsInBulk", {"jobList": json.dumps([huge, good])})
    commands = [json.loads(one["content"])["command"] for one in told[1]]
    assert (told[0], commands) == (True, ["tobekilled", "NULL"])


@pytest.mark.parametrize("job_id", ["many", "", "1e30", None])
def test_an_update_of_what_is_no_number_is_refused(dispatcher, job_id):
    answer = dispatcher.ask("/server/panda/updateJob", {"jobId": job_id, "state": "running"}, "gz")
    assert answer.status == 500
    assert answer.text.startswith("invalid literal for int() with base 10")


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("getJob", {}, "getJob() missing 1 required positional argument: 'siteName'"),
        (
            "updateJob",
            {},
            "updateJob() missing 2 required positional arguments: 'jobId' and 'state'",
        ),
        (
            "updateWorkerPilotStatus",
            {},
            "updateWorkerPilotStatus() missing 4 required positional arguments: 'site', 'workerID', 'harvesterID', and 'status'",
        ),
        ("getJob", {"siteName": "q", "x": 1}, "getJob() got an unexpected keyword argument 'x'"),
    ],
)
def test_legacy_wants_its_parameters_and_no_others(dispatcher, name, params, words):
    answer = dispatcher.ask(f"/server/panda/{name}", params, "gz")
    assert (answer.status, answer.type, answer.text) == (500, "text/plain", words)


@pytest.mark.field("P9")
def test_legacy_json_is_packed_or_refused(dispatcher):
    plain = dispatcher.ask("/server/panda/getJob", {"siteName": "q"}, "json")
    assert (plain.status, plain.type) == (500, "text/html")
    assert plain.text == "Not a gzipped file (b'{\"')"
    packed_by_pilot_3 = dispatcher.ask("/server/panda/getJob", {"siteName": "q"}, "gz")
    assert packed_by_pilot_3.text == "StatusCode=20"


def test_several_jobs_come_as_json_text_to_who_reads_forms(dispatcher, job):
    dispatcher.submit(job("one"), job("two"))
    body = dispatcher.ask("/server/panda/getJob", {"siteName": "q", "nJobs": 2}, "form").text
    told = dict(parse_qsl(body))
    assert told["StatusCode"] == "0"
    assert [one["jobName"] for one in json.loads(told["jobs"])] == ["one", "two"]


def test_resource_types_are_a_list_in_json_and_its_text_in_a_form(dispatcher):
    listed = dispatcher.legacy("getResourceTypes")["ResourceTypes"]
    told = dict(parse_qsl(dispatcher.ask("/server/panda/getResourceTypes", {}, "form").text))
    assert told["ResourceTypes"] == str(listed)
    assert listed[0]["resource_name"] == "SCORE"


def test_whatever_an_update_measures_is_stored_so_that_it_can_be_shown(dispatcher, job):
    (job_id,) = dispatcher.submit(job())
    got = dispatcher.v1("pilot/acquire_jobs", {"site_name": "q"})["data"]["jobs"][0]
    update = {"job_id": got["PandaID"], "attempt_nr": 1, "job_status": "failed"}
    odd = {"max_rss": True, "avg_rss": 1e15, "tot_rbytes": -1, "cpu_consumption_time": 2**62}
    answer = dispatcher.v1("pilot/update_job", update | odd | {"pilot_timing": "1|-5|1e99|x||9"})
    assert answer["success"]
    (attempt,) = dispatcher.detail(job_id).attempts
    assert attempt.usage.max_rss_kb == 1


def test_a_refusal_carries_the_name_that_the_access_log_has(dispatcher, tmp_path):
    trace = "0af7651916cd43dd8448eb211c80319c"
    traced = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    access = AccessLog(tmp_path / "access.log")
    dispatcher.app.traffic = Traffic(access)
    answers = [
        dispatcher.raw("POST", "/server/panda/nothing"),
        dispatcher.raw("POST", "/api/v1/pilot/nothing", headers=traced),
        dispatcher.raw("POST", "/server/panda/updateJob"),
        dispatcher.raw("GET", "/cache/nothing"),
        dispatcher.raw("POST", "/server/panda/isAlive"),
    ]
    access.close()
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert [line["status"] for line in lines] == [403, 403, 500, 404, 200]
    names = [answer.headers.get("x-request-id") for answer in answers]
    assert names == [*(line["request_id"] for line in lines[:4]), None]
    assert names[1] == trace


def states_told(dispatcher, wanted: list[int]) -> list[Any]:
    """What each of the four questions for the states of jobs is answered."""
    ask = {"job_ids": wanted}
    by_blanks, by_commas = ({"ids": sign.join(map(str, wanted))} for sign in " ,")
    return [
        dispatcher.v1("job/get_status", ask, how="get"),
        dispatcher.v1("pilot/get_job_status", ask, how="get"),
        dispatcher.legacy("checkJobStatus", by_commas),
        dict(parse_qsl(dispatcher.ask("/server/panda/getStatus", by_blanks, "form").text)),
    ]


def test_ten_thousand_jobs_are_told_of_in_one_answer_in_their_order(dispatcher, job):
    (job_id,) = dispatcher.submit(job())
    *lists, text = states_told(dispatcher, [*range(100_001, 110_000), job_id])
    for one in lists:
        assert len(one["data"]) == 10_000
        assert one["data"][-1]["status"] == "activated"
    assert text["status"].split("+") == ["notfound"] * 9_999 + ["activated"]


def test_more_than_ten_thousand_jobs_are_refused_and_not_left_out(dispatcher):
    words = "more than 10000 job ids in one question"
    new = {"success": False, "message": words, "data": None}
    old = {"StatusCode": 30, "errorDialog": words}
    told = states_told(dispatcher, list(range(1, 10_002)))
    assert told == [new, new, old, {name: str(value) for name, value in old.items()}]


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


def test_an_operator_s_description_of_a_queue_goes_before_ours(some_keys, tmp_path):
    (tmp_path / "q.json").write_text(json.dumps({"timefloor": 60, "astorages": {"pw": ["SE"]}}))
    made = Dispatcher(tmp_path, some_keys, PandaSettings(folder=tmp_path))
    try:
        described = made.raw("GET", "/cache/schedconfig/q.all.json").json
        assert (described["timefloor"], described["maxwdir"]) == (60, 100_000)
        made.submit(JobSpec(name="j", command="true", queue="q"))
        got = made.get_job()
        assert (got["ddmEndPointOut"], got["logFile"]) == ("SE", "1.1.log.tgz")
    finally:
        made.close()


def test_a_description_may_be_cric_s_map_of_its_queue(some_keys, tmp_path):
    (tmp_path / "q.json").write_text(json.dumps({"q": {"timefloor": 60, "status": "offline"}}))
    made = Dispatcher(tmp_path, some_keys, PandaSettings(folder=tmp_path))
    try:
        told = made.raw("GET", "/cache/schedconfig/q.all.json").json
        assert (told["timefloor"], told["status"], "q" in told) == (60, "offline", False)
    finally:
        made.close()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "q.json"),
        ("[1]", "q.json"),
        ('{"astorages": "x"}', "q.json: astorages"),
        ('{"astorages": {"pw": 5}}', "q.json: astorages"),
        ('{"q": {"astorages": {"pw": [5]}}}', "q.json: astorages"),
    ],
)
def test_a_bad_description_is_named_and_harms_no_other_queue(some_keys, tmp_path, text, field):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(AilurusError) as refused:
        queue_data.check(tmp_path)
    assert refused.value.field.startswith(field)
    assert refused.value.remedy
    made = Dispatcher(tmp_path, some_keys, PandaSettings(folder=tmp_path))
    try:
        answer = made.raw("GET", "/cache/schedconfig/q.all.json")
        assert (answer.status, field.encode() in answer.body) == (503, True)
        made.submit(JobSpec(name="j", command="true", queue="q"))
        made.submit(JobSpec(name="k", command="true", queue="other"))
        assert set(made.raw("GET", "/cache/schedconfig/cric_pandaqueues.json").json) == {"other"}
        assert made.get_job()["PandaID"] == 1
    finally:
        made.close()


def test_a_form_by_parts_costs_what_its_bytes_cost_however_it_is_cut():
    kind = {b"content-type": b'multipart/form-data; boundary="b c"'}
    part = b'--b c\r\nContent-Disposition: form-data; name="%s"%s\r\nX: y\r\n\r\n%s\r\n'
    body = (
        part % (b"a", b"", b"1\r\n2") + part % (b"f", b'; filename="x"', b"\0\xff") + b"--b c--\r\n"
    )
    found = bodies.parameters("POST", kind, b"", body)
    assert found == {"a": "1\r\n2", "f": bodies.Upload("x", b"\0\xff")}
    many = b"".join(part % (b"n%d" % nr, b"", b"x") for nr in range(100_000))
    lines = part % (b"a", b"", b"\n" * 8_000_000)
    for body, names in ((many, bodies.PARAMETERS), (lines, 1)):
        began = time.process_time()
        assert len(bodies.parameters("POST", kind, b"", body)) == names
        assert time.process_time() - began < 1.0  # the event loop waits for it
    assert bodies.parameters("POST", {b"content-type": b"multipart/form-data"}, b"", body) == {}


def test_a_client_that_takes_one_job_after_the_other_is_written_down_once(dispatcher, job):
    dispatcher.submit(job(), job(), job())

    def writings() -> int:
        found = dispatcher.run(
            dispatcher.service.store.read(lambda tx: tx.all("event.after", after=0, most=100))
        )
        return sum(row[2] == "worker" for row in found)

    first = dispatcher.get_job()
    once = writings()
    dispatcher.update(first, "failed", pilotErrorCode=1305)
    assert (dispatcher.get_job()["PandaID"], writings()) == (2, once)
    dispatcher.forward(4 * 1800)  # lost, with its job
    dispatcher.submit(job())
    assert dispatcher.get_job()["StatusCode"] == 0
    assert writings() == once + 2  # its end, and that it is back


@pytest.mark.field("K8")
def test_a_job_that_was_moved_away_is_as_it_ended(dispatcher, job):
    (job_id,) = dispatcher.submit(job())
    got = dispatcher.get_job()
    dispatcher.update(got, "failed", pilotErrorCode=1305)
    dispatcher.forward(60)
    dispatcher.run(
        dispatcher.service.store.write(lambda tx: retention.tidy(tx, before=dispatcher.clock()))
    )
    (told,) = dispatcher.v1("job/get_status", {"job_ids": [job_id]}, how="get")["data"] or [None]
    assert told["status"] == "failed"
