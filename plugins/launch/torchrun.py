"""`torchrun`: the job's command as the workers of a torch.distributed training.

As a rule the workers find each other by variables alone, which is what torchrun itself gives them.
An elastic training has torchrun's own agents, one a node, which meet by c10d and restart workers.
"""

from __future__ import annotations

from ailurus.protocol.launchers import TorchrunOptions
from pilot.node_ports import Plan, Program
from plugins.launch.hosts import name_of
from plugins.launch.spread import port_of, spread
from plugins.launch.texts import package_found

WORKER = {
    "MASTER_ADDR": "$first",
    "MASTER_PORT": "$port",
    "WORLD_SIZE": "$world",
    "RANK": "$rank",
    "LOCAL_RANK": "$local",
    "LOCAL_WORLD_SIZE": "$each",
    "GROUP_RANK": "$index",
    "GROUP_WORLD_SIZE": "$groups",
}


class Torchrun:
    Options = TorchrunOptions
    FOUND = package_found("torch", "torchrun")

    def __init__(self, options: TorchrunOptions) -> None:
        self._options = options

    def plan(self, job: Program) -> Plan:
        options, count = self._options, len(job.nodes)
        each = options.ranks_per_node or max(1, min(node.gpus for node in job.nodes))
        first = name_of(job.nodes[0])
        settings = {
            "first": first,
            "port": str(port_of(job.mark)),
            "world": str(each * count),
            "groups": str(count),
            "python": options.python,
        }
        agent = (
            *("$python", "-m", "torch.distributed.run", f"--nnodes={count}"),
            *(f"--nproc-per-node={each}", f"--max-restarts={options.max_restarts}"),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=$first:$port", f"--rdzv-id={job.mark}"),
            *("--no-python", "/bin/sh", "$here/command.sh"),
        )
        return spread(job, each, WORKER, settings=settings, agent=agent if options.elastic else ())
