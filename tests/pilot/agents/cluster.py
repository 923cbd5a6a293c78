"""A head in this process and agents as processes of their own, on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ailurus.protocol.job import JobSpec
from pilot.agents.head import Head, Welcoming
from pilot.agents.lease import LeaseTerms
from pilot.agents.link import new_key
from pilot.agents.messages import Joined
from pilot.agents.remote import RemoteNode
from pilot.node.containers import container_of
from pilot.node_ports import Exit, Order, Output, Share
from pilot.ports import Sandbox
from pilot.process.spawner import GuardedSpawner
from pilot.site import ContainerChoice, Site
from tests.rig.waiting import until

SITE = Site(container=ContainerChoice(default="bare", bare=True))
TERMS = LeaseTerms()


class Cluster:
    """Agents of nodes with these names, which all are this machine."""

    def __init__(
        self,
        directory: Path,
        spawner: GuardedSpawner,
        names: Sequence[str] = ("n1", "n2"),
        terms: LeaseTerms = TERMS,
        site: Site = SITE,
    ) -> None:
        self.directory = directory
        self.shared = directory / "shared"
        self.shared.mkdir()
        self.scratch = directory / "scratch"
        probe = self.shared / "probe"
        probe.write_text("seen")
        self.key = new_key()
        self.key_file = directory / "key"
        self.key_file.write_text(self.key.hex())
        self.key_file.chmod(0o600)
        self.nodes: dict[str, RemoteNode] = {}
        self.joined: dict[str, Joined] = {}
        self.left: list[tuple[str, str]] = []
        self.losing: Callable[[str, str], None] = lambda name, why: None
        welcoming = Welcoming(
            key=self.key,
            shares=[Share(name=name, address=f"{name}.invalid") for name in names],
            site=site,
            gpus=0,
            terms=terms,
            probe=(str(probe), "seen"),
        )
        self.head = Head(
            welcoming,
            container_of(site, directory, spawner),
            self._on_join,
            self._on_leave,
            "127.0.0.1",
        )
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.all: list[subprocess.Popen[bytes]] = []
        self.log = directory / "agents.log"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self.head.closed:
            self.head.turn()

    def _on_join(self, node: RemoteNode, joined: Joined) -> None:
        self.nodes[node.name], self.joined[node.name] = node, joined

    def _on_leave(self, name: str, why: str) -> None:
        del self.nodes[name]
        self.left.append((name, why))
        self.losing(name, why)

    def launch(
        self, name: str, *, key_file: Path | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start an agent, whoever lets it in."""
        argv = [sys.executable, "-P", "-m", "pilot", "--agent", "--head", self.head.at]
        argv += ["--key-file", str(key_file or self.key_file), "-a", str(self.scratch)]
        with self.log.open("ab") as log:
            made = self.agents[name] = subprocess.Popen(
                argv,
                env={"PATH": os.environ["PATH"], "AILURUS_NODE": name, **environment},
                stderr=log,
            )
        self.all.append(made)
        return made

    def agent(self, name: str) -> RemoteNode:
        """A node of which the agent has joined."""
        self.launch(name)
        return until(lambda: self.nodes.get(name))

    def end(self) -> None:
        self.head.close()
        for agent in self.all:
            with suppress(ProcessLookupError):
                agent.send_signal(signal.SIGCONT)
            agent.wait(10)
        self._thread.join(10)


class Run:
    """A process on a node, and its end."""

    def __init__(self, node: RemoteNode, order: Order, output: Output | None = None) -> None:
        self.ends: list[Exit] = []
        self.over = threading.Event()
        self.key = node.start(order, self._done, output)

    def _done(self, end: Exit) -> None:
        self.ends.append(end)
        self.over.set()

    def ended(self, seconds: float = 10.0) -> Exit:
        assert self.over.wait(seconds), "it does not end"
        (end,) = self.ends
        return end


def order(node: RemoteNode, shared: Path, command: str, name: str = "1.1") -> Order:
    """A shell's command line in a directory that all nodes share."""
    environment = {"PATH": os.environ["PATH"], "AILURUS_ATTEMPT": name}
    return Order(
        name=name,
        spec=JobSpec(name="job", command="true"),
        argv=["/bin/sh", "-c", command],
        box=Sandbox(
            directory=str(shared),
            tmp=node.tmp(name, str(shared)),
            environment=environment,
            memory_mb=100,
        ),
        stdout=str(shared / "stdout"),
        stderr=str(shared / "stderr"),
    )


@contextmanager
def cluster(
    directory: Path, spawner: GuardedSpawner, terms: LeaseTerms = TERMS
) -> Iterator[Cluster]:
    made = Cluster(directory, spawner, terms=terms)
    try:
        yield made
    finally:
        made.end()
