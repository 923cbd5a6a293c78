"""How many workers to submit or drain now. Pure: no clock, no I/O, no chance.

Every bound is kept beside the one that binds, so that `why` has nothing to work out. Bounds on
workers are taken first and say how many; the slots then take turns, an allocation each
(`Cost.together` workers that start together), and bounds on what workers cost (cores, memory,
node-hours) leave out those that do not fit any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol.resources import Resources

BACKOFF_S = (60.0, 300.0, 900.0, 1800.0, 3600.0)
# Failed starts in a row before the breaker opens.
PATIENCE = 3
TROUBLES = frozenset(
    {"breaker", "dispatcher", "files", "history", "listing", "submission", "unclear"}
)
"""Bounds that bind only where something is wrong."""


class Limits(Struct, frozen=True, kw_only=True):
    """What a site allows. None: as much as anybody likes."""

    total: int
    queued: int
    per_cycle: int
    floor: int = 0
    max_shrink: float = 1.0
    """The share of the site's workers that one change of limits may drain without a
    confirmation."""
    queued_ratio: float | None = None
    """Workers that may wait for each active one."""
    queued_floor: int = 0
    """Workers that may wait however few are active."""
    attenuation: float = 1.0
    """The demand is divided by this: 3 means that a third of it is submitted at once."""
    cores: int | None = None
    memory_mb: int | None = None
    node_hours: float | None = None
    """Of the current period."""


class Cost(Resources, frozen=True, kw_only=True):
    """What workers occupy, or one worker of a slot does."""

    node_hours: float = 0.0
    """At the most: a worker is counted with its whole walltime."""
    together: int = 1
    """How many workers of the slot start together, in one allocation."""


class Health(Struct, frozen=True, kw_only=True):
    """How the last workers of a slot started: `failures` in a row, the latest at `since`."""

    failures: int = 0
    since: float = 0.0
    reason: str = ""


class Breaker(Struct, frozen=True, kw_only=True):
    """What the failures of a slot leave open. `allowed` None: everything."""

    allowed: int | None = None
    reason: str = ""


class SlotSeen(Struct, frozen=True, kw_only=True):
    """A slot and how many more workers of it would have work, whatever the limits."""

    name: str
    wanted: int
    breaker: Breaker = Breaker()
    allowed: int | None = None
    """What the slot's own limit leaves open; None: it has none."""
    cost: Cost = Cost()
    """Of one worker."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """All that a decision depends on. Counts are of workers that have not ended."""

    slots: tuple[SlotSeen, ...]
    total: int = 0
    queued: int = 0
    """Submitted, not yet registered; an unclear submission counts."""
    active: int = 0
    """Registered, not draining."""
    draining: int = 0
    """They leave when their payloads have ended, and take no other."""
    cost: Cost = Cost()
    """Of all workers; node-hours: of the period, spent and still to be spent."""
    paused: str = ""
    """Who or what paused the site."""
    dispatcher_fault: str = ""
    """Why the dispatcher gave no answer."""
    listing_fault: str = ""
    """Why there is no fresh listing of the batch system."""
    files_fault: str = ""
    """Why no pilot can be started from the edge's directories."""
    drain: bool = False
    """The site is to be emptied."""
    inputs: tuple[str, ...] = ()
    """What was seen, in sentences."""
    never: tuple[str, ...] = ()
    """Demand that no slot of the site can serve."""
    doubt: str = ""
    """Which workers wait for somebody, or are not seen now, and why."""
    limbo: Limbo | None = None


class Limbo(Struct, frozen=True, kw_only=True):
    """Workers that count although nothing shows them: whether they are there is still to be found
    out."""

    name: str
    why: str
    rest: Snapshot
    """What would be seen without them."""


class Bound(Struct, frozen=True, kw_only=True, rename={"allowed": "room"}):
    """One reason not to submit more than `allowed` workers; books and `--json` call it `room`."""

    allowed: int
    name: str
    why: str


