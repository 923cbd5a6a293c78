"""A slot of HTCondor: one node, as its machine ad tells. Its parallel universe, which gives
several, starts a program on each by itself and has no way to start agents: it is refused."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence

from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from pilot.node_ports import Allocation, Share, Starter
from plugins.node.variables import file_of, number_of

AD = "_CONDOR_MACHINE_AD"
_LINE = re.compile(r"^(Cpus|Memory|GPUs)\s*=\s*([0-9]{1,12})\s*$", re.MULTILINE | re.IGNORECASE)


class HTCondorOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`pilot.allocation.options` of kind `htcondor` has none."""


class HTCondor(Allocation):
    """The slot that this process runs in."""

    Options = HTCondorOptions

    def __init__(
        self, options: HTCondorOptions, environ: Mapping[str, str], *, hostname: str = ""
    ) -> None:
        self._environ = environ
        self._here = hostname or socket.gethostname()

    def nodes(self) -> tuple[Share, ...]:
        processes = number_of(self._environ.get("_CONDOR_NPROCS", "1"), "_CONDOR_NPROCS")
        if processes > 1:
            raise AilurusError(
                f"HTCondor gave {processes} machines, and agents cannot be started on them",
                remedy="`pilots: per_node`: HTCondor then has a pilot a slot",
            )
        return (parse_ad(file_of(self._environ, AD, "HTCondor"), self._here),)

    def seconds_left(self) -> float | None:
        return None

    def starters(
        self, argv: Sequence[str], nodes: Sequence[str], *, apart: bool = False
    ) -> Sequence[Starter]:
        if nodes:
            raise AilurusError("HTCondor gave one machine: there are no others to start agents on")
        return ()


def parse_ad(text: str, name: str) -> Share:
    """The share of a machine ad in the old syntax: one `Name = value` a line."""
    found = {key.lower(): int(value) for key, value in _LINE.findall(text)}
    return Share(
        name=name,
        address=name,
        cores=found.get("cpus") or None,
        memory_mb=found.get("memory") or None,
        gpus=found.get("gpus"),
    )
