"""What ran when, as bars in lanes: a lane a core or a GPU, on each node. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import messages as m
from ailurus.protocol.messages.usage import NodeUsage
from dispatcher.rules.worker_records import RunRecord

MOST_BARS = 2000
"""Bars that are drawn."""
MOST_LANES, MOST_GPUS = 10_000, 1000
"""Cores and GPUs of a node that are drawn: a worker may claim any number, and each costs."""
MOST_NODES = 2000
"""Nodes that are told of, likewise."""


class Run(Struct, frozen=True, gc=False):
    """A run of a job or a payload on one node, before it has lanes."""

    node: str
    begin: float
    end: float | None
    """None: it runs."""
    cores: int
    bar: m.Bar
    gpus: tuple[str, ...] = ()


def used_on(usages: Iterable[m.Usage], host: str) -> tuple[NodeUsage, ...]:
    """What payloads have used together, on each node. `host`: where those run of which it is not
    told."""
    found: dict[str, list[NodeUsage]] = {}
    for usage in usages:
        for one in usage.nodes or (_on(host, usage),):
            found.setdefault(one.node, []).append(one)
    return tuple(
        NodeUsage(
            node=name,
            cpu_s=round(sum(one.cpu_s for one in several), 3),
            rss_kb=sum(one.rss_kb for one in several),
            processes=sum(one.processes for one in several),
            gpu_memory_mb=sum(one.gpu_memory_mb for one in several),
            max_rss_kb=sum(one.max_rss_kb for one in several),
            read_bytes=sum(one.read_bytes for one in several),
            write_bytes=sum(one.write_bytes for one in several),
            gpu_s=round(sum(one.gpu_s for one in several), 3),
        )
        for name, several in sorted(found.items())[:MOST_NODES]
    )


def _on(host: str, usage: m.Usage) -> NodeUsage:
    return NodeUsage(
        node=host,
        cpu_s=usage.cpu_s,
        rss_kb=usage.rss_kb,
        processes=usage.processes,
        gpu_memory_mb=usage.gpu_memory_mb,
        max_rss_kb=usage.max_rss_kb,
        read_bytes=usage.read_bytes,
        write_bytes=usage.write_bytes,
        gpu_s=usage.gpu_s,
    )


def timeline(
    runs: Iterable[Run],
    sizes: Sequence[m.NodeSize],
    *,
    begin: float,
    end: float,
    parts: int,
    cut: bool = False,
) -> m.Timeline:
    """The runs of each node between two times. `sizes`: of the nodes that are known; others have as
    many lanes as were in use at once."""
    if end <= begin:
        end = begin + 1.0
    seen = [run for run in runs if run.begin < end and (run.end is None or run.end > begin)]
    seen.sort(key=lambda run: (run.node, run.begin))
    by_node = {name: list(several) for name, several in groupby(seen, key=lambda run: run.node)}
    known = {size.name: size for size in sizes}
    drawn = len(seen) <= MOST_BARS
    names = [*known, *(name for name in by_node if name not in known)]
    cut = cut or len(names) > MOST_NODES
    nodes = [
        _node(name, by_node.get(name, []), known.get(name), (begin, end), parts, drawn=drawn)
        for name in names[:MOST_NODES]
    ]
    return m.Timeline(
        begin=begin, end=end, nodes=tuple(nodes), runs=len(seen), drawn=drawn, cut=cut
    )


def _node(
    name: str,
    runs: Sequence[Run],
    size: m.NodeSize | None,
    span: tuple[float, float],
    parts: int,
    *,
    drawn: bool,
) -> m.NodeLanes:
    names = sorted({gpu for run in runs for gpu in run.gpus})
    if size is not None:
        names += [""] * (min(size.gpus, MOST_GPUS) - len(names))
    cores = 0 if size is None else min(size.cores, MOST_LANES)
    lanes = lay(runs, cores) if drawn or size is None else []
    cores = max([cores, *(first + count for own in lanes for first, count in own)])
    place = {gpu: at for at, gpu in enumerate(names)}
    bars = [
        replace(run.bar, cores=own, gpus=tuple(place[gpu] for gpu in run.gpus))
        for run, own in zip(runs if drawn else (), lanes, strict=drawn)
    ]
    return m.NodeLanes(
        name=name,
        cores=cores,
        gpus=tuple(names),
        joined=size.joined or None if size else None,
        left=size.left or None if size else None,
        used=used(runs, *span, parts),
        bars=tuple(bars),
    )


def lay(runs: Sequence[Run], lanes: int) -> list[tuple[tuple[int, int], ...]]:
    """Lanes for runs in the order of their begin, each as (first, how many): those that are free
    then, in one piece where there is one. There are `lanes` of them, and more where that many runs
    at once need them; where they need more than `MOST_LANES`, some get fewer."""
    free = list(range(lanes))
    held: list[tuple[float, int, list[int]]] = []
    laid: list[tuple[tuple[int, int], ...]] = []
    for number, run in enumerate(runs):
        while held and held[0][0] <= run.begin:
            free += heapq.heappop(held)[2]
            free.sort()
        more = max(0, min(run.cores - len(free), MOST_LANES - lanes))
        free += range(lanes, lanes + more)
        lanes += more
        own = _together(free, min(run.cores, len(free)))
        taken = set(own)
        free = [lane for lane in free if lane not in taken]
        heapq.heappush(held, (float("inf") if run.end is None else run.end, number, own))
        laid.append(tuple(_pieces(own)))
    return laid


def _together(free: Sequence[int], count: int) -> list[int]:
    """So many of the free lanes: the first that are neighbours, else the first."""
    for at in range(len(free) - count + 1):
        if count and free[at + count - 1] - free[at] == count - 1:
            return list(free[at : at + count])
    return list(free[:count])


def _pieces(lanes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending lanes as (first, how many)."""
    for _, piece in groupby(enumerate(lanes), key=lambda one: one[1] - one[0]):
        several = [lane for _, lane in piece]
        yield several[0], len(several)


