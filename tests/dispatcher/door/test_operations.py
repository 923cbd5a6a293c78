"""What an operator sees of the door: readiness, metrics, the access log."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ailurus.protocol.api import Scope
from ailurus.protocol.messages.overview import TROUBLES
from dispatcher.door.access_log import AccessLog, Traffic
from dispatcher.door.app import App
from dispatcher.door.readiness import Readiness
from dispatcher.door.settings import DoorSettings, Waiting
from dispatcher.ports import Unavailable
from dispatcher.rules import troubles
from dispatcher.telemetry.metrics import QUEUES, Metrics
from harvester_edge.metrics import families
from harvester_edge.status import StatusAnswer

MONITORING = Path(__file__).parents[3] / "scripts/monitoring"

JOB = {"name": "j", "command": "true"}
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def watched(dispatcher, tmp_path):
    """The real service behind a door with everything an operator reads."""

    async def made():
        access = AccessLog(tmp_path / "access.log")
        traffic, waiting = Traffic(access), Waiting()
        store = tmp_path / "queue.db"
        settings = DoorSettings(
            traffic=traffic,
            waiting=waiting,
            ready=Readiness(dispatcher.service.store).check,
            metrics=Metrics(dispatcher.service, traffic, store, waiting.__len__).page,
        )
        return App(dispatcher.service.handlers(), dispatcher.issuer, settings), access

    dispatcher.app, access = dispatcher.runner.run(made())
    yield dispatcher
    access.close()


def lines(directory):
    return [json.loads(line) for line in (directory / "access.log").read_text().splitlines()]


def metrics(door, **labels):
    answer = door.ask("GET", "//metrics", token=door.token(Scope.METRICS))
    assert answer.status == 200
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.items())] = sample.value
    return found


def submit(door, *jobs, subject="alice"):
    token = door.token(Scope.READ, Scope.CREATE, Scope.CANCEL, subject=subject)
    ask = {"request_id": str(len(jobs)) + subject, "jobs": [JOB | one for one in jobs]}
    return door.ask("POST", "/jobs", ask, token=token).json["job_ids"], token


def test_ready_says_yes_when_the_store_commits(watched):
    assert watched.ask("GET", "//readyz").status == 200


def test_ready_says_no_with_the_reason_while_the_store_refuses(watched):
    async def refuses(change):
        raise Unavailable("database or disk is full")

    watched.service.store.write = refuses
    answer = watched.ask("GET", "//readyz")
    assert (answer.status, answer.json["detail"]) == (503, "database or disk is full")
    assert watched.ask("GET", "//healthz").status == 200


def test_ready_says_no_while_the_store_hangs(watched, monkeypatch):
    monkeypatch.setattr("dispatcher.door.readiness.PATIENCE_S", 0.05)
    gate = threading.Event()
    hangs = watched.service.store.write(lambda tx: gate.wait(10))
    asyncio.run_coroutine_threadsafe(hangs, watched.runner.get_loop())
    try:
        assert "no commit" in watched.ask("GET", "//readyz").json["detail"]
    finally:
        gate.set()


def test_the_store_is_asked_once_a_second_however_many_ask(watched):
    asked = 0
    write = watched.service.store.write

    def counted(change):
        nonlocal asked
        asked += 1
        return write(change)

    watched.service.store.write = counted

    async def many():
        check = Readiness(watched.service.store).check
        await asyncio.gather(*(check() for _ in range(100)))
        await check()

    watched.runner.run(many())
    assert asked == 1


def test_metrics_need_a_token_of_their_own_and_open_nothing_else(watched):
    token = watched.token(Scope.METRICS)
    assert watched.ask("GET", "//metrics").status == 401
    assert watched.ask("GET", "//metrics", token=watched.token(Scope.READ)).status == 403
    assert watched.ask("GET", "//metrics", token=watched.token(Scope.ADMIN)).status == 200
    assert watched.ask("GET", "/overview", token=token).status == 403


def test_metrics_count_jobs_ends_and_requests(watched):
    ids, token = submit(watched, {"queue": "a"}, {"queue": "a"}, {"queue": "b"})
    watched.ask("POST", "/jobs/cancel", {"job_ids": ids[:1]}, token=token)
    seen = metrics(watched)
    assert seen["ailurus_jobs", ("queue", "a"), ("state", "activated")] == 1
    assert seen["ailurus_jobs", ("queue", "b"), ("state", "activated")] == 1
    assert seen["ailurus_jobs_ended_total", ("state", "cancelled")] == 1
    assert seen["ailurus_http_requests_total", ("route", "submit"), ("status", "200")] == 1
    assert (
        seen[
            "ailurus_http_request_seconds_count",
            ("route", "submit"),
        ]
        == 1
    )
    assert seen["ailurus_http_request_seconds_bucket", ("le", "+Inf"), ("route", "submit")] == 1
    assert any(name[0] == "ailurus_dispatcher_info" for name in seen)
    assert seen["ailurus_store_bytes", ("file", "database")] > 0


def test_problems_are_counted_by_kind(watched, monkeypatch):
    seen = metrics(watched)
    told = {dict(name[1:])["kind"] for name in seen if name[0] == "ailurus_problems"}
    assert told == {*TROUBLES}
    monkeypatch.setattr(troubles, "GRACE_S", -1.0)
    submit(watched, {"queue": "lonely"})
    assert metrics(watched)["ailurus_problems", ("kind", "unserved")] == 1


@pytest.mark.parametrize("file", ["alerts.yml", "dashboard.json"])
def test_rules_and_dashboard_ask_for_figures_that_are_there(watched, file):
    submit(watched, {})
    site = StatusAnswer(
        site="s",
        running=1,
        looked=1.0,
        paused=False,
        max_total=1,
        slots=[],
        decision=None,
        decided=1.0,
    )
    page = watched.ask("GET", "//metrics", token=watched.token(Scope.METRICS)).body.decode()
    there = {*re.findall("# TYPE (\\S+)", page), *(one.name for one in families(site))}
    text = (MONITORING / file).read_text()
    asked = {re.sub("_(bucket|sum|count)$", "", one) for one in re.findall(r"\bailurus_\w+", text)}
    assert len(asked) > 5
    assert asked - there == set()
    kinds = re.findall(r'kind=~"(.*?)"', text)
    assert not kinds or {*"|".join(kinds).split("|")} == {*TROUBLES}


def test_labels_stay_bounded_whatever_users_call_their_queues(watched):
    submit(watched, *({"queue": f"q{nr}"} for nr in range(QUEUES + 50)))
    jobs = {name: value for name, value in metrics(watched).items() if name[0] == "ailurus_jobs"}
    assert len(jobs) == QUEUES + 1
    assert jobs["ailurus_jobs", ("queue", "other"), ("state", "activated")] == 50
    for nr in range(50):
        watched.ask("GET", f"//nonsense/{nr}")
    assert len({name for name in metrics(watched) if name[0] == "ailurus_http_requests_total"}) < 10


def test_the_access_log_says_who_asked_what_and_how_it_ended(watched, tmp_path):
    ids, token = submit(watched, {})
    watched.ask(
        "GET",
        f"/jobs/{ids[0]}",
        token=token,
        headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
    )
    answer = watched.ask("GET", "/jobs/999", token=token)
    watched.app.traffic._access.flush()
    first, second, third = lines(tmp_path)
    assert (first["route"], first["status"], first["caller"]) == ("submit", 200, "alice")
    assert (second["route"], second["request_id"]) == ("show", TRACE)
    assert (third["status"], third["request_id"]) == (404, answer.headers["x-request-id"])
    assert all(line["ms"] > 0 and line["time"].endswith("Z") for line in lines(tmp_path))


def test_t6_no_token_gets_into_the_access_log_wherever_it_is_put(watched, tmp_path):
    canary = watched.token(Scope.READ)
    for path in (
        f"/{canary}",
        f"/jobs?token={canary}",
        f"//{canary}",
        f"/jobs/{canary}",
        f"//server/panda/{canary}",
    ):
        watched.ask("GET", path, token=canary)
        watched.ask("GET", path, headers={"traceparent": canary, "authorization": canary})
    watched.app.traffic._access.flush()
    assert len(lines(tmp_path)) == 10
    assert canary not in (tmp_path / "access.log").read_text()


def test_a_moved_access_log_is_opened_anew(watched, tmp_path):
    watched.ask("GET", "//healthz")
    watched.app.traffic._access.flush()
    (tmp_path / "access.log").rename(tmp_path / "access.log.1")
    watched.app.traffic._access.reopen()
    watched.ask("GET", "//readyz")
    watched.app.traffic._access.flush()
    assert [line["route"] for line in lines(tmp_path)] == ["readyz"]
