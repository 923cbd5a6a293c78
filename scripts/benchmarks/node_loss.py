"""A node of an allocation that is killed, or cut off and comes back, while payloads run."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from threading import Thread
from typing import NamedTuple

from benchmarks import node_items
from benchmarks.bare.pack import Task
from benchmarks.node_peers import Peers
from tests.rig.batch_systems import FIXTURES
from tests.rig.figure import Figure, figure
from tests.rig.heads import Heads
from tests.rig.waiting import until

LOST = "n3"
AFTER_S = 2.0
"""From the first begin of a task to the fault."""
DEAD_S = 4.75
"""After that ours gives a silent agent up, by its lease and margin; so does the bare head."""
HEALED_AFTER_S = DEAD_S + 0.5
SHORT, SHORT_S = 300, 0.2
# Longer than the lease, so that what was running when the cable was pulled may not end by itself.
LONG, LONG_S = 24, 8.0
LENGTHS = {"killed": (SHORT, SHORT_S), "cut": (SHORT, SHORT_S), "healed": (LONG, LONG_S)}


class Came(NamedTuple):
    """What came of a run with a fault."""

    seconds: float
    found_s: float
    """From the fault until the head said that the node is lost; 0: it says nothing."""
    begun: Counter[str]
    ended: Counter[str]
    """By task, how often it told of either."""

    @property
    def again(self) -> int:
        """Tasks that began more than once."""
        return sum(count > 1 for count in self.begun.values())

    @property
    def twice(self) -> int:
        """Tasks that came to their end more than once."""
        return sum(count > 1 for count in self.ended.values())


def figures(site: Heads) -> Iterator[Figure]:
    """Ours and the bare head's, each fault in an allocation of its own."""
    site.configure()
    peers = Peers(site)
    came: dict[str, tuple[Came, Came]] = {}
    for fault in ("killed", "cut", "healed"):
        came[fault] = Run(site, fault).ours(), Run(site, fault).bare(peers)
        sys.stderr.write(f"  a node {fault}: {[one.seconds for one in came[fault]]} s\n")
    for fault, most in (("killed", 1.0), ("cut", 5.0)):
        ours, bare = came[fault]
        name = f"nodes: one {fault}"
        note = f"peer: bare; {ours.again} ran again, {bare.again}"
        yield figure(f"{name}, {SHORT} × sleep {SHORT_S:g}", ours.seconds, "s", peer=bare.seconds,
                     at_most=1.05, note=note)  # fmt: skip
        yield figure(f"{name}, found after", ours.found_s, "s", at_most=most)
    ours, bare = came["healed"]
    yield figure("nodes: one cut and healed, tasks that ended twice", ours.twice, at_most=0,
                 note=f"of {LONG} × sleep {LONG_S:g}; {ours.again} ran again; bare, with no fence: "
                 f"{bare.twice}")  # fmt: skip
    lost = sum(LENGTHS[fault][0] - len(ours.ended) for fault, (ours, _) in came.items())
    yield figure("nodes: tasks called finished without an end, of all three", lost, at_most=0)


class Run:
    """Tasks that tell in a file when they begin and end, and what happens to a node meanwhile.
    Afterwards the machine is whole, and its Slurm idle."""

    def __init__(self, site: Heads, fault: str) -> None:
        self._site, self._fault = site, fault
        self._file = site.rig.directory / f"told-{secrets.token_hex(4)}"
        self._at = 0.0

    def ours(self) -> Came:
        site = self._site
        joined, lost = len(site.said("node_joined")), len(site.said("node_lost"))
        site.start()
        until(lambda: len(site.said("node_joined")) == joined + 2, 60, "all agents are there")
        fault = Thread(target=self._happen)
        fault.start()
        (job,) = site.client.submit([node_items.job_of(site, self._tasks())]).job_ids
        node_items.finish(site, job)
        fault.join()
        at = datetime.fromisoformat(site.said("node_lost")[lost]["time"]).timestamp()
        site.slurm.run("scancel", "--me")
        self._mend()
        until(lambda: not site.jobs() and not site.processes(), 60, "the pilot ends")
        return self._came(node_items.span_s(site, job), at - self._at)

    def bare(self, peers: Peers) -> Came:
        found = peers.bare(self._tasks(), dead_s=DEAD_S, meanwhile=self._happen)
        self._mend()
        return self._came(found["seconds"], 0.0)

    def _tasks(self) -> list[Task]:
        count, seconds = LENGTHS[self._fault]
        line = f"echo $0 begins >> {self._file}; sleep {seconds:g}; echo $0 ends >> {self._file}"
        return [Task(("/bin/sh", "-c", line, f"t{nr}"), 1, seconds) for nr in range(count)]

    def _happen(self) -> None:
        until(self._file.exists, 30, "a task begins")
        time.sleep(AFTER_S)
        self._at = time.time()
        if self._fault == "killed":
            self._site.nodes.kill(LOST)
            return
        self._site.nodes.cut(LOST)
        if self._fault == "healed":
            time.sleep(HEALED_AFTER_S)
            self._site.nodes.heal(LOST)

    def _mend(self) -> None:
        """Have a fresh machine, with its Slurm."""
        site = self._site
        if self._fault != "killed":
            site.nodes.kill(LOST)
        # Else Slurm waits for what the node had of a job, which it cannot tell the end of.
        site.slurm.run("scontrol", "update", f"nodename={LOST}", "state=down", "reason=bench")
        site.nodes.boot(LOST)
        words = [FIXTURES / "slurm", "node", site.slurm.directory, LOST, "start"]
        subprocess.run([*map(str, words)], check=True, timeout=60)
        until(self._whole, 60, "Slurm has the node again", every_s=0.5)

    def _whole(self) -> bool:
        """Whether Slurm takes the node for idle; where it does not, it is asked to."""
        ask, node = self._site.slurm.run, f"nodename={LOST}"
        state = ask("sinfo", "--noheader", f"--nodes={LOST}", "--format=%T")
        if "down" in state:
            # It may have done so meanwhile.
            ask("scontrol", "update", node, "state=resume", check=False)
        return "idle\n" in state

    def _came(self, seconds: float, found_s: float) -> Came:
        lines = [line.split() for line in self._file.read_text("utf-8").splitlines()]
        begun, ended = (
            Counter(name for name, what in lines if what == verb) for verb in ("begins", "ends")
        )
        return Came(seconds, found_s, begun, ended)
