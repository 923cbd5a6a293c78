"""Answers that no recording in the tree holds, as the servers' sources of 0.8.1 and 1.0.4 give
them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from dispatcher.panda import bodies, queue_data
from dispatcher.panda.door import PandaSettings
from dispatcher.rules import retention
from tests.dispatcher.panda.conftest import STATISTICS, WORKER, Dispatcher

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
