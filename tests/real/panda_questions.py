"""What a real PanDA server and our dispatcher are asked, to see that they answer alike.

Where a question is left out, the real server falls over it (HTTP 500 from a bug of its own), or we
do better on purpose: `DIFFERENT` names those.
"""

from __future__ import annotations

import json
from typing import Any

Question = tuple[str, str, str, Any]  # HTTP method, path, how the body is packed, parameters

DIFFERENT = """
first heartbeat of an instance   there false, "no instance record"; here it is taken at once
acknowledge_commands of nothing  there a fault of the database
update_workers of nothing, or with an entry that is no worker: there a fault for all; here false for it
report_worker_statistics         both refuse what is no table; here with the reason
creds/*                          here there are no proxies and key pairs, and a token needs its key
event/*                          here no event service; two answers of 1.0.4 are none that Harvester reads
a body that is JSON but no object   both 500, in other words
updateJob with text for a number there StatusCode 30, for ever; here the number was not said
job/set_debug_mode               there success is false when it succeeded
"""

QUEUE = "TEST"
NOBODY = {"site_name": "NOQ"}
WORKER = {
    "workerID": 1,
    "batchID": "1.0",
    "queueName": QUEUE,
    "status": "submitted",
    "computingSite": QUEUE,
    "nCore": 1,
    "nodeID": None,
    "submitTime": "datetime/2026-11-28 00:00:00.000000",
    "jobType": "managed",
    "resourceType": "SCORE",
    "diagMessage": None,
    "nJobs": 1,
    "syncLevel": 0,
    "errorCode": None,
    "minRamCount": 0,
}
DIALOG = {
    "diagID": 1,
    "moduleName": "m",
    "identifier": "i",
    "creationTime": "2026-11-28 00:00:00.000000",
    "messageLevel": "INFO",
    "diagMessage": "x",
}
METRICS = ["2026-11-28 00:00:00.000000", "host", "{}"]
STATISTICS = json.dumps({"managed": {"SCORE": {"running": 1}}})


RUNNING = {"job_id": 0, "attempt_nr": 1, "job_status": "running"}


