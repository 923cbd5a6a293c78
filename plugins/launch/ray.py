"""`ray`: the job's command as the driver of a Ray over all of its nodes.

The Ray is the job's own: a token that is made for it, ports of its own, its directory in the job's
/tmp, and no dashboard but on loopback. The driver finds it by RAY_ADDRESS.
"""

from __future__ import annotations

import shlex

from ailurus.protocol.launchers import RayOptions
from pilot.node_ports import Plan, Program
from plugins.launch.hosts import name_of
from plugins.launch.spread import port_of
from plugins.launch.texts import package_found, text

LEAST_STORE_MB = 80
"""Ray starts with no less."""


class Ray:
    Options = RayOptions
    FOUND = package_found("ray", "ray")

    def __init__(self, options: RayOptions) -> None:
        self._options = options

    def plan(self, job: Program) -> Plan:
        options = self._options
        memory_mb = min(node.memory_mb for node in job.nodes)
        store_mb = options.object_store_mb or max(LEAST_STORE_MB, memory_mb // 4)
        settings = {
            "python": options.python,
            "nodes": " ".join(map(name_of, job.nodes)),
            # A pilot's only node has none.
            "addresses": " ".join(node.address or "-" for node in job.nodes),
            # And those after it.
            "port": str(port_of(job.mark)),
            "store": str(store_mb << 20),
            "cpus": str(min(node.cores for node in job.nodes)),
            "gpus": str(min(node.gpus for node in job.nodes)),
            "dashboard": str(options.dashboard).lower(),
            "ready": str(options.ready_s),
        }
        return Plan(
            argv=["/bin/sh", f"{job.directory}/ray.sh"],
            files={
                "ray.sh": text("ray.sh"),
                "ready.py": text("ray_ready.py"),
                "command.sh": f"exec {shlex.join(job.argv)}\n",
                "settings.sh": "".join(f"{n}={shlex.quote(v)}\n" for n, v in settings.items()),
            },
        )
