"""What becomes of each key of Harvester's queue configuration and of CRIC's queue data: a rule that
carries it over, or why nothing does. Meanings of the keys: harvester's queue configuration and
CRIC's schedconfig.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field

from ailurus.protocol.shown import shown

# What the submitter's module is called, our profile, how its partition or queue is called.
KINDS = (
    ("slurm", "slurm-shared", "partition"),
    ("pbs", "pbs-wholenode", "queue"),
    ("htcondor", "htcondor", ""),
)
# Larger numbers mean: no limit.
MOST = 1_000_000
# MB or seconds; larger ones are mistakes.
LARGEST = 10**9
EMPTY: tuple[Any, ...] = (None, "", [], {})
_DECIMAL = re.compile(r"\s*[+-]?[0-9]{1,15}(\.[0-9]{1,15})?\s*")


class Lost(Struct, frozen=True, kw_only=True):
    """Something that was not carried over."""

    key: str
    value: str
    why: str


class Carried(Struct, frozen=True, kw_only=True):
    """Something that was, and where it is now."""

    key: str
    told: str
    """What it was called there, as JSON."""
    to: str
    value: str


class Converted(Struct, kw_only=True):
    """A queue as a site."""

    queue: str
    site: dict[str, Any]
    nodes: int = 1
    """Of one of Harvester's workers. Here each node has a pilot of its own, and limits count
    pilots."""
    carried: list[Carried] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)

    def set(self, key: str, to: str, value: Any, as_value: Any = None) -> None:
        """Put a value at a dotted place of the site. What another key has put there is lost."""
        now = value if as_value is None else as_value
        if any(it.to == to and it.value != str(now) for it in self.carried):
            self.drop(to, f"{key} says otherwise")
        put(self.site, to, now)
        self.carried.append(Carried(key=key, told=_json(value), to=to, value=str(now)))

    def drop(self, to: str, why: str) -> None:
        """Take a value out of the site again."""
        put(self.site, to, None)
        for it in self.carried:
            if it.to == to:
                self.lost.append(Lost(key=it.key, value=it.told, why=why))
        self.carried = [it for it in self.carried if it.to != to]

    def lose(self, key: str, value: Any, why: str) -> None:
        self.lost.append(Lost(key=key, value=_json(value), why=why))

    def confirm(self, *keys: str) -> None:
        self.site["confirm"] += [key for key in keys if key not in self.site["confirm"]]


def put(tree: dict[str, Any], place: str, value: Any) -> None:
    """Set a value at a dotted place; None: remove it, and what is empty without it."""
    first, _, rest = place.partition(".")
    if rest:
        put(tree.setdefault(first, {}), rest, value)
    else:
        tree[first] = value
    if tree[first] in (None, {}):
        del tree[first]


def _json(value: Any) -> str:
    text = shown(json.dumps(value))
    return text if len(text) < 80 else text[:77] + "…"


Rule = Callable[[Converted, str, Any], None]


def _number(value: Any) -> int | float | None:
    """A number, or a text that is one: people quote them. Neither NaN nor infinity is."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else value if math.isfinite(value) else None
    return value


def _whole(value: Any) -> int | None:
    """A whole number of at least 1."""
    number = _number(value)
    return number if isinstance(number, int) and number >= 1 else None


def to(place: str) -> Rule:
    """A whole number that goes to `place`."""

    def rule(one: Converted, key: str, value: Any) -> None:
        number = _whole(value)
        if number is None:
            one.lose(key, value, "not a whole number of at least 1")
        else:
            one.set(key, place, value, number)

    return rule


def workers(place: str) -> Rule:
    """A number of workers, each of which is as many pilots as it has nodes."""

    def rule(one: Converted, key: str, value: Any) -> None:
        number = _whole(value)
        if _number(value) == 0:
            one.lose(key, value, "no limit in Harvester; here there always is one")
        elif number is None:
            one.lose(key, value, "not a whole number of at least 1")
        else:
            one.set(key, place, value, min(number * one.nodes, MOST))
            if number * one.nodes > MOST:
                one.lose(key, value, f"as good as no limit; {MOST} is the largest here")

    return rule


