"""How many more workers waiting jobs could use."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ailurus.protocol.hardware import Hardware
from ailurus.protocol.machine import machine_of
from ailurus.protocol.messages import ShapeDemand
from ailurus.protocol.resources import Resources, Room, Shape
from harvester_edge.fit import Bin, capacity, fit

rooms = st.builds(
    Room,
    cores=st.integers(0, 8),
    memory_mb=st.sampled_from([0, 1000, 4000, 16_000]),
    disk_mb=st.sampled_from([0, 5000, 50_000]),
    seconds_left=st.none() | st.floats(0, 90_000),
)
shapes = st.builds(
    Shape,
    cores=st.integers(1, 8),
    memory_mb=st.sampled_from([250, 2000, 8000]),
    disk_mb=st.sampled_from([0, 1000, 10_000]),
    walltime_s=st.sampled_from([0, 60, 7200]),
)
queues = st.sampled_from(["a", "b"])
demands = st.lists(
    st.builds(
        ShapeDemand, queue=st.sampled_from(["a", "b", ""]), shape=shapes, jobs=st.integers(1, 200)
    ),
    max_size=4,
)
bins = st.builds(Bin, queue=queues, room=rooms)
SLOTS = {
    "a": Bin("a", Room(cores=4, memory_mb=16_000, disk_mb=50_000, seconds_left=86_000.0)),
    "b": Bin("b", Room(cores=8, memory_mb=32_000, disk_mb=50_000, seconds_left=86_000.0)),
}


def ask(jobs, queue="a", **shape):
    return ShapeDemand(queue=queue, shape=Shape(**shape), jobs=jobs)


@given(demands, st.lists(bins, max_size=6))
def test_never_more_workers_than_jobs(demand, free):
    found = fit(demand, SLOTS, free)
    assert sum(found.wanted.values()) <= sum(one.jobs for one in demand)
    assert all(count >= 0 for count in found.wanted.values())


@given(demands, st.lists(bins, max_size=6))
def test_without_free_room_there_is_room_for_every_job_in_the_new_ones(demand, free):
    """Cores asked for by jobs that fit are covered by free ones and new ones."""
    found = fit(demand, SLOTS, [])
    possible = [one for one in demand if any(capacity(slot, one) for slot in SLOTS.values())]
    cores = sum(found.wanted[name] * SLOTS[name].room.cores for name in SLOTS)
    assert cores >= sum(one.jobs * one.shape.cores for one in possible)
    assert len(found.never) == len(demand) - len(possible)


@given(demands)
def test_asking_again_with_what_was_asked_for_soon_asks_for_nothing(demand):
    """Best fit is a rule of thumb: room that was asked for a job may go to another one. Yet with
    each round of workers fewer jobs are left over, so that it settles."""
    there: list[Bin] = []
    for _ in range(1 + sum(one.jobs for one in demand)):
        wanted = fit(demand, SLOTS, there).wanted
        if not sum(wanted.values()):
            return
        there += [SLOTS[name] for name, count in wanted.items() for _ in range(count)]
    pytest.fail(f"never settles: {len(there)} workers")


def test_jobs_share_workers():
    assert fit([ask(9)], SLOTS, []).wanted == {"a": 3, "b": 0}
    assert fit([ask(9, memory_mb=8000)], SLOTS, []).wanted == {"a": 5, "b": 0}


def test_free_room_and_sharing_are_taken_off():
    idle = Bin("a", Room(cores=4, memory_mb=16_000, disk_mb=50_000, seconds_left=1e5))
    assert fit([ask(9)], SLOTS, [idle]).wanted["a"] == 2
    assert fit([ask(9)], SLOTS, [idle] * 3).wanted["a"] == 0
    assert fit([replace(ask(9), sites=3)], SLOTS, []).wanted["a"] == 1


def test_jobs_of_no_queue_go_to_the_smallest_slot_that_fits():
    assert fit([ask(1, queue="")], SLOTS, []).wanted == {"a": 1, "b": 0}
    assert fit([ask(1, queue="", cores=6)], SLOTS, []).wanted == {"a": 0, "b": 1}


def test_the_cost_does_not_grow_with_the_jobs():
    busy = [Bin("a", Room(cores=0))] * 10_000
    assert fit([ask(10_000_000)], SLOTS, busy).wanted["a"] == 2_500_000


OLD, NEW = Hardware(arch="x86-64-v2"), Hardware(arch="x86-64-v4")
V3 = machine_of(["x86_64-v3"], None)
MACHINES = {"any": (), "old": (OLD,), "new": (OLD, NEW)}


def test_jobs_that_need_a_machine_ask_for_it_where_it_may_be():
    room = SLOTS["a"].room
    slots = {name: Bin("a", room, machines) for name, machines in MACHINES.items()}
    assert fit([ask(8, machine=V3)], slots, []).wanted == {"any": 2, "old": 0, "new": 0}
    del slots["any"]
    assert fit([ask(8, machine=V3)], slots, []).wanted == {"old": 0, "new": 2}
    assert fit([ask(8)], slots, []).wanted == {"old": 2, "new": 0}
    del slots["new"]
    found = fit([ask(8, machine=V3)], slots, [])
    assert found.wanted == {"old": 0}
    (why,) = found.never
    assert why.endswith("x86-64-v3: the slots offer x86-64-v2 where x86-64-v3 is wanted")


def test_a_free_worker_that_is_the_wrong_machine_is_no_room_for_them():
    slots = {"any": SLOTS["a"]}
    idle = [Bin("a", SLOTS["a"].room, (one,)) for one in (OLD, Hardware(), NEW)]
    assert fit([ask(8, machine=V3)], slots, idle).wanted == {"any": 1}
    assert fit([ask(8, machine=V3), ask(8)], slots, idle).wanted == {"any": 1}


# several nodes ------------------------------------------------------------------------------------

wide_shapes = st.builds(
    Shape,
    cores=st.integers(1, 4),
    memory_mb=st.sampled_from([1000, 3000]),
    nodes=st.integers(1, 3),
)
free_nodes = st.lists(
    st.builds(
        Resources, cores=st.integers(1, 4), memory_mb=st.sampled_from([1000, 4000])
    ),
    min_size=1, max_size=3,
)  # fmt: skip
HEAD = Bin("a", Room(cores=4, memory_mb=4000, nodes=3, seconds_left=86_000.0))


def worker_of(nodes):
    """What a worker has free, in groups of equal nodes."""
    return Bin("a", Room.over(Counter(nodes), seconds_left=86_000.0))


def places(workers, jobs):
    """Whether jobs can start together on these workers' nodes, by trying everything."""
    if not jobs:
        return True
    shape, *others = jobs
    for nr, nodes in enumerate(workers):
        fitting = [at for at, one in enumerate(nodes) if shape.within(one)]
        for chosen in itertools.combinations(fitting, shape.nodes):
            left = [one.less(shape) if at in chosen else one for at, one in enumerate(nodes)]
            if places([*workers[:nr], left, *workers[nr + 1 :]], others):
                return True
    return False


