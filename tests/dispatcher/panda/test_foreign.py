"""PanDA's pilots are workers that nobody can count on: they have room only while they ask."""

from __future__ import annotations

import json

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.api import NoQuery, Scope, WorkersQuery
from ailurus.protocol.resources import Room
from dispatcher.auth.caller import Caller
from dispatcher.panda.door import PandaSettings
from dispatcher.service.upkeep import PASSED_S
from tests.dispatcher.panda.conftest import ALICE, Dispatcher

BOSS = Caller(subject="boss", scopes=frozenset({Scope.ADMIN, Scope.READ}))
EDGE = Caller(subject="edge", scopes=frozenset({Scope.EDGE}), site="q")
WORKER = {"workerID": 7, "status": "running", "computingSite": "q", "batchID": "b7", "nodeID": "n7"}
DONE = {"pilotErrorCode": 1305, "transExitCode": 1}


def workers(dispatcher, *, ended=False):
    found = dispatcher.run(
        dispatcher.service.figures.workers(WorkersQuery(ended=ended), BOSS)
    ).workers
    return sorted(found, key=lambda one: one.worker_id)


def why(dispatcher, job_id):
    return dispatcher.run(dispatcher.service.users.why(NoQuery(), ALICE, job_id=job_id))


@pytest.fixture
def told(some_keys, tmp_path):
    """A dispatcher with a folder of descriptions."""
    made = Dispatcher(tmp_path, some_keys, PandaSettings(folder=tmp_path / "queues"))
    (tmp_path / "queues").mkdir()

    def describe(**facts):
        (tmp_path / "queues" / "q.json").write_text(json.dumps(facts))
        return made

    yield describe
    made.close()


@pytest.mark.field("P2")
def test_a_pilot_that_was_given_a_job_has_no_room_for_another(dispatcher, job):
    _, waiting = dispatcher.submit(job(), job("next"))
    dispatcher.get_job()
    (worker,) = workers(dispatcher)
    assert (worker.room.cores, worker.total.cores, worker.host) == (0, 1, "n1")
    answer = why(dispatcher, waiting)
    assert answer.verdict == "later"
    assert answer.sentence.startswith("1 PanDA pilots serve queue q, which ask when they can take")


@pytest.mark.field("P2")
def test_pilots_on_one_node_are_told_apart_while_they_hold_jobs(dispatcher, job):
    dispatcher.submit(*(job(f"j{nr}") for nr in range(4)))
    first, second = dispatcher.get_job(), dispatcher.get_job()
    assert len(workers(dispatcher)) == 2
    dispatcher.update(first, "failed", **DONE)
    dispatcher.get_job()
    assert len(workers(dispatcher)) == 2
    dispatcher.update(second, "running")
    dispatcher.get_job()
    assert len(workers(dispatcher)) == 3


@pytest.mark.field("P2")
@pytest.mark.parametrize("restarted", [False, True])
def test_a_pilot_is_gone_soon_after_its_last_word(dispatcher, job, restarted):
    dispatcher.submit(job())
    got = dispatcher.get_job()
    dispatcher.forward(PASSED_S + 1)
    assert len(workers(dispatcher)) == 1, "it runs a job"
    dispatcher.update(got, "failed", **DONE)
    if restarted:
        dispatcher.restart()
    dispatcher.forward(PASSED_S - 1)
    assert len(workers(dispatcher)) == 1
    dispatcher.forward(2)
    assert workers(dispatcher) == []
    (ended,) = workers(dispatcher, ended=True)
    assert (ended.phase, ended.ending) == ("ended", "done")


@pytest.mark.field("P2")
def test_no_edge_counts_on_the_pilots_of_others(dispatcher, job):
    slot = m.SlotShape(name="s", queue="q", room=Room(cores=4, memory_mb=8000, disk_mb=8000))
    hello = m.Hello(site="q", instance="e", slots=(slot,), online=True)
    welcome = dispatcher.run(dispatcher.service.edges.hello(hello, EDGE))
    dispatcher.submit(*(job(f"j{nr}") for nr in range(3)))
    dispatcher.get_job()
    dispatcher.v1("harvester/update_workers", {"harvester_id": "h", "workers": [WORKER]})
    ask = m.DemandRequest(site="q", epoch=welcome.epoch)
    demand = dispatcher.run(dispatcher.service.edges.demand(ask, EDGE))
    assert demand.workers == ()
    assert sum(one.jobs for one in demand.shapes) == 2


