"""Machines of scripts/fixtures/nodes, for tests, and a Slurm on them.

A directory of the test that lies below `Nodes.directory` is the same on all of them; the rest of
/tmp is each machine's own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rig.batch_systems import FIXTURES, Slurm

HUB = "hub"
TIMEOUT_S = 60
CLONE_NEWNET = 0x40000000


def nodes_needed(need: Callable[..., str]) -> None:
    """Skip where namespaces cannot be made; fail in CI where a program is missing."""
    need("ip", package="iproute2")
    if os.geteuid() != 0:
        pytest.skip("makes machines of namespaces, as root")
    kinds = ("--net", "--uts", "--ipc", "--pid", "--mount", "--fork", "--mount-proc")
    tried = subprocess.run(["unshare", *kinds, "true"], check=False, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"namespaces are not permitted here: {tried.stderr.strip()}")


class Nodes:
    """Machines n1, n2, … with a cable each to the hub."""

    def __init__(self, directory: Path, count: int = 3) -> None:
        self.directory = directory
        self._started: list[subprocess.Popen[bytes]] = []
        listed = [line.split() for line in self._fixture("start", count).splitlines()]
        self.addresses = {name: address for address, name in listed}
        """Of the hub, too."""
        self.names = tuple(name for name in self.addresses if name != HUB)

    def _fixture(self, verb: str, *more: object) -> str:
        argv = [str(FIXTURES / "nodes"), verb, str(self.directory), *map(str, more)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode:
            raise RuntimeError(f"{verb} of nodes: {done.stderr[-2000:]}")
        return done.stdout

    def kill(self, name: str) -> None:
        """Power off: its processes die, and the others see their connections close."""
        self._fixture("kill", name)

    def boot(self, name: str) -> None:
        self._fixture("boot", name)

    def cut(self, name: str) -> None:
        """Pull its cable: nothing is heard of it, and it hears nothing."""
        self._fixture("cut", name)

    def heal(self, name: str) -> None:
        self._fixture("heal", name)

    def reap(self) -> None:
        """Wait for what was started, after the end of all machines."""
        for process in self._started:
            process.wait(TIMEOUT_S)

    def start(self, name: str, *argv: object, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command there. It ends with the process that is returned, by SIGKILL; other
        signals reach it by `signal`."""
        options = {"stdin": subprocess.DEVNULL, **options}
        process = subprocess.Popen(self.command(name, *argv), **options)
        self._started.append(process)
        return process

    def command(self, name: str, *argv: object) -> list[str]:
        """The command that runs `argv` there."""
        return [str(FIXTURES / "nodes"), "exec", str(self.directory), name, *map(str, argv)]

    def run(self, name: str, *argv: object, check: bool = True, **options: Any) -> str:
        """What a command prints there. Raises RuntimeError where it fails and `check` says so."""
        options = {"stdin": subprocess.DEVNULL, "timeout": TIMEOUT_S, **options}
        done = subprocess.run(
            self.command(name, *argv), check=False, capture_output=True, text=True, **options
        )
        if check and done.returncode:
            raise RuntimeError(f"{argv} on {name}: {done.returncode}: {done.stderr[-2000:]}")
        return str(done.stdout)

    @staticmethod
    def signal(process: subprocess.Popen[bytes], number: int) -> None:
        """Send a signal to the command that `start` started on one of `names`."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in children.read_text("utf-8").split():
            os.kill(int(child), number)

    @contextmanager
    def network(self, name: str = HUB) -> Iterator[None]:
        """Put the calling thread into the network of a machine: what it opens, listens on and
        starts meanwhile is there."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            first = (self.directory / f"{name}.pid").read_text().strip()
            there = os.open(f"/proc/{first}/ns/net", os.O_RDONLY)
            _enter_network(there)
            os.close(there)
            try:
                yield
            finally:
                _enter_network(here)
        finally:
            os.close(here)


def _enter_network(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def running(count: int = 3) -> Iterator[Nodes]:
    """Machines that are gone afterwards, with all that runs on them."""
    with tempfile.TemporaryDirectory(prefix="ailurus-nodes-") as name:
        nodes = None
        try:
            nodes = Nodes(Path(name), count)
            yield nodes
        finally:
            subprocess.run([FIXTURES / "nodes", "stop", name], check=True, timeout=TIMEOUT_S)
            if nodes is not None:
                nodes.reap()


@contextmanager
def slurm_on(nodes: Nodes, cores: int = 4) -> Iterator[Slurm]:
    """A Slurm with these machines as nodes of so many cores; its clients run within
    `nodes.network()`."""
    directory = nodes.directory / "slurm"
    argv = [str(word) for word in (FIXTURES / "slurm", "on", nodes.directory, directory, cores)]
    subprocess.run(argv, check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL)
    try:
        yield Slurm(directory)
    finally:
        subprocess.run([FIXTURES / "slurm", "stop", directory], check=True, timeout=TIMEOUT_S)
