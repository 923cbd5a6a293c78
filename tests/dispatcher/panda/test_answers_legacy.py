"""Answers of the legacy door that no recording in the tree holds, as the sources of 0.8.1 give
them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from dispatcher.door.access_log import AccessLog, Traffic
from tests.dispatcher.panda.conftest import STATISTICS, WORKER

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