@pytest.mark.field("P2")
def test_a_foreign_pilot_makes_no_job_possible_or_impossible(dispatcher, job):
    dispatcher.submit(job())
    dispatcher.get_job()
    (wide,) = dispatcher.submit(job("wide", cores=64))
    assert why(dispatcher, wide).verdict == "later"


@pytest.mark.field("P8")
def test_a_job_that_is_wider_than_the_queue_s_data_is_not_handed_out(told, job):
    dispatcher = told(corecount=8, maxrss=4000)
    dispatcher.submit(job("wide", cores=64), job("big", memory_mb=8000), job("good", cores=8))
    assert dispatcher.get_job()["jobName"] == "good"
    assert dispatcher.get_job(resourceType="MCORE")["StatusCode"] == 20
    assert dispatcher.v1("pilot/acquire_jobs", {"site_name": "q"})["success"] is False


@pytest.mark.field("P8")
def test_of_a_queue_without_a_description_only_a_pilot_for_several_cores_gets_a_wide_job(
    dispatcher, job
):
    dispatcher.submit(job("wide", cores=64))
    assert dispatcher.get_job()["StatusCode"] == 20
    assert dispatcher.get_job(resourceType="MCORE")["jobName"] == "wide"


@pytest.mark.field("P5")
@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
def test_a_worker_s_row_is_completed_by_whatever_comes_in_any_order(dispatcher, job, order):
    (job_id,) = dispatcher.submit(job())
    me = {"harvester_id": "h", "worker_id": 7}

    def starts():
        started = {**me, "status": "started", "node_id": "n7"}
        assert dispatcher.v1("pilot/update_worker_status", started)["success"]

    def acquires():
        assert dispatcher.v1("pilot/acquire_jobs", {**me, "site_name": "q", "node": "n7"})[
            "success"
        ]

    def is_told_of():
        told = {"harvester_id": "h", "workers": [WORKER]}
        assert dispatcher.v1("harvester/update_workers", told)["data"] == [True]

    for nr in order:
        (starts, acquires, is_told_of)[nr]()
    (worker,) = workers(dispatcher)
    assert (worker.site, worker.queue, worker.host) == ("q", "q", "n7")
    assert (worker.batch_id, worker.phase, worker.total.cores) == ("b7", "active", 1)
    (served,) = dispatcher.run(dispatcher.service.figures.queues(NoQuery(), BOSS)).queues
    assert (served.name, served.workers) == ("q", 1)
    assert dispatcher.detail(job_id).attempts[-1].worker_id == worker.worker_id


@pytest.mark.field("P5")
def test_what_is_said_after_a_pilot_s_end_completes_its_row(dispatcher, job):
    me = {"harvester_id": "h", "worker_id": 7}
    dispatcher.v1("pilot/update_worker_status", {**me, "status": "started"})
    dispatcher.v1("pilot/update_worker_status", {**me, "status": "finished"})
    dispatcher.v1("harvester/update_workers", {"harvester_id": "h", "workers": [WORKER]})
    (worker,) = workers(dispatcher, ended=True)
    assert (worker.site, worker.queue, worker.host, worker.batch_id) == ("q", "q", "n7", "b7")
    assert worker.phase == "ended"


@pytest.mark.field("P10")
@pytest.mark.parametrize("path", ["/cache/ddmendpoints.json", "/cache/cric_ddmendpoints.json"])
def test_pilot_3_finds_the_storages_where_it_looks_by_default(dispatcher, path):
    answer = dispatcher.raw("GET", path, token=None)
    assert (answer.status, "AILURUS_DISK" in answer.json) == (200, True)
