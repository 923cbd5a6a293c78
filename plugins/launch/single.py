"""`single`: the job's command, on its first node."""

from __future__ import annotations

from ailurus.protocol.launchers import SingleOptions
from pilot.node_ports import Plan, Program


class Single:
    Options = SingleOptions

    def __init__(self, options: SingleOptions) -> None:
        """There are no options."""

    def plan(self, job: Program) -> Plan:
        return Plan(argv=job.argv)
