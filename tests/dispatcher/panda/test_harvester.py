"""Harvester: every request that a real one (0.7.5) was recorded with, and what it is told to do."""

from __future__ import annotations

import json
import zlib
from typing import Any
from urllib.parse import parse_qsl

import pytest

from ailurus.protocol.job import OutputFile

INSTANCE = {"harvester_id": "stub-harvester"}
QUEUE = "STUB_QUEUE"


def ours(value: Any) -> Any:
    """A recorded parameter with the job ids of a fresh dispatcher: 1001 was the first there."""
    if isinstance(value, dict):
        return {name: ours(one) for name, one in value.items()}
    if isinstance(value, list):
        return [ours(one) for one in value]
    return value - 1000 if type(value) is int and 1000 < value < 1100 else value


def replayed(dispatcher, line: dict[str, Any]) -> dict[str, Any]:
    if line["method"] == "GET":
        return dispatcher.ask(line["path"], dict(parse_qsl(line["query"])), "get").json
    return dispatcher.ask(line["path"], ours(line["body"]["params"])).json


def unlike(name: str, theirs: dict[str, Any], answer: dict[str, Any]) -> str:
    """In what Harvester could not go on with an answer as it did with the recorded one."""
    if (
        name == "get_current_worker_id"
    ):  # a real server knows no instance that has told of no worker
        return "" if answer["data"] is None or answer["data"] >= 0 else "no worker id"
    if name == "acquire_jobs":
        jobs = (answer["data"] or {}).get("jobs", [])
        return "" if answer["success"] == bool(jobs) else "jobs without success"
    if answer["success"] != theirs["success"]:
        return f"success is {answer['success']}: {answer['message']}"
    if name == "update_jobs_bulk":
        codes = [one["data"]["StatusCode"] for one in answer["data"]]
        return "" if codes == [0] * len(theirs["data"]) else f"codes {codes}"
    if name in ("update_workers", "update_service_metrics"):
        return "" if answer["data"] == theirs["data"] else f"{answer['data']}"
    if name == "acquire_commands":
        keys = {"command_id", "command", "params", "ack_requested", "creation_date"}
        return "" if all(set(one) == keys for one in answer["data"]) else "a command is none"
    same = type(answer["data"]) is type(theirs["data"])
    return "" if same else f"{type(answer['data']).__name__} for data"


@pytest.mark.parametrize("recording", ["harvester-push", "harvester-commands"])
def test_a_recorded_harvester_could_go_on_with_every_answer(dispatcher, job, recorded, recording):
    dispatcher.submit(*[job(f"j{n}", queue=QUEUE) for n in range(3)])
    wrong = []
    for line in recorded(f"{recording}.jsonl"):
        name = line["path"].rsplit("/", 1)[-1]
        if why := unlike(name, line["answer"], replayed(dispatcher, line)):
            wrong.append((line["n"], name, why))
        dispatcher.forward(max(0, line["dt"]))
    assert wrong == []


def test_the_jobs_of_the_recorded_harvester_finish(dispatcher, job, recorded):
    outputs = [OutputFile(name=f"out.{n}.txt") for n in (1001, 1002, 1003)]
    ids = dispatcher.submit(*[job("j", queue=QUEUE, outputs=(one,)) for one in outputs])
    for line in recorded("harvester-push.jsonl"):
        replayed(dispatcher, line)
    assert {dispatcher.state(one) for one in ids} == {"finished"}
    workers = dispatcher.v1("harvester/get_current_worker_id", INSTANCE, how="get")["data"]
    assert workers == 4


def told(dispatcher) -> dict[str, Any]:
    ask = INSTANCE | {"n_commands": 20}
    answer = dispatcher.v1("harvester/acquire_commands", ask)["data"]
    return {one["command"]: one["params"] for one in answer}


def slave(dispatcher) -> None:
    """An instance that lets the server say how many workers a queue gets."""
    wanted = [
        {"command": name, "computingSite": QUEUE, "resourceType": "ANY"}
        for name in ("SET_N_WORKERS_JOBTYPE", "REPORT_WORKER_STATS")
    ]
    dispatcher.v1("harvester/heartbeat", INSTANCE | {"data": {"commands": wanted}})


def test_waiting_jobs_become_workers_to_start_by_resource_type(dispatcher, job):
    slave(dispatcher)
    dispatcher.submit(job("a", queue=QUEUE), job("b", queue=QUEUE))
    dispatcher.submit(job("big", queue=QUEUE, cores=8, memory_mb=8000))
    commands = told(dispatcher)
    assert commands[f"SET_N_WORKERS_JOBTYPE:{QUEUE}"] == {"managed": {"SCORE": 2, "MCORE": 1}}
    assert f"REPORT_WORKER_STATS:{QUEUE}" in commands


