"""One pilot for all nodes of a Slurm allocation, on machines of namespaces: what a test kills, and
a benchmark measures."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ailurus.protocol import messages as m
from tests.rig import proc
from tests.rig.batch import BIN, QUEUE, Rig
from tests.rig.batch_systems import Slurm
from tests.rig.nodes import HUB, Nodes, running, slurm_on

CORES = 4


class Heads:
    """A dispatcher on the hub, and pilots of whole allocations, one after the other."""

    def __init__(self, nodes: Nodes, slurm: Slurm, rig: Rig, **site: Any) -> None:
        self.nodes, self.slurm, self.rig = nodes, slurm, rig
        self.client = rig.client
        self.work = rig.directory / "pilots"
        self.log = rig.directory / "pilot.log"
        token = rig.directory / "pilot.token"
        ask = m.NewToken(subject="pilots", scopes=("ailurus.pilot",))
        token.touch(0o600)
        token.write_text(rig.client.call("token", ask, answer=m.Token).token)
        self._site = rig.directory / "pilot.yaml"
        self.configure(**site)
        self._token = token
        self.keep = False
        """Whether the directory stays, to be looked at."""

    def configure(self, **site: Any) -> None:
        """Write the pilots' site file; what is named replaces what is usual."""
        slot = {"queue": QUEUE, "cores": CORES, "memory": "8GiB", "disk": "8GiB"}
        usual = {
            "site": "real",
            "slots": {"std": slot},
            "storage": {"roots": [], "default_output": ""},
            "container": {"default": "bare", "bare": True},
        }
        self._site.write_text(json.dumps(usual | site))

    def words(self, *options: object) -> list[str]:
        """The command line of a pilot."""
        words = [
            BIN / "pilot", "--head", "--url", self.rig.url, "--ca", self.rig.directory / "ca.pem",
            "--queue", QUEUE, "--site", self._site, "--slot", "std", "--workdir", self.work,
            "--log", self.log, "--grace", "1", "--token-file", self._token, *options,
        ]  # fmt: skip
        return [*map(str, words)]

    def start(self, *options: object) -> None:
        """Submit a batch job for the machines that are there; its pilot has these options."""
        script = self.rig.directory / "script"
        began = self.rig.directory / "began"
        script.write_text(
            f"#!/bin/sh\ndate +%s.%N > {began}\nexec {shlex.join(self.words(*options))}\n"
        )
        nodes = f"--nodes=1-{len(self.nodes.names)}"
        output = f"--output={self.rig.directory}/batch.log"
        kept = ("--no-kill", "--no-requeue", "--open-mode=append")
        self.slurm.run("sbatch", *kept, nodes, "--exclusive", "--time=60", output, script)

    def jobs(self) -> list[str]:
        """Batch jobs that have not ended."""
        return self.slurm.run("squeue", "--noheader", "--format=%i").split()

    def said(self, event: str) -> list[dict[str, Any]]:
        """What pilots have logged under this name."""
        text = self.log.read_text("utf-8") if self.log.exists() else ""
        lines = (json.loads(line) for line in text.splitlines() if line.endswith("}"))
        return [line for line in lines if line["event"] == event]

    def processes(self) -> list[int]:
        """All processes of pilots, agents and payloads, on all machines."""
        return proc.marked(str(self.work))

    def node_of(self, pid: int) -> str:
        """The machine that a process runs on; empty: it is gone."""
        with suppress(OSError):
            network = Path(f"/proc/{pid}/ns/net").readlink()
            for name in self.nodes.names:
                with suppress(OSError):
                    first = (self.nodes.directory / f"{name}.pid").read_text().strip()
                    if Path(f"/proc/{first}/ns/net").readlink() == network:
                        return name
        return ""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the dispatcher's store has."""
        store = f"file:{self.rig.directory / 'queue'}?mode=ro"
        with closing(sqlite3.connect(store, uri=True)) as queue:
            return queue.execute(query).fetchall()


@contextmanager
def heads(count: int = 3, **site: Any) -> Iterator[Heads]:
    """Machines, a Slurm on them, and a dispatcher; the calling thread is in the hub's network."""
    with ExitStack() as stack:
        nodes = stack.enter_context(running(count))
        slurm = stack.enter_context(slurm_on(nodes, CORES))
        stack.enter_context(nodes.network())
        rig = stack.enter_context(_rig(nodes, slurm))
        made = Heads(nodes, slurm, rig, **site)
        try:
            yield made
        finally:
            if made.keep:
                kept = shutil.move(rig.directory, tempfile.mkdtemp(prefix="ailurus-kept-"))
                sys.stderr.write(f"kept for a look: {kept}\n")


@contextmanager
def _rig(nodes: Nodes, slurm: Slurm) -> Iterator[Rig]:
    """A dispatcher whose directory all machines see."""
    before, tempfile.tempdir = tempfile.tempdir, str(nodes.directory)
    try:
        made = Rig(slurm, nodes.addresses[HUB])
    finally:
        tempfile.tempdir = before
    with made:
        yield made


def listening(nodes: Nodes, name: str) -> set[str]:
    """Addresses on which something listens on a machine."""
    lines = nodes.run(name, "ss", "--no-header", "--tcp", "--listening", "--numeric").splitlines()
    return {line.split()[3] for line in lines}


def left_in(nodes: Nodes, name: str) -> set[str]:
    """Files of pilots in a machine's own directories, but for those that say which pilot has which
    GPU: they stay, and a lock on them is what counts."""
    paths = ("/tmp", "/run/lock", "/dev/shm")
    found = nodes.run(name, "find", *paths, "-maxdepth", "1", "-name", "*ailurus*").split()
    here = str(nodes.directory)
    return {path for path in found if "-gpus-" not in path and not here.startswith(path)}
