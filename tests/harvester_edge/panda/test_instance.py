"""An edge that is told by a PanDA server how many workers to start, and tells it of them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from ailurus.logs import Log
from ailurus.protocol import panda
from ailurus.protocol.messages import Problem
from ailurus.protocol.worker import Ending, Phase
from ailurus.wire.client import Refused, Unreachable
from harvester_edge.panda.instance import Instance
from harvester_edge.panda.server import Server as PandaServer
from harvester_edge.panda.server import connect
from harvester_edge.ports import Rejected
from harvester_edge.site import PandaPart, Site


class Server:
    """What `Server.call` answers: a PanDA server with commands, jobs and a memory of what it was
    told."""

    url = "https://panda.example"

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []
        self.activated: dict[str, int] = {}
        self.told: dict[int, dict[str, Any]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.last: int | None = 41
        self.unknown = True  # it has not heard of this instance
        self.down = ""

    def call(self, path: str, given: dict[str, Any]) -> Any:
        if self.down and self.down in path:
            raise Unreachable("nobody answers")
        self.asked.append((path, given))
        return getattr(self, path.split("/")[1])(**given)

    def heartbeat(self, harvester_id, data):
        if self.unknown:
            self.unknown = False
            raise Refused(Problem(title="unknown", status=422))

    def get_current_worker_id(self, harvester_id):
        return self.last

    def get_resource_types(self):
        return panda.resource_types()

    def acquire_commands(self, harvester_id, n_commands):
        got, self.commands = self.commands[:n_commands], self.commands[n_commands:]
        return got

    def acknowledge_commands(self, command_ids):
        self.acknowledged = command_ids

    def active_job_detailed_stats_by_site(self):
        return {"demo": {kind: {"managed": {"activated": n}} for kind, n in self.activated.items()}}

    def update_workers(self, harvester_id, workers):
        assert len(workers) <= 100
        self.told |= {one["workerID"]: one for one in workers}

    def report_worker_statistics(self, harvester_id, panda_queue, statistics):
        self.statistics = msgspec.json.decode(statistics)

    def add_dialogs(self, harvester_id, dialogs):
        self.dialogs = dialogs

    def command(self, name, params=None):
        one = {
            "command_id": len(self.asked),
            "command": name,
            "params": params or {},
            "ack_requested": 1,
        }
        self.commands.append(one)

    def paths(self):
        return [path.split("/")[1] for path, _ in self.asked]


@pytest.fixture
def slave(world):
    yield from _instance(world, "slave")


@pytest.fixture
def alone(world):
    yield from _instance(world, "self")


def _instance(world, run_mode):
    server = Server()
    part = PandaPart(harvester_id="h", pilot_token_file="/t", run_mode=run_mode)
    edge = world.edge
    named = msgspec.structs.replace(edge.site.dispatcher, panda=part)
    edge.site = msgspec.structs.replace(edge.site, dispatcher=named)

    def begin():
        edge.upstream = Instance(
            edge.site,
            part,
            server,
            edge.book,
            edge.workers.values,
            edge.clock,
            Log("edge"),
        )

    begin()
    yield SimpleNamespace(world=world, server=server, edge=edge, begin=begin)
    edge.upstream.close()


def restart(one):
    one.edge.upstream.close()
    one.world.restart()
    one.begin()


def want(one, n, kind="SCORE"):
    one.server.command("SET_N_WORKERS_JOBTYPE:demo", {"managed": {kind: n}})


def submitted(one):
    return sum(order.count for _, order in one.world.batch.orders)


def test_as_many_workers_are_started_as_a_command_asks_for_and_no_more(slave):
    want(slave, 3)
    slave.world.cycle(5)
    assert submitted(slave) == 3
    assert slave.server.acknowledged
    want(slave, 1)  # beyond those that wait
    slave.world.cycle(5)
    assert submitted(slave) == 4


def test_a_command_outlives_a_crash_and_is_not_obeyed_twice(slave):
    want(slave, 3)
    slave.world.configure(per_cycle=1)
    slave.world.cycle()
    for _ in range(4):
        restart(slave)
        slave.world.cycle()
    assert submitted(slave) == 3


def test_limits_hold_whatever_a_server_wants_and_why_says_both(slave):
    want(slave, 50)
    decision = slave.world.cycle(3)
    assert submitted(slave) == 4
    assert decision.binding.name == "total"
    (said,) = [line for line in decision.inputs if "SCORE" in line]
    assert said == (
        "the server asked for 50 pilots of SCORE (managed) in queue demo, of which 46 are still to be started"
    )


def test_what_the_batch_system_refused_is_started_later(slave):
    slave.world.batch.answers = [Rejected("no")]
    want(slave, 2)
    slave.world.cycle(4)
    assert len(slave.world.workers()) == 2


def test_a_newer_command_replaces_the_one_before(slave):
    slave.world.configure(per_cycle=1)
    want(slave, 4)
    slave.world.cycle()
    want(slave, 0)
    slave.world.cycle(4)
    assert submitted(slave) == 1


def test_two_types_for_one_slot_get_what_they_asked_for_and_no_more(slave):
    slave.world.configure(max_total=20, max_queued=20, per_cycle=20)
    slave.server.command(
        "SET_N_WORKERS_JOBTYPE:demo", {"managed": {"SCORE": 3}, "user": {"SCORE": 2}}
    )
    slave.world.cycle(8)
    assert submitted(slave) == 5
    labels = sorted(one["jobType"] for one in slave.server.told.values())
    assert labels == ["managed"] * 3 + ["user"] * 2


def test_what_no_slot_holds_is_said(slave):
    want(slave, 2, "MCORE_HIMEM")
    decision = slave.world.cycle(2)
    assert submitted(slave) == 0
    assert "no slot of queue demo holds a pilot of MCORE_HIMEM" in decision.inputs


def test_numbers_follow_the_servers_last_and_none_is_given_twice(slave):
    want(slave, 2)
    slave.world.cycle(3)
    restart(slave)
    slave.server.last = 0  # it forgets: we do not
    want(slave, 2)
    slave.world.cycle(3)
    assert sorted(slave.server.told) == [42, 43, 44, 45]


def test_a_worker_is_told_from_submission_to_its_end(slave):
    want(slave, 1)
    slave.world.cycle(2)
    (one,) = slave.server.told.values()
    assert (one["status"], one["nCore"], one["resourceType"]) == ("submitted", 1, "SCORE")
    slave.world.batch.set(Phase.STARTING)
    slave.world.cycle(500)  # much longer than a pilot of ours has to register
    assert slave.server.told[42]["status"] == "running"
    assert len(slave.world.workers()) == 1
    slave.world.batch.set(Phase.ENDED, Ending.DONE)
    slave.world.cycle(2)
    assert slave.server.told[42]["status"] == "finished"
    assert {"startTime", "endTime"} <= slave.server.told[42].keys()
    assert slave.world.workers() == []


def test_a_worker_that_ends_badly_before_it_was_seen_to_run_is_a_failed_start(slave):
    for _ in range(3):
        want(slave, 1)
        slave.world.cycle(1)
        slave.world.batch.set(Phase.ENDED, Ending.FAILED, "exit 64")
        slave.world.cycle(2)
    want(slave, 1)
    decision = slave.world.cycle(1)
    assert decision.binding.name == "breaker"
    assert {one["status"] for one in slave.server.told.values()} == {"failed"}


def test_news_that_did_not_arrive_comes_again(slave):
    want(slave, 1)
    slave.server.down = "update_workers"
    slave.world.cycle(3)
    assert slave.server.told == {}
    slave.server.down = ""
    slave.world.cycle()
    assert slave.server.told[42]["status"] == "submitted"


def test_killed_workers_are_cancelled_until_they_are_gone(slave):
    want(slave, 2)
    slave.world.cycle(2)
    slave.world.batch.set(Phase.STARTING)
    slave.world.cycle()
    slave.server.command("KILL_WORKERS", {"status": ["running"], "computingSite": ["demo"]})
    slave.world.cycle()
    restart(slave)
    slave.world.cycle()
    assert slave.world.batch.cancelled.count("1") >= 2
    assert set(slave.world.batch.cancelled) == {"1", "2"}


def test_statistics_are_reported_when_they_are_asked_for(slave):
    want(slave, 2)
    slave.world.cycle(2)
    slave.server.statistics = None
    slave.server.command("REPORT_WORKER_STATS:demo")
    slave.world.cycle()
    states = {"running": 0, "submitted": 2, "finished": 0, "to_submit": 0}
    assert slave.server.statistics == {"managed": {"SCORE": states}}


def test_decisions_are_told_to_who_looks_there(slave):
    want(slave, 9)
    slave.world.cycle(3)
    (line,) = slave.server.dialogs
    assert "4 of 4 exist" in line["diagMessage"]


def test_heartbeats_name_the_commands_once_and_then_say_only_that_it_lives(slave):
    slave.world.cycle(400)
    beats = [given["data"] for path, given in slave.server.asked if path == "harvester/heartbeat"]
    assert [one["command"] for one in beats[0]["commands"]] == [
        "REPORT_WORKER_STATS",
        "SET_N_WORKERS_JOBTYPE",
    ]
    assert beats[0] == beats[1]  # the first was answered with "unknown"
    assert set(map(str, beats[2:])) == {"{}"}
    assert 1 <= len(beats) - 2 <= 2  # each 10 minutes of 800 seconds


def test_without_commands_activated_jobs_bring_workers(alone):
    alone.server.activated = {"SCORE": 3}
    alone.world.cycle(3)
    assert submitted(alone) == 3  # those on their way count
    alone.server.activated = {"SCORE": 0}
    alone.world.cycle(3)
    assert submitted(alone) == 3
    beats = [given["data"] for path, given in alone.server.asked if path == "harvester/heartbeat"]
    assert "commands" not in beats[0]


def test_a_server_that_is_away_stops_submissions_and_ends_nobody(alone):
    alone.server.activated = {"SCORE": 2}
    alone.world.cycle(2)
    alone.server.down = "/"
    decision = alone.world.cycle(200)
    assert decision.binding.name == "dispatcher"
    assert len(alone.world.workers()) == 2


class Wire:
    """What `Client.request` answers."""

    url = "https://panda.example"

    def __init__(self, *answers: object, status: int = 200) -> None:
        self.answers, self.status = list(answers), status
        self.sent: list[tuple[str, str, bytes | None]] = []

    def request(self, method, path, body=None, *, kind=""):
        self.sent.append((method, path, body))
        return self.status, msgspec.json.encode(self.answers.pop(0))


def test_a_token_that_has_expired_is_read_again_from_its_file(tree):
    file = Path(tree["dispatcher"]["token_file"])

    class Door(BaseHTTPRequestHandler):
        def do_GET(self):
            good = self.headers["Authorization"] == "Bearer new"
            body = b'{"success": true, "data": 7}' if good else b"ERROR : token expired"
            file.write_text("new", encoding="utf-8")  # somebody renews it
            self.send_response(200 if good else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Door) as door:
        serving = threading.Thread(target=door.serve_forever, daemon=True)
        serving.start()
        tree["dispatcher"]["url"] = f"http://127.0.0.1:{door.server_port}"
        tree["dispatcher"]["panda"] = {
            "harvester_id": "h",
            "pilot_token_file": "/t",
            "dialect": "v1",
        }
        site = msgspec.convert(tree, Site)
        server = connect(site, site.dispatcher.panda)
        assert server.call("harvester/get_current_worker_id", {"harvester_id": "h"}) == 7
        door.shutdown()
        serving.join()


def test_v1_is_asked_with_its_methods_and_arguments():
    wire = Wire({"success": False, "message": "", "data": None}, {"success": True, "data": None})
    server = PandaServer(wire, "v1")  # type: ignore[arg-type]
    assert server.call("harvester/get_current_worker_id", {"harvester_id": "a b"}) is None
    server.call("harvester/acknowledge_commands", {"command_ids": [1]})
    assert wire.sent == [
        ("GET", "/api/v1/harvester/get_current_worker_id?harvester_id=a+b", None),
        ("POST", "/api/v1/harvester/acknowledge_commands", b'{"command_ids": [1]}'),
    ]


def test_the_old_interface_is_asked_by_its_names_with_texts():
    wire = Wire([True, [True]], {"StatusCode": 0, "Commands": [{"command": "x"}]}, 7)
    server = PandaServer(wire, "legacy")  # type: ignore[arg-type]
    assert server.call("harvester/update_workers", {"harvester_id": "h", "workers": []}) == [True]
    commands = server.call("harvester/acquire_commands", {"harvester_id": "h", "n_commands": 20})
    assert commands == [{"command": "x"}]
    assert server.call("harvester/get_current_worker_id", {"harvester_id": "h"}) == 7
    assert [path for _, path, _ in wire.sent] == [
        "/server/panda/updateWorkers", "/server/panda/getCommands", "/server/panda/get_max_worker_id",
    ]  # fmt: skip
    assert wire.sent[0][2] == b"harvesterID=h&workers=%5B%5D"


@pytest.mark.parametrize(
    ("speaks", "answer"),
    [
        ("v1", {"success": False, "message": "production role required"}),
        ("legacy", [False, "production role required"]),
        ("legacy", {"StatusCode": 60, "errorDialog": "production role required"}),
    ],
)
def test_a_refusal_comes_with_the_servers_reason(speaks, answer):
    with pytest.raises(Refused, match="production role required"):
        PandaServer(Wire(answer), speaks).call("harvester/acquire_commands", {})  # type: ignore[arg-type]


def test_a_database_that_is_away_is_no_refusal():
    with pytest.raises(Unreachable):
        PandaServer(Wire({"success": False, "message": "Timed out"}), "v1").call(
            "harvester/heartbeat", {}
        )  # type: ignore[arg-type]
