"""The agents of an elastic training, started by a job's own Python on its first node.

HERE (the directory of this file) FIRST (the node that it runs on) PYTHON OPTION…: torchrun's agent
runs with these options on each node of the pilot's list, by `torchrun_node.py`. Those of the nodes
that come meet the others by c10d, whose store is on the first node; of those that are lost nothing
is awaited. The training has ended when it has on the first node, and fails with its first agent
that fails on a node which is not lost.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time

LOOK_S = 0.25
# Until the pilot has taken a node off its list, whose processes end at the same time.
LISTED_S = 2.0
here, first, python, *options = sys.argv[1:]


def listed() -> dict[str, str]:
    """By their numbers, the names of the nodes that the job has now. One that comes again has
    another number."""
    with open(f"{here}/nodes", encoding="utf-8") as file:  # noqa: PTH123 - any Python of a job's
        return {number: node for node, number in (line.split() for line in file)}


def begun(number: str, node: str) -> subprocess.Popen[bytes]:
    """An agent on a node."""
    argv = [python, f"{here}/node.py", here, number, python, f"--local-addr={node}", *options]
    if node != first:
        argv = [os.environ["AILURUS_PILOT_RSH"], node, shlex.join(argv)]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL)


agents: dict[str, subprocess.Popen[bytes]] = {}
# When each that failed was seen to have.
failed: dict[str, float] = {}
while True:
    now = listed()
    for number in agents.keys() - now.keys():
        del agents[number]
        failed.pop(number, None)
    for number in now.keys() - agents.keys():
        agents[number] = begun(number, now[number])
    for number, agent in agents.items():
        code = agent.poll()
        if code == 0 and now[number] == first:
            sys.exit()
        if code:
            since = failed.setdefault(number, time.monotonic())
            if now[number] == first or time.monotonic() - since > LISTED_S:
                code = code if code > 0 else 128 - code
                sys.stderr.write(
                    f"torchrun: the agent of {now[number]} ended with exit code {code}\n"
                )
                sys.exit(code)
    time.sleep(LOOK_S)
