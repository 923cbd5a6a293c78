"""How many workers to submit or drain now. Pure: no clock, no I/O, no chance.

Every bound is kept beside the one that binds, so that `why` has nothing to work out.
"""

from __future__ import annotations

from msgspec import Struct

BACKOFF_S = (60.0, 300.0, 900.0, 1800.0, 3600.0)
PATIENCE = 3  # failed starts in a row before the breaker opens


class Limits(Struct, frozen=True, kw_only=True):
    """What a site allows."""

    total: int
    queued: int
    per_cycle: int
    floor: int = 0
    max_shrink: float = 1.0  # the share of its workers that one change of limits may drain unasked


class Health(Struct, frozen=True, kw_only=True):
    """How the last workers of a slot started: `failures` in a row, the latest at `since`."""

    failures: int = 0
    since: float = 0.0
    reason: str = ""


class Breaker(Struct, frozen=True, kw_only=True):
    """What the failures of a slot leave open. `room` None: everything."""

    room: int | None = None
    reason: str = ""


class SlotSeen(Struct, frozen=True, kw_only=True):
    """A slot and how many more workers of it would have work, whatever the limits."""

    name: str
    wanted: int
    breaker: Breaker = Breaker()


class Snapshot(Struct, frozen=True, kw_only=True):
    """All that a decision depends on. Counts are of workers that have not ended."""

    slots: tuple[SlotSeen, ...]
    total: int = 0
    queued: int = 0  # asked for, not yet registered; an unclear submission counts
    active: int = 0  # registered, not draining
    paused: str = ""  # who or what paused the site
    unheard: str = ""  # why there is no word from the dispatcher
    unseen: str = ""  # why there is no fresh listing of the batch system
    drain: bool = False  # the site is to be emptied
    never: tuple[str, ...] = ()  # demand that no slot of the site can serve


class Bound(Struct, frozen=True, kw_only=True):
    """One reason not to submit more than `room` workers."""

    room: int
    name: str
    why: str


class Decision(Struct, frozen=True, kw_only=True):
    """What to do, and why not more."""

    submit: dict[str, int]  # workers by slot
    drain: int  # of the registered ones, idle ones first
    binding: Bound
    bounds: tuple[Bound, ...]
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return sum(self.submit.values())


def breaker(health: Health, *, now: float, starting: int) -> Breaker:
    """After three failed starts in a row: nothing for a while, then one probe a step.

    `starting`: workers of the slot that exist and have not registered; they are the probe.
    """
    if health.failures < PATIENCE:
        return Breaker()
    step = min(health.failures - PATIENCE, len(BACKOFF_S) - 1)
    wait = health.since + BACKOFF_S[step] - now
    failed = f"{health.failures} workers in a row never registered; last: {health.reason or 'no message'}"
    if wait > 0:
        # Told coarsely: a text that changes each second would make each cycle a new decision.
        return Breaker(room=0, reason=f"{failed}; a probe within {_minutes(BACKOFF_S[step])}")
    return Breaker(room=0 if starting else 1, reason=f"{failed}; one probe at a time")


def decide(seen: Snapshot, limits: Limits) -> Decision:
    """The smallest bound wins; of equal ones the first, which says most."""
    bounds = tuple(_bounds(seen, limits))
    binding = min(bounds, key=lambda bound: bound.room)
    drain, notes = _shrink(seen, limits)
    return Decision(
        submit=_spread(max(0, binding.room), seen, limits),
        drain=drain,
        binding=binding,
        bounds=bounds,
        notes=(*notes, *(f"never: {what}" for what in seen.never)),
    )


def _bounds(seen: Snapshot, limits: Limits) -> list[Bound]:
    wanted = sum(slot.wanted for slot in seen.slots)
    missing = max(0, limits.floor - seen.total)
    bounds = [
        Bound(room=0, name=name, why=why)
        for name, why in (
            ("paused", seen.paused),
            ("dispatcher", seen.unheard),
            ("listing", seen.unseen),
        )
        if why
    ]
    if missing > wanted:
        bounds.append(
            Bound(room=missing, name="floor", why=f"{limits.floor} are kept whatever the demand")
        )
    else:
        bounds.append(Bound(room=wanted, name="demand", why=_demand(wanted, seen)))
    if any(slot.breaker.room is not None for slot in seen.slots):
        wants = _wants(seen, limits)
        reasons = (
            f"{s.name}: {s.breaker.reason}" for s in seen.slots if s.breaker.room is not None
        )
        bounds.append(Bound(room=sum(wants.values()), name="breaker", why="; ".join(reasons)))
    bounds += [
        Bound(
            room=limits.total - seen.total,
            name="total",
            why=f"{seen.total} of {limits.total} exist",
        ),
        Bound(
            room=limits.queued - seen.queued,
            name="queued",
            why=f"{seen.queued} of {limits.queued} wait to start",
        ),
        Bound(room=limits.per_cycle, name="per_cycle", why=f"{limits.per_cycle} a cycle"),
    ]
    return bounds


def _demand(wanted: int, seen: Snapshot) -> str:
    if wanted:
        return f"{wanted} more would have work"
    if seen.never:
        return "no slot of this site can ever run what waits"
    return "nothing waits that the workers there are cannot take"


def _wants(seen: Snapshot, limits: Limits) -> dict[str, int]:
    """Workers by slot that demand, or else the floor, asks for and its breaker lets through."""
    floor = max(0, limits.floor - seen.total)
    by_floor = floor > sum(slot.wanted for slot in seen.slots)
    wants = {}
    for slot in seen.slots:
        want = floor if by_floor else slot.wanted
        wants[slot.name] = want if slot.breaker.room is None else min(want, slot.breaker.room)
    return wants


def _spread(count: int, seen: Snapshot, limits: Limits) -> dict[str, int]:
    """`count` workers over the slots, each slot one in turn until it has what it wants."""
    left = {name: want for name, want in _wants(seen, limits).items() if want > 0}
    given: dict[str, int] = {}
    while count > 0 and left:
        share = max(1, min(count // len(left), *left.values()))
        for name in list(left):
            take = min(share, count)
            if take:
                given[name] = given.get(name, 0) + take
                count -= take
                left[name] -= take
            if left[name] <= 0:
                del left[name]
    return given


def _shrink(seen: Snapshot, limits: Limits) -> tuple[int, tuple[str, ...]]:
    """Workers to drain. A payload is never killed: drained workers finish what they have."""
    if seen.drain:
        return seen.active, ()
    excess = min(seen.total - limits.total, seen.active)
    if excess <= 0:
        return 0, ()
    share = excess / seen.total
    if share > limits.max_shrink:
        asks = (
            f"{seen.total} workers exist and the limit is now {limits.total}: draining {share:.0%} of "
            f"them needs your word: raise policy.max_shrink ({limits.max_shrink:.0%}) or the limit"
        )
        return 0, (asks,)
    return excess, (f"{excess} are drained: {seen.total} exist and the limit is {limits.total}",)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"
