"""An allocation of LSF, from LSB_MCPU_HOSTS; agents are started by `blaunch`, which LSF counts as
the job's. Never tried with a real LSF: what its documentation says."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from msgspec import Struct

from pilot.node_ports import Allocation, Share, Starter
from plugins.node.variables import (
    by_template,
    check_template,
    first,
    for_agents,
    names_of,
    number_of,
    program,
    text_of,
    unclear,
)

HOSTS = "LSB_MCPU_HOSTS"


class LSFOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`pilot.allocation.options` of kind `lsf`."""

    start: list[str] = []
    """What starts an agent instead of blaunch: `[ssh, "{node}"]`."""

    def __post_init__(self) -> None:
        check_template(self.start)


class LSF(Allocation):
    """The job that this process belongs to."""

    Options = LSFOptions

    def __init__(
        self, options: LSFOptions, environ: Mapping[str, str], *, hostname: str = ""
    ) -> None:
        self._options, self._environ = options, environ
        self._here = hostname or socket.gethostname()

    def nodes(self) -> tuple[Share, ...]:
        cores = parse_hosts(text_of(self._environ, HOSTS, "LSF"))
        names = first(tuple(cores), self._here, HOSTS)
        return tuple(Share(name=name, address=name, cores=cores[name]) for name in names)

    def seconds_left(self) -> float | None:
        return None

    def starters(
        self, argv: Sequence[str], nodes: Sequence[str], *, apart: bool = False
    ) -> Sequence[Starter]:
        if self._options.start:
            return by_template(self._options.start, argv, nodes, self._environ, apart=apart)
        groups = [[name] for name in nodes] if apart else [list(nodes)] * bool(nodes)
        return tuple(
            Starter(
                argv=[
                    program("blaunch", self._environ),
                    "-n",
                    "-no-shell",
                    "-z",
                    " ".join(group),
                    *argv,
                ],
                environment=for_agents(self._environ),
                nodes=group,
            )
            for group in groups
        )


def parse_hosts(text: str) -> dict[str, int]:
    """Slots by host of `host1 4 host2 8`; a host may be named twice. Raises AilurusError."""
    words = text.split()
    if len(words) % 2:
        raise unclear(HOSTS, text, "pairs of a host and its slots are expected")
    names_of(words[::2], HOSTS)
    cores: dict[str, int] = {}
    for name, slots in zip(words[::2], words[1::2], strict=True):
        cores[name] = cores.get(name, 0) + number_of(slots, HOSTS)
    return cores
