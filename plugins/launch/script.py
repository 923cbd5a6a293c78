"""`script`: the job's command on its first node, with lists of the nodes and `pilot-rsh`.

For everything that has no launcher of its own: Dask, Spark, Dragon, Flux.
"""

from __future__ import annotations

from ailurus.protocol.launchers import ScriptOptions
from pilot.node_ports import Plan, Program
from plugins.launch import hosts


class Script:
    Options = ScriptOptions

    def __init__(self, options: ScriptOptions) -> None:
        self._options = options

    def plan(self, job: Program) -> Plan:
        each = self._options.slots_per_node or min(node.cores for node in job.nodes)
        return Plan(
            argv=job.argv,
            environment={
                "AILURUS_NODES": f"{job.directory}/nodes",
                "AILURUS_HOSTFILE": f"{job.directory}/hostfile",
                "AILURUS_MACHINEFILE": f"{job.directory}/machinefile",
                "AILURUS_SLOTS_PER_NODE": str(each),
            },
            files={
                "nodes": hosts.plain(job.nodes),
                "hostfile": hosts.openmpi(job.nodes, each),
                "machinefile": hosts.hydra(job.nodes, each),
            },
        )
