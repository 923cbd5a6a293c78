"""The real edge at a simulated site, where the truth is known: a day in seconds."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from harvester_edge.daemon import cycle
from harvester_edge.decide import decide
from tests.rig import simulated_site
from tests.rig.scenarios import excess, scenario
from tests.rig.simulated_site import Weather, World


def live(world, edge, hours, jobs, poll_s=120.0):
    """Let edge and world live; `jobs(hour)` arrive at each full hour."""
    steps = int(3600 / poll_s)
    for step in range(int(hours * steps)):
        if step % steps == 0:
            world.add(jobs(step // steps))
        cycle(edge)
        world.forward(poll_s)


BAD = Weather(
    capacity=150, wait_s=600, lies=0.05, stale=0.05, preempted=0.1, broken=0.02, unclear=0.1,
    outages=((1_000_010_000.0, 1_000_013_600.0), (1_000_050_000.0, 1_000_051_000.0)),
)  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_bad_weather_no_cap_is_exceeded_nothing_is_killed_leaked_or_submitted_twice(
    tmp_path, seed
):
    world = World(BAD, seed=seed)
    scaling = {"max_total": 200, "max_queued": 60, "per_cycle": 30, "idle_exit": "5m"}
    edge = simulated_site.edge(
        simulated_site.site(tmp_path, scaling), world.serve, lambda: world.now
    )
    live(world, edge, 20, lambda hour: 300 if hour < 8 else 0)
    assert world.most_alive <= 200
    assert world.most_unregistered <= 60
    assert (world.killed, world.twice) == (0, 0)
    assert world.finished == 8 * 300
    seen = {ending for _, ending in edge.book.endings()}
    assert seen >= {"idle_exit", "walltime", "preempted", "never_registered"}  # it was bad weather
    assert world.calls["find"]
    live(world, edge, 3, lambda _: 0)
    assert world.alive == 0
    assert not edge.workers
    edge.book.close()


def test_no_cap_is_exceeded_in_twenty_thousand_random_scenarios():
    """`scripts/bench edge` tries 100,000."""
    chance = random.Random(7)
    for _ in range(20_000):
        seen, limits = scenario(chance)
        assert not excess(seen, limits, decide(seen, limits))


def test_the_search_for_excess_finds_it():
    chance = random.Random(7)
    found = set()
    for _ in range(2000):
        seen, limits = scenario(chance)
        made = decide(seen, limits)
        slot = seen.slots[0].name
        worse = replace(made, submit={**made.submit, slot: made.submit.get(slot, 0) + 40})
        found |= {name for name in excess(seen, limits, worse) if not name.startswith("s")}
    assert found == {"paused", "total", "queued", "per_cycle", "cores", "memory_mb", "node_hours"}
