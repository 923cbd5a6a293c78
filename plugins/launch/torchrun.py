"""`torchrun`: the job's command as the workers of a torch.distributed training.

As a rule the workers find each other by variables alone, which is what torchrun itself gives them.
An elastic training has torchrun's own agents, one a node, which meet by c10d and restart workers;
where its nodes may come and go, a driver on the first node starts them as the pilot's list says.
"""

from __future__ import annotations

import shlex

from ailurus.protocol.errors import Code
from ailurus.protocol.launchers import TorchrunOptions
from pilot.node_ports import Elastic, Plan, Program
from pilot.ports import JobError
from plugins.launch.hosts import name_of
from plugins.launch.spread import port_of, spread
from plugins.launch.texts import package_found, text

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

# How soon an agent that went is seen to have gone, and how long those that are there then wait for
# more, in seconds. torchrun's own are 15 and 30.
MEETING = "keep_alive_interval=1,keep_alive_max_attempt=6,last_call_timeout=5"


class Torchrun:
    Options = TorchrunOptions
    FOUND = package_found("torch", "torchrun")

    def __init__(self, options: TorchrunOptions) -> None:
        self._options = options

    def plan(self, job: Program) -> Plan:
        options, count = self._options, len(job.nodes)
        if (fault := options.fault(count)) is not None:
            raise JobError(Code.PAYLOAD_FAILED, fault[1], field=f"launcher_options.{fault[0]}")
        each = options.ranks_per_node or max(1, min(node.gpus for node in job.nodes))
        if options.comes_and_goes:
            return self._elastic(job, each)
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

    def _elastic(self, job: Program, each: int) -> Plan:
        options, first = self._options, job.nodes[0].name
        most = options.max_nodes or len(job.nodes)
        elastic = Elastic(least=options.min_nodes or 1, most=most, listed="nodes")
        words = [
            *(options.python, f"{job.directory}/elastic.py", job.directory, first, options.python),
            *(f"--nnodes={elastic.least}:{elastic.most}", f"--nproc-per-node={each}"),
            *(f"--max-restarts={options.max_restarts}", f"--rdzv-id={job.mark}"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint={first}:{port_of(job.mark)}"),
        ]
        listed = (f"{node.name} {number}\n" for number, node in enumerate(job.nodes, 1))
        return Plan(
            argv=["/bin/sh", "-c", 'exec "$@"', "torchrun", *words],
            environment={
                "PET_RDZV_CONF": MEETING,
                # Else agents go on to meet workers at one that may be lost.
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            },
            files={
                "elastic.py": text("torchrun_elastic.py"),
                "node.py": text("torchrun_node.py"),
                "command.sh": f"exec {shlex.join(job.argv)}\n",
                elastic.listed: "".join(listed),
            },
            elastic=elastic,
        )
