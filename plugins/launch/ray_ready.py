"""Waits for a Ray, run by a job's own Python: NODES SECONDS HEAD. Ends well when so many nodes are
alive, and otherwise after so long, or when the process HEAD has ended."""

import os
import sys
import time

import ray  # type: ignore[import-not-found]

nodes, seconds, head = map(int, sys.argv[1:])
deadline = time.monotonic() + seconds
while time.monotonic() < deadline:
    os.kill(head, 0)
    try:
        if not ray.is_initialized():
            ray.init(address=os.environ["RAY_ADDRESS"], logging_level="error")
        if sum(node["Alive"] for node in ray.nodes()) >= nodes:
            sys.exit(0)
    except (ConnectionError, RuntimeError, ValueError):
        pass  # it is on its way
    time.sleep(0.5)
sys.exit(1)
