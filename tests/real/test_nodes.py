"""The machines on which tests of several nodes run: what they promise to these tests."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plugins.container.bubblewrap import candidates
from tests.rig import nodes as machines
from tests.rig.batch_systems import FIXTURES, Slurm
from tests.rig.nodes import Nodes
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow]
PORT = 7000


def connected(nodes: Nodes, name: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A connection from the hub to a program on a machine, which sends a byte first."""
    serve = (
        "import socket, time\n"
        f"with socket.create_server(('0.0.0.0', {PORT})) as s, s.accept()[0] as c:\n"
        "    c.sendall(b'!'); time.sleep(60)"
    )
    program = nodes.start(name, "/usr/bin/python3", "-c", serve)
    address = (nodes.addresses[name], PORT)

    def open_one() -> socket.socket | None:
        try:
            return socket.create_connection(address, 5)
        except ConnectionRefusedError:
            return None

    with nodes.network():
        connection = until(open_one, 10, "the program listens")
    assert connection.recv(1) == b"!"
    return connection, program


def test_each_machine_has_its_own_name_processes_and_disk_and_shares_one(nodes: Nodes) -> None:
    (nodes.directory / "shared-file").touch()
    seen = {
        name: nodes.run(
            name, "sh", "-c",
            "hostname; cat /proc/sys/kernel/random/boot_id; ls /sys/class/net; echo /proc/[0-9]*;"
            f"touch /tmp/own /dev/shm/own; ls /tmp /dev/shm {nodes.directory}/shared-file;"
            "ls -d /sys/fs/cgroup/*",
        )
        for name in nodes.names
    }  # fmt: skip
    for name, text in seen.items():
        lines = text.splitlines()
        assert lines[0] == name
        assert {"eth0", "lo", "own", f"{nodes.directory}/shared-file"} <= {*lines}
        assert len(lines[4].split()) < 10
    assert len({text.splitlines()[1] for text in seen.values()}) == 3
    assert not Path("/tmp/own").exists()
    names = "".join(nodes.run("n1", "getent", "hosts", name) for name in nodes.addresses)
    assert names.split() == [word for n, a in nodes.addresses.items() for word in (a, n)]


def test_a_sandbox_has_a_proc_of_its_own_on_a_machine(nodes: Nodes) -> None:
    box = [next(candidates()), "--unshare-user", "--unshare-pid"]
    mounts = ["--ro-bind", "/", "/", "--proc", "/proc"]
    assert nodes.run("n1", *box, *mounts, "sh", "-c", "echo /proc/[0-9]*").split()[0] == "/proc/1"


def test_a_machine_without_power_closes_its_connections_and_comes_back_empty(nodes: Nodes) -> None:
    nodes.run("n2", "touch", "/tmp/before")
    connection, program = connected(nodes, "n2")
    nodes.kill("n2")
    connection.settimeout(5)
    assert connection.recv(1) == b""
    assert program.wait(5) != 0
    connection.close()
    nodes.boot("n2")
    assert "before" not in nodes.run("n2", "ls", "/tmp")
    connected(nodes, "n2")[0].close()


def test_a_cut_cable_is_silence_until_it_is_healed(nodes: Nodes) -> None:
    connection, _ = connected(nodes, "n3")
    nodes.cut("n3")
    connection.settimeout(0.5)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    with nodes.network(), pytest.raises(OSError, match=r"timed out|No route|unreachable"):
        socket.create_connection((nodes.addresses["n3"], PORT + 1), 0.5)
    nodes.heal("n3")
    with nodes.network(), pytest.raises(ConnectionRefusedError):
        socket.create_connection((nodes.addresses["n3"], PORT + 1), 5)
    connection.close()


def test_stop_ends_what_runs_anywhere_after_a_start_that_was_killed(
    tmp_path: Path, need: Callable[..., str]
) -> None:
    machines.nodes_needed(need)
    half = subprocess.Popen([FIXTURES / "nodes", "start", tmp_path, "3"], stdout=subprocess.DEVNULL)
    until((tmp_path / "n2.keeper").exists, 10, "the second begins")
    half.kill()
    half.wait()
    subprocess.run([FIXTURES / "nodes", "stop", tmp_path], check=True)
    mark = f"be-node {tmp_path}".encode()
    lines = [
        file.read_bytes().replace(b"\0", b" ") for file in Path("/proc").glob("[0-9]*/cmdline")
    ]
    assert not [line for line in lines if mark in line]


@pytest.mark.batch
def test_slurm_has_each_machine_as_a_node_with_devices(nodes: Nodes, slurm_nodes: Slurm) -> None:
    with nodes.network():
        step = "echo $(hostname) $SLURM_CPUS_ON_NODE $CUDA_VISIBLE_DEVICES"
        said = slurm_nodes.run("srun", "-N3", "-c4", "--gres=gpu:2", "sh", "-c", step)
    assert sorted(said.splitlines()) == ["n1 4 0,1", "n2 4 0,1", "n3 4 0,1"]