class Asked:
    """Questions to `/api/v1/`: a path, what is always said, and one change a question."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, Any]] = [("GET", "system/is_alive", {"x": 1})]

    def post(self, path: str, base: dict[str, Any], *changes: dict[str, Any]) -> None:
        self.all.extend(("POST", path, {**base, **change}) for change in changes)

    def get(self, path: str, *params: dict[str, Any]) -> None:
        self.all.extend(("GET", path, one) for one in params)


def v1(job: int) -> list[Question]:
    """Questions to `/api/v1/`; `job` is one that the asker has acquired."""
    ask = Asked()
    _acquire(ask)
    _updates(ask, job)
    _workers(ask)
    _harvester(ask, job)
    _others(ask, job)
    packed = {"GET": "get", "POST": "json"}
    return [
        *((verb, f"/api/v1/{path}", packed[verb], params) for verb, path, params in ask.all),
        *(("POST", "/api/v1/pilot/acquire_jobs", "raw", body) for body in ("{not", "", "{}")),
        ("POST", "/api/v1/pilot/acquire_jobs", "form", NOBODY),
    ]


def _acquire(ask: Asked) -> None:
    ask.get("system/is_alive", {})
    ask.post("system/is_alive", {}, {})
    ask.post("pilot/acquire_jobs", {}, {}, {"b": 2}, {"site_name": 1}, {"site_name": None})
    ask.post(
        "pilot/acquire_jobs",
        NOBODY,
        *(
            {name: value}
            for name in ("n_jobs", "memory", "task_id", "worker_id")
            for value in ("1", 1.5, True)
        ),
        *({name: None} for name in ("n_jobs", "timeout", "memory", "task_id")),
        *({"background": value} for value in ("True", True, 1)),
        *({"remaining_time": value} for value in ("abc", -4, 5)),
        *({"get_proxy_key": value} for value in (True, "True")),
        *(
            {"target_architecture": value}
            for value in ({}, "{", "[]", {"gpus": []}, '{"gpus": []}')
        ),
        {"n_jobs": 0},
        {"memory": -1},
        {"prod_source_label": "user"},
        {"site_name": "", "prod_source_label": "managed"},
        {"a": 1, "b": 2},
    )
    ask.get("pilot/acquire_jobs", NOBODY)
    whole = {"site_name": QUEUE, "prod_source_label": "managed", "node": "n"}
    ask.post(
        "pilot/acquire_jobs",
        {**whole, "computing_element": QUEUE},
        {"n_jobs": 2, "scheduler_id": "harvester-h", "harvester_id": "h", "worker_id": 5},
        {"get_proxy_key": "True"},
    )


def _updates(ask: Asked, job: int) -> None:
    for path in ("pilot/get_job_status", "job/get_status"):
        ask.get(
            path, {}, *({"job_ids": ids} for ids in ([job], [job, 99999999], [0], ["x"], ["None"]))
        )
        ask.get(path, {"job_ids": [job], "timeout": "5.5"}, {"job_ids": [job], "timeout": "x"})
        ask.post(path, {"job_ids": [job]}, {})
    update = {**RUNNING, "job_id": job}
    ask.post(
        "pilot/update_job",
        update,
        {},
        *({"job_id": one} for one in (None, "NULL", 99999999, -1)),
        *({"job_status": one} for one in (None, "", 1, "cancelled", "starting", "running")),
        *({"attempt_nr": one} for one in (None, "1", 9)),
        *({name: None} for name in ("pilot_log", "meta_data", "stdout", "job_output_report")),
        *({name: {}} for name in ("meta_data", "job_output_report")),
        *(
            {name: 1.5}
            for name in ("cpu_consumption_time", "max_rss", "mean_core_count", "rate_rchar")
        ),
        *({"start_time": one} for one in (5, "x", "2026-01-01 00:00:00")),
        *({"timeout": one} for one in (None, 5)),
        {"pilot_log": "x", "meta_data": "{}", "stdout": "hey", "corrupted_files": "a,b"},
        {"pilot_error_code": "1"},
        {"cpu_conversion_factor": 1.0},
        {"cpu": 1},
    )
    good, bad = dict(update), {**update, "job_status": "dancing"}
    lists = (None, [], {}, "x", [1], [{}], [{"job_id": job}], [{"job_status": "running"}], [good])
    more = ([{**good, "attempt_nr": 9}], [bad, good], [{**good, "cpu": 1}, good], [good, 1])
    odd = (
        [{**good, "meta_data": {"a": 1}}],
        [{**good, "job_id": str(job)}],
        [{**good, "job_id": 9**9}],
    )
    ask.post("pilot/update_jobs_bulk", {}, {}, *({"job_list": one} for one in lists + more + odd))
    ask.post("pilot/update_jobs_bulk", {"job_list": []}, {"harvester_id": 5}, {"harvester_id": "h"})


def _workers(ask: Asked) -> None:
    worker = {"worker_id": 5, "harvester_id": "h", "status": "started"}
    ask.post("pilot/update_worker_status", {}, {})
    ask.post(
        "pilot/update_worker_status",
        worker,
        *({}, {"worker_id": "5"}, {"worker_id": "x"}, {"status": "running"}, {"status": None}),
        *({"status": "finished", "node_id": "n"}, {"x": 1}, {"node_id": 7}),
    )
    node = {"site": "S", "host_name": "slot1@n.x", "cpu_model": "AMD"}
    ask.post(
        "pilot/update_worker_node",
        node,
        *({}, {}, {"clock_speed": 1}, {"clock_speed": 1.0}, {"clock_speed": None}, {"x": 1}),
        *(
            {"n_logical_cpus": "1"},
            {"total_memory": 1.5},
            {"cpu_model": None},
            {"panda_queue": QUEUE},
        ),
    )
    gpu = {"site": "S", "host_name": "n.x", "vendor": "NVIDIA", "model": "A100", "count": 1}
    ask.post(
        "pilot/update_worker_node_gpu", gpu, {}, {}, {"count": "1"}, {"vram": 1.0}, {"vendor": None}
    )


def _harvester(ask: Asked, job: int) -> None:
    here = {"harvester_id": "h"}
    ask.post(
        "harvester/heartbeat", {**here, "data": {}}, {}, {"data": "{}"}, {"data": []}, {"x": 1}
    )
    ask.post("harvester/heartbeat", {**here, "data": {}}, {"harvester_id": 5})
    ask.post(
        "harvester/acquire_commands",
        here,
        *({}, {"n_commands": 20}, {"n_commands": "20"}, {"n_commands": 20, "timeout": None}),
        {"n_commands": 20, "x": 1},
    )
    acknowledged = ([1], "1", ["1"], [99999], None)
    ask.post(
        "harvester/acknowledge_commands", {}, {}, *({"command_ids": one} for one in acknowledged)
    )
    running = {**WORKER, "status": "running", "pandaid_list": [job]}
    workers = ([WORKER], [running], [WORKER, {**WORKER, "workerID": 2}], "x", None, {})
    ask.post("harvester/update_workers", here, *({"workers": one} for one in workers))
    place = {**here, "panda_queue": QUEUE}
    ask.post(
        "harvester/report_worker_statistics", place, {"statistics": STATISTICS}, {"statistics": {}}
    )
    ask.get("harvester/get_worker_statistics", {})
    ask.post("harvester/report_worker_statistics", place, {"statistics": "{}"})
    ask.get("harvester/get_worker_statistics", {})
    metrics = ([METRICS], [], [["a"]], "x", [METRICS, METRICS])
    ask.post("harvester/update_service_metrics", here, *({"metrics": one} for one in metrics))
    ask.post("harvester/add_dialogs", here, *({"dialogs": one} for one in ([DIALOG], [], "x")))
    ask.get("harvester/get_current_worker_id", {}, here, {"harvester_id": "nobody"})


def _others(ask: Asked, job: int) -> None:
    ask.get("metaconfig/get_resource_types", {})
    ask.post("metaconfig/get_resource_types", {}, {})
    ask.get("statistics/active_job_stats_by_site", {}, {"x": 1})
    ask.get("statistics/active_job_detailed_stats_by_site", {})
    ask.post("event/acquire_event_ranges", {"job_id": job}, {})
    ask.get("creds/get_access_token", {})
    ask.get("creds/get_key_pair", {"public_key_name": "a"})
    ask.post("job/set_debug_mode", {"job_id": job}, {"mode": "True"})
    ask.post("pilot/nothing", {}, {})
    ask.get("pilot/init_task_buffer", {})
    failed = {
        **RUNNING,
        "job_id": job,
        "job_status": "failed",
        "pilot_error_code": 1305,
        "trans_exit_code": 1,
    }
    ask.post("pilot/update_job", failed, {}, {}, {"job_status": "running"})


UPDATE = {"jobId": 0, "state": "running", "attemptNr": 1, "siteName": QUEUE, "node": "n"}
HOW = "form gz gz-accept form-accept"


class AskedOfLegacy:
    """Questions to `/server/panda/`, as forms and packed JSON, by who reads JSON and who does
    not."""

    def __init__(self) -> None:
        self.all: list[Question] = []

    def __call__(self, name: str, *changes: dict[str, Any], how: str = HOW) -> None:
        self.all.extend(
            ("GET" if one == "get" else "POST", f"/server/panda/{name}", one, params)
            for params in changes
            for one in how.split()
        )


def legacy(job: int) -> list[Question]:
    """Questions to `/server/panda/`; `job` is one that the asker has acquired."""
    ask = AskedOfLegacy()
    _legacy_pilot(ask, job)
    _legacy_harvester(ask)
    ask("noSuch", {}, how="form get")
    ask("updateJob", {**UPDATE, "jobId": job, "state": "finished"}, how="gz gz")
    ask("updateJob", {**UPDATE, "jobId": job}, how="gz")
    ask("getStatus", {"ids": str(job)}, how="form")
    ask("checkJobStatus", {"ids": str(job)}, how="form")
    return ask.all


def _legacy_pilot(ask: AskedOfLegacy, job: int) -> None:
    ask("isAlive", {}, how="get form gz")
    wanted: dict[str, Any] = {
        "siteName": "NOQ",
        "computingElement": "NOQ",
        "prodSourceLabel": "managed",
        "node": "n",
        "diskSpace": 20000,
        "workingGroup": "",
        "cpu": 2000.0,
        "mem": 8000.0,
    }
    odd = {"mem": "abc", "diskSpace": "", "taskID": "x", "remaining_time": "x", "nJobs": "x"}
    ask("getJob", {}, wanted, {**wanted, "foo": 1}, {**wanted, "nJobs": 2}, {**wanted, **odd})
    here = {**wanted, "siteName": QUEUE, "computingElement": QUEUE}
    ask("getJob", {**here, "getProxyKey": "True", "worker_id": "7"}, here, how="gz-accept")
    update = {**UPDATE, "jobId": job}
    changes: list[dict[str, Any]] = [
        *({}, {"foo": 1}, {"token": "x"}, {"timeout": "60"}, {"stdout": "hey", "pilotLog": "x"}),
        *({"state": one} for one in ("starting", "dancing", "running")),
        *({"jobId": one} for one in ("NULL", "x", 99999999)),
        *({"attemptNr": one} for one in (9, "x", "")),
        *({"meanCoreCount": "1.5"}, {"startTime": 1700000000.5}, {"pilotErrorCode": "-1137"}),
        {"workdir": "x", "remainingSpace": 1, "messageLevel": 1, "computingElement": "c"},
        {"grid": "g", "source_site": "s", "destination_site": "d"},
    ]
    ask("updateJob", *({**update, **change} for change in changes), how="form gz gz-accept")
    ask("updateJob", {}, {"jobId": job}, how="form gz")
    good, late = dict(update), {**update, "attemptNr": 9}
    for entries in ([], [good], [late, good], [{**good, "state": "dancing"}], [{"jobId": job}]):
        bulk = {"jobList": json.dumps(entries), "harvester_id": "h"}
        ask("updateJobsInBulk", bulk, how="form form-accept gz")
    ask("updateJobsInBulk", {"jobList": "x"}, {}, how="form")
    ask("getStatus", *({"ids": one} for one in (str(job), f"{job} 99999999", "", "x")))
    ask("checkJobStatus", {"ids": str(job)}, {"ids": f"{job},99999999"}, how="form form-accept")


def _legacy_harvester(ask: AskedOfLegacy) -> None:
    worker = {"workerID": 5, "harvesterID": "h", "status": "started", "site": QUEUE, "node_id": "n"}
    ask("updateWorkerPilotStatus", worker, {**worker, "status": "finished"}, how="form gz")
    ask("updateWorkerPilotStatus", {**worker, "status": "x"}, {**worker, "workerID": "x"}, {})
    ask("getResourceTypes", {})
    ask("setDebugMode", {"pandaID": 99999999, "modeOn": "True"}, how="form gz")
    events = {"pandaID": 1, "jobsetID": 1, "taskID": 1, "nRanges": 1}
    ask("getEventRanges", events, how="form form-accept")
    ask("updateEventRanges", {"eventRanges": "[]", "version": 0}, how="form form-accept")
    ask("updateEventRange", {"eventRangeID": "1-1-1-1-1", "eventStatus": "finished"}, how="form")
    ask("getCommands", {"harvester_id": "h", "n_commands": 20}, how="form form-accept")
    ask("ackCommands", {"command_ids": "[1]"}, how="form form-accept")
    data = json.dumps([WORKER])
    ask("updateWorkers", {"harvesterID": "h", "workers": data}, how="form form-accept gz")
    ask("get_max_worker_id", {"harvester_id": "h"}, {"harvester_id": "nobody"}, how="form")
    ask("harvesterIsAlive", {"harvesterID": "h", "data": "x"}, how="form")
    told = {"harvesterID": "h", "siteName": QUEUE, "paramsList": STATISTICS}
    ask("reportWorkerStats_jobtype", told, how="form")
    ask("updateServiceMetrics", {"harvesterID": "h", "metrics": json.dumps([METRICS])}, how="form")
    ask("addHarvesterDialogs", {"harvesterID": "h", "dialogs": json.dumps([DIALOG])}, how="form")
