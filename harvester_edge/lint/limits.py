"""Limits and times of a site that leave no room: workers that could never start, or have no time to
work."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ailurus.protocol.units import duration_s, lease_fault, size_bytes, size_mb
from harvester_edge.lint.document import At, Fault, Tree
from harvester_edge.site import QueuedRatio, Site, Slot, percent

LEAST_MB = 32
"""Of memory: a pilot itself takes as much, and then there is no job yet."""


def limits(site: Site, tree: Tree) -> Iterator[Fault]:
    """How many workers, and what they may occupy."""
    scaling = site.scaling
    if scaling.floor > scaling.max_total:
        message = f"{scaling.floor} is more than max_total, {scaling.max_total}"
        remedy = f"at most {scaling.max_total}"
        yield tree.fault(("scaling", "floor"), "E022", message, remedy)
    for key in ("max_queued", "per_cycle"):
        if scaling.max_total and not getattr(scaling, key):
            remedy = f"`{key}: 4`, or `policy: {{status: paused}}` to stop"
            yield tree.fault(("scaling", key), "E022", "with 0 no worker can ever start", remedy)
    ratio = scaling.queued_ratio
    if ratio is not None and ratio.floor > scaling.max_queued > 0:
        message = f"{ratio.floor} is never reached: max_queued is {scaling.max_queued}"
        at = ("scaling", "queued_ratio", "floor")
        yield tree.fault(at, "W003", message, f"`floor: {scaling.max_queued}`")
    for name, slot in site.slots.items():
        yield from _sizes(name, slot, tree)
        yield from _allocation(name, slot, site, tree)
        if ratio is not None and scaling.max_total >= slot.together > ratio.floor:
            yield from _waiting(name, slot, ratio, site, tree)
        if slot.max_total is not None and slot.max_total > scaling.max_total:
            message = f"{slot.max_total} is never reached: scaling.max_total is {scaling.max_total}"
            remedy = f"at most {scaling.max_total}, or leave it out"
            yield tree.fault(("slots", name, "max_total"), "W003", message, remedy)
    for key in ("output", "stdout", "inputs"):
        size = getattr(site.limits, key)
        if size is not None and size_bytes(size) == 0:
            message = "with 0 no job can ever end well"
            yield tree.fault(("limits", key), "E022", message, f"`{key}: 4GiB`, say")


def _sizes(name: str, slot: Slot, tree: Tree) -> Iterator[Fault]:
    if (memory_mb := size_mb(slot.memory)) < LEAST_MB:
        message = f"no pilot fits into {memory_mb} MB"
        yield tree.fault(("slots", name, "memory"), "E022", message, "`memory: 4GiB`, say")
    if size_mb(slot.disk) < 1:
        message = "no job fits onto a disk of 0 MB"
        yield tree.fault(("slots", name, "disk"), "E022", message, "`disk: 20GiB`, say")


def _allocation(name: str, slot: Slot, site: Site, tree: Tree) -> Iterator[Fault]:
    """Limits that leave no room for one allocation, which comes as a whole or not at all."""
    scaling, nodes = site.scaling, slot.nodes
    never = f"no worker of slot {name} can ever start"
    of = f"{nodes} nodes of it have" if nodes > 1 else "it has"
    if scaling.max_cores is not None and (cores := slot.cores * nodes) > scaling.max_cores:
        message = f"{never}: {of} {cores} cores"
        yield tree.fault(("scaling", "max_cores"), "E022", message, f"at least {cores}")
    if scaling.max_memory is not None:
        memory_mb = size_mb(slot.memory) * nodes
        if memory_mb > size_mb(scaling.max_memory):
            message = f"{never}: {of} {memory_mb} MB"
            yield tree.fault(("scaling", "max_memory"), "E022", message, f"at least {memory_mb}M")
    if scaling.budget is not None:
        most = scaling.budget.node_hours * percent(scaling.budget.stop_at)
        if (hours := slot.walltime_s / 3600 * nodes) > most:
            message = f"{never}: it may take {hours:g} node-hours of {most:g}"
            remedy = "a larger budget, a shorter walltime" + ", or fewer nodes" * (nodes > 1)
            yield tree.fault(("scaling", "budget", "node_hours"), "E022", message, remedy)
    pilots = slot.together
    brings = f"{never}: an allocation brings {pilots} pilots"
    for key in ("max_total", "max_queued", "per_cycle"):
        if 0 < (most := getattr(scaling, key)) < pilots:
            message, remedy = f"{brings}, and {key} is {most}", f"`{key}: {pilots}` or fewer nodes"
            yield tree.fault(("slots", name, "nodes"), "E022", message, remedy)
    if slot.max_total is not None and 0 < slot.max_total < pilots:
        message = f"{brings}, and {slot.max_total} may exist"
        yield tree.fault(("slots", name, "max_total"), "E022", message, f"`max_total: {pilots}`")


def _waiting(name: str, slot: Slot, ratio: QueuedRatio, site: Site, tree: Tree) -> Iterator[Fault]:
    """With nobody active only the ratio's floor may wait, so that workers of another slot must come
    first."""
    others = [
        other
        for other in site.slots.values()
        if other.together <= ratio.floor and other.max_total != 0
    ]
    most = site.scaling.max_total - slot.together
    at: At = ("scaling", "queued_ratio", "floor")
    at = at if tree.own(at) else ("slots", name, "nodes")
    remedy = f"`queued_ratio: {{of_running: {ratio.of_running:g}, floor: {slot.together}}}`"
    brings = f"an allocation of slot {name} brings {slot.together} pilots, and"
    if not others or math.floor(ratio.of_running * most) < slot.together:
        message = (
            f"no worker of slot {name} can ever start: an allocation brings {slot.together} pilots, "
            f"and queued_ratio lets {ratio.floor} wait"
        )
        yield tree.fault(at, "E022", message, remedy)
    else:
        needed = math.ceil(slot.together / ratio.of_running)
        message = f"{brings} so many may wait only beside {needed} active ones of other slots"
        yield tree.fault(at, "W011", message, remedy)


def times(site: Site, tree: Tree) -> Iterator[Fault]:
    """Times within a worker's, and those that must not be nothing."""
    for name, slot in site.slots.items():
        if slot.walltime_s < 10:
            message = f"{slot.walltime_s} s leaves no time to work"
            at = ("slots", name, "walltime")
            yield tree.fault(at, "E023", message, "`walltime: 2h`, say")
        else:
            yield from _within(name, slot, site, tree)
    parts = {"backend": site.backend.limits, "policy": site.policy, "limits": site.limits}
    for (part, *between, key), (message, remedy) in NOT_NOTHING.items():
        time = getattr(parts[part], key)
        if time is not None and duration_s(time) <= 0:
            yield tree.fault((part, *between, key), "E023", message, remedy)
    agents = site.pilot.agents
    # What pilots take where it says nothing.
    beat_s = 1.0 if agents.beat is None else duration_s(agents.beat)
    lease_s = 4.0 if agents.lease is None else duration_s(agents.lease)
    if fault := lease_fault(beat_s, lease_s):
        key = "beat" if beat_s <= 0 or agents.lease is None else "lease"
        remedy = "`agents: {beat: 1s, lease: 4s}`, or a lease of several beats"
        yield tree.fault(("pilot", "agents", key), "E023", fault, remedy)


