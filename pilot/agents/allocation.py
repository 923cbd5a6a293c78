"""Which batch system gave this pilot its nodes, and the plugin that reads what it gave."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

import plugins
from ailurus.protocol.errors import AilurusError
from pilot.node_ports import Allocation

SHOWN_BY = {
    "SLURM_JOB_ID": "slurm",
    "PBS_JOBID": "pbs",
    "LSB_JOBID": "lsf",
    "_CONDOR_MACHINE_AD": "htcondor",
}
"""By which variable a job of each batch system is known."""
NONE = "host"


def kind_of(environ: Mapping[str, str]) -> str:
    """The kind of the batch system whose job this is; NONE if it is no job."""
    return next((kind for variable, kind in SHOWN_BY.items() if environ.get(variable)), NONE)


def allocation_of(
    kind: str = "",
    options: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Allocation:
    """The allocation that the site file speaks of; without a kind, the one that the environment
    shows. Raises AilurusError."""
    plugin = plugins.load("node", kind or kind_of(environ))
    try:
        chosen = msgspec.convert(options or {}, plugin.Options)
    except msgspec.ValidationError as error:
        raise AilurusError(str(error), field="pilot.allocation.options") from None
    allocation: Allocation = plugin(chosen, environ)
    return allocation
