"""Random sights of a site and limits for the edge's `decide`, and the caps that a decision
exceeds."""

from __future__ import annotations

import random
from typing import Any

from harvester_edge.decide import Breaker, Cost, Decision, Limits, SlotSeen, Snapshot


def scenario(chance: random.Random) -> tuple[Snapshot, Limits]:
    """Any sight, also one in which caps are exceeded already, and any limits."""

    def maybe(value: Any) -> Any:
        return value if chance.random() < 0.4 else None

    def any_cost(scale: int) -> Cost:
        return Cost(
            cores=chance.randrange(16 * scale),
            memory_mb=chance.choice((0, 1000, 4000, 64_000)) * scale,
            node_hours=chance.choice((0.0, 0.1, 1.0, 24.0)) * scale,
        )

    slots = tuple(
        SlotSeen(
            name=f"s{n}",
            wanted=chance.choice((0, 1, 5, 60)),
            breaker=Breaker(allowed=chance.choice((None, None, 0, 1)), reason="failed"),
            allowed=maybe(chance.randrange(-5, 20)),
            cost=any_cost(1),
        )
        for n in range(chance.randrange(1, 5))
    )
    total = chance.randrange(60)
    queued = chance.randrange(total + 1)
    seen = Snapshot(
        slots=slots,
        total=total,
        queued=queued,
        active=(active := chance.randrange(total - queued + 1)),
        draining=chance.randrange(total - queued - active + 1),
        cost=any_cost(chance.randrange(1, 20)),
        paused=chance.choice(("", "", "", "", "maintenance")),
        drain=chance.random() < 0.1,
    )
    limits = Limits(
        total=chance.randrange(80),
        queued=chance.randrange(40),
        per_cycle=chance.randrange(40),
        floor=chance.choice((0, 0, 3)),
        max_shrink=chance.random(),
        queued_ratio=maybe(chance.random()),
        queued_floor=chance.randrange(5),
        attenuation=chance.choice((1.0, 1.0, 3.0)),
        cores=maybe(chance.randrange(400)),
        memory_mb=maybe(chance.randrange(1_000_000)),
        node_hours=maybe(chance.random() * 500),
    )
    return seen, limits


def excess(seen: Snapshot, limits: Limits, made: Decision) -> list[str]:
    """The caps that a decision exceeds; one that was exceeded before may not be made worse."""
    count = sum(made.submit.values())
    if not count:
        return []
    ratio = limits.queued_ratio
    most_queued = limits.queued
    if ratio is not None:
        most_queued = min(most_queued, max(limits.queued_floor, int(ratio * seen.active)))
    caps: list[tuple[str, float, float | None]] = [
        ("paused", count, 0 if seen.paused else None),
        ("total", seen.total + count, limits.total),
        ("queued", seen.queued + count, most_queued),
        ("per_cycle", count, limits.per_cycle),
    ]
    for kind in ("cores", "memory_mb", "node_hours"):
        asked = sum(getattr(s.cost, kind) * made.submit.get(s.name, 0) for s in seen.slots)
        cap = getattr(limits, kind)
        room = None if cap is None else cap + 1e-6
        caps.append((kind, asked and getattr(seen.cost, kind) + asked, room))
    for slot in seen.slots:
        for allowed in (slot.breaker.allowed, slot.allowed):
            left = None if allowed is None else max(0, allowed)
            caps.append((slot.name, made.submit.get(slot.name, 0), left))
    return [name for name, value, most in caps if most is not None and value and value > most]
