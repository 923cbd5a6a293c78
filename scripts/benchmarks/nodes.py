"""Payloads packed on three nodes of a Slurm allocation by one pilot, beside others in an allocation
of the same nodes; and what it costs if one of them is lost meanwhile."""

from __future__ import annotations

import random
import secrets
import signal
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import JobSpec
from benchmarks import node_items, node_loss
from benchmarks.bare.pack import Task, area
from benchmarks.node_peers import Peers
from tests.rig import proc
from tests.rig.batch import QUEUE
from tests.rig.figure import Figure, figure
from tests.rig.heads import CORES, Heads, heads
from tests.rig.waiting import until

NODES = 3
SLOTS = NODES * CORES
TRUE, SLEEPS, MIXED = 2000, 300, 60
ROUNDS = 3
AGENTS, IDLE = 256, 20_000


def run(args: Namespace) -> Iterator[Figure]:
    """On whole machines, and then with one that is lost."""
    with heads(NODES) as site:
        yield from packed(site, args.seed)
        yield from node_loss.figures(site)


def packed(site: Heads, seed: int) -> Iterator[Figure]:
    """Ours in one allocation, which ends; then the others, each in its own."""
    true = [Task(("/bin/true",))] * TRUE
    sleeps = [Task(("/bin/sleep", "0.2"), 1, 0.2)] * SLEEPS
    wide = mixed(seed)
    pilot = Pilot(site)
    yield from pilot.started()
    trues = [pilot.took(true) for _ in range(ROUNDS)]
    slept = pilot.took(sleeps)
    blind = pilot.took([task._replace(seconds=0.0) for task in wide])
    told = pilot.took(wide)
    yield from pilot.memory()
    pilot.end()
    yield from idle_agents(site)
    peers = Peers(site)
    loops = [peers.bare(true) for _ in range(ROUNDS)]
    bare_slept, bare_wide = peers.bare(sleeps), peers.bare(wide, "widest")
    others = {
        "mpi4py.futures": (1.15, peers.mpi(true)),
        "executorlib": (1.15, peers.executorlib(true)),
        "HyperQueue": (2, peers.hyperqueue(true)),
    }
    loop = statistics.median(one["seconds"] for one in loops)
    ours = statistics.median(one["seconds"] for one in trues)
    name = "nodes: 2,000 × /bin/true"
    yield figure(name, TRUE / ours, "/s", peer=TRUE / loop, at_least=0.8,
                 note="items, submitted to finished; peer: bare head with agents")  # fmt: skip
    for other, (target, took) in others.items():
        if took is not None:
            yield figure(name, TRUE / ours, "/s", peer=TRUE / took["seconds"], at_least=target,
                         note=f"peer: {other}")  # fmt: skip
    bare_ms = 1000 * loops[-1]["cpu_s"] / TRUE
    yield figure("nodes: CPU a task", 1000 * trues[-1]["cpu_s"] / TRUE, "ms", at_most=1.0,
                 note=f"all but the dispatcher; bare {bare_ms:.2f}")  # fmt: skip
    yield figure("nodes: 300 × sleep 0.2", slept["seconds"], "s", peer=bare_slept["seconds"],
                 at_most=1.01, note="first begin to last end; peer: bare")  # fmt: skip
    yield figure("nodes: the same, use of slots", area(sleeps, SLOTS) / slept["seconds"],
                 at_least=0.97)  # fmt: skip
    yield figure("nodes: mixed, no estimates", blind["seconds"], "s", at_most=1.01,
                 peer=simulated(wide), seed=seed,
                 note="peer: simulated back-fill")  # fmt: skip
    yield figure("nodes: mixed, with estimates", told["seconds"], "s", at_most=1.02,
                 peer=simulated(widest(wide)), seed=seed,
                 note="peer: simulated widest, then longest")  # fmt: skip
    yield figure("nodes: the same, use of slots", area(wide, SLOTS) / told["seconds"],
                 at_least=0.96, seed=seed,
                 note=f"bare {area(wide, SLOTS) / bare_wide['seconds']:.3f}")  # fmt: skip


def mixed(seed: int) -> list[Task]:
    """Sleeps of 0.1 to 1 s on 1 to 4 cores."""
    chance = random.Random(seed)
    lengths = [round(chance.uniform(0.1, 1.0), 3) for _ in range(MIXED)]
    return [Task(("/bin/sleep", str(one)), chance.randint(1, CORES), one) for one in lengths]


def widest(tasks: Sequence[Task]) -> list[Task]:
    """Widest first, then longest."""
    return sorted(tasks, key=lambda task: (-task.cores, -task.seconds))


def simulated(tasks: Sequence[Task]) -> float:
    """How long this order takes with back-fill if nothing costs any time."""
    waiting, free, now = list(tasks), [CORES] * NODES, 0.0
    running: list[tuple[float, int, int]] = []
    while waiting or running:
        for task in list(waiting):
            node = max(range(NODES), key=free.__getitem__)
            if task.cores <= free[node]:
                waiting.remove(task)
                free[node] -= task.cores
                running.append((now + task.seconds, node, task.cores))
        running.sort(reverse=True)
        now, node, cores = running.pop()
        free[node] += cores
    return now