def used(runs: Iterable[Run], begin: float, end: float, parts: int) -> tuple[float, ...]:
    """Cores in use, on average over each of so many equal parts of a time."""
    width = (end - begin) / parts
    # In core-seconds: what part of it had, and by how much more than the part before all of it had.
    own, rise = [0.0] * parts, [0.0] * parts
    for run in runs:
        first, last = max(run.begin, begin), min(end if run.end is None else run.end, end)
        if last <= first:
            continue
        a = min(parts - 1, int((first - begin) / width))
        b = min(parts - 1, int((last - begin) / width))
        if a == b:
            own[a] += run.cores * (last - first)
            continue
        own[a] += run.cores * (begin + (a + 1) * width - first)
        own[b] += run.cores * (last - begin - b * width)
        rise[a + 1] += run.cores * width
        rise[b] -= run.cores * width
    found, level = [], 0.0
    for at in range(parts):
        level += rise[at]
        found.append(round(max(0.0, own[at] + level) / width, 3))
    return tuple(found)


def runs_of(held: m.Held, bar: m.Bar, host: str) -> Iterator[Run]:
    """What a job held, as a run on each of its nodes. `host`: its worker's, for the only node."""
    for slot in held.slots:
        begin, end = slot.began or held.began, slot.ended or held.ended or bar.end
        own = replace(bar, begin=begin, end=end)
        yield Run(slot.node or host, begin, end, slot.cores, own, slot.gpus)


def guessed(one: RunRecord, timing: Mapping[str, float], bar: m.Bar, host: str) -> Run | None:
    """The run of a job of which its pilot did not tell what it held, by when it came into its
    states, and by the seconds of its phases. None: it never ran."""
    ended = one.holding or one.ended
    if one.holding is None and ended is not None:
        ended -= timing.get("stage_out", 0.0)
    began = one.running
    if began is None:
        if ended is None or "run" not in timing:
            return None
        began = max(one.leased, ended - timing["run"])
    if ended is not None:
        ended = max(began, ended)
    return Run(host, began, ended, one.cores, replace(bar, begin=began, end=ended))