def whole(count):
    return [[Resources(cores=4, memory_mb=4000)] * 3] * count


@settings(max_examples=60)
@given(wide_shapes, st.integers(1, 4), st.lists(free_nodes, max_size=2))
def test_equal_jobs_get_the_fewest_workers_that_hold_them(shape, jobs, free):
    demand = [ShapeDemand(queue="a", shape=shape, jobs=jobs)]
    wanted = fit(demand, {"head": HEAD}, [worker_of(nodes) for nodes in free]).wanted["head"]
    assert places([*free, *whole(wanted)], [shape] * jobs)
    assert wanted == 0 or not places([*free, *whole(wanted - 1)], [shape] * jobs)


@settings(max_examples=60)
@given(st.lists(wide_shapes, min_size=1, max_size=4), st.lists(free_nodes, max_size=2))
def test_wide_and_narrow_jobs_together_have_room_in_what_is_asked_for(shapes, free):
    demand = [ShapeDemand(queue="a", shape=one, jobs=n) for one, n in Counter(shapes).items()]
    wanted = fit(demand, {"head": HEAD}, [worker_of(nodes) for nodes in free]).wanted["head"]
    assert places([*free, *whole(wanted)], sorted(shapes, key=lambda one: -one.nodes))


def test_narrow_jobs_fill_the_nodes_that_wide_ones_leave():
    wide, narrow = ask(1, cores=4, nodes=2, memory_mb=1000), ask(4, memory_mb=1000)
    assert fit([wide, narrow], {"head": HEAD}, []).wanted == {"head": 1}
    assert fit([wide, ask(5, memory_mb=1000)], {"head": HEAD}, []).wanted == {"head": 2}


