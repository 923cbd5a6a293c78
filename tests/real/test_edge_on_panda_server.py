"""Our edge is an instance of Harvester to the real panda-server 1.0.4: its commands, its tables."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any, Self

import pytest
import yaml

from tests.real import panda_server
from tests.real.panda_server import ORIGIN, QUEUE, PandaServer
from tests.rig.programs import BIN, Program, pilots_of
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(120)]
ID = "our-edge"


class Site:
    """A site of local workers whose queue is the server's."""

    def __init__(self, server: PandaServer, run_mode: str) -> None:
        self.server = server
        self.directory = server.directory / run_mode
        self.directory.mkdir(mode=0o755)
        part = {"harvester_id": f"{ID}-{run_mode}", "origin": ORIGIN, "run_mode": run_mode,
                "pilot_token_file": str(server.token)}  # fmt: skip
        described = {
            "schema": 1,
            "site": run_mode,
            "backend": {"kind": "local", "limits": {"poll": "1s", "settle": "1s", "grace": "3s"}},
            "dispatcher": {"url": server.url, "token_file": str(server.token), "panda": part},
            "paths": {"work": str(self.directory / "work"), "state": str(self.directory / "state")},
            "slots": {"std": {"queue": QUEUE, "cores": 1, "memory": "2000M", "disk": "2GiB", "walltime": "1h"}},
            "scaling": {"max_total": 3, "max_queued": 3, "per_cycle": 3, "idle_exit": "3s"},
            "container": {"default": "bare", "bare": True},
        }  # fmt: skip
        self.file = self.directory / "site.yaml"
        self.file.write_text(yaml.safe_dump(described))
        self.edge = Program(
            [BIN / "harvester-edge", "run", "--config", self.file], self.directory / "log"
        )
        server.programs.append(self.edge)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.edge.stop()
        for pid in self.pilots():
            os.kill(pid, signal.SIGTERM)
        until(lambda: not self.pilots(), 20, "its pilots leave")

    def said(self) -> str:
        return self.edge.log.read_text()

    def pilots(self) -> list[int]:
        return pilots_of(self.directory / "state")


@pytest.fixture(scope="module")
def server(need) -> Iterator[PandaServer]:
    panda_server.needed(need)
    with PandaServer() as made:
        yield made


def workers(server: PandaServer, instance: str) -> list[dict[str, Any]]:
    return server.rows(
        "select workerid, status, batchid, computingsite, ncore, resourcetype, jobtype"  # noqa: S608 -- ours
        f" from atlas_panda.harvester_workers where harvesterid = '{instance}' order by 1"
    )


def all_finish(server: PandaServer, jobs: list[int]) -> None:
    server.keep = True
    until(
        lambda: all(server.seen(job)["jobstatus"] == "finished" for job in jobs),
        60, "jobs finish", every_s=0.5,
    )  # fmt: skip
    server.keep = False


def test_activated_jobs_bring_workers_whose_ends_the_server_learns(server):
    with Site(server, "self") as site:
        jobs = [server.job(200 + nr, "true") for nr in range(5)]
        all_finish(server, jobs)
        until(lambda: not site.pilots(), 30, "idle pilots leave")
        told = f"{ID}-self"
        until(
            lambda: {one["status"] for one in workers(server, told)} == {"finished"},
            30, f"the server knows: {workers(server, told)}", every_s=0.5,
        )  # fmt: skip
        one = workers(server, told)[0]
        assert (one["workerid"], one["computingsite"], one["ncore"]) == (1, QUEUE, 1)
        assert (one["resourcetype"], one["jobtype"]) == ("SCORE", "managed")
        assert one["batchid"]
        assert site.edge.alive


def test_commands_bring_workers_and_end_them(server):
    with Site(server, "slave") as site:
        told = f"{ID}-slave"
        until(lambda: "harvester_started" in site.said(), 20, "it has said that it lives")
        jobs = [server.job(300 + nr, "exec sleep 300") for nr in range(2)]
        command(server, told, 1, f"SET_N_WORKERS_JOBTYPE:{QUEUE}", {"managed": {"SCORE": 2}})
        running = lambda: [server.seen(job)["jobstatus"] for job in jobs] == ["running"] * 2  # noqa: E731
        until(running, 40, f"both run: {site.said()[-500:]}", every_s=0.5)
        assert len(site.pilots()) == 2
        (site.directory / "state" / "pause").touch()
        kill = {"status": ["submitted", "running"], "computingSite": [QUEUE],
                "computingElement": "ALL", "submissionHost": "ALL"}  # fmt: skip
        command(server, told, 2, "KILL_WORKERS", kill)
        until(lambda: not site.pilots(), 40, "they are gone")
        states = "select command, status from atlas_panda.harvester_commands order by 1"
        until(
            lambda: {one["status"] for one in server.rows(states)} == {"acknowledged"},
            20, f"both are acknowledged: {server.rows(states)}", every_s=0.5,
        )  # fmt: skip
        assert site.edge.alive


def command(server: PandaServer, instance: str, nr: int, name: str, params: Any) -> None:
    """What another part of the server leaves for an instance."""
    server.insert(
        "harvester_commands", command_id=nr, harvester_id=instance, command=name,
        params=json.dumps(params), ack_requested=1, status="new",
        creation_date="2026-01-01 00:00:00",
    )  # fmt: skip