MB, SECONDS = "MB that a node", "seconds that a worker"


def amount(place: str, unit: str, of: str) -> Rule:
    """A number of some unit; `of`: of what, and who could have that much."""

    def rule(one: Converted, key: str, value: Any) -> None:
        number = _whole(value)
        if number is None or number > LARGEST:
            one.lose(key, value, f"not a number of {of} could have")
        else:
            one.set(key, place, value, f"{number}{unit}")

    return rule


def _ratio(one: Converted, key: str, value: Any) -> None:
    number = _number(value)
    if number is None or not 0 < number <= 10_000:
        one.lose(key, value, "not a percentage above 0 and up to 10000")
    else:
        one.set(key, "scaling.queued_ratio.of_running", value, number / 100)


def _floor(one: Converted, key: str, value: Any) -> None:
    number = _whole(value)
    if number is None or number * one.nodes > MOST:
        one.lose(key, value, f"not a whole number from 1 to {MOST // one.nodes}")
    else:
        one.set(key, "scaling.queued_ratio.floor", value, number * one.nodes)


def _status(one: Converted, key: str, value: Any) -> None:
    """Harvester's and CRIC's: the stricter one holds, for Harvester starts nobody where either
    forbids it."""
    known = STATUS.get(value.lower()) if isinstance(value, str) else None
    ours, beside = known or ("paused", "no status that is known here, so it is paused")
    if beside:
        one.lose(key, value, beside)
    before = next((it for it in one.carried if it.to == "policy.status"), None)
    if before is not None and before.value == "paused" and ours == "online":
        one.lose(key, value, f"{before.key}, {before.told}, is stricter")
    else:
        one.set(key, "policy.status", value, ours)


def _named(one: Converted, key: str, value: Any) -> None:
    """A partition or queue of the batch system."""
    word = next((word for _, profile, word in KINDS if profile == one.site["extends"]), "")
    if word:
        _option(one, key, word, value)
    else:
        one.lose(key, value, "HTCondor has no queues")


def _account(one: Converted, key: str, value: Any) -> None:
    htcondor = one.site["extends"] == "htcondor"
    _option(one, key, "accounting_group" if htcondor else "account", value)


def _option(one: Converted, key: str, word: str, value: Any) -> None:
    if isinstance(value, str) or _whole(value):
        one.set(key, f"backend.options.{word}", value, str(value))
    else:
        one.lose(key, value, "not a name")


