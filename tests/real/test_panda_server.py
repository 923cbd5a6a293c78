"""Our pilot works for real PanDA servers: panda-server from PyPI on a PostgreSQL, with its own
Adder, 1.0.4 by the new API and 0.8.1 by the old one."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real import panda_server
from tests.real.panda_server import PandaServer
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(180)]

HELLO = b"HELLO\n"
START_S = 60  # of a pilot and its job, on a busy machine
ENDED = ("finished", "failed", "cancelled")


@pytest.fixture(scope="module", params=["v1", "legacy"])
def server(request, need) -> Iterator[PandaServer]:
    panda_server.needed(need, request.param)
    with PandaServer(request.param) as made:
        yield made


def ended(server: PandaServer, job_id: int) -> dict[str, Any]:
    """The job's row, once the server's own Adder has given it its last state."""
    server.keep = True  # until it has
    until(
        lambda: server.seen(job_id)["jobstatus"] in ENDED,
        START_S,
        f"job {job_id} ends",
        every_s=0.3,
    )
    server.keep = False
    return server.seen(job_id)


def pilot(server: PandaServer, job_id: int, *more: str, **environment: str):
    argv = ["--dialect", server.release, "--max-jobs", "1", "--heartbeat", "1s", *more]
    return server.pilot(*argv, name=f"pilot-{job_id}", **environment)


def test_a_null_job_finishes(server):
    job = server.job(101, "true")
    pilot(server, job)
    seen = ended(server, job)
    assert seen["jobstatus"] == "finished", seen["piloterrordiag"] or seen["ddmerrordiag"]
    assert not seen["piloterrorcode"]
    assert seen["pilotid"].startswith("unknown|ailurus|")


def test_the_server_is_asked_what_it_speaks(server):
    job = server.job(102, "true")
    one = server.pilot("--max-jobs", "1", name="asked")
    assert ended(server, job)["jobstatus"] == "finished"
    # 0.8.1 has both; the new one is preferred
    assert '"dialect": "v1"' in one.log.read_text()


def test_files_reach_the_servers_tables_with_size_checksum_and_guid(server):
    (server.storage / "in.txt").write_text("hello\n")
    job = server.job(
        103,
        "tr a-z A-Z < in.txt > 103.out.txt",
        files=(
            {"lfn": f"file://{server.storage}/in.txt", "type": "input", "dataset": "user.test.in"},
            {"lfn": "103.out.txt", "type": "output", "destinationDBlock": "user.test.out_sub1"},
            {
                "lfn": "103.log.tgz",
                "type": "log",
                "GUID": "AAAA-1",
                "destinationDBlock": "user.test.log_sub1",
            },
        ),
    )
    pilot(server, job)
    seen = ended(server, job)
    assert seen["jobstatus"] == "finished", seen["piloterrordiag"] or seen["ddmerrordiag"]
    files = server.files(job)
    out, log = files["103.out.txt"], files["103.log.tgz"]
    assert (out["status"], log["status"]) == ("ready", "ready")
    assert out["fsize"] == 6
    assert out["checksum"] == f"ad:{zlib.adler32(HELLO):08x}"
    assert re.fullmatch("[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", out["guid"])
    assert log["guid"] == "AAAA-1", "a log's guid is the server's"
    assert (seen["noutputdatafiles"], seen["outputfilebytes"]) == (1, 6)
    surls = dict(
        re.findall(
            r'"(103[^"]+)": {[^}]*"surl": "file://([^"]+)"',
            server.said("api_pilot", "JobDispatcher"),
        )
    )
    assert Path(surls["103.out.txt"]).read_text(encoding="utf-8") == "HELLO\n"
    with tarfile.open(surls["103.log.tgz"]) as tar:
        assert any(name.endswith("stdout") for name in tar.getnames())


def test_a_failure_comes_with_codes_words_and_its_log(server):
    job = server.job(
        104,
        "echo why >&2; exit 3",
        files=(
            {"lfn": "104.out", "type": "output"},
            {"lfn": "104.log.tgz", "type": "log", "GUID": "AAAA-2"},
        ),
    )
    pilot(server, job)
    seen = ended(server, job)
    assert seen["jobstatus"] == "failed"
    assert (seen["piloterrorcode"], str(seen["transexitcode"])) == (1305, "3")
    assert "3" in seen["piloterrordiag"]
    log = server.files(job)["104.log.tgz"]
    assert log["fsize"] > 0
    assert log["checksum"].startswith("ad:")


def test_a_job_that_is_killed_ends_cancelled(server):
    job = server.job(105, "exec sleep 100")
    one = pilot(server, job)
    until(lambda: server.seen(job)["jobstatus"] == "running", START_S, "it runs", every_s=0.2)
    server.update(job, commandToPilot="tobekilled")
    seen = ended(server, job)
    assert seen["jobstatus"] == "cancelled"
    until(lambda: not one.alive, START_S, "the pilot ends")


def test_a_look_at_the_output_comes_back(server):
    job = server.job(106, "echo said; exec sleep 100")
    pilot(server, job)
    until(lambda: server.seen(job)["jobstatus"] == "running", START_S, "it runs", every_s=0.2)
    server.update(job, commandToPilot="tail payload.stdout")
    shown = f"select stdOut from atlas_panda.jobsDebug where PandaID = {job}"  # noqa: S608 -- a number
    until(
        lambda: any("said" in row["stdout"] for row in server.rows(shown)), START_S, "it is shown"
    )
    server.update(job, commandToPilot="tobekilled")
    assert ended(server, job)["jobstatus"] == "cancelled"


def test_another_attempts_pilot_is_told_to_stop(server):
    job = server.job(107, "exec sleep 100")
    one = pilot(server, job)
    until(lambda: server.seen(job)["jobstatus"] == "running", START_S, "it runs", every_s=0.2)
    server.update(job, attemptNr=2)
    until(lambda: not one.alive, START_S, "the pilot ends")
    assert server.seen(job)["jobstatus"] == "running", "nothing that it says counts any more"
    server.update(job, jobStatus="closed")


def test_a_report_waits_for_a_server_that_is_away(server):
    job = server.job(110, "sleep 2")
    one = pilot(server, job)
    until(lambda: server.seen(job)["jobstatus"] == "running", START_S, "it runs", every_s=0.2)
    server.ask("down")
    until(lambda: "job_ended" in one.log.read_text(), START_S, "it ends while the server is away")
    server.ask("up")
    assert ended(server, job)["jobstatus"] == "finished"


def test_one_pilot_runs_several_jobs(server):
    jobs = [server.job(111 + nr, "true") for nr in range(3)]
    server.pilot("--dialect", server.release, "--max-jobs", "3", name="several")
    assert [ended(server, job)["jobstatus"] for job in jobs] == ["finished"] * 3


def test_a_harvesters_worker_is_known_by_its_number(server):
    server.insert("Harvester_Instances", harvester_ID="h", owner="o", hostName="x")
    server.insert("Harvester_Workers", harvesterID="h", workerID=1, status="submitted")
    job = server.job(108, "true")
    one = pilot(server, job, HARVESTER_ID="h", HARVESTER_WORKER_ID="1")
    assert ended(server, job)["jobstatus"] == "finished"
    until(lambda: not one.alive, START_S, "the pilot ends")
    (worker,) = server.rows("select * from atlas_panda.Harvester_Workers where workerID = 1")
    assert (worker["status"], worker["pilotstatus"]) == ("running", "finished")
    assert worker["pilotstarttime"] <= worker["pilotendtime"]
    (relation,) = server.rows("select * from atlas_panda.Harvester_Rel_Jobs_Workers")
    assert (relation["pandaid"], relation["workerid"]) == (job, 1)


def test_a_unified_pilot_takes_users_jobs_too(server):
    job = server.job(118, "true", prodSourceLabel="user")
    pilot(server, job, "-j", "unified")
    assert ended(server, job)["jobstatus"] == "finished"


def test_memory_and_time_are_in_the_servers_units(server):
    job = server.job(109, "dd if=/dev/zero of=/dev/null bs=1M count=2000 2>/dev/null; sleep 2")
    pilot(server, job)
    seen = ended(server, job)
    assert 500 < seen["maxrss"] < 1_000_000, "kB"
    assert seen["cpuconsumptiontime"] <= 5, "seconds"
    assert seen["actualcorecount"] == 1
    assert seen["starttime"] < seen["endtime"]


def test_a_forged_token_ends_the_pilot_with_its_own_code(server):
    forged = server.directory / "forged"
    head, body, _ = server.token.read_text().split(".")
    forged.touch(0o600)
    forged.write_text(f"{head}.{body}.{'A' * 342}")
    one = pilot(server, 199, "--token-file", str(forged))
    assert one.process.wait(START_S) == 68


def test_a_token_is_renewed_with_its_key(server):
    key = server.directory / "token.key"
    key.touch(0o600)
    key.write_text("a-key")
    job = server.job(120, "true")
    renewal = {"PANDA_AUTH_TOKEN_KEY": key.name, "PANDA_AUTH_DIR": f"{server.directory}/"}
    one = pilot(server, job, **renewal)
    assert ended(server, job)["jobstatus"] == "finished"
    assert "token_renewed" in one.log.read_text()


def test_a_token_that_is_refused_is_read_again_from_its_file(server):
    job = server.job(121, "sleep 3")
    pilot(server, job)
    until(lambda: server.seen(job)["jobstatus"] == "running", START_S, "it runs", every_s=0.2)
    server.ask("down")
    (server.server / "issuer.pem").unlink()  # the issuer gets another key
    server.ask("up")
    server.token.write_text(server.ask("token"))
    assert ended(server, job)["jobstatus"] == "finished"
    assert "Signature verification failed" in server.said("Entry"), "it had refused the first one"