class Decision(Struct, frozen=True, kw_only=True):
    """What to do, and why not more."""

    submit: dict[str, int]
    """Workers by slot."""
    drain: int
    """Of the registered ones, idle ones first."""
    binding: Bound
    bounds: tuple[Bound, ...]
    notes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    spare: int = 0
    """How many more the site could take if there were work for them."""

    @property
    def count(self) -> int:
        return sum(self.submit.values())

    @property
    def sentence(self) -> str:
        """What and why, in one line."""
        slots = ", ".join(f"{count} of slot {slot}" for slot, count in self.submit.items())
        parts = [f"submit {slots}"] * bool(slots) + [f"drain {self.drain}"] * bool(self.drain)
        what = " and ".join(parts) or "submit nothing"
        return f"{what}: {self.binding.why} ({self.binding.name})"


def one_more(health: Health, nth: int) -> int:
    """Failures in a row after another one, the `nth` that one look has found: those that come
    together are one step beyond the first three, since an order of ten is one trial."""
    return health.failures + (nth == 1 or health.failures < PATIENCE)


def breaker(
    health: Health,
    *,
    now: float,
    starting: int,
    together: int = 1,
    what: str = "workers in a row never registered",
) -> Breaker:
    """After three failed starts in a row: nothing for a while, then one probe a step, an
    allocation.

    `starting`: workers of the slot that exist and have not registered; they are the probe.
    """
    if health.failures < PATIENCE:
        return Breaker()
    step = min(health.failures - PATIENCE, len(BACKOFF_S) - 1)
    wait = health.since + BACKOFF_S[step] - now
    failed = f"{health.failures} {what}; last: {health.reason or 'no message'}"
    if wait > 0:
        # Told coarsely: a text that changes each second would make each cycle a new decision.
        return Breaker(allowed=0, reason=f"{failed}; a probe within {_minutes(BACKOFF_S[step])}")
    return Breaker(allowed=0 if starting else together, reason=f"{failed}; one probe at a time")


def decide(seen: Snapshot, limits: Limits) -> Decision:
    """The smallest bound wins; of equal ones the first, which says most. Where workers that nothing
    shows keep others out, that binds, whatever limit they fill."""
    made = _decide(seen, limits)
    if seen.limbo is None or _decide(seen.limbo.rest, limits).count <= made.count:
        return made
    binding = Bound(allowed=made.count, name=seen.limbo.name, why=seen.limbo.why)
    return replace(made, binding=binding, bounds=(binding, *made.bounds))


def undone(made: Decision, failed: Mapping[str, str]) -> Decision:
    """The decision as far as it was carried out; `failed`: why not, by slot."""
    if not failed:
        return made
    submit = {slot: count for slot, count in made.submit.items() if slot not in failed}
    why = "; ".join(f"{slot}: {reason}" for slot, reason in failed.items())
    binding = Bound(allowed=sum(submit.values()), name="submission", why=why)
    return replace(made, submit=submit, binding=binding, bounds=(binding, *made.bounds))


def _decide(seen: Snapshot, limits: Limits) -> Decision:
    bounds = _bounds(seen, limits)
    least = min(bounds, key=lambda bound: bound.allowed)
    submit, costs, split = _spread(max(0, least.allowed), seen, limits)
    bounds += costs
    if split:
        whole = (
            f"{least.why}; {split.cost.together} of slot {split.name} start together or not at all"
        )
        bounds.append(Bound(allowed=sum(submit.values()), name=least.name, why=whole))
    drain, notes = _shrink(seen, limits)
    return Decision(
        submit=submit,
        drain=drain,
        binding=min(bounds, key=lambda bound: bound.allowed),
        bounds=tuple(bounds),
        notes=(*notes, *(f"never: {what}" for what in seen.never)),
        inputs=seen.inputs,
        spare=_spare(sum(submit.values()), seen, bounds),
    )


def _spare(taken: int, seen: Snapshot, bounds: list[Bound]) -> int:
    """Workers that the site could still take: none if no slot of it starts any now."""
    if all(
        slot.breaker.allowed is not None or (slot.allowed is not None and slot.allowed <= 0)
        for slot in seen.slots
    ):
        return 0
    of_demand = ("demand", "floor", "attenuation", "breaker", "slots", "per_cycle")
    allowances = [bound.allowed for bound in bounds if bound.name not in of_demand]
    return max(0, min(allowances) - taken)