def shape(one: Converted, submitter: Mapping[str, Any]) -> None:
    """Cores of a node and nodes of a worker, from keys that say it together. `nCore` is of the
    whole allocation."""
    told: dict[str, int] = {}
    for key in SHAPE:
        if (value := submitter.get(key)) not in EMPTY:
            if (number := _whole(value)) is None or number > MOST:
                one.lose(f"submitter.{key}", value, f"not a whole number from 1 to {MOST}")
            else:
                told[key] = number
    every, each = told.get("nCore"), told.get("nCorePerNode")
    one.nodes = (
        told.get("nNode") or told.get("nNodes") or (-(-every // each) if every and each else 1)
    )
    if every and not each:
        if every % one.nodes:
            one.lose("submitter.nCore", every, f"cannot be shared by {one.nodes} nodes evenly")
        else:
            one.set("submitter.nCore", "slots.std.cores", every, every // one.nodes)
    elif each and every and one.nodes == 1 and every < each:
        one.set("submitter.nCore", "slots.std.cores", every)
        one.lose("submitter.nCorePerNode", each, f"a worker has {every} of them")
    elif each:
        one.set("submitter.nCorePerNode", "slots.std.cores", each)
        if every and every != one.nodes * each:
            have = f"{one.nodes} nodes of {each} cores have {one.nodes * each}"
            one.lose("submitter.nCore", every, have)
        elif every and one.nodes == 1:
            one.set("submitter.nCore", "slots.std.cores", every)
        elif every:
            one.lose("submitter.nCore", every, _nodes(one))
    for key in ("nNode", "nNodes"):
        if key not in told:
            continue
        if told[key] != one.nodes:
            one.lose(f"submitter.{key}", told[key], "nNode says otherwise")
        elif one.nodes == 1:
            one.set(f"submitter.{key}", "slots.std.nodes", 1)
        else:
            one.lose(f"submitter.{key}", told[key], _nodes(one))


def _nodes(one: Converted) -> str:
    return f"{one.nodes} nodes a worker: here one node is one worker, and counts are of nodes"


def _container(one: Converted, key: str, value: Any) -> None:
    one.lose(key, value, "the site's container is chosen by `container`")


def _inputs(one: Converted, key: str, value: Any) -> None:
    """MB that the inputs of a job may have; -1: as many as there are."""
    if _number(value) == -1:
        one.lose(key, value, "no limit, as here where none is said")
    else:
        amount("limits.inputs", "M", "MB that the inputs of a job")(one, key, value)


def _direct(one: Converted, key: str, value: Any) -> None:
    """Whether payloads read their inputs over the network. There a queue says so for all jobs; here
    it allows it, and each input asks."""
    if value is not True:
        one.lose(key, value, "as here, where nothing is said")
    elif key.endswith("lan"):
        one.set(key, "storage.direct_read", value, True)
        one.lose(key, value, "only inputs that say `direct: true` are read so")
    else:
        one.lose(key, value, "`storage.direct_read` does not tell near from far")


# Our policy.status, and what of theirs it does not say.
STATUS = {
    "online": ("online", ""),
    "active": ("online", ""),
    "test": ("online", "here pilots take any job of the queue, not tests only"),
    "brokeroff": ("paused", "Harvester still starts workers for jobs that the queue has already"),
    **dict.fromkeys(("offline", "standby", "maintenance"), ("paused", "")),
}
SHAPE = ("nCore", "nCorePerNode", "nNode", "nNodes")
_PILOT = "the pilot does this itself"
_PUSH = "jobs are never pushed: pilots ask for them"
_SERVER = "the dispatcher decides this"
HARVESTER: dict[str, Rule | str] = {
    "queueStatus": _status,
    "maxWorkers": workers("scaling.max_total"),
    "nQueueLimitWorker": workers("scaling.max_queued"),
    "nQueueLimitWorkerMax": workers("scaling.max_queued"),
    "nQueueLimitWorkerRatio": _ratio,
    "nQueueLimitWorkerMin": _floor,
    "maxNewWorkersPerCycle": workers("scaling.per_cycle"),
    "walltimeLimit": "how long Harvester keeps a worker, queue included; a slot's walltime is what is asked for",
    **dict.fromkeys(
        ("nQueueLimitWorkerCores", "nQueueLimitWorkerCoresRatio", "nQueueLimitWorkerCoresMin",
         "nQueueLimitWorkerMemory", "nQueueLimitWorkerMemoryRatio", "nQueueLimitWorkerMemoryMin"),
        "caps what waits; scaling.max_cores and max_memory cap all workers",
    ),
    **dict.fromkeys(
        ("nQueueLimitJob", "nQueueLimitJobMax", "nQueueLimitJobMin", "nQueueLimitJobRatio",
         "nQueueLimitJobCores", "nQueueLimitJobCoresRatio", "nQueueLimitJobCoresMin",
         "useJobLateBinding", "mapType", "getJobCriteria"),
        _PUSH,
    ),
    **dict.fromkeys(("preparator", "stager", "aux_preparator", "extractor", "zipper", "zipPerMB",
                     "ddmEndpointIn", "prefetchEvents", "initEventsMultipler", "scatteredEvents"), _PILOT),
    **dict.fromkeys(("prodSourceLabel", "prodSourceLabelRandomWeightsPermille", "runMode", "jobType",
                     "prioritizedProdSourceLabels", "allowJobMixture", "resourceType"), _SERVER),
    **dict.fromkeys(("truePilot", "noHeartbeat"), "our pilots always speak for themselves"),
    "maxSubmissionAttempts": "an unclear submission is never repeated; the breaker does the rest",
    "messenger": "pilots speak to the dispatcher; without a network by the relay or a spool",
    "workerMaker": "a slot says what a worker is; packing is the pilot's",
    "monitor": "the backend's plugin does this",
    "sweeper": "the backend's plugin does this",
    "throttler": "scaling and the breaker do this",
    "rpc": "backend.options.prefix runs commands on another machine, as [ssh, login]",
    **dict.fromkeys(("templateQueueName", "isTemplateQueue", "siteName", "siteFamily", "uniqueName",
                     "configID", "nNewWorkers"), "Harvester's own book-keeping"),
}  # fmt: skip
SUBMITTER: dict[str, Rule | str] = {
    "module": lambda one, key, value: None,
    "name": lambda one, key, value: None,
    # `shape` has told.
    **dict.fromkeys(SHAPE, lambda one, key, value: None),
    **dict.fromkeys(("localQueueName", "localQueue", "localqueue", "queue", "partition"), _named),
    **dict.fromkeys(("projectName", "projectname", "project", "account"), _account),
    "nCoreFactor": "slots.std.cores is what a worker has",
    **dict.fromkeys(("templateFile", "CEtemplateDir"), "the edge renders the script: `harvester-edge render`"),
    **dict.fromkeys(("logDir", "logBaseURL"), "logs are in paths.shared or paths.state"),
    **dict.fromkeys(("x509UserProxy", "x509UserProxyAnalysis", "tokenDir", "tokenDirAnalysis"),
                    "a credential: never copied; the edge has a token of its own"),
    **dict.fromkeys(("condorHostConfig", "useAtlasGridCE", "useAtlasCRIC", "useCRICGridCE", "useSpool"),
                    "the edge submits to one schedd or controller, not to CEs"),
    "nProcesses": "the edge is one process",
    "middleware": "backend.options.prefix runs commands on another machine, as [ssh, login]",
    "maxWalltime": "its unit differs by plugin: set slots.std.walltime",
}  # fmt: skip
CRIC: dict[str, Rule | str] = {
    "status": _status,
    "corecount": to("slots.std.cores"),
    "maxrss": amount("slots.std.memory", "M", MB),
    "maxwdir": amount("slots.std.disk", "M", MB),
    "maxtime": amount("slots.std.walltime", "s", SECONDS),
    "localqueue": _named,
    "container_type": _container,
    "container_options": _container,
    "queues": "the edge submits to one schedd or controller, not to CEs",
    # `storage` has told.
    **dict.fromkeys(("acopytools", "acopytools_schemas", "copytools", "astorages", "aprotocols"),
                    lambda one, key, value: None),
    "maxinputsize": _inputs,
    "direct_access_lan": _direct,
    "direct_access_wan": _direct,
    "use_pcache": "no cache stands between pilots and storage here",
    **dict.fromkeys(("allow_lan", "allow_wan"), "which replicas are read follows from `storage.protocols`"),
    **dict.fromkeys(("capability", "workflow", "type", "resource_type", "catchall", "params", "uconfig",
                     "meanrss", "minrss", "mintime", "timefloor", "jobseed", "fairsharepolicy",
                     "transferringlimit", "pledgedcpu", "corepower", "harvester", "harvester_template",
                     "pilot_manager"), _SERVER),
    "environ": "a site's environment is its nodes' own",
    "is_cvmfs": "say `software: [/cvmfs]`",
    "wnconnectivity": "say dispatcher.pilot_url if nodes have no way out",
    **dict.fromkeys(
        ("nickname", "name", "panda_resource", "panda_site", "siteid", "site", "atlas_site", "gocname",
         "gstat", "rc", "rc_site", "rc_country", "rc_site_state", "site_state", "state", "state_comment",
         "state_update", "cloud", "country", "countrygroup", "region", "tier", "tier_level", "vo_name",
         "description", "comment", "comment_", "last_modified", "id", "parent", "hc_param", "hc_suite",
         "is_default", "is_virtual", "nodes", "releases", "validatedreleases", "pilot_version",
         "python_version", "probe", "cachedse"),
        "a description; the dispatcher and the pilot do not need it",
    ),
}  # fmt: skip