NOT_NOTHING: dict[tuple[str, ...], tuple[str, str]] = {
    ("backend", "limits", "poll"): ("the edge would look without a pause", "`poll: 120s`, say"),
    ("backend", "limits", "command_timeout"): ("no command ends in no time", "`command_timeout: 60s`"),
    ("policy", "start_grace"): ("no pilot registers in no time", "`start_grace: 10m`, say"),
    ("policy", "max_queue_age"): ("no worker could wait to start", "`max_queue_age: 2d`, say"),
    ("limits", "looping"): ("each job would count as one that loops", "`looping: 2h`, say"),
    ("limits", "staging"): ("no file is transferred in no time", "`staging: 1h`, say"),
}  # fmt: skip


def _within(name: str, slot: Slot, site: Site, tree: Tree) -> Iterator[Fault]:
    """What must be shorter than a worker lives. The file's own words are blamed, not its profile's:
    who wrote a walltime is not to search elsewhere."""
    walltime, ends = slot.walltime_s, f"a worker of slot {name} ends after {slot.walltime_s} s"
    extra = "signal_before" in slot.extra
    signal = {**site.backend.options, **slot.extra}.get("signal_before")
    earlier: list[tuple[At, float, str]] = [
        (("scaling", "idle_exit"), duration_s(site.scaling.idle_exit), "is never idle for {} s"),
        (("policy", "start_grace"), duration_s(site.policy.start_grace), "is not waited for {} s"),
    ]
    # No option may be more, as is said elsewhere.
    if isinstance(signal, int) and signal < 10**9:
        place: At = ("slots", name, "extra") if extra else ("backend", "options")
        earlier.append(((*place, "signal_before"), signal, "cannot be told {} s before"))
    long = [one for one in earlier if one[1] >= walltime]
    theirs = [one for one in long if not tree.own(one[0])]
    for at, time, why in long:
        if (at, time, why) not in theirs:
            remedy = f"`{at[-1]}: {walltime // 3}{'' if at[-1] == 'signal_before' else 's'}`, say"
            yield tree.fault(at, "E023", f"{ends}: it {why.format(f'{time:.0f}')}", remedy)
    if theirs:
        most = max(time for _, time, _ in long)
        why = ", ".join(
            f"it {why.format(f'{time:.0f}')} ({'.'.join(map(str, at))})" for at, time, why in theirs
        )
        keys = " and ".join(str(at[-1]) for at, _, _ in theirs)
        remedy = f"more than {most:.0f}s, or a shorter {keys} in this file"
        yield tree.fault(("slots", name, "walltime"), "E023", f"{ends}: {why}", remedy)