def test_a_narrow_job_takes_a_worker_of_one_node_and_a_wide_one_the_allocation():
    slots = {"node": Bin("a", replace(HEAD.room, nodes=1)), "head": HEAD}
    assert fit([ask(1, memory_mb=1000)], slots, []).wanted == {"node": 1, "head": 0}
    assert fit([ask(1, memory_mb=1000, nodes=2)], slots, []).wanted == {"node": 0, "head": 1}
    never = fit([ask(2, memory_mb=1000, nodes=4)], slots, []).never
    assert "the slots offer 3 nodes at most" in never[0]


def test_the_cost_does_not_grow_with_the_nodes():
    large = {"head": Bin("a", replace(HEAD.room, nodes=10_000))}
    assert fit([ask(10_000_000, memory_mb=1000)], large, []).wanted["head"] == 250
    assert fit([ask(10_000, memory_mb=1000, nodes=5000)], large, []).wanted["head"] == 1250


SHARED = {"g": Bin("a", Room(cores=16, memory_mb=64_000, gpus=2, gpu_share=25))}


def half(jobs, share=50):
    return ask(jobs, cores=1, memory_mb=1000, gpus=1, gpu_share=share)


def test_jobs_that_share_gpus_get_as_many_workers_as_there_are_parts_for():
    assert fit([half(9)], SHARED, []).wanted == {"g": 3}
    assert fit([half(9, share=90)], SHARED, []).wanted == {"g": 5}
    # However little they ask for: four may be on a device.
    assert fit([half(9, share=10)], SHARED, []).wanted == {"g": 2}


def test_a_part_that_is_free_is_filled_before_a_worker_is_started():
    free = [Bin("a", Room(cores=9, memory_mb=9000, gpus=0, gpu_share=25, gpu_parts=(60, 40)))]
    assert fit([half(1)], SHARED, free).wanted == {"g": 0}
    assert fit([half(2)], SHARED, free).wanted == {"g": 1}


def test_where_no_gpu_is_shared_no_worker_is_started_for_a_share():
    slots = {"g": SHARED["g"]._replace(room=replace(SHARED["g"].room, gpu_share=0))}
    found = fit([half(4)], slots, [])
    assert found.wanted == {"g": 0}
    assert "0.5 of a GPU" in found.never[0]
    assert found.never[0].endswith("the slots offer no GPU that jobs share")


def test_a_worker_with_a_part_of_a_gpu_holds_jobs_that_share_it():
    part = SHARED["g"].room
    slots = {"g": Bin("a", replace(part, gpus=0, gpu_parts=(50,)))}
    assert fit([half(3, share=25)], slots, []).wanted == {"g": 2}
    larger = fit([half(3, share=60)], slots, [])
    assert larger.wanted == {"g": 0}
    assert larger.never[0].endswith("the slots offer 0.5 of a GPU at most")
    assert fit([ask(1, gpus=1)], slots, []).wanted == {"g": 0}


def test_jobs_without_a_gpu_leave_a_worker_with_a_part_of_one_to_those_that_share_it():
    part = replace(SHARED["g"].room, cores=4, gpus=0, gpu_parts=(50,))
    plain = replace(SHARED["g"].room, gpus=0, gpu_share=0)
    slots = {"part": Bin("a", part), "plain": Bin("a", plain)}
    assert fit([ask(4, memory_mb=1000)], slots, []).wanted == {"part": 0, "plain": 1}
    free = [Bin("a", part), Bin("a", plain)]
    assert fit([ask(16, memory_mb=1000), half(2, share=25)], slots, free).wanted == {
        "part": 0, "plain": 0,
    }  # fmt: skip
