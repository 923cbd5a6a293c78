"""`mpi`: the job's command as the ranks of one MPI program.

What starts them is found on the job's first node, by a script: see mpi.sh. Here is what each kind
of starter is told.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from ailurus.protocol.launchers import MpiOptions
from pilot.node_ports import Plan, Program
from plugins.launch import hosts
from plugins.launch.texts import text

RSH = "$AILURUS_PILOT_RSH"
HERE = "$here"
# The pilot binds to CPUs: left to itself, Open MPI 5 would pile the ranks of two jobs on
# the same. Its daemons stay what pilot-rsh has started, so that they end with it.
STARTERS: Mapping[str, Sequence[str]] = {
    "openmpi4": (
        *("--hostfile", f"{HERE}/hosts.openmpi", "-np", "$ranks", "--bind-to", "none"),
        *("--mca", "plm_rsh_agent", RSH, "--mca", "orte_leave_session_attached", "1"),
    ),
    "openmpi5": (
        *("--hostfile", f"{HERE}/hosts.openmpi", "-np", "$ranks", "--bind-to", "none"),
        *("--prtemca", "plm_ssh_agent", RSH, "--prtemca", "prte_leave_session_attached", "1"),
    ),
    "mpich": (
        *("-f", f"{HERE}/hosts.hydra", "-n", "$ranks", "-bind-to", "none"),
        *("-launcher", "ssh", "-launcher-exec", RSH),
    ),
}
"""By kind of starter, its words; those of a shell's variables are filled in by mpi.sh."""
AS_ROOT = {
    f"{name}_ALLOW_RUN_AS_ROOT{end}": "1" for name in ("OMPI", "PRTE") for end in ("", "_CONFIRM")
}
"""In a container a payload is root of nothing but its own."""


class Mpi:
    Options = MpiOptions
    FOUND = text("family.sh") + text("mpi_found.sh")

    def __init__(self, options: MpiOptions) -> None:
        self._options = options

    def plan(self, job: Program) -> Plan:
        options = self._options
        each = options.ranks_per_node or min(node.cores for node in job.nodes)
        settings = {
            "program": job.executable,
            "mpirun": options.mpirun,
            "flavour": options.flavour,
            "ranks": str(each * len(job.nodes)),
        }
        crowded = each > min(node.cores for node in job.nodes)
        return Plan(
            argv=["/bin/sh", f"{job.directory}/mpi.sh", *job.argv],
            environment={
                **AS_ROOT,
                # A rank that waits must not take the CPU of the one that it waits for.
                **({"OMPI_MCA_mpi_yield_when_idle": "1"} if crowded else {}),
            },
            files={
                "mpi.sh": text("mpi.sh"),
                "family.sh": text("family.sh"),
                "rank.sh": text("rank.sh"),
                "settings.sh": settings_text(settings, options.arguments),
                "hosts.openmpi": hosts.openmpi(job.nodes, each),
                "hosts.hydra": hosts.hydra(job.nodes, each),
            },
        )


def settings_text(settings: Mapping[str, str], more: Sequence[str]) -> str:
    """What mpi.sh reads: the settings as variables, and `begin KIND COMMAND…`."""
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    lines += ["begin() {", "    kind=$1", "    shift", "    case $kind in"]
    for kind, words in STARTERS.items():
        told = " ".join([*(f'"{word}"' for word in words), *map(shlex.quote, more)])
        lines.append(f'        {kind}) exec "$found" {told} "$@" ;;')
    return "\n".join([*lines, "    esac", "}", ""])