def _bounds(seen: Snapshot, limits: Limits) -> list[Bound]:
    """The bounds on the number of workers."""
    wanted = sum(slot.wanted for slot in seen.slots)
    missing = _whole_up(limits.floor - seen.total, seen.slots[0]) if seen.slots else 0
    bounds = [
        Bound(allowed=0, name=name, why=why)
        for name, why in (
            ("paused", seen.paused),
            ("dispatcher", seen.dispatcher_fault),
            ("listing", seen.listing_fault),
            ("files", seen.files_fault),
        )
        if why
    ]
    if missing > wanted:
        bounds.append(
            Bound(allowed=missing, name="floor", why=f"{limits.floor} are kept whatever the demand")
        )
    else:
        bounds.append(Bound(allowed=wanted, name="demand", why=_demand(wanted, seen)))
    bounds += _bounds_of_slots(seen, limits)
    bounds += [
        Bound(
            allowed=limits.total - seen.total,
            name="total",
            why=f"{seen.total} of {limits.total} exist{_doubt(seen)}",
        ),
        Bound(
            allowed=limits.queued - seen.queued,
            name="queued",
            why=f"{seen.queued} of {limits.queued} wait to start{_doubt(seen)}",
        ),
    ]
    if limits.queued_ratio is not None:
        most = max(limits.queued_floor, math.floor(limits.queued_ratio * seen.active))
        why = (
            f"{seen.queued} wait to start; beside {seen.active} active ones {most} may "
            f"({limits.queued_ratio:g} of them, at least {limits.queued_floor})"
        )
        bounds.append(Bound(allowed=most - seen.queued, name="queued_ratio", why=why))
    if limits.attenuation > 1:
        allowed = max(missing, math.ceil(wanted / limits.attenuation))
        why = (
            f"{wanted} would have work, of which one in {limits.attenuation:g} is asked for at once"
        )
        bounds.append(Bound(allowed=allowed, name="attenuation", why=why))
    bounds.append(
        Bound(allowed=limits.per_cycle, name="per_cycle", why=f"{limits.per_cycle} a cycle")
    )
    return bounds


def _bounds_of_slots(seen: Snapshot, limits: Limits) -> list[Bound]:
    """What breakers and limits of single slots leave of the demand: in turn, so that each says its
    part."""
    bounds = []
    if any(slot.breaker.allowed is not None for slot in seen.slots):
        reasons = (
            f"{s.name}: {s.breaker.reason}" for s in seen.slots if s.breaker.allowed is not None
        )
        allowed = sum(_wants(seen, limits, own_limits=False).values())
        bounds.append(Bound(allowed=allowed, name="breaker", why="; ".join(reasons)))
    if any(slot.allowed is not None for slot in seen.slots):
        shares = (
            f"{s.name}: room for {max(0, s.allowed)}" for s in seen.slots if s.allowed is not None
        )
        allowed = sum(_wants(seen, limits).values())
        bounds.append(Bound(allowed=allowed, name="slots", why=", ".join(shares)))
    return bounds


def _demand(wanted: int, seen: Snapshot) -> str:
    if wanted:
        return f"{wanted} more would have work"
    if seen.never:
        return "no slot of this site can ever run what waits"
    return f"nothing waits that the workers there are cannot take{_doubt(seen)}"


def _doubt(seen: Snapshot) -> str:
    return f"; {seen.doubt}" if seen.doubt else ""


def _wants(seen: Snapshot, limits: Limits, *, own_limits: bool = True) -> dict[str, int]:
    """Workers by slot that demand asks for and that its breaker and its own limit let through; what
    the floor asks for beyond that is the first slots'."""
    wants = {}
    extra = limits.floor - seen.total - sum(slot.wanted for slot in seen.slots)
    for slot in seen.slots:
        allowances = [slot.breaker.allowed, slot.allowed if own_limits else None]
        most = min((max(0, allowed) for allowed in allowances if allowed is not None), default=None)
        want = slot.wanted + _whole_up(extra, slot)
        want = want if most is None else min(want, most)
        wants[slot.name] = want // slot.cost.together * slot.cost.together
        extra -= wants[slot.name] - min(wants[slot.name], slot.wanted)
    return wants


