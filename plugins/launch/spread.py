"""A job's command as ranks on all nodes, each with its place in its environment.

For frameworks whose processes find each other by themselves, from variables.
"""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Mapping, Sequence

from pilot.node_ports import Plan, Program
from plugins.launch.hosts import name_of
from plugins.launch.texts import text

PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to clients."""


def port_of(mark: str) -> int:
    """A port for a job: another one than its neighbours', most probably."""
    return PORTS[zlib.crc32(mark.encode()) % len(PORTS)]


def spread(
    job: Program,
    each: int,
    variables: Mapping[str, str],
    *,
    agent: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    before: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """A plan that runs the job's command `each` times on each node.

    `variables`: of a rank; a shell's `$rank`, `$local`, `$index` (of its node), `$node` and those
    of `settings` are filled in. `agent`: a command that starts the ranks of a node instead, with
    `$index` and `$node`. `before`: scripts, of which the first is read on the first node before
    anything starts.
    """
    before = before or {}
    lines = [
        f"each={each}",
        f"nodes={shlex.quote(' '.join(map(name_of, job.nodes)))}",
        f"before={next(iter(before), '')}",
        *(f"{name}={shlex.quote(value)}" for name, value in (settings or {}).items()),
        "rank_environment() {",
        *(f'    export {name}="{value}"' for name, value in variables.items()),
        "    :",
        "}",
    ]
    if agent:
        words = " ".join(f'"{word}"' for word in agent)
        lines += ["agent=agent", "agent() {", f"    {words}", "}"]
    return Plan(
        argv=["/bin/sh", f"{job.directory}/spread.sh"],
        environment=environment or {},
        files={
            "spread.sh": text("spread.sh"),
            "part.sh": text("part.sh"),
            "command.sh": f"exec {shlex.join(job.argv)}\n",
            "settings.sh": "\n".join([*lines, ""]),
            **before,
        },
    )
