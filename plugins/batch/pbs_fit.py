"""Whether a PBS would ever start a worker, by what it says of its queues and nodes. Pure.

As PBS counts: a chunk has the resources of one host, which may have several vnodes; a node that
names a queue serves only that one, and a queue that nodes name runs only there. Of routing queues,
access lists and hooks nothing is known here: a worker that fits may be refused yet.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from harvester_edge.ports import BatchError, Order

Resources = dict[str, Any]


class Queue(Struct, frozen=True):
    enabled: str = "True"
    started: str = "True"
    queue_type: str = "Execution"
    resources_max: Resources = {}
    resources_min: Resources = {}


class Node(Struct, frozen=True):
    state: str = ""
    queue: str = ""
    resources_available: Resources = {}


class _Server(Struct, frozen=True):
    default_queue: str = ""
    job_history_enable: str = ""


class Answer(Struct, frozen=True):
    """What `qstat -Q`, `qstat -B` or `pbsnodes -a` print with `-F json`."""

    Queue: dict[str, Queue] = {}
    Server: dict[str, _Server] = {}
    nodes: dict[str, Node] = {}


def read(text: str) -> Answer:
    """The answer of pbsnodes or qstat. Raises BatchError if it is none."""
    try:
        return msgspec.json.decode(text, type=Answer)
    except msgspec.DecodeError as error:
        raise BatchError(f"PBS's answer cannot be read: {error}") from None


class Requested(Struct, frozen=True, kw_only=True):
    """What an order asks: of each host, and of all."""

    chunk: Resources
    hosts: int
    walltime_s: int


def requested(order: Order, chunk: str, *, memory: bool) -> Requested:
    """`chunk`: what a site asks besides."""
    wants: Resources = {"ncpus": order.cores}
    if memory:
        wants["mem"] = f"{order.memory_mb}mb"
    if order.gpus:
        wants["ngpus"] = order.gpus
    for part in chunk.split(":"):
        name, _, value = part.partition("=")
        # Not taken from any host.
        if name and name not in ("mpiprocs", "ompthreads"):
            wants[name] = value
    return Requested(chunk=wants, hosts=order.nodes, walltime_s=order.walltime_s)


def why_not(
    what: Requested, name: str, queues: Mapping[str, Queue], nodes: Mapping[str, Node]
) -> str:
    """Why a worker would never start; nothing if it would, as far as anybody can tell."""
    if not name:
        return "the server has no default queue: name one"
    if name not in queues:
        return f"there is no queue {name}; there are {', '.join(sorted(queues)[:20])}"
    queue = queues[name]
    return next(_of_queue(what, name, queue), "") or (
        "" if queue.queue_type == "Route" else _of_nodes(what, name, nodes)
    )


def _of_queue(what: Requested, name: str, queue: Queue) -> Iterator[str]:
    if queue.enabled != "True":
        yield f"queue {name} takes no job (not enabled)"
    if queue.started != "True":
        yield f"queue {name} starts no job (not started)"
    total = {key: number(value) for key, value in what.chunk.items()}
    of_job = {key: one * what.hosts for key, one in total.items() if one is not None}
    of_job |= {"walltime": what.walltime_s, "nodect": what.hosts}
    for most, limits in ((True, queue.resources_max), (False, queue.resources_min)):
        for key, value in limits.items():
            limit, one = number(value), of_job.get(key)
            if limit is None or one is None or (one <= limit if most else one >= limit):
                continue
            word = "at most" if most else "at least"
            yield f"queue {name} wants {key} {word} {value}; a worker asks for {shown(key, one)}"


def _of_nodes(what: Requested, name: str, nodes: Mapping[str, Node]) -> str:
    if not nodes:
        return "the server shows no node"
    bound = any(node.queue == name for node in nodes.values())
    ours = {key: node for key, node in nodes.items() if node.queue == (name if bound else "")}
    hosts = hosts_of(ours.values())
    fit = [host for host in hosts if fits(what.chunk, host)]
    wanted = ", ".join(f"{key}={value}" for key, value in what.chunk.items())
    if len(fit) < what.hosts:
        best = max((number(host.get("ncpus", 0)) or 0 for host in hosts), default=0)
        return (
            f"{len(fit)} of {len(hosts)} hosts that serve queue {name} have {wanted}, and a worker needs "
            f"{what.hosts}; the largest has {best:g} cores"
        )
    there = hosts_of(node for node in ours.values() if not GONE & set(node.state.split(",")))
    if len([host for host in there if fits(what.chunk, host)]) < what.hosts:
        return f"all hosts of queue {name} that have {wanted} are down or offline now"
    return ""


GONE = frozenset({"down", "offline", "state-unknown", "unknown", "stale", "initializing"})


def hosts_of(nodes: Iterable[Node]) -> list[Resources]:
    """The resources of each host: what can be counted is summed over its vnodes."""
    hosts: defaultdict[str, Resources] = defaultdict(dict)
    for nr, node in enumerate(nodes):
        mine = hosts[str(node.resources_available.get("host", nr))]
        for key, value in node.resources_available.items():
            count, sum_so_far = number(value), number(mine.get(key, 0))
            both = count is not None and sum_so_far is not None
            mine[key] = count + sum_so_far if both else value  # type: ignore[operator]
    return list(hosts.values())


def fits(chunk: Resources, host: Resources) -> bool:
    for key, value in chunk.items():
        wanted, there = number(value), number(host.get(key, 0))
        if wanted is not None and there is not None:
            if wanted > there:
                return False
        # One of a list is enough.
        elif str(value) not in str(host.get(key, "")).split(","):
            return False
    return True


_UNITS = {unit: 1 << 10 * power for power, unit in enumerate(("b", "kb", "mb", "gb", "tb", "pb"))}


def number(value: Any) -> float | None:
    """A count, a size in bytes, or a time in seconds; None is none of these."""
    if isinstance(value, int | float):
        return float(value)
    text = str(value)
    if match := re.fullmatch(r"(\d+)([kmgtp]?b)?", text):
        return float(match[1]) * _UNITS.get(match[2] or "", 1)
    if re.fullmatch(r"\d+(:\d\d){1,2}", text):
        seconds = 0
        for part in text.split(":"):
            seconds = seconds * 60 + int(part)
        return float(seconds)
    return None


def shown(key: str, value: float) -> str:
    if key == "walltime":
        return f"{value / 60:g} min"
    return f"{value / 1024**2:g} MB" if key == "mem" else f"{value:g}"