def _whole_up(count: int, slot: SlotSeen) -> int:
    """`count` workers as whole allocations of a slot, rather more than fewer."""
    return max(0, -(-count // slot.cost.together) * slot.cost.together)


class _Budget(NamedTuple):
    """One kind of cost: its field of `Cost`, its key in the site file, what is left, how it is
    told."""

    kind: str
    key: str
    left: float
    why: str


def _spread(
    count: int, seen: Snapshot, limits: Limits
) -> tuple[dict[str, int], list[Bound], SlotSeen | None]:
    """`count` workers over the slots, each slot an allocation in turn until it has what it wants or
    until what it costs is used up; the bounds of the costs; a slot of which some are left over, too
    few for an allocation."""
    budgets = _budgets(seen, limits)
    left = {budget.kind: budget.left for budget in budgets}
    slots = {slot.name: slot for slot in seen.slots}
    wants = {name: want for name, want in _wants(seen, limits).items() if want > 0}
    given: dict[str, int] = {}
    # Costs that kept somebody out.
    short: set[str] = set()
    taken, split = 0, None
    while taken < count and wants:
        for name in list(wants):
            if taken == count:
                break
            cost = slots[name].cost
            if taken + cost.together > count:
                split = slots[name]
                del wants[name]
                continue
            lacking = [
                kind for kind, rest in left.items() if cost.together * getattr(cost, kind) > rest
            ]
            if lacking:
                short.update(lacking)
                del wants[name]
                continue
            for kind in left:
                left[kind] -= cost.together * getattr(cost, kind)
            given[name] = given.get(name, 0) + cost.together
            taken += cost.together
            wants[name] -= cost.together
            if not wants[name]:
                del wants[name]
    # A cost that kept nobody out leaves room for what its cheapest slot could still take.
    bounds = []
    for budget in budgets:
        kind = budget.kind
        each = min((getattr(slot.cost, kind) for slot in seen.slots), default=0)
        allowed = taken + (math.floor(max(0.0, left[kind]) / each) if each else count + 1)
        bounds.append(
            Bound(allowed=taken if kind in short else allowed, name=budget.key, why=budget.why)
        )
    return given, bounds, split if taken < count else None


def _budgets(seen: Snapshot, limits: Limits) -> list[_Budget]:
    used, gb = seen.cost, 1024
    kinds = (
        ("cores", "max_cores", limits.cores, used.cores, 1, "{:.0f} of {:.0f} cores are taken"),
        ("memory_mb", "max_memory", limits.memory_mb, used.memory_mb, gb,
         "{:.1f} of {:.1f} GiB of memory are taken"),
        ("node_hours", "budget", limits.node_hours, used.node_hours, 1,
         "{:.1f} of {:.1f} node-hours of the period are spent or promised"),
    )  # fmt: skip
    return [
        _Budget(kind, key, most - taken, why.format(taken / unit, most / unit))
        for kind, key, most, taken, unit, why in kinds
        if most is not None
    ]


def _shrink(seen: Snapshot, limits: Limits) -> tuple[int, tuple[str, ...]]:
    """Workers to drain. A payload is never killed: drained workers finish what they have."""
    if seen.drain:
        return seen.active, ()
    # Those that drain already may take hours, and are the answer to an excess seen before.
    staying = seen.total - seen.draining
    excess = staying - limits.total
    if excess <= 0:
        return 0, ()
    exist = f"{seen.total} exist" + f", of which {seen.draining} drain," * bool(seen.draining)
    # Of the whole excess: what cannot be drained yet would be once it has registered.
    share = excess / staying
    if share > limits.max_shrink:
        asks = (
            f"{exist} and the limit is now {limits.total}: to drain {share:.0%} of those that stay "
            f"needs your word: raise policy.max_shrink ({limits.max_shrink:.0%}) or the limit"
        )
        return 0, (asks,)
    drain = min(excess, seen.active)
    return drain, (f"{drain} are drained: {exist} and the limit is {limits.total}",) * bool(drain)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"
