"""An agent of torchrun on one node of an elastic training: HERE NUMBER PYTHON OPTION…

Its workers may wait for ever for those of a node that went without closing its connections, and
the agent does not see that. So they are ended when the pilot's list of nodes loses one; the agent
meets the others again, and starts new ones.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

LOOK_S = 0.5
# From TERM to KILL, of a worker, and for so long at most is waited after that.
KILL_S = 2.0
here, own, python, *options = sys.argv[1:]


def listed() -> set[str]:
    """The numbers of the nodes that the job has now."""
    with open(f"{here}/nodes", encoding="utf-8") as file:  # noqa: PTH123 - any Python of a job's
        return {line.split()[1] for line in file}


def workers(agent: int) -> list[str]:
    """The processes that an agent has started."""
    found: list[str] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{agent}/task"):  # noqa: PTH208
            children = f"/proc/{agent}/task/{task}/children"
            # One of its threads may end just now.
            with suppress(OSError), open(children, encoding="utf-8") as file:  # noqa: PTH123
                found += file.read().split()
    return found


def end(agent: int) -> None:
    """End the workers that an agent has now, and wait until it has seen that."""
    those = set(workers(agent))
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + KILL_S
        for pid in those.intersection(workers(agent)):
            with suppress(OSError):
                os.kill(int(pid), number)
        while those.intersection(workers(agent)) and time.monotonic() < until:
            time.sleep(0.05)


argv = [python, "-m", "torch.distributed.run", *options, "--no-python", "/bin/sh"]
# Before the agent begins: one that is lost from now on may be one that its workers wait for.
before = listed()
agent = subprocess.Popen([*argv, f"{here}/command.sh"], stdin=subprocess.DEVNULL)
while (code := agent.poll()) is None:
    time.sleep(LOOK_S)
    now = listed()
    # Its own goes with all that is here.
    if before - now - {own}:
        end(agent.pid)
    before = now
sys.exit(code if code >= 0 else 128 - code)
