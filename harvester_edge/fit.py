"""How many more workers the waiting jobs could use. Pure.

Jobs are taken shape by shape: those bound to a queue first, of these those of most nodes, then the
big ones. They are put into workers that are partly taken, then into idle ones and those already
asked for, and only then into new ones, so that asking twice gives one answer. Equal rooms are
counted, not listed, and so are equal nodes of a room: the cost does not grow with the number of
jobs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from ailurus.protocol import machine
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.messages import ShapeDemand
from ailurus.protocol.resources import WHOLE, Room, Shape, kinds_of, part_of_a_gpu

# Times left are rounded down to this, so that equal rooms stay equal.
_COARSE_S = 300.0


class Bin(NamedTuple):
    """The free room of a worker of `queue`."""

    queue: str
    room: Room
    machines: tuple[Hardware, ...] = ()
    """What kinds of machines such a worker may get; empty: that is not known, and may be any."""


class Fit(NamedTuple):
    """New workers by slot, and demand that no slot can serve."""

    wanted: dict[str, int]
    never: tuple[str, ...]


def fit(demand: Iterable[ShapeDemand], slots: dict[str, Bin], free: Iterable[Bin]) -> Fit:
    """What `demand` asks of a site with these `slots`, net of the room that is `free` already. Of
    jobs that several sites could run it takes its share, rounded up: no site may leave the last to
    others."""
    bins: dict[Bin, int] = {}
    for one in free:
        key = _coarse(one)
        bins[key] = bins.get(key, 0) + 1
    wanted = dict.fromkeys(slots, 0)
    never = []
    whole = set(slots.values())
    for ask in sorted(demand, key=_wideness, reverse=True):
        fitting = [name for name, slot in slots.items() if capacity(slot, ask)]
        if not fitting:
            never.append(f"{ask.jobs} jobs of {describe(ask.shape)}{_nearest(ask, slots)}")
            continue
        left = _fill(bins, whole, ask, -(-ask.jobs // max(1, ask.sites)))
        name = min(fitting, key=lambda name: _size(slots[name].room))
        each = capacity(slots[name], ask)
        new, rest = divmod(left, each)
        wanted[name] += new + bool(rest)
        for count, jobs in ((new, each), (bool(rest), rest)):
            if count:
                _add(bins, _less(slots[name], ask.shape, jobs), count)
    return Fit(wanted, tuple(never))


def capacity(place: Bin, ask: ShapeDemand) -> int:
    """How many jobs of `ask` the place can hold at once."""
    shape, room = ask.shape, place.room
    if (ask.queue and ask.queue != place.queue) or not shape.fits(room):
        return 0
    if shape.machine and place.machines and not _is_one(place, shape):
        return 0
    return room.capacity(shape)


def _is_one(place: Bin, shape: Shape) -> bool:
    return any(machine.met(shape.machine, one) for one in place.machines)


def describe(shape: Shape) -> str:
    """A shape as text."""
    parts = [f"{shape.cores} cores", f"{shape.memory_mb} MB", f"{shape.disk_mb} MB disk"]
    gpus = part_of_a_gpu(shape.gpu_share) if shape.gpu_share else f"{shape.gpus} GPUs"
    parts += [gpus] * bool(shape.gpus) + [f"{shape.nodes} nodes"] * (shape.nodes > 1)
    parts += [f"{shape.walltime_s} s"] * bool(shape.walltime_s)
    parts += [machine.described(shape.machine)] * bool(shape.machine)
    return ", ".join(parts)


def _fill(bins: dict[Bin, int], whole: set[Bin], ask: ShapeDemand, jobs: int) -> int:
    """Put `jobs` into `bins`, best fit first; returns how many found no room."""
    order = sorted(bins.items(), key=lambda one: (one[0] in whole, _size(one[0].room)))
    for place, count in order:
        each = capacity(place, ask)
        if not each or not jobs:
            continue
        full = min(count, jobs // each)
        rest = jobs - full * each if full < count else 0
        jobs -= full * each + rest
        bins[place] -= full + bool(rest)
        if not bins[place]:
            del bins[place]
        if full:
            _add(bins, _less(place, ask.shape, each), full)
        if rest:
            _add(bins, _less(place, ask.shape, rest), 1)
    return jobs


def _add(bins: dict[Bin, int], place: Bin, count: int) -> None:
    if place.room.cores:
        bins[place] = bins.get(place, 0) + count


def _less(place: Bin, shape: Shape, jobs: int) -> Bin:
    return place._replace(room=place.room.taking(shape, jobs))


def _coarse(place: Bin) -> Bin:
    left = place.room.seconds_left
    if left is None:
        return place
    return place._replace(room=replace(place.room, seconds_left=left // _COARSE_S * _COARSE_S))


def _size(room: Room) -> tuple[int, int, int, int]:
    there = room.together
    # One with a part of a GPU is for jobs that share it: others take it last, too.
    gpus = WHOLE * there.gpus + sum(there.gpu_parts)
    return (gpus, there.cores, there.memory_mb, there.disk_mb)


def _wideness(ask: ShapeDemand) -> tuple[bool, int, Shape]:
    """Where jobs stand in the order; the last come first."""
    return ask.queue != "", ask.shape.nodes, ask.shape


def _nearest(ask: ShapeDemand, slots: dict[str, Bin]) -> str:
    """What keeps the jobs out of the slots of their queue."""
    same = [place.room for place in slots.values() if ask.queue in ("", place.queue)]
    if not same:
        return f": no slot serves queue {ask.queue}"
    offers = [
        (unit, int(getattr(ask.shape, kind)), float(max(room.most(kind) for room in same)))
        for kind, unit in kinds_of(ask.shape)
    ]
    longest = max(room.seconds_left or 0 for room in same)
    offers.append(("s of walltime", ask.shape.walltime_s, longest))
    short = [f"{most:.0f} {unit} at most" for unit, needed, most in offers if needed > most]
    part = max(room.most_of_a_gpu() for room in same)
    if part < ask.shape.gpu_share:
        short.append(f"{part_of_a_gpu(part)} at most" if part else "no GPU that jobs share")
    known = [one for place in slots.values() for one in place.machines]
    if not short and known:
        lacks = machine.lacks(ask.shape.machine, known)
        short = [f"{one.has} where {one.wanted} is wanted" for one in lacks]
    return ": the slots offer " + (", ".join(short) or "no such combination")
