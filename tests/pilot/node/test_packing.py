"""Which of those that wait starts next, and on which nodes."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from ailurus.protocol.resources import Resources
from pilot.node import packing
from pilot.node.lines import Wish
from pilot.node.packing import Packer
from pilot.node.shares import Placement
from pilot.node.topology import Cpu

amounts = st.integers(0, 8)
needs = st.builds(
    Resources, cores=st.integers(1, 8), memory_mb=amounts, disk_mb=amounts, gpus=st.integers(0, 2)
)
totals = st.builds(
    Resources, cores=st.integers(1, 16), memory_mb=amounts, disk_mb=amounts, gpus=st.integers(0, 4)
)
wishes = st.builds(
    Wish,
    needs,
    nodes=st.integers(1, 3),
    priority=st.integers(0, 1),
    estimate_s=st.floats(0, 9),
    anchored=st.booleans(),
)


def packer(*cores: int) -> Packer[str]:
    """Nodes n0, n1, … with so many cores."""
    made: Packer[str] = Packer()
    for nr, count in enumerate(cores):
        made.join(f"n{nr}", Resources(cores=count))
    return made


def wish(cores: int, nodes: int = 1, **fields: float) -> Wish:
    return Wish(Resources(cores=cores), nodes, **fields)  # type: ignore[arg-type]


def names(taken: Sequence[tuple[str, Placement]]) -> list[str]:
    return [item for item, _ in taken]


def where(taken: Sequence[tuple[str, Placement]]) -> dict[str, list[str]]:
    return {item: [slot.node for slot in placement] for item, placement in taken}


def test_priority_then_wide_ones_then_the_longest_then_the_first() -> None:
    line = packer(16)
    line.add("short", wish(1, estimate_s=1))
    line.add("first", wish(1))
    line.add("second", wish(2))
    line.add("long", wish(1, estimate_s=9))
    line.add("wide", wish(9, estimate_s=1))
    line.add("urgent", wish(1, priority=5))
    assert names(line.take()) == ["urgent", "wide", "long", "short", "first", "second"]


def test_of_two_as_long_the_wider_one_starts_first() -> None:
    line = packer(8)
    line.add("narrow", wish(1, estimate_s=9))
    line.add("half", wish(4, estimate_s=9))
    assert names(line.take()) == ["half", "narrow"]


def test_wide_is_the_largest_part_of_any_resource_and_over_all_nodes() -> None:
    line: Packer[str] = Packer()
    for name in ("n0", "n1"):
        line.join(name, Resources(cores=8, memory_mb=1000, gpus=2))
    line.add("narrow", Wish(Resources(cores=1, memory_mb=100), estimate_s=99))
    line.add("memory", Wish(Resources(cores=1, memory_mb=600)))
    line.add("nodes", Wish(Resources(cores=4), nodes=2))
    line.add("device", Wish(Resources(cores=1, gpus=2)))
    assert {*names(line.take())[:2]} == {"nodes", "device"}
    assert [*line.waiting()] == []


def test_a_narrow_one_fills_the_gap_before_a_wide_one() -> None:
    line = packer(4)
    line.add("running", wish(1))
    line.take()
    line.add("wide", wish(4, estimate_s=9))
    line.add("narrow", wish(1))
    assert names(line.take()) == ["narrow"]


def test_one_goes_where_it_fits_tightest_and_several_nodes_are_the_emptiest() -> None:
    line = packer(4, 8, 2, 8)
    line.add("narrow", wish(2))
    assert where(line.take()) == {"narrow": ["n2"]}
    line.add("pair", wish(2, nodes=2))
    assert where(line.take()) == {"pair": ["n1", "n3"]}


def test_what_is_anchored_has_the_first_node_where_that_has_room() -> None:
    line = packer(4, 8, 2, 8)
    for item in ("one", "two", "three"):
        line.add(item, wish(2, nodes=2, anchored=True))
    # Beside it the emptiest.
    assert where(line.take()) == {"one": ["n0", "n1"], "two": ["n0", "n3"], "three": ["n1", "n3"]}


@given(st.lists(totals, min_size=1, max_size=4), st.lists(wishes, max_size=20))
def test_what_starts_fits_and_what_waits_does_not(
    nodes: list[Resources], asked: list[Wish]
) -> None:
    line: Packer[int] = Packer()
    for nr, total in enumerate(nodes):
        line.join(f"n{nr}", total)
    for item, one in enumerate(asked):
        line.add(item, one)
    taken = line.take()
    for item, placement in taken:
        assert {slot.need for slot in placement} == {asked[item].need}
        assert len({slot.node for slot in placement}) == asked[item].nodes
    held = Counter(slot for _, placement in taken for slot in placement)
    for (name, total, free), before in zip(line.nodes(), nodes, strict=True):
        whole = free
        for slot, count in held.items():
            whole = whole.plus(slot.need.times(count if slot.node == name else 0))
        assert whole == total == before
    free = [one for *_, one in line.nodes()]
    for need, count, _ in line.waiting():
        assert sum(need.within(one) for one in free) < count
    assert len(taken) + len(line) == len(asked)
    for item, _ in taken:
        line.give_back(item)
    assert [one for *_, one in line.nodes()] == nodes


@patch.object(packing, "PATIENCE", float("inf"))
@given(st.lists(wishes, max_size=12), st.integers())
def test_looking_only_where_more_is_free_misses_nothing(asked: list[Wish], seed: int) -> None:
    """Whatever comes and ends, nothing waits that fits, while no node is closed for the first."""
    chance = random.Random(seed)
    line: Packer[int] = Packer()
    for nr in range(3):
        line.join(f"n{nr}", Resources(cores=8, memory_mb=8, disk_mb=8, gpus=2))
    running: list[int] = []
    for item, one in enumerate(asked):
        line.add(item, replace(one, priority=0))
        for _ in range(chance.randrange(2)):
            if running:
                line.give_back(running.pop(chance.randrange(len(running))))
        if chance.random() < 0.2:
            line.remove(chance.randrange(item + 1))
        running += [item for item, _ in line.take()]
        free = [one for *_, one in line.nodes()]
        for need, count, _ in line.waiting():
            assert sum(need.within(one) for one in free) < count


# nothing starves ----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.sampled_from([(4, 1), (3, 2), (4, 2), (1, 2), (1, 1), (2, 1)]),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2)), min_size=1, max_size=6),
    st.integers(),
)
def test_whatever_keeps_coming_nothing_waits_for_ever(
    late: tuple[int, int], stream: list[tuple[int, int]], seed: int
) -> None:
    """A full pilot to which two come for each that ends, of any widths, and end in any order."""
    chance = random.Random(seed)
    line = packer(4, 4)
    for nr in range(8):
        line.add(f"before {nr}", wish(1))
    running = names(line.take())
    line.add("it", wish(*late))
    for step in range(4000):
        for nr in range(2):
            cores, nodes = chance.choice(stream)
            line.add(f"{step}.{nr}", wish(cores, nodes))
        line.give_back(running.pop(chance.randrange(len(running))))
        running += (started := names(line.take()))
        if "it" in started:
            return
    pytest.fail("it never started")


def test_what_fills_gaps_goes_before_a_wide_one_no_longer_than_once_around() -> None:
    """A wide job of two nodes, and a stream of narrow ones whose ends never coincide."""
    line = packer(4, 4)
    for nr in range(8):
        line.add(str(nr), wish(1))
    running = names(line.take())
    line.add("wide", wish(4, nodes=2))
    assert line.take() == []
    passed = 0
    while "wide" not in running:
        line.add(f"narrow {passed}", wish(1))
        line.give_back(running.pop(0))
        running += (started := names(line.take()))
        passed += len(started)
    assert passed - 1 == 8
    assert running == ["wide"]


def test_a_narrow_one_is_not_passed_by_wide_ones_for_ever() -> None:
    line = packer(4)
    line.add("running", wish(4))
    running = names(line.take())
    line.add("narrow", wish(1))
    passed = 0
    while "narrow" not in running:
        line.add(f"wide {passed}", wish(4))
        line.add(f"wider {passed}", wish(4))
        line.give_back(running.pop())
        running += names(line.take())
        passed += 1
    assert passed < 50


def test_what_will_have_ended_by_then_still_starts_on_a_closed_node() -> None:
    line = packer(4)
    line.add("runs", wish(2, estimate_s=100))
    line.add("runs too", wish(2, estimate_s=50))
    line.take(now=0)
    line.add("wide", wish(4, estimate_s=10))
    for nr in range(4):
        line.add(f"narrow {nr}", wish(1, estimate_s=5))
    line.give_back("runs too")
    assert names(line.take(now=50)) == ["narrow 0", "narrow 1"]
    for nr in range(2):
        line.give_back(f"narrow {nr}")
    assert names(line.take(now=55)) == ["narrow 2", "narrow 3"]
    for nr in (2, 3):
        line.give_back(f"narrow {nr}")
    line.add("nobody knows", wish(1))
    line.add("too long", wish(1, estimate_s=41))
    line.add("short", wish(2, estimate_s=40))
    assert names(line.take(now=60)) == ["short"]
    line.give_back("short")
    line.give_back("runs")
    assert names(line.take(now=100)) == ["wide"]


# nodes come and go, time ends ---------------------------------------------------------------------


def test_a_node_that_comes_is_used_at_once() -> None:
    line = packer(2)
    line.add("wide", wish(4))
    line.add("pair", wish(1, nodes=2))
    assert line.take() == []
    assert line.impossible() == ["wide", "pair"]
    line.join("new", Resources(cores=4), cpus=[Cpu(n, n, n, 0, 0) for n in (2, 3, 4, 5)])
    taken = dict(line.take())
    assert taken["wide"][0].node == "new"
    assert taken["wide"][0].cpus == (2, 3, 4, 5)
    assert line.impossible() == []


def test_nothing_starts_on_a_node_that_drains_or_has_left() -> None:
    line = packer(4, 4)
    line.add("both", wish(2, nodes=2))
    line.take()
    line.drain("n0")
    line.add("one", wish(2))
    assert where(line.take()) == {"one": ["n1"]}
    assert line.leave("n0") == ["both"]
    assert line.leave("n1") == ["both", "one"]
    line.give_back("both")
    line.give_back("one")
    line.join("n0", Resources(cores=4))
    line.add("again", wish(4))
    assert where(line.take()) == {"again": ["n0"]}


def test_what_cannot_end_in_time_is_not_started() -> None:
    line: Packer[str] = Packer(until=100.0)
    line.join("n0", Resources(cores=1))
    line.add("long", wish(1, estimate_s=9, limit_s=50.1))
    line.add("boundless", wish(1, estimate_s=5))
    line.add("short", wish(1, limit_s=50))
    assert names(line.take(now=50)) == ["boundless"]
    assert line.late() == ["long"]
    assert line.late() == []
    line.give_back("boundless")
    assert names(line.take(now=50)) == ["short"]


def test_nothing_waits_for_what_cannot_end_in_time() -> None:
    line: Packer[str] = Packer(until=100.0)
    line.join("n0", Resources(cores=4))
    line.add("runs", wish(1))
    line.take(now=50)
    line.add("wide", wish(4, limit_s=51))
    assert line.take(now=50) == []
    assert line.late() == ["wide"]


# simulated schedules ------------------------------------------------------------------------------


class Task(NamedTuple):
    cores: int
    seconds: float


class Load(NamedTuple):
    """Tasks by seed, and the nodes that they run on."""

    tasks: Callable[[int], Sequence[Task]]
    nodes: int
    cores: int

    def use(self, seed: int, seconds: float) -> float:
        work = sum(task.cores * task.seconds for task in self.tasks(seed))
        return work / (self.nodes * self.cores) / seconds


SEED = 20261129


def mixed(seed: int) -> Sequence[Task]:
    """60 tasks of one to four cores and 0.1 to 1 s."""
    chance = random.Random(seed)
    return [Task(chance.randint(1, 4), chance.uniform(0.1, 1)) for _ in range(60)]


def ragged(seed: int) -> Sequence[Task]:
    """200 tasks, many of them narrow, whose lengths are log-normal."""
    chance = random.Random(seed)
    cores = chance.choices((1, 2, 4, 8), (4, 3, 2, 1), k=200)
    return [Task(count, chance.lognormvariate(-1, 0.8)) for count in cores]


FEW_CORES, MANY_CORES = Load(mixed, 3, 4), Load(ragged, 1, 16)


def packed(load: Load, seed: int, estimate_s: Callable[[float], float]) -> float:
    """Seconds until all have ended if starting them costs nothing."""
    line: Packer[int] = Packer()
    tasks = load.tasks(seed)
    for nr in range(load.nodes):
        line.join(f"n{nr}", Resources(cores=load.cores))
    for item, task in enumerate(tasks):
        line.add(item, wish(task.cores, estimate_s=estimate_s(task.seconds)))
    now, running = 0.0, []
    while len(line) or running:
        for item, _ in line.take(now):
            heapq.heappush(running, (now + tasks[item].seconds, item))
        now, item = heapq.heappop(running)
        line.give_back(item)
    return now


def first_come(load: Load, seed: int) -> float:
    """The same by arrival, with back-fill."""
    free, waiting = [load.cores] * load.nodes, list(load.tasks(seed))
    now, running = 0.0, []
    while waiting or running:
        for task in list(waiting):
            emptiest = free.index(max(free))
            if task.cores <= free[emptiest]:
                free[emptiest] -= task.cores
                waiting.remove(task)
                heapq.heappush(running, (now + task.seconds, emptiest, task.cores))
        now, node, cores = heapq.heappop(running)
        free[node] += cores
    return now


@pytest.mark.parametrize(("load", "least"), [(FEW_CORES, 0.97), (MANY_CORES, 0.99)])
def test_estimates_make_the_most_of_the_nodes(load: Load, least: float) -> None:
    assert load.use(SEED, packed(load, SEED, lambda s: s)) >= 0.98
    assert fmean(load.use(n, packed(load, n, lambda s: s)) for n in range(30)) >= least


@pytest.mark.parametrize(("load", "least"), [(FEW_CORES, 0.95), (MANY_CORES, 0.99)])
def test_estimates_that_are_half_wrong_still_help(load: Load, least: float) -> None:
    chance = random.Random(SEED)

    def off(seconds: float) -> float:
        return seconds * chance.uniform(0.6, 1.6)

    assert load.use(SEED, packed(load, SEED, off)) >= 0.93
    assert fmean(load.use(n, packed(load, n, off)) for n in range(30)) >= least


@pytest.mark.parametrize("load", [FEW_CORES, MANY_CORES])
def test_without_estimates_it_is_no_slower_than_first_come(load: Load) -> None:
    for seed in (SEED, *range(30)):
        assert packed(load, seed, lambda _: 0.0) <= 1.01 * first_come(load, seed)
