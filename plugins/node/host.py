"""Machines that no batch system gave: this one, and those that the site file lists."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from pilot.node_ports import Allocation, Share, Starter
from plugins.node.variables import by_template, check_template, first, names_of


class HostOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`pilot.allocation.options` of kind `host`."""

    nodes: list[str] = []
    """By the names at which they reach each other, this machine among them; empty: it alone."""
    start: list[str] = []
    """What starts an agent: `[ssh, "{node}"]`."""

    def __post_init__(self) -> None:
        check_template(self.start)


class Host(Allocation):
    """What there is without a batch system: nobody bounds it but the machines."""

    Options = HostOptions

    def __init__(
        self, options: HostOptions, environ: Mapping[str, str], *, hostname: str = ""
    ) -> None:
        self._options, self._environ = options, environ
        self._here = hostname or socket.gethostname()

    def nodes(self) -> tuple[Share, ...]:
        listed = self._options.nodes or [self._here]
        names = names_of(listed, "pilot.allocation.options.nodes")
        ordered = first(names, self._here, "pilot.allocation.options.nodes")
        return tuple(Share(name=name, address=name) for name in ordered)

    def seconds_left(self) -> float | None:
        return None

    def starters(
        self, argv: Sequence[str], nodes: Sequence[str], *, apart: bool = False
    ) -> Sequence[Starter]:
        if nodes and not self._options.start:
            raise AilurusError(
                "pilot.allocation.options.start does not say how agents are started",
                remedy='`start: [ssh, "{node}"]`, say',
            )
        return by_template(self._options.start, argv, nodes, self._environ, apart=apart)
