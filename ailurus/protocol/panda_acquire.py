"""PanDA's names for what a client says that wants jobs: one table, read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from ailurus.protocol.panda import number, text
from ailurus.protocol.panda_update import Spelling


class Argument(Struct, frozen=True):
    """One argument of an acquire under its two names; blank where a dialect has none."""

    legacy: str
    v1: str
    # As v1 is annotated; legacy is text.
    kind: Literal["any", "bool", "int", "str"] = "str"
    # The field of `JobRequest`; blank: not looked at.
    ours: str = ""
    required: bool = False
    # Whether v1 takes a null.
    nullable: bool = True


ACQUIRE = (
    Argument("siteName", "site_name", "str", "site", required=True),
    Argument("timeout", "timeout", "int", nullable=False),
    Argument("mem", "memory", "int", "memory_mb"),
    Argument("diskSpace", "disk_space", "int", "disk_mb"),
    Argument("prodSourceLabel", "prod_source_label", "str", "label"),
    Argument("node", "node", "str", "node"),
    Argument("computingElement", "computing_element", "str", "computing_element"),
    Argument("prodUserID", "prod_user_id"),
    Argument("getProxyKey", "get_proxy_key", "str", "proxy_key"),
    Argument("taskID", "task_id", "int", "task_id"),
    Argument("nJobs", "n_jobs", "int", "count", nullable=False),
    Argument("background", "background", "bool"),
    Argument("resourceType", "resource_type", "str", "resource_type"),
    Argument("harvester_id", "harvester_id", "str", "harvester_id"),
    Argument("worker_id", "worker_id", "int", "worker_id"),
    Argument("schedulerID", "scheduler_id", "str", "scheduler_id"),
    Argument("jobType", "job_type"),
    Argument("viaTopic", "via_topic", "bool"),
    Argument("remaining_time", "remaining_time", "any", "seconds_left"),
    Argument("", "target_architecture", "any", "architecture"),
    Argument("token", ""),
    Argument("cpu", ""),
    Argument("AtlasRelease", ""),
    Argument("countryGroup", ""),
    Argument("workingGroup", ""),
    Argument("allowOtherCountry", ""),
)


class JobRequest(Struct, frozen=True, kw_only=True):
    """What we read of a client's request for jobs. Blank or None: it did not say."""

    site: str = ""
    label: str = ""
    node: str = ""
    computing_element: str = ""
    memory_mb: int | None = None
    disk_mb: int | None = None
    seconds_left: int | None = None
    count: int | None = None
    resource_type: str = ""
    task_id: int | None = None
    harvester_id: str = ""
    worker_id: int | None = None
    scheduler_id: str = ""
    proxy_key: str = ""
    architecture: Any = None


def job_request(arguments: Mapping[str, Any], spelling: Spelling) -> JobRequest:
    """A request as it came. Those of v1 have been checked; legacy is read leniently."""
    fields: dict[str, Any] = {}
    for name, ours, read in _READ[spelling]:
        value = arguments.get(name)
        if value is not None:
            fields[ours] = value if read is None else read(value)
    return JobRequest(**fields)


def _reader(argument: Argument, spelling: Spelling) -> Callable[[Any], Any] | None:
    """How a value is read; None: it is as it should be."""
    if argument.ours == "seconds_left":
        return number
    if spelling == "v1":
        return None
    if argument.required:
        return str
    return number if argument.kind == "int" else text


_READ = {
    spelling: [
        (name, argument.ours, _reader(argument, spelling))
        for argument in ACQUIRE
        if argument.ours and (name := getattr(argument, spelling))
    ]
    for spelling in get_args(Spelling)
}


def acquire_arguments(request: JobRequest, spelling: Spelling) -> dict[str, Any]:
    """A request as PanDA's servers take it: nothing but what it says."""
    values = msgspec.structs.asdict(request)
    return {
        getattr(argument, spelling): values[argument.ours]
        for argument in ACQUIRE
        if argument.ours and getattr(argument, spelling) and values[argument.ours] not in (None, "")
    }
