"""Our pilot works for a real PanDA server: panda-server from PyPI, on a PostgreSQL, with its own Adder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.rig import until

from tests.real import panda_server
from tests.real.panda_server import PandaServer

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(120)]

ENDED = ("finished", "failed", "cancelled")


@pytest.fixture(scope="module", params=["v1"])
def server(request, need) -> Iterator[PandaServer]:
    panda_server.needed(need, request.param)
    with PandaServer(request.param) as made:
        yield made


def ended(server: PandaServer, job_id: int) -> dict:
    """The job's row, once the server's own Adder has given it its last state."""
    server.keep = True  # until it has
    until(lambda: server.seen(job_id)["jobstatus"] in ENDED, 30, f"job {job_id} ends", every_s=0.3)
    server.keep = False
    return server.seen(job_id)


def test_a_null_job_finishes(server):
    job = server.job(101, "true")
    server.pilot("--dialect", "v1", "--max-jobs", "1", name="null")
    seen = ended(server, job)
    assert seen["jobstatus"] == "finished", seen
    assert seen["transexitcode"] in ("0", None)
