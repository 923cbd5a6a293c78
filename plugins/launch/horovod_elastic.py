"""Horovod's elastic driver, run by a job's own Python on its first node.

It is what `horovodrun --host-discovery-script` does, with the pilot's list of nodes for the script
and `pilot-rsh` for ssh: HERE (the directory of this file) FIRST (the node that it runs on) EACH
(workers of a node) LEAST MOST (workers in all).

A node that comes again has another name for Horovod, which takes no host a second time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

from horovod.runner.elastic.discovery import (  # type: ignore[import-not-found]
    HostDiscovery,
    HostManager,
)
from horovod.runner.elastic.driver import ElasticDriver  # type: ignore[import-not-found]
from horovod.runner.elastic.rendezvous import (  # type: ignore[import-not-found]
    create_rendezvous_handler,
)
from horovod.runner.gloo_run import create_slot_env_vars  # type: ignore[import-not-found]
from horovod.runner.http.http_server import (  # type: ignore[import-not-found]
    RendezvousServer,
)

LOOK_S = 0.5
# From TERM to KILL, of a worker that is not wanted any more.
KILL_S = 5.0
# Until the pilot has taken a node off its list, whose processes end at the same time.
LISTED_S = 2.0
here, first = sys.argv[1:3]
each, least, most = map(int, sys.argv[3:])


class Listed(HostDiscovery):  # type: ignore[misc]
    """The nodes of the pilot's list."""

    def __init__(self) -> None:
        # By Horovod's name of a node, its own.
        self.nodes: dict[str, str] = {}

    def find_available_hosts_and_slots(self) -> dict[str, int]:
        with open(f"{here}/nodes", encoding="utf-8") as file:  # noqa: PTH123 - any Python of a job's
            named = [line.split() for line in file]
        found = {f"{node}.{number}": node for node, number in named}
        self.nodes.update(found)
        return dict.fromkeys(found, each)


def by_age(hosts: set[str], _: list[str]) -> list[str]:
    """Horovod's names of nodes, the first node's first. The driver tells rank 0 of all changes, and
    while that does not answer it does nothing else: so rank 0 is on the node that is never lost."""
    return sorted(hosts, key=lambda host: int(host.rpartition(".")[2]))


def poll(child: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process, after a moment; None: it runs."""
    try:
        return child.wait(LOOK_S)
    except subprocess.TimeoutExpired:
        return None


def run(slot: Any, events: list[threading.Event]) -> tuple[int, float]:
    """Run a worker, until it ends or one of the events is set; its exit code, and when it ended."""
    node = listed.nodes[slot.hostname]
    variables = {**create_slot_env_vars(slot), **shared}
    words = [*(f"{name}={value}" for name, value in variables.items()), "/bin/sh"]
    argv = ["env", *words, f"{here}/command.sh"]
    if node != first:
        argv = [os.environ["AILURUS_PILOT_RSH"], node, *argv]
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    until = 0.0
    while (code := poll(child)) is None:
        if not until and any(event.is_set() for event in events):
            until = time.monotonic() + KILL_S
            child.terminate()
        elif until and time.monotonic() > until:
            child.kill()
    code = code if code >= 0 else 128 - code
    if code and not until:
        sys.stderr.write(
            f"horovod: worker {slot.local_rank} of {node} ended with exit code {code}\n"
        )
    return code, time.time()


HostManager.order_available_hosts = staticmethod(by_age)
listed = Listed()
server = RendezvousServer()
driver = ElasticDriver(server, listed, least, most)
shared = {
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": first,
    "HOROVOD_GLOO_RENDEZVOUS_PORT": server.start(create_rendezvous_handler(driver)),
    "HOROVOD_ELASTIC": "1",
}
driver.start(least, run)
results = driver.get_results()
driver.stop()
ended = [(name.rpartition("[")[0], code) for name, (code, _) in results.worker_results.items()]
if any(code for _, code in ended):
    time.sleep(LISTED_S)
there = listed.find_available_hosts_and_slots()
# What was lost with its node in the end does not count, if another had come to the end.
failed = [code for host, code in ended if code and host in there]
if failed or not any(code == 0 for _, code in ended):
    sys.stderr.write(f"horovod: {results.error_message or 'the training ended before its time'}\n")
    sys.exit(failed[0] if failed else 1)
