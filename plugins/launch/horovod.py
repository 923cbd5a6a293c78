"""`horovod`: the job's command as the workers of a Horovod training.

By Gloo the workers meet at a rendezvous, which the job's own Python runs on the first node, so that
no ssh is needed; by MPI they are an MPI program, for a Horovod that was built with it. An elastic
training has Horovod's own driver there, which starts workers on the nodes that the pilot lists.
"""

from __future__ import annotations

import shlex

from msgspec.structs import replace

from ailurus.protocol.errors import Code
from ailurus.protocol.launchers import HorovodOptions, MpiOptions
from pilot.node_ports import Elastic, Plan, Program
from pilot.ports import JobError
from plugins.launch.hosts import name_of
from plugins.launch.mpi import Mpi
from plugins.launch.spread import spread
from plugins.launch.texts import package_found, text

WORKER = {
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "$first",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": "$(cat $here/rendezvous)",
    "HOROVOD_RANK": "$rank",
    "HOROVOD_SIZE": "$world",
    "HOROVOD_LOCAL_RANK": "$local",
    "HOROVOD_LOCAL_SIZE": "$each",
    "HOROVOD_CROSS_RANK": "$index",
    "HOROVOD_CROSS_SIZE": "$groups",
    "HOROVOD_HOSTNAME": "$node",
}


def backend(name: str) -> dict[str, str]:
    """What tells Horovod which of those that it was built with it is to use."""
    return {"HOROVOD_CONTROLLER": name, "HOROVOD_CPU_OPERATIONS": name}


class Horovod:
    Options = HorovodOptions
    FOUND = package_found("horovod", "horovodrun")

    def __init__(self, options: HorovodOptions) -> None:
        self._options = options

    def plan(self, job: Program) -> Plan:
        options, count = self._options, len(job.nodes)
        each = options.ranks_per_node
        if (fault := options.fault(count)) is not None:
            raise JobError(Code.PAYLOAD_FAILED, fault[1], field=f"launcher_options.{fault[0]}")
        if options.elastic:
            return self._elastic(job)
        if options.controller == "mpi":
            plan = Mpi(MpiOptions(ranks_per_node=each)).plan(job)
            return replace(plan, environment={**plan.environment, **backend("mpi")})
        settings = {
            "first": name_of(job.nodes[0]),
            "hosts": ",".join(f"{name_of(node)}:{each}" for node in job.nodes),
            "world": str(each * count),
            "groups": str(count),
            "python": options.python,
        }
        return spread(
            job,
            each,
            WORKER,
            settings=settings,
            before={
                "horovod.sh": text("horovod.sh"),
                "rendezvous.py": text("horovod_rendezvous.py"),
            },
            environment=backend("gloo"),
        )

    def _elastic(self, job: Program) -> Plan:
        options, count = self._options, len(job.nodes)
        elastic = Elastic(least=options.min_nodes, most=options.max_nodes or count, listed="nodes")
        each = options.ranks_per_node
        words = [
            *(options.python, f"{job.directory}/elastic.py", job.directory, job.nodes[0].name),
            *(str(each), str(elastic.least * each), str(elastic.most * each)),
        ]
        listed = (f"{node.name} {number}\n" for number, node in enumerate(job.nodes, 1))
        return Plan(
            argv=["/bin/sh", "-c", 'exec "$@"', "horovod", *words],
            environment=backend("gloo"),
            files={
                "elastic.py": text("horovod_elastic.py"),
                "command.sh": f"exec {shlex.join(job.argv)}\n",
                elastic.listed: "".join(listed),
            },
            elastic=elastic,
        )
