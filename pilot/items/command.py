"""The program of an item, from what it says and what its job says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ailurus.protocol.item import ItemSpec
from ailurus.protocol.messages import ItemLease
from ailurus.protocol.resources import Resources

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+(?: +[A-Za-z0-9_@%+=:,./-]+)*\Z")
_PATH = re.compile(r"[A-Za-z0-9_.+-]*/[A-Za-z0-9_.+/-]*\Z")


def argv(item: ItemSpec, command: str, script: Sequence[str]) -> list[str]:
    """The words that start it. `command` is the job's; `script`: those that start the job's script,
    if it has one. A line in which a shell would find nothing to do needs none."""
    line = item.command or command
    if script and not item.command:
        return [*script, *item.arguments]
    words = line.split() if _PLAIN.match(line) else []
    if words and _PATH.match(words[0]):
        return [*words, *item.arguments]
    if not item.arguments:
        return ["/bin/sh", "-c", line]
    return ["/bin/sh", "-c", f'{line} "$@"', "sh", *item.arguments]


def environment(lease: ItemLease, name: str, fixed: Mapping[str, str]) -> dict[str, str]:
    """Its variables beside the job's: its own, and what nobody chooses. `name`: of the job's
    attempt."""
    spec = lease.spec
    cores = str(spec.cores)
    ours = {
        "AILURUS_ITEM": str(lease.index),
        "AILURUS_CORES": cores,
        "OMP_NUM_THREADS": cores,
        "OPENBLAS_NUM_THREADS": cores,
        "MKL_NUM_THREADS": cores,
        "NUMEXPR_NUM_THREADS": cores,
    }
    # By the last one a guardian knows what an item leaves behind.
    mark = f"{name}.{lease.index}.{lease.attempt}"
    return {**ours, **spec.environment, **fixed, "AILURUS_ATTEMPT": mark}


def need(spec: ItemSpec, job: Resources) -> Resources:
    """What it takes of its job's slots, of which each has `job`."""
    share = job.memory_mb * spec.cores // max(1, job.cores)
    return Resources(
        cores=spec.cores,
        memory_mb=share if spec.memory_mb is None else spec.memory_mb,
        gpus=spec.gpus,
    )
