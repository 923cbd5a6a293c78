"""A carousel on a real Rucio: files of a tape are declared at a disk by a mover of the test, at its
own rate, while dispatcher and the process of its catalogue are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from ailurus.protocol.task import ENDED, TaskState
from ailurus.protocol.task_file import task_from
from tests.rig import rucio as at
from tests.rig.programs import QUEUE, Rig
from tests.rig.services import FIXTURES
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(150)]
FILES, CAP, RATE = 100, 20, 8.0
ACCOUNTS = ("root", "panda")

_MAKE = f"""
for name in ("TAPE", "CAROUSEL"):
    client.add_rse(name, deterministic=True)
    client.add_protocol(name, {{"scheme": "file", "hostname": "localhost", "port": 0, "prefix": "/none/",
        "impl": "rucio.rse.protocols.posix.Default", "domains": {{
        "lan": {{"read": 1, "write": 1, "delete": 1}},
        "wan": {{"read": 1, "write": 1, "delete": 1, "third_party_copy_read": 1, "third_party_copy_write": 1}}}}}})
    for account in {ACCOUNTS!r}:
        client.set_local_account_limit(account, name, 10**12)
files = [{{"scope": "user.alice", "name": f"tape.{{nr:03}}", "bytes": 1000, "adler32": "0d3a1c2b"}}
         for nr in range({FILES})]
client.add_dataset("user.alice", "tape")
client.add_replicas("TAPE", files)
client.add_files_to_dataset("user.alice", "tape", files)
client.close("user.alice", "tape")
"""
_MOVE = """
import json, sys, time
from rucio.client import Client
client = Client()
done, every_s, out = set(), 1 / float(sys.argv[1]), open(sys.argv[2], "a")
while True:
    rules = list(client.list_replication_rules({"rse_expression": "CAROUSEL"}))
    live = [one for one in rules if one["expires_at"] is None]
    print(json.dumps({"rules": len(live)}), file=out, flush=True)
    for rule in live:
        if rule["name"] not in done:
            done.add(rule["name"])
            file = {"scope": rule["scope"], "name": rule["name"], "state": "A"}
            at = time.time()
            client.update_replicas_states("CAROUSEL", [file])
            print(json.dumps({"name": rule["name"], "at": at}), file=out, flush=True)
            break
    time.sleep(every_s)
"""


def test_no_job_before_its_file_and_no_more_files_than_the_cap(rucio, tmp_path):
    at.administer(rucio, _MAKE)
    catalogue = at.catalogue(rucio, tmp_path)
    about = yaml.safe_load(catalogue.read_text("utf-8"))
    catalogue.write_text(yaml.safe_dump({**about, "staging": {"CAROUSEL": ["*"]}}), "utf-8")
    moved = tmp_path / "moved"
    moved.touch()
    argv = [FIXTURES / "rucio", "as", rucio.directory, "root", "python", "-c", _MOVE, RATE, moved]
    task = task_from(
        {
            "task": "carousel",
            "steps": [
                {
                    "name": "read",
                    "over": {"dataset": "rucio://user.alice:tape"},
                    "gate": {"staged": "CAROUSEL", "files": CAP},
                    "job": {
                        "command": "true",
                        "name": "read.{item}",
                        "queue": QUEUE,
                        "memory": "100M",
                        "disk": "10M",
                    },
                }
            ],
        }
    )
    with Rig(heartbeat_s=1, cores=4, serve=("--catalogue", catalogue)) as rig:
        rig.pilot()
        mover = subprocess.Popen(list(map(str, argv)), stdin=subprocess.DEVNULL)
        try:
            task_id = rig.client.submit_task(task).task_id

            def row():
                return rig.client.task(task_id).row

            until(lambda: row().steps[0].finished >= FILES // 4, 60, "a quarter finishes")
            rig.dispatcher.kill()
            rig.dispatchers[0] = rig.serve()
            until(lambda: row().steps[0].finished >= FILES // 2, 60, "half of them finish")
            _kill_catalogue(rig.dispatcher.pid)
            until(lambda: row().state in ENDED, 100, "the task ends")
            end = row()
            assert (end.state, end.steps[0].items) == (TaskState.FINISHED, FILES), end
            assert end.steps[0].finished == end.steps[0].jobs == FILES
            gone = "select 1 from task_file where state <> 'done'"
            until(lambda: not rig.rows(gone), 30, "all files are let go")
        finally:
            mover.send_signal(signal.SIGTERM)
            mover.wait()
        said = [json.loads(line) for line in moved.read_text("utf-8").splitlines()]
        came = {one["name"]: one["at"] for one in said if "name" in one}
        made = dict(rig.rows("select name, created from job"))
        assert len(came) == len(made) == FILES
        assert [name for name, at_s in came.items() if made[f"read.{name}"] < at_s] == []
        assert 1 < max(one["rules"] for one in said if "rules" in one) <= CAP
    rucio.ask("daemons", "judge-cleaner")
    time.sleep(1)
    assert at.known(rucio, "user.alice:tape.000")["rules"] == []


def _kill_catalogue(dispatcher: int) -> None:
    """kill -9 of the process in which the catalogue is asked."""
    children = Path(f"/proc/{dispatcher}/task/{dispatcher}/children").read_text("utf-8").split()
    found = [
        int(pid)
        for pid in children
        if b"dispatcher.catalogue.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)
