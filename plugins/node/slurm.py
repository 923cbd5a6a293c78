"""An allocation of Slurm 20.11 or later, from the variables of the batch script.

Agents are the tasks of a few steps, each an `srun`, which runs on when one of them or its node
ends: `--no-kill` keeps the step without a node, `-K0` and `--wait=0` without a task. But a node
that comes back before Slurm has missed it costs its whole step: srun finds its connection broken
and the task gone, and aborts. The allocation itself must have been made with `--no-kill`, as the
edge does.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from ailurus.protocol.errors import AilurusError
from pilot.node_ports import Allocation, Share, Starter
from plugins.node.variables import (
    MAX_NODES,
    Ask,
    by_template,
    check_template,
    first,
    for_agents,
    names_of,
    number_of,
    program,
    runner,
    text_of,
    unclear,
)

NODES, CPUS = "SLURM_JOB_NODELIST", "SLURM_JOB_CPUS_PER_NODE"
OPTIONS = frozenset({
    "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_CPU_BIND",
    "SLURM_TRES_PER_TASK", "SLURM_DISTRIBUTION", "SLURM_EXCLUSIVE", "SLURM_HINT",
})  # fmt: skip
"""Variables of a batch script that its srun takes for options: here they are said, or left out."""
_RUN = re.compile(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_LEFT = re.compile(r"(?:(?:([0-9]{1,6})-)?([0-9]{1,2}):)?([0-9]{1,2}):([0-9]{2})")
_TYPE = re.compile(r"[a-z0-9_]{1,40}")
_GPUS = re.compile(r"(?:[A-Za-z0-9_.-]+:)*([0-9]{1,9})")


class SlurmOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`pilot.allocation.options` of kind `slurm`."""

    srun: list[str] = []
    """Further arguments of the srun that starts agents, such as `--network=no_vni`."""
    steps: Annotated[int, Meta(ge=1, le=1000)] = 16
    """In about so many the agents start: a node that comes back ends those of its step."""
    start: list[str] = []
    """What starts an agent instead of srun: `[ssh, "{node}"]`."""

    def __post_init__(self) -> None:
        check_template(self.start)