def test_workers_that_are_on_their_way_are_not_asked_for_again(dispatcher, job):
    slave(dispatcher)
    dispatcher.submit(job("a", queue=QUEUE), job("b", queue=QUEUE))
    worker = {"workerID": 1, "status": "submitted", "computingSite": QUEUE, "pandaid_list": []}
    dispatcher.v1("harvester/update_workers", INSTANCE | {"workers": [worker]})
    assert told(dispatcher)[f"SET_N_WORKERS_JOBTYPE:{QUEUE}"] == {"managed": {"SCORE": 1}}
    assert told(dispatcher) == {}, "a command is given once"
    dispatcher.forward(200)
    assert told(dispatcher)[f"SET_N_WORKERS_JOBTYPE:{QUEUE}"] == {"managed": {"SCORE": 1}}


def test_a_queue_without_work_starts_no_worker(dispatcher):
    slave(dispatcher)
    assert f"SET_N_WORKERS_JOBTYPE:{QUEUE}" not in told(dispatcher)


def test_a_sweep_reaches_the_instance_of_the_queue_as_kill_workers(dispatcher):
    ask = {
        "panda_queue": QUEUE,
        "status_list": ["submitted"],
        "ce_list": [],
        "submission_host_list": [],
    }
    nobody = dispatcher.v1("harvester/add_sweep_command", ask)
    assert nobody["message"] == "Queue not served by any harvester ID"
    statistics = INSTANCE | {"panda_queue": QUEUE, "statistics": json.dumps({})}
    dispatcher.v1("harvester/report_worker_statistics", statistics)
    assert dispatcher.v1("harvester/add_sweep_command", ask)["success"]
    assert told(dispatcher)["KILL_WORKERS"] == {
        "status": ["submitted"],
        "computingSite": [QUEUE],
        "computingElement": "ALL",
        "submissionHost": "ALL",
    }


def test_a_worker_that_ended_takes_its_running_job_with_it_if_it_says_so(dispatcher, job):
    (job_id,) = dispatcher.submit(job("a", queue=QUEUE, max_attempts=1))
    ask = {"site_name": QUEUE, "worker_id": 7, **INSTANCE}
    got = dispatcher.v1("pilot/acquire_jobs", ask)["data"]["jobs"][0]
    update = {"job_id": got["PandaID"], "job_status": "running", "attempt_nr": 1}
    dispatcher.v1("pilot/update_job", update)
    ended = {"workerID": 7, "status": "failed", "computingSite": QUEUE, "syncLevel": 1}
    dispatcher.v1("harvester/update_workers", INSTANCE | {"workers": [ended]})
    row = dispatcher.detail(job_id).row
    assert (row.state, row.code) == ("failed", 300)
    assert row.diagnosis == "worker was failed while the job was running"


def ends(dispatcher, worker: int, **words: Any) -> None:
    one = {"workerID": worker, "status": "failed", "computingSite": QUEUE, "syncLevel": 1} | words
    answer = dispatcher.v1("harvester/update_workers", INSTANCE | {"workers": [one]})
    assert answer["data"] == [True]


def running(dispatcher, worker: int, *states: str) -> int:
    """A job in the hands of a worker's pilot."""
    ask = {"site_name": QUEUE, "worker_id": worker, **INSTANCE}
    (got,) = dispatcher.v1("pilot/acquire_jobs", ask)["data"]["jobs"]
    for state in states or ("running",):
        update = {"job_id": got["PandaID"], "job_status": state, "attempt_nr": 1}
        dispatcher.v1("pilot/update_job", update)
    return int(got["PandaID"])


def test_a_pushed_job_is_lost_with_the_worker_that_it_was_given_to(dispatcher, job):
    """The instance holds it; that it is a worker's, only the worker's list says."""
    (job_id,) = dispatcher.submit(job("a", queue=QUEUE, max_attempts=1))
    instance = INSTANCE["harvester_id"]
    ask = {"site_name": QUEUE, "scheduler_id": f"harvester-{instance}", "n_jobs": 1}
    assert len(dispatcher.v1("pilot/acquire_jobs", ask)["data"]["jobs"]) == 1
    ends(dispatcher, 4, status="running", pandaid_list=[job_id])
    update = {"job_id": job_id, "job_status": "running", "attempt_nr": 1}
    dispatcher.v1("pilot/update_job", update)
    ends(dispatcher, 4, pandaid_list=[job_id], diagMessage="node died", errorCode=5)
    row = dispatcher.detail(job_id).row
    assert (row.state, row.code) == ("failed", 300)
    assert row.diagnosis == "worker was failed while the job was running : node died"


def test_a_worker_loses_no_job_of_somebody_else(dispatcher, job):
    dispatcher.submit(job("a", queue=QUEUE))
    job_id = running(dispatcher, 7)
    ends(dispatcher, 8, pandaid_list=[job_id])
    assert dispatcher.detail(job_id).row.state == "running"


def test_a_job_that_stages_out_is_not_lost_with_its_worker(dispatcher, job):
    dispatcher.submit(job("a", queue=QUEUE))
    job_id = running(dispatcher, 7, "running", "transferring")
    ends(dispatcher, 7, status="finished")
    assert dispatcher.detail(job_id).row.state == "holding"


