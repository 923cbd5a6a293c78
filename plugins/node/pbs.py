"""An allocation of OpenPBS or PBS Professional, from PBS_NODEFILE and what `qstat` says of the job.

An agent is started by `pbsdsh -n N`, N being the first of the node's chunks: PBS then counts what
the agent uses as the job's, and ends it with the job.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence

from msgspec import Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.units import duration_s
from pilot.node_ports import Allocation, Share, Starter
from plugins.node.variables import (
    MAX_NODES,
    Ask,
    by_template,
    check_template,
    file_of,
    first,
    for_agents,
    names_of,
    number_of,
    program,
    runner,
    text_of,
    unclear,
)

NODEFILE = "PBS_NODEFILE"
_CHUNK = re.compile(r"\(([^()]*)\)(?:\+|$)")
_MEMORY = re.compile(r"([0-9]{1,15})(b|kb|mb|gb|tb)?", re.IGNORECASE)
_UNIT_KB = {"b": 1 / 1024, "kb": 1, "mb": 1 << 10, "gb": 1 << 20, "tb": 1 << 30}


class PBSOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`pilot.allocation.options` of kind `pbs`."""

    qstat: bool = True
    """Ask the server for what was given of each node; false where nodes do not reach it."""
    start: list[str] = []
    """What starts an agent instead of pbsdsh: `[ssh, "{node}"]`, or
    `[mpiexec, --hosts, "{nodes}", -n, "{count}", --ppn, "1"]`."""

    def __post_init__(self) -> None:
        check_template(self.start)


class Given(Struct, frozen=True):
    """What the server gave of one host, in all its chunks."""

    cores: int = 0
    memory_kb: int = 0
    gpus: int | None = None
    """None: of no host does it say how many, so PBS does not count them."""


class PBS(Allocation):
    """The job that this process belongs to."""

    Options = PBSOptions

    def __init__(
        self,
        options: PBSOptions,
        environ: Mapping[str, str],
        *,
        ask: Ask | None = None,
        hostname: str = "",
    ) -> None:
        # Jobs often lack the directory of PBS's own commands.
        path = f"{environ.get('PATH', '/usr/bin:/bin')}:/opt/pbs/bin"
        self._options, self._environ = options, {**environ, "PATH": path}
        self._ask = ask or runner(self._environ)
        self._here = hostname or socket.gethostname()
        self._job: dict[str, str] | None = None

    def nodes(self) -> tuple[Share, ...]:
        names = first(names_of(self._lines(), NODEFILE), self._here, NODEFILE)
        job = self._known_job()
        given = given_hosts(job.get("exec_host", ""), job.get("exec_vnode", ""))
        return tuple(_share(name, given) for name in names)

    def seconds_left(self) -> float | None:
        job = self._known_job()
        try:
            most = duration_s(job["Resource_List.walltime"])
            return max(0.0, most - duration_s(job.get("resources_used.walltime", "0")))
        except (KeyError, AilurusError):
            return None

    def starters(
        self, argv: Sequence[str], nodes: Sequence[str], *, apart: bool = False
    ) -> Sequence[Starter]:
        if self._options.start:
            return by_template(self._options.start, argv, nodes, self._environ, apart=apart)
        lines = self._lines()
        return tuple(
            Starter(
                argv=[program("pbsdsh", self._environ), "-n", str(lines.index(name)), "--", *argv],
                environment=for_agents(self._environ),
                nodes=[name],
            )
            for name in nodes
        )

    def _lines(self) -> list[str]:
        """A host for each process that MPI may start; without `mpiprocs`, for each chunk."""
        return file_of(self._environ, NODEFILE, "PBS").split()

    def _known_job(self) -> dict[str, str]:
        """What the server says of the job, empty where it does not: then machines and the site's
        slot are the bounds."""
        if self._job is None:
            job = text_of(self._environ, "PBS_JOBID", "PBS")
            try:
                self._job = (
                    parse_qstat(self._ask(["qstat", "-f", job])) if self._options.qstat else {}
                )
            except AilurusError:
                self._job = {}
        return self._job


def _share(name: str, given: Mapping[str, Given]) -> Share:
    one = given.get(name.partition(".")[0])
    if one is None:
        return Share(name=name, address=name)
    return Share(
        name=name,
        address=name,
        cores=one.cores or None,
        memory_mb=one.memory_kb >> 10 or None,
        gpus=one.gpus,
    )


# what the server says ----------------------------------------------------------------------------


def parse_qstat(text: str) -> dict[str, str]:
    """The attributes of the one job of `qstat -f`; long lines go on behind a tab."""
    lines = text.replace("\n\t", "").splitlines()
    pairs = (line.strip().partition(" = ") for line in lines)
    found: dict[str, str] = {}
    for name, equals, value in pairs:
        if equals:
            # A user's variables come last, and may look like anything.
            found.setdefault(name, value)
    return found


def given_hosts(exec_host: str, exec_vnode: str) -> dict[str, Given]:
    """What was given of each host, by its name without domain.

    `exec_host`: `n1/0*4+n2/0*4`, a host for each chunk of `exec_vnode`:
    `(n1:ncpus=4:mem=1gb)+(n2[0]:ncpus=2+n2[1]:ncpus=2)`. Raises AilurusError.
    """
    if not exec_vnode:
        return {}
    hosts = [word.partition("/")[0].partition(".")[0] for word in exec_host.split("+")]
    chunks = _CHUNK.findall(exec_vnode)
    whole = "+".join(f"({chunk})" for chunk in chunks) == exec_vnode
    if not whole or len(chunks) != len(hosts) or len(chunks) > MAX_NODES * 1000:
        raise unclear(
            "exec_vnode", exec_vnode, f"it does not go with exec_host {exec_host[:100]!r}"
        )
    given: dict[str, Given] = {}
    nothing = Given(gpus=0 if ":ngpus=" in exec_vnode else None)
    for host, chunk in zip(hosts, chunks, strict=True):
        so_far = given.get(host, nothing)
        parts = [word.split(":")[1:] for word in chunk.split("+")]
        pairs = [one.partition("=") for part in parts for one in part]
        given[host] = Given(
            so_far.cores + _sum(pairs, "ncpus"),
            so_far.memory_kb + sum(_kb(value) for name, _, value in pairs if name == "mem"),
            None if so_far.gpus is None else so_far.gpus + _sum(pairs, "ngpus"),
        )
    return given


def _sum(pairs: Sequence[tuple[str, str, str]], wanted: str) -> int:
    return sum(
        number_of(value, f"{wanted} of exec_vnode") for name, _, value in pairs if name == wanted
    )


def _kb(text: str) -> int:
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise unclear("mem of exec_vnode", text, "a size such as 102400kb is expected")
    return int(int(found[1]) * _UNIT_KB[(found[2] or "b").lower()])
