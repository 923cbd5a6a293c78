"""Adapters, one file each, by kind. A name that is not in the table is looked up among the entry
points `ailurus.KIND` of installed packages: the same form inside and out."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ailurus.protocol.errors import AilurusError

TABLE: dict[str, dict[str, str]] = {
    "batch": {
        "htcondor": "plugins.batch.htcondor:HTCondor",
        "local": "plugins.batch.local:Local",
        "pbs": "plugins.batch.pbs:PBS",
        "slurm": "plugins.batch.slurm:Slurm",
    },
    "catalogue": {
        "local": "plugins.catalogue.local:Local",
        "rucio": "plugins.catalogue.rucio:Rucio",
    },
    "container": {
        "apptainer": "plugins.container.apptainer:Apptainer",
        "auto": "plugins.container.auto:Auto",
        "bare": "plugins.container.bare:Bare",
        "bubblewrap": "plugins.container.bubblewrap:Bubblewrap",
    },
    # By URL scheme.
    "data": {
        "file": "plugins.data.file:File",
        "http": "plugins.data.http:Http",
        "https": "plugins.data.http:Http",
    },
    "launch": {
        "horovod": "plugins.launch.horovod:Horovod",
        "mpi": "plugins.launch.mpi:Mpi",
        "ray": "plugins.launch.ray:Ray",
        "script": "plugins.launch.script:Script",
        "single": "plugins.launch.single:Single",
        "torchrun": "plugins.launch.torchrun:Torchrun",
    },
    "mover": {
        "gfal2": "plugins.data.gfal2:Gfal2",
        "rucio": "plugins.data.rucio:Rucio",
        "s3": "plugins.data.s3:S3",
        "xrootd": "plugins.data.xrootd:XRootD",
    },
    "node": {
        "host": "plugins.node.host:Host",
        "htcondor": "plugins.node.htcondor:HTCondor",
        "lsf": "plugins.node.lsf:LSF",
        "pbs": "plugins.node.pbs:PBS",
        "slurm": "plugins.node.slurm:Slurm",
    },
}


MOVED_BY = {
    "https": "http", "dav": "http", "davs": "http",
    "root": "xrootd", "roots": "xrootd", "xroot": "xrootd",
    "srm": "gfal2", "gsiftp": "gfal2",
}  # fmt: skip
"""The usual data or mover plugin of a URL's scheme, where it is not called as the scheme."""
NAMED_OPTIONS = ("http", "rucio", "xrootd", "gfal2", "s3")
"""Plugins whose options have a key of their own in `storage` of a site file."""


def load(kind: str, name: str) -> Any:
    """Import the plugin of a kind and name, and return its class. Raises AilurusError if there is
    none."""
    where = TABLE.get(kind, {}).get(name) or _installed(kind).get(name)
    if where is None:
        # Late: an agent would have it in its memory.
        import difflib

        known = names(kind)
        near = difflib.get_close_matches(name, known, 1)
        remedy = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
        raise AilurusError(f"no {kind} plugin is called {name!r}", remedy=remedy)
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)


def with_credentials(
    options_type: Any, options: Mapping[str, Any], credentials: Mapping[str, str]
) -> dict[str, Any]:
    """The options of a mover with a user's credentials in place of the site's: files, by the names
    of the options that take them. A plugin takes those that its options know, or `credentials`
    where it hands them on."""
    known = options_type.__struct_fields__
    given: dict[str, Any] = {name: path for name, path in credentials.items() if name in known}
    if credentials and "credentials" in known:
        given["credentials"] = credentials
    return {**options, **given}


def names(kind: str) -> list[str]:
    """Names of the plugins of a kind that are installed here; none is imported."""
    return sorted({*TABLE.get(kind, {}), *_installed(kind)})


def _installed(kind: str) -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=f"ailurus.{kind}")}