def test_what_the_pilot_says_of_its_worker_does_not_hide_what_the_batch_system_says(
    dispatcher, job
):
    dispatcher.submit(job("a", queue=QUEUE, max_attempts=1))
    job_id = running(dispatcher, 7)
    word = INSTANCE | {"worker_id": 7, "status": "finished"}
    assert dispatcher.v1("pilot/update_worker_status", word)["success"]
    ends(dispatcher, 7, status="finished")
    assert dispatcher.detail(job_id).row.code == 300


def test_what_the_batch_system_said_is_in_the_diagnosis_of_the_job(dispatcher, job):
    dispatcher.submit(job("a", queue=QUEUE, max_attempts=1))
    job_id = running(dispatcher, 7)
    ends(dispatcher, 7, syncLevel=0, errorCode=9, diagMessage="held: memory")
    update = {"job_id": job_id, "job_status": "failed", "attempt_nr": 1}
    dispatcher.v1("pilot/update_job", update)
    row = dispatcher.detail(job_id).row
    assert row.diagnosis == "its worker ended with error 9: held: memory"


def test_no_worker_is_started_for_a_job_that_its_pilot_would_not_get(dispatcher, job):
    slave(dispatcher)
    dispatcher.submit(job("a", queue=QUEUE, gpus=1), job("b", queue=QUEUE, nodes=2))
    dispatcher.submit(job("c", queue=QUEUE, arch=("x86_64-v2",)))
    assert f"SET_N_WORKERS_JOBTYPE:{QUEUE}" not in told(dispatcher)
    counts = dispatcher.ask("/api/v1/statistics/active_job_stats_by_site", how="get").json["data"]
    assert counts.get(QUEUE, {}).get("activated", 0) == 0


def test_an_ended_worker_stays_ended(dispatcher):
    def worker(status: str) -> dict[str, Any]:
        one = {"workerID": 7, "status": status, "computingSite": QUEUE}
        return dispatcher.v1("harvester/update_workers", INSTANCE | {"workers": [one]})

    worker("finished")
    assert worker("running")["data"] == [True]
    rows = dispatcher.run(dispatcher.service.store.read(lambda tx: tx.all("worker.alive")))
    assert rows == []


def test_what_is_no_worker_is_refused_alone(dispatcher):
    good = {"workerID": 1, "status": "submitted", "computingSite": QUEUE}
    ask = INSTANCE | {"workers": [good, {"workerID": "x"}, 7]}
    assert dispatcher.v1("harvester/update_workers", ask)["data"] == [True, False, False]


# --- files ----------------------------------------------------------------------------------------


def sent(dispatcher, path: str, name: str, data: bytes) -> Any:
    """A file by parts, as `requests` sends it."""
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x", "accept": "application/json"}
    return dispatcher.raw("POST", path, body, headers)


def test_a_dialog_with_nulls_and_numbers_costs_no_other_its_place(dispatcher):
    odd = {"moduleName": None, "identifier": 7, "messageLevel": 2.5, "diagMessage": "first"}
    other = {"moduleName": "m", "identifier": None, "messageLevel": "INFO", "diagMessage": True}
    taken = dispatcher.v1("harvester/add_dialogs", INSTANCE | {"dialogs": [odd, other, {}]})
    assert taken["success"]
    events = dispatcher.service.store.read(lambda tx: tx.all("event.after", after=0, most=10))
    told = [json.loads(row[-1]) for row in dispatcher.run(events)]
    seen = [[one[name] for name in ("module", "identifier", "level", "message")] for one in told]
    assert seen == [["", "7", "2.5", "first"], ["m", "", "INFO", "True"], [""] * 4]


@pytest.mark.parametrize("entry", ["text", None, 7, [], {"diagMessage": []}])
def test_what_is_no_dialog_is_refused(dispatcher, entry):
    ask = INSTANCE | {"dialogs": [{"diagMessage": "good"}, entry]}
    assert "'dialogs' cannot be read" in dispatcher.v1("harvester/add_dialogs", ask)["message"]


@pytest.mark.parametrize("path", ["/api/v1/file_server/update_jedi_log", "/server/panda/updateLog"])
def test_a_log_grows_by_packed_pieces_and_is_read_with_a_token(dispatcher, path):
    for piece in (b"one ", b"two"):
        assert sent(dispatcher, path, "h__log", zlib.compress(piece)).status == 200
    assert dispatcher.raw("GET", "/cache/h__log").body == b"one two"
    assert dispatcher.raw("GET", "/cache/h__log", token=None).status == 404
    assert b"ERROR" in sent(dispatcher, path, "h__log", b"not packed").body


def test_a_checkpoint_is_kept_until_it_is_deleted(dispatcher):
    path = "/api/v1/file_server/upload_hpo_checkpoint"
    assert sent(dispatcher, path, "12_3", b"\0weights").json["success"]
    assert dispatcher.raw("GET", "/cache/hpo_cp_12_3").body == b"\0weights"
    ask = {"task_id": "12", "sub_id": "3"}
    assert dispatcher.v1("file_server/delete_hpo_checkpoint", ask)["success"]
    assert not dispatcher.v1("file_server/delete_hpo_checkpoint", ask)["success"]
    assert not sent(dispatcher, path, "../../etc/passwd", b"x").json["success"]
