"""One pilot for all nodes of an allocation: on a real Slurm, on machines that go."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ailurus.protocol.api import ItemsQuery
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.messages import ItemRow, JobDetail
from ailurus.protocol.states import FINAL, JobState
from tests.pilot.helpers import BIN, Dispatcher
from tests.rig.batch_systems import Slurm
from tests.rig.nodes import Nodes
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.batch, pytest.mark.slow, pytest.mark.timeout(180)]


class Queue:
    """A dispatcher on the first machine, where the pilot is, too, and pilots of allocations."""

    def __init__(self, nodes: Nodes, slurm: Slurm) -> None:
        self.nodes, self.slurm = nodes, slurm
        self.directory = nodes.directory / "job"
        self.directory.mkdir()
        with nodes.network("n1"):
            self.dispatcher = Dispatcher(self.directory)
        self.site = self.directory / "site.yaml"
        self.site.write_text(
            json.dumps(
                {
                    "site": "test",
                    "slots": {"s": {"queue": "q", "cores": 4, "memory": "2GiB", "disk": "40GiB"}},
                    "storage": {"roots": [], "default_output": ""},
                    "container": {"default": "bare", "bare": True},
                }
            )
        )
        self.log = self.directory / "pilot.log"
        self.ran = self.directory / "ran"

    def start(self, program: Path = BIN / "pilot") -> None:
        """A batch job of three nodes with one pilot."""
        words = [
            program, "--head", "--url", self.dispatcher.url, "-q", "q", "--site", self.site,
            "--slot", "s", "-a", self.directory / "work", "--log", self.log, "--grace", "1",
            "--token-file", self.dispatcher.pilot_token,
        ]  # fmt: skip
        script = self.directory / "script"
        script.write_text(f"#!/bin/sh\nexec {shlex.join(map(str, words))}\n")
        options = ["--no-kill", "--nodes=3", "--exclusive", "--time=30"]
        output = f"--output={self.directory}/batch.out"
        with self.nodes.network():
            self.slurm.run("sbatch", *options, output, str(script))

    def submit(self, count: int, command: str, **fields: Any) -> list[int]:
        line = f"{command}; echo $AILURUS_JOB_ID $(hostname) >> {self.ran}"
        with self.nodes.network("n1"):
            return [
                self.dispatcher.submit(line, queue="q", max_attempts=3, **fields)
                for _ in range(count)
            ]

    def carry(self, items: list[ItemSpec], **fields: Any) -> int:
        with self.nodes.network("n1"):
            payloads = self.dispatcher.client.upload("items", items)
            return self.dispatcher.submit(queue="q", payloads=payloads, max_attempts=1, **fields)

    def ended(self, job: int) -> tuple[JobDetail, tuple[ItemRow, ...]]:
        """A job once it is over, and its payloads."""
        self.final([job])
        with self.nodes.network("n1"):
            client = self.dispatcher.client
            return client.show(job), client.items(job, ItemsQuery(limit=1000)).items

    def final(self, jobs: list[int], seconds: float = 60.0) -> dict[int, JobState]:
        with self.nodes.network("n1"):
            states = self.dispatcher.client.wait(jobs, timeout_s=seconds).states
        return {job: state for job, state in states.items() if state in FINAL}

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for text in lines if (line := json.loads(text))["event"] == event]

    def where(self) -> dict[str, list[str]]:
        """By job: the machines on which it came to its end."""
        found: dict[str, list[str]] = {}
        for line in self.ran.read_text().splitlines() if self.ran.exists() else ():
            job, host = line.split()
            found.setdefault(job, []).append(host)
        return found

    def scratch(self, name: str) -> str:
        """Directories of agents on a machine."""
        return self.nodes.run(name, "sh", "-c", "ls -d /tmp/ailurus-agent-* 2>/dev/null || :")

    def left(self, name: str) -> str:
        """What of ours runs on a machine."""
        return self.nodes.run(
            name, "sh", "-c", "ps ax -o args | grep -E 'pilo[t]|sleep [038]([.]2)?$' || :"
        )


@pytest.fixture
def queue(nodes: Nodes, slurm_nodes: Slurm) -> Iterator[Queue]:
    made = Queue(nodes, slurm_nodes)
    try:
        yield made
    finally:
        made.dispatcher.kill()


@pytest.mark.parametrize(("loss", "seconds", "length"), [("kill", 1.5, 3), ("cut", 6.0, 8)])
def test_a_node_that_is_lost_costs_what_ran_there_and_no_more(queue, nodes, loss, seconds, length):
    # What ran on a machine that is cut off ends before anybody can know, unless it takes longer.
    jobs = queue.submit(20, f"sleep {length}")
    queue.start()
    until(lambda: len(queue.said("node_joined")) == 2, 20, "both agents are there")
    time.sleep(1.5)
    getattr(nodes, loss)("n3")
    lost_at = time.monotonic()
    until(lambda: queue.said("node_lost"), 20, "the loss is found")
    assert time.monotonic() - lost_at < seconds
    states = queue.final(jobs, 120)
    assert set(states.values()) == {JobState.FINISHED}
    ran = queue.where()
    assert set(ran) == {str(job) for job in jobs}
    assert all(len(hosts) == 1 for hosts in ran.values()), ran


def test_the_payloads_of_one_job_fill_three_nodes_and_outlive_two_of_them(queue, nodes):
    queue.start()
    until(lambda: len(queue.said("node_joined")) == 2, 20, "both agents are there")
    job = queue.carry(
        [ItemSpec(command=f"sleep 0.8; echo {n} on $(hostname)") for n in range(60)],
        nodes=3,
        cores=4,
    )
    time.sleep(2.5)
    nodes.kill("n3")
    until(lambda: queue.said("node_lost"), 20, "the loss is found")
    nodes.kill("n2")
    found, rows = queue.ended(job)
    assert found.row.state is JobState.FINISHED, found
    assert found.row.attempt_nr == 1
    assert {row.state for row in rows} == {"finished"}
    assert {row.host for row in rows} == {"n1", "n2", "n3"}
    again = [row for row in rows if row.attempt > 1]
    # What ran on the two that were lost.
    assert 1 <= len(again) <= 8
    assert {row.host for row in again} <= {"n1", "n2"}


HOSTILE = """
for place in {wanted}; do cat "$place" || find "$place" -type f -exec cat {{}} + ; done
find / -xdev -name '*.key' -o -xdev -name '*.token' -o -xdev -name 'ailurus-agent-*'
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/roo[t]/tmp/* | tr '\\0' '\\n'
echo $(ls -d /proc/[0-9]*) processes; touch {outside}/made-there /tmp/made-here; ls -A /tmp
kill -9 -1; echo looked everywhere on $(hostname)
"""


def test_a_hostile_payload_finds_nothing_of_others_on_an_agents_node(queue, nodes):
    """By pilot-rsh, beside another's job there, and while the allocation's key is on disk."""
    site = json.loads(queue.site.read_text())
    site["container"] = {"default": "bubblewrap"}
    queue.site.write_text(json.dumps(site))
    for name in nodes.names:
        show = "mkdir /dev/shm/proc; mount -t proc proc /dev/shm/proc"
        nodes.run(name, "sh", "-c", show)
    queue.start()
    until(lambda: len(queue.said("node_joined")) == 2, 20, "both agents are there")
    queue.submit(
        3, "echo canary-file | tee /tmp/secret > secret; sleep 30", cores=2,
        environment={"SECRET": "canary-variable"},
    )  # fmt: skip
    work = queue.directory / "work"
    nodes.kill("n3")
    (key,) = until(lambda: list(work.glob("*/agents.key")), 20, "an agent is awaited")
    secret = key.read_text()
    probe = HOSTILE.format(wanted=f"{key} {key.parent} {work} /tmp", outside=key.parent)
    shell = "for n in $(cat $AILURUS_NODES); do $AILURUS_PILOT_RSH $n"
    command = f"{shell} {shlex.quote(probe)}; done; $AILURUS_PILOT_RSH n3 hostname; true"
    (job,) = queue.submit(1, command, nodes=2, cores=1, launcher="script")
    assert queue.final([job])[job] is JobState.FINISHED
    with nodes.network("n1"):
        said = queue.dispatcher.log(job) + queue.dispatcher.log(job, "stderr")
    assert {"looked everywhere on n1", "looked everywhere on n2"} <= {*said.splitlines()}, said
    assert "no node of this job is called 'n3'" in said
    for text in (secret, "canary", "ailurus-agent-", str(queue.dispatcher.pilot_token)):
        assert text not in said.replace(probe, "")
    assert not list(work.glob("**/made-there"))
