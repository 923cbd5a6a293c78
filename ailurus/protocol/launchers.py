"""Options of launchers: how the processes of a job are started. Data and pure functions.

A job file says `launcher: mpi` or `launcher: {mpi: {ranks_per_node: 4}}`. A job keeps the name and
the options apart, and the options as they were written: a launcher that a site installed is not
known here, so its own type reads them, in the pilot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ailurus.protocol.errors import AilurusError
from ailurus.protocol.fields import Text

SINGLE = "single"
LauncherName = Annotated[str, Meta(max_length=50, pattern=r"^[a-z]*(?!\n)$")]
Word = Annotated[Text, Meta(min_length=1, max_length=1000)]
Words = Annotated[tuple[Word, ...], Meta(max_length=100)]
PerNode = Annotated[int, Meta(ge=1, le=4096)]
Nodes = Annotated[int, Meta(ge=1, le=100_000)]
Python = Annotated[Text, Meta(min_length=1, max_length=1000)]
"""The payload's Python, as its shell finds it on the job's PATH."""


def _among(*words: str) -> Any:
    form = "|".join(words)
    return Meta(pattern=rf"^({form})?(?!\n)$", max_length=20, description=f"{' or '.join(words)}")


Flavour = Annotated[str, _among("openmpi", "mpich")]
Controller = Annotated[
    str, Meta(pattern=r"^(gloo|mpi)(?!\n)$", max_length=20, description="gloo or mpi")
]


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a launcher may be told. Every launcher has a type of its own."""

    def fault(self, nodes: int) -> tuple[str, str] | None:
        """An option that does not fit the others, or a job of so many nodes, and why; None: all
        do."""
        return None


class SingleOptions(Options, frozen=True):
    """One process on one node: nothing to tell."""


class ScriptOptions(Options, frozen=True):
    """One process on the first node, which starts the others by `pilot-rsh`."""

    slots_per_node: PerNode | None = None
    """How many processes the host file gives each node; None: as many as cores."""


class MpiOptions(Options, frozen=True):
    """The job's command is run as each rank of an MPI program."""

    ranks_per_node: PerNode | None = None
    """None: one a core."""
    mpirun: Annotated[Text, Meta(max_length=1000)] = ""
    """The program that starts the ranks, as the job's PATH finds it; empty: the first of the usual
    ones that is of the program's MPI."""
    flavour: Flavour = ""
    """Empty: the program and its library are asked."""
    arguments: Words = ()
    """More words for mpirun."""


class HorovodOptions(Options, frozen=True):
    """The job's command is run as each worker of a Horovod training."""

    ranks_per_node: PerNode = 1
    controller: Controller = "gloo"
    elastic: bool = False
    """Whether the training goes on with the other nodes when some are lost, and with those that
    come."""
    min_nodes: Nodes = 1
    """Of an elastic training: with fewer it ends, to be tried again elsewhere."""
    max_nodes: Nodes | None = None
    """Of an elastic training: it takes no more; None: those of the job."""
    python: Python = "python3"

    def fault(self, nodes: int) -> tuple[str, str] | None:
        if self.elastic and self.controller != "gloo":
            return "controller", "an elastic training is by gloo"
        return _elastic_fault(self, nodes, comes_and_goes=self.elastic)


def _elastic_fault(
    told: HorovodOptions | TorchrunOptions, nodes: int, *, comes_and_goes: bool
) -> tuple[str, str] | None:
    """As `fault`, of a training whose nodes may come and go."""
    if not told.elastic:
        blank = type(told)()
        for name in ("min_nodes", "max_nodes"):
            if getattr(told, name) != getattr(blank, name):
                return name, "it is for an elastic training: elastic: true"
        return None
    if not comes_and_goes:
        return None
    if nodes < 2:
        why = "its first node is never replaced, so the job needs `nodes: 2` or more"
        return "elastic", why
    if told.min_nodes is not None and told.min_nodes > nodes:
        return "min_nodes", f"the job begins with {nodes} nodes"
    if told.max_nodes is not None and told.max_nodes < nodes:
        return "max_nodes", f"the job begins with {nodes} nodes"
    return None


class RayOptions(Options, frozen=True):
    """The job's command is the driver, on the first node, of a Ray over all nodes."""

    object_store_mb: Annotated[int, Meta(ge=80, le=100_000_000)] | None = None
    """Of each node; None: a quarter of the job's memory there."""
    dashboard: bool = False
    """Whether there is one, on the first node's loopback: `ray job submit` needs it."""
    ready_s: Annotated[int, Meta(ge=1, le=3600)] = 180
    """How long all nodes may take to come."""
    python: Python = "python3"


class TorchrunOptions(Options, frozen=True):
    """The job's command is run as each worker of a torch.distributed training."""

    ranks_per_node: PerNode | None = None
    """None: one a GPU, or one where there are no GPUs."""
    elastic: bool = False
    """Whether torchrun's own agents start the workers and meet by c10d: then they restart them."""
    min_nodes: Nodes | None = None
    """Of an elastic training: with fewer it ends, to be tried again elsewhere; None: 1 where
    `max_nodes` is told, else it stays on the nodes that it began with."""
    max_nodes: Nodes | None = None
    """Of an elastic training whose nodes come and go: it takes no more; None: those of the job."""
    max_restarts: Annotated[int, Meta(ge=0, le=1000)] = 3
    """Of an elastic training, on each node. Those of a lost node's workers count."""
    python: Python = "python3"

    @property
    def comes_and_goes(self) -> bool:
        """Whether it outlives the loss of nodes, and takes some that come."""
        return self.elastic and (self.min_nodes, self.max_nodes) != (None, None)

    def fault(self, nodes: int) -> tuple[str, str] | None:
        return _elastic_fault(self, nodes, comes_and_goes=self.comes_and_goes)


OPTIONS: Mapping[str, type[Options]] = {
    SINGLE: SingleOptions,
    "script": ScriptOptions,
    "mpi": MpiOptions,
    "horovod": HorovodOptions,
    "ray": RayOptions,
    "torchrun": TorchrunOptions,
}
"""By launcher, those that come with us."""


def check_options(name: str, options: Mapping[str, Any], nodes: int | None = None) -> None:
    """Check the options of a launcher that is known here, for a job of so many nodes where that is
    known. Raises msgspec.ValidationError, which says where, or AilurusError with the option."""
    if (kind := OPTIONS.get(name)) is None:
        return
    told = msgspec.convert(options, kind)
    if nodes is not None and (fault := told.fault(nodes)) is not None:
        raise AilurusError(fault[1], field=fault[0], remedy="see docs/parallel.md")


def named(tree: object, where: str) -> tuple[Any, Any]:
    """The name and the options of `launcher` in a job file. Raises AilurusError with the field."""
    if not isinstance(tree, Mapping):
        return tree, {}
    if len(tree) != 1:
        raise AilurusError(
            f"{len(tree)} launchers, and a job has one",
            field=where,
            remedy="{mpi: {ranks_per_node: 4}}",
        )
    ((name, options),) = tree.items()
    return name, {} if options is None else options