class Slurm(Allocation):
    """The job that this process belongs to."""

    Options = SlurmOptions

    def __init__(
        self,
        options: SlurmOptions,
        environ: Mapping[str, str],
        *,
        ask: Ask | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._options, self._environ, self._now = options, environ, now
        self._ask = ask or runner(environ)

    def nodes(self) -> tuple[Share, ...]:
        names = self._names()
        cores = dict(zip(names, self._cores(len(names)), strict=True))
        here = text_of(self._environ, "SLURMD_NODENAME", "Slurm")
        gpus = self._gpus()
        return tuple(
            Share(
                name=name,
                address=name,
                cores=cores[name],
                memory_mb=self._memory_mb(cores[name], gpus),
                gpus=gpus,
            )
            for name in first(names, here, NODES)
        )

    def seconds_left(self) -> float | None:
        if end := self._environ.get("SLURM_JOB_END_TIME", ""):
            return max(0.0, number_of(end, "SLURM_JOB_END_TIME") - self._now())
        job = text_of(self._environ, "SLURM_JOB_ID", "Slurm")
        try:
            left = self._ask(["squeue", "--noheader", f"--jobs={job}", "--format=%L"])
        except AilurusError:
            return None
        return parse_left(left.strip())

    def starters(
        self, argv: Sequence[str], nodes: Sequence[str], *, apart: bool = False
    ) -> Sequence[Starter]:
        if self._options.start:
            return by_template(self._options.start, argv, nodes, self._environ, apart=apart)
        cores = dict(zip(self._names(), self._cores(len(self._names())), strict=True))
        environment = {
            name: value for name, value in for_agents(self._environ).items() if name not in OPTIONS
        }
        # What is asked for is the same on each node of a step.
        kinds: dict[int, list[str]] = {}
        for name in nodes:
            kinds.setdefault(cores[name], []).append(name)
        most = 1 if apart else -(-len(nodes) // self._options.steps)
        groups = [
            kind[first : first + most]
            for kind in kinds.values()
            for first in range(0, len(kind), most)
        ]
        return tuple(
            Starter(
                argv=[
                    program("srun", self._environ),
                    *step(group, cores[group[0]]),
                    *self._options.srun,
                    *argv,
                ],
                environment=environment,
                nodes=group,
            )
            for group in groups
        )

    @staticmethod
    def pmi_types(environ: Mapping[str, str], ask: Ask | None = None) -> str:
        """What srun's `--mpi` may be here, `pmi2|pmix`; empty: there is no srun. Raises
        AilurusError if it does not answer."""
        if shutil.which("srun", path=environ.get("PATH", "")) is None:
            return ""
        return parse_types((ask or runner(environ))(["srun", "--mpi=list"]))

    def _names(self) -> tuple[str, ...]:
        text = text_of(self._environ, NODES, "Slurm")
        try:
            return names_of(list(expanded(text)), NODES)
        except NotPlain:
            named = self._ask(["scontrol", "show", "hostnames", text])
            return names_of(named.split(), NODES)

    def _cores(self, count: int) -> list[int]:
        text = text_of(self._environ, CPUS, "Slurm")
        cores = per_node(text)
        if len(cores) != count:
            raise unclear(CPUS, text, f"it tells of {len(cores)} nodes, and {NODES} of {count}")
        return cores

    def _gpus(self) -> int | None:
        """What was asked for of each node; None: nothing, or it was asked for otherwise."""
        text = self._environ.get("SLURM_GPUS_PER_NODE", "").strip()
        if not text:
            return None
        found = [_GPUS.fullmatch(word) for word in text.split(",")]
        return sum(number_of(one[1] if one else text, "SLURM_GPUS_PER_NODE") for one in found)

    def _memory_mb(self, cores: int, gpus: int | None) -> int | None:
        units = (("SLURM_MEM_PER_NODE", 1), ("SLURM_MEM_PER_CPU", cores))
        for variable, times in (*units, ("SLURM_MEM_PER_GPU", gpus or 0)):
            if text := self._environ.get(variable, "").strip():
                # 0: all that the node has.
                return number_of(text, variable) * times or None
        return None


def step(nodes: Sequence[str], cores: int) -> list[str]:
    """Arguments of srun for one agent on each of the nodes, with all of the job's cores there."""
    return [
        f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}",
        f"--ntasks={len(nodes)}", "--ntasks-per-node=1", f"--cpus-per-task={cores}",
        "--cpu-bind=none", "--mpi=none", "--export=ALL", "--input=none",
        # One that ends, or its node, leaves the others alone.
        "--kill-on-bad-exit=0", "--wait=0", "--no-kill",
        # Leave what is allocated to the steps of payloads, too.
        "--overlap",
    ]  # fmt: skip


def parse_types(text: str) -> str:
    """The types of `srun --mpi=list`, one a line behind a heading: `pmi2|pmix`."""
    lines = [line.strip() for line in text.splitlines()]
    return "|".join(sorted(line for line in lines if _TYPE.fullmatch(line) and line != "none"))


# what Slurm's variables say ----------------------------------------------------------------------


class NotPlain(Exception):
    """A list of nodes in a form that only Slurm itself expands."""


def expanded(text: str) -> Iterator[str]:
    """The names of a list such as `n[1-3,07],gpu1x[0-1]y2`, at most MAX_NODES and one. Raises
    NotPlain."""
    count = 0
    for part in _parts(text):
        for name in _product(part):
            yield name
            count += 1
            if count > MAX_NODES:
                return


def _parts(text: str) -> Iterator[str]:
    """Split at the commas outside of brackets."""
    depth, begin = 0, 0
    for at, letter in enumerate(text):
        if letter == "[":
            depth += 1
        elif letter == "]":
            depth -= 1
        elif letter == "," and not depth:
            yield text[begin:at]
            begin = at + 1
        if depth not in (0, 1):
            raise NotPlain
    if depth:
        raise NotPlain
    yield text[begin:]


def _product(part: str) -> Iterator[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        yield head
        return
    inside, _, tail = rest.partition("]")
    for number in _numbers(inside):
        for end in _product(tail):
            yield f"{head}{number}{end}"


def _numbers(text: str) -> Iterator[str]:
    for word in text.split(","):
        found = _RANGE.fullmatch(word)
        if found is None:
            raise NotPlain
        low, high = found[1], found[2] or found[1]
        if int(high) < int(low):
            # It names nothing, and that a thousand million times if it follows a long range.
            raise NotPlain
        for number in range(int(low), int(high) + 1):
            # Zeros in front are part of the names.
            yield str(number).zfill(len(low))


def parse_left(text: str) -> float | None:
    """Seconds of `1-02:03:04` or `59:59`; None: UNLIMITED, INVALID, or what else may be there."""
    found = _LEFT.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def per_node(text: str) -> list[int]:
    """The numbers of a list such as `4(x2),8`. Raises AilurusError."""
    cores: list[int] = []
    for word in text.split(","):
        found = _RUN.fullmatch(word.strip())
        times = int(found[2] or 1) if found else 0
        if found is None or len(cores) + times > MAX_NODES:
            raise unclear(CPUS, text, "a list such as 4(x2),8 is expected")
        cores += [int(found[1])] * times
    return cores
