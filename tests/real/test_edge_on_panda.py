"""Our edge as a Harvester instance, our pilots with it, at our dispatcher's PanDA door, which
refuses what PanDA's servers refuse."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from ailurus.protocol.states import JobState
from ailurus.wire.client import Client
from ailurus.wire.credentials import TokenFile
from tests.rig import history
from tests.rig.programs import BIN, QUEUE, Rig, null_job
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(120)]
ID = "our-edge"


@pytest.fixture(params=["v1 slave", "v1 self", "legacy slave"])
def rig(request, tmp_path) -> Iterator[Rig]:
    dialect, mode = request.param.split()
    tmp_path.chmod(0o755)
    with Rig(serve=["--panda-storage", tmp_path]) as made:
        part = {"harvester_id": ID, "dialect": dialect, "run_mode": mode,
                "pilot_token_file": str(made.pilot_token)}  # fmt: skip
        dispatcher = {
            "url": made.url,
            "token_file": str(made.token("instance", "ailurus.pilot")),
            "panda": part,
        }
        scaling = {"max_total": 3, "max_queued": 3, "per_cycle": 3, "idle_exit": "3s"}
        made.programs_at(BIN, dispatcher=dispatcher, scaling=scaling)
        yield made


def submitted(rig: Rig, n: int, seconds: float = 0.0) -> list[int]:
    return list(
        rig.client.submit([null_job(nr, command=f"sleep {seconds}") for nr in range(n)]).job_ids
    )


def finished_once(rig: Rig, ids: list[int]) -> None:
    assert set(rig.client.wait(ids, 60).states.values()) == {JobState.FINISHED}
    assert history.attempts(rig) == {"finished": len(ids)}


def test_jobs_bring_workers_and_no_jobs_none(rig):
    edge = rig.start_edge()
    ids = submitted(rig, 12, seconds=0.2)
    finished_once(rig, ids)
    until(lambda: not rig.pilots(), 30, "idle pilots leave")
    until(lambda: not rig.workers(), 30, "the server hears of it")
    ends = {ending for (ending,) in rig.rows("select ending from worker where idx > 0")}
    assert ends == {"done"}
    assert edge.alive
    assert "refused" not in edge.log.read_text()


def test_an_edge_that_is_killed_starts_nobody_twice(rig):
    ids = submitted(rig, 12, seconds=0.5)
    for nr in range(5):
        edge = rig.start_edge()
        time.sleep(0.7 + 0.2 * nr)
        edge.kill()
    rig.start_edge()
    finished_once(rig, ids)
    assert len(rig.rows("select 1 from worker where idx > 0")) <= 3
    until(lambda: not rig.pilots(), 30, "no more pilots than its limit, and they leave")


def told(rig: Rig, command: str, params: object) -> None:
    """What an operator of the server says to the instance."""
    ask = {"harvester_id": ID, "command": command, "params": params}
    admin = Client(rig.url, TokenFile(rig.admin_token))
    path = "/api/v1/harvester/send_command"
    status, answer = admin.request("POST", path, json.dumps(ask).encode())
    assert (status, json.loads(answer)["success"]) == (200, True), answer


def test_the_server_has_workers_killed(rig):
    rig.start_edge()
    submitted(rig, 2, seconds=60)
    until(lambda: rig.client.overview().states.get("running") == 2, 30, "both run")
    (rig.directory / "state" / "pause").touch()  # nobody follows them
    told(rig, "KILL_WORKERS", {"status": ["submitted", "running"], "computingSite": [QUEUE]})
    until(lambda: not rig.pilots(), 30, "they are gone")


@pytest.mark.field("P6")
@pytest.mark.parametrize("rig", ["v1 self"], indirect=True)
def test_pilots_that_are_given_no_job_are_not_followed_by_more_and_more(rig):
    """The job is activated, and asks for more time than any slot has left: only its server
    knows."""
    edge = rig.start_edge()
    rig.client.submit([null_job(0, walltime_s=10**6)])
    until(lambda: "left without a job" in edge.log.read_text(), 60, "the edge names the reason")
    begun = len(list(rig.workers()))
    time.sleep(8)  # two lives of a pilot
    assert len(list(rig.workers())) <= max(begun, 1)
