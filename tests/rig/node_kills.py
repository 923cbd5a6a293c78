"""Machines, agents and pilots of allocations killed, stopped and cut off by chance while payloads
are packed on them; then each payload is counted, and what is left is looked for."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from ailurus.protocol.api import ItemsQuery
from ailurus.protocol.item import ItemSpec, ItemState
from ailurus.protocol.job import JobSpec
from ailurus.protocol.states import FINAL
from tests.rig import history
from tests.rig.batch import QUEUE
from tests.rig.batch_systems import FIXTURES
from tests.rig.figure import Figure, figure
from tests.rig.heads import Heads, heads, left_in, listening
from tests.rig.waiting import until

LEASE_S = 4.0
AT_ONCE = 24
"""So many jobs are added when fewer than these wait."""
ITEMS = 30
WEIGHTS = {
    "agent": 30,
    "head": 10,
    "srun": 5,
    "stopped agent": 12,
    "stopped head": 5,
    "cable": 20,
    "node": 18,
}
"""What happens how often: kill -9 of a process of an agent, of the pilot, of what starts agents;
STOP of one for a while; a cable pulled for a while; power off."""
GONE_S = 10.0
"""Within this nothing that was killed has left anything that runs."""


def run(kills: int, seed: int, seconds: float) -> Iterator[Figure]:
    """The figures of so many faults, or of as many as happen in that time."""
    with heads() as site, Chaos(site, random.Random(seed)) as chaos:
        began = time.monotonic()
        for nr in range(kills):
            if time.monotonic() - began > seconds:
                break
            chaos.fault()
            if nr % 10 == 9:
                sys.stderr.write(f"  {nr + 1} faults, {time.monotonic() - began:.0f} s\n")
        chaos.settle()
        found = [*chaos.wrong, *chaos.counted()]
        took = time.monotonic() - began
        if found:
            site.keep = True
            sys.stderr.write("".join(f"  {one}\n" for one in found[:40]))
        note = (
            f"{chaos.done.total()} faults: {dict(chaos.done)}; {len(chaos.items)} jobs of {ITEMS} items; {chaos.pilots} pilots; "
            f"attempts {chaos.attempts()}; {chaos.unheard} ended unheard; {took:.0f} s"
        )
    name = "chaos: nodes, "
    yield figure(f"{name}jobs finished once", chaos.finished, peer=len(chaos.jobs), at_least=1,
                 seed=seed, note=note)  # fmt: skip
    yield figure(f"{name}faults", len(found), at_most=0, seed=seed, note="; ".join(found[:5]))


class Chaos:
    """One run. Its payloads hold a lock each while they run, so that none does so twice at once,
    and tell by a FIFO that they have come to their end: a sandbox lets them do both in a directory
    that is read-only."""

    def __init__(self, site: Heads, chance: random.Random) -> None:
        self.site, self.chance = site, chance
        self.jobs: list[int] = []
        self.items: list[int] = []
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.pilots = self.finished = self.unheard = 0
        self._seen = site.rig.directory / "seen"
        self._seen.mkdir()
        os.mkfifo(self._seen / "told")
        self._told = os.open(self._seen / "told", os.O_RDWR | os.O_CLOEXEC)
        self._lines: list[str] = []
        self._payloads = 0
        threading.Thread(target=self._listen, daemon=True).start()
        site.configure(container={"default": "bubblewrap", "show": [str(self._seen)]})
        for name in site.nodes.names:
            self._mount(name)
        self._ports = {name: listening(site.nodes, name) for name in site.nodes.names}
        self._supply()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._told, b"\0\n")

    def _listen(self) -> None:
        with os.fdopen(self._told, encoding="utf-8") as told:
            for line in told:
                if line == "\0\n":
                    return
                self._lines.append(line.strip())

    def _mount(self, name: str) -> None:
        """For a sandbox the kernel wants to see a /proc that nothing is mounted over."""
        show = "mkdir /dev/shm/proc; mount -t proc proc /dev/shm/proc"
        self.site.nodes.run(name, "sh", "-c", show)

    # what runs -----------------------------------------------------------------------------------

    def _supply(self) -> None:
        """Have jobs waiting, and a pilot for them."""
        site = self.site
        states = site.client.overview().states
        if states.get("activated", 0) < AT_ONCE:
            jobs = [self._job() for _ in range(AT_ONCE)]
            self.jobs += site.client.submit(jobs).job_ids
            if len(self.items) * 4 * AT_ONCE < len(self.jobs):
                self._many_items()
        self._pilot()

    def _pilot(self) -> None:
        if not self.site.jobs():
            self.site.start("--idle-exit", "5")
            self.pilots += 1

    def _job(self) -> JobSpec:
        chance = self.chance
        fields: dict[str, Any] = {}
        command = self._command(chance.uniform(0.05, 2.0))
        kind = chance.random()
        if kind < 0.1:
            there = f"sleep {chance.uniform(0.1, 1.0):.2f}"
            fields = {"nodes": 2, "launcher": "script"}
            command = (
                f'for node in $(cat "$AILURUS_NODES"); do pilot-rsh "$node" {there} & '
                f'pids="$pids $!"; done; for pid in $pids; do wait $pid || exit; done; {command}'
            )
        elif kind < 0.3:
            fields = {"cores": chance.randint(2, 4)}
        return _spec(command, **fields)

    def _many_items(self) -> None:
        name = secrets.token_hex(8)
        several = [
            ItemSpec(
                command=self._command(self.chance.uniform(0.05, 1)),
                cores=self.chance.choice((1, 1, 2)),
            )
            for _ in range(ITEMS)
        ]
        payloads = self.site.client.upload(name, several)
        nodes = self.chance.choice((1, 2))
        spec = _spec("true", payloads=payloads, nodes=nodes, cores=2, item_attempts=100)
        self.items += self.site.client.submit([spec]).job_ids
        self.jobs.append(self.items[-1])

    def _command(self, seconds: float) -> str:
        self._payloads += 1
        lock, told = self._seen / str(self._payloads), self._seen / "told"
        lock.touch()
        return (
            f"exec 9<{lock}; flock -n 9 || echo twice $AILURUS_ATTEMPT > {told}; "
            f"sleep {seconds:.2f}; echo $AILURUS_ATTEMPT > {told}"
        )

    # what happens --------------------------------------------------------------------------------

    def fault(self) -> None:
        """One, of a kind that can happen now."""
        time.sleep(self.chance.uniform(0.2, 1.5))
        self._supply()
        until(self._begun, 90, "a pilot begins")
        with contextlib.suppress(TimeoutError):
            until(lambda: self._of("agent"), 4, every_s=0.2)
        kind = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if kind == "cable":
            self._cut(self.chance.choice(self.site.nodes.names))
        elif kind == "node":
            self._power_off(self.chance.choice(self.site.nodes.names))
        elif not self._kill(kind):
            kind = "agent missed"
        self.done[kind] += 1

    def _begun(self) -> bool:
        self._pilot()
        return bool(self._of("head"))

    def _of(self, what: str) -> list[int]:
        """Processes of agents, of the pilot, or of what starts agents."""
        found = []
        for pid in self.site.processes():
            words = _words(pid)
            if (words[0].endswith("srun"), "--agent" in words, "--head" in words) == {
                "srun": (True, True, True),
                "agent": (False, True, True),
                "head": (False, False, True),
            }[what]:
                found.append(pid)
        return sorted(found)

    def _kill(self, kind: str) -> bool:
        victims = self._of(kind.removeprefix("stopped "))
        if not victims:
            return False
        pid = self.chance.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            if not kind.startswith("stopped"):
                os.kill(pid, signal.SIGKILL)
                return True
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.chance.uniform(0.2, 2.0) * LEASE_S)
            os.kill(pid, signal.SIGCONT)
        return True

    def _cut(self, name: str) -> None:
        self.site.nodes.cut(name)
        time.sleep(self.chance.uniform(0.1, 2.0) * LEASE_S)
        self.site.nodes.heal(name)

    def _power_off(self, name: str) -> None:
        site = self.site
        heads = {site.node_of(pid) for pid in self._of("head")}
        site.nodes.kill(name)
        time.sleep(self.chance.uniform(0.0, 1.0))
        if name in heads:
            # Slurm would find out later that the job's first node is gone, and end it.
            site.slurm.run("scancel", "--me")
        site.nodes.boot(name)
        self._mount(name)
        fixture = map(str, (FIXTURES / "slurm", "node", site.slurm.directory, name, "start"))
        subprocess.run([*fixture], check=True, timeout=60)

    # what came of it -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Let all jobs end, and the pilot by itself; see what is left."""
        site = self.site
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            states = site.client.wait(self.jobs, 1).states
            if all(state in FINAL for state in states.values()):
                break
            self._pilot()
        # The last pilot has removed what those before it left.
        self._try(lambda: not site.jobs(), 60, "the pilot ends when it is idle")
        self._try(lambda: not site.processes(), GONE_S, "all processes end")
        self.wrong += [f"process {pid} is left: {_words(pid)}" for pid in site.processes()]
        self.wrong += [
            f"left in the shared directory: {path.name}"
            for path in site.work.glob("ailurus-[0-9a-f]*")
        ]
        for name in site.nodes.names:
            self.wrong += [f"{name}: {path} is left" for path in left_in(site.nodes, name)]
            ports = listening(site.nodes, name) - self._ports[name]
            self.wrong += [f"{name}: something listens on {port}" for port in ports]

    def _try(self, true: Callable[[], bool], seconds: float, why: str) -> None:
        try:
            until(true, seconds, why, every_s=0.2)
        except TimeoutError as error:
            self.wrong.append(str(error))

    def counted(self) -> Iterator[str]:
        """Every way in which a payload was not counted exactly once."""
        site = self.site
        yield from history.states(site, self.jobs)
        lines = list(self._lines)
        yield from (f"ran {line}" for line in lines if line.startswith("twice"))
        ended = Counter(line for line in lines if not line.startswith("twice"))
        yield from (f"{name} ended {times} times" for name, times in ended.items() if times > 1)
        won = site.rows("select job_id, attempt_nr from attempt where state = 'finished'")
        self.finished = len({job for job, _ in won})
        winners = {f"{job}.{nr}" for job, nr in won if job not in self.items}
        for job in self.items:
            rows = site.client.items(job, ItemsQuery(limit=1000)).items
            if [row.index for row in rows if row.state is ItemState.FINISHED] != [*range(ITEMS)]:
                yield f"of job {job} finished {[row.index for row in rows]}"
            winners |= {f"{job}.*.{row.index}.{row.attempt}" for row in rows}
        items = {str(job) for job in self.items}
        seen = {_without_attempt(name) if _job_of(name) in items else name for name in ended}
        self.unheard = len(seen - winners)
        yield from (f"{name} counts and never ended" for name in winners - seen)

    def attempts(self) -> dict[str, int]:
        """How attempts ended, and how many."""
        return dict(self.site.rows("select state, count(*) from attempt group by state"))


def _spec(command: str, **fields: Any) -> JobSpec:
    usual: dict[str, Any] = {"queue": QUEUE, "memory_mb": 10, "disk_mb": 10, "max_attempts": 100}
    return JobSpec(name="payload", command=command, **(usual | fields))


def _words(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace").split("\0")
    return [""]


def _job_of(name: str) -> str:
    return name.partition(".")[0]


def _without_attempt(name: str) -> str:
    """The name of an item's attempt whichever attempt of its job that was in."""
    job, _, index, attempt = name.split(".")
    return f"{job}.*.{index}.{attempt}"