class Pilot:
    """One of ours for all nodes."""

    def __init__(self, site: Heads) -> None:
        self._site = site
        self._seen = site.rig.directory / "first"
        probe = f"echo $(hostname) $(date +%s.%N) >> {self._seen}; sleep 0.2"
        self._probes = site.rig.submit(2 * SLOTS, probe)
        site.start()

    def started(self) -> Iterator[Figure]:
        """How long until the first payload on each node."""
        if not self._site.rig.finished(self._probes, 60):
            raise RuntimeError("probes failed")
        began = float((self._site.rig.directory / "began").read_text())
        first: dict[str, float] = {}
        for line in self._seen.read_text().splitlines():
            name, at = line.split()
            first[name] = min(first.get(name, float(at)), float(at))
        last = max(first.values()) - began if len(first) == NODES else float("inf")
        each = ", ".join(f"{name} {at - began:.2f}" for name, at in sorted(first.items()))
        yield figure("nodes: allocation to first payload on every node", last, "s", at_most=0.45,
                     note=f"from the batch script's first line; {each}")  # fmt: skip
        until(lambda: len(self._site.said("node_joined")) == NODES - 1, 30)

    def took(self, tasks: Sequence[Task]) -> dict[str, float]:
        """A job of these items: seconds of makespan, and CPU. With no length known it is the whole
        way that counts, from submitted to finished; else from the first begin to the last end."""
        spec = node_items.job_of(self._site, tasks)
        before, began = self._cpu_s(), time.perf_counter()
        (job,) = self._site.client.submit([spec]).job_ids
        node_items.finish(self._site, job)
        took = time.perf_counter() - began
        cpu_s = self._cpu_s() - before
        if any(task.argv[0] != "/bin/true" for task in tasks):
            took = node_items.span_s(self._site, job)
        return {"seconds": took, "cpu_s": cpu_s}

    def _cpu_s(self) -> float:
        return sum(proc.cpu_with_children_s(pid) for pid in self._ours())

    def _ours(self) -> list[int]:
        """Processes of the pilot and the agents, not those of Slurm."""
        return [pid for pid in self._site.processes() if b"srun" not in proc.words(pid)[:60]]

    def memory(self) -> Iterator[Figure]:
        """Of an agent, and of the head, with all their processes."""
        sums: dict[str, float] = {}
        for pid in self._ours():
            with suppress(OSError):
                name = self._site.node_of(pid)
                sums[name] = sums.get(name, 0.0) + proc.pss_mb(pid)
        head = sums.pop("n1")
        yield figure("nodes: an agent's memory", max(sums.values()), "MB", at_most=20, note="PSS")
        yield figure("nodes: the head's memory", head, "MB", at_most=45, note="PSS, with 2 agents")

    def end(self) -> None:
        self._site.slurm.run("scancel", "--me")
        until(lambda: not self._site.jobs() and not self._site.processes(), 30)


def idle_agents(site: Heads) -> Iterator[Figure]:
    """The head with very many agents that run nothing."""
    names = [f"idle{nr}" for nr in range(AGENTS)]
    start = [sys.executable, "-P", str(Path(__file__).with_name("idle_agents.py")), "{nodes}"]
    options = {"nodes": ["n1", *names], "start": start}
    site.configure(pilot={"allocation": {"kind": "host", "options": options}})
    head = site.nodes.start("n1", *site.words())
    try:
        until(lambda: len(site.said("node_joined")) >= AGENTS, 60, "all agents are there")
        pid = next(pid for pid in proc.below(head.pid) if b"idle_agents" not in proc.words(pid))
        items = [ItemSpec(command="/bin/true")] * IDLE
        payloads = site.client.upload(secrets.token_hex(8), items)
        spec = JobSpec(name="items", command="true", queue=QUEUE, payloads=payloads,
                       nodes=AGENTS + 1, cores=CORES, memory_mb=4000, disk_mb=10)  # fmt: skip
        before, began = proc.cpu_s(pid), time.perf_counter()
        (job,) = site.client.submit([spec]).job_ids
        if not site.rig.finished([job], 120):
            raise RuntimeError(f"{site.client.show(job)}")
        rate = IDLE / (time.perf_counter() - began)
        yield figure(f"nodes: {AGENTS} agents that run nothing, the head's CPU a task",
                     1e6 * (proc.cpu_s(pid) - before) / IDLE, "µs", at_most=120,
                     note=f"{IDLE} items, {rate:.0f}/s")  # fmt: skip
        yield figure("nodes: the head's memory then", proc.pss_mb(pid), "MB", at_most=80,
                     note="PSS of the pilot itself")  # fmt: skip
    finally:
        site.nodes.signal(head, signal.SIGTERM)
        until(lambda: not site.processes(), 30)
